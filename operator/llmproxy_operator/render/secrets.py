"""Secrets that the operator creates: the token of the pods, the password of their store, the control port's token."""

import base64

from llmproxy_api import LLMProxy
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned
from llmproxy_operator.render import store


def peers_secret(proxy: LLMProxy, token: str) -> Manifest:
    """Return the Secret with *token*. A new token would part the pods, so it is written only where there is none.

    It holds the password before the first pod needs it, and as long as an old pod may restart.
    """
    name = proxy.metadata.name
    return {
        **owned(proxy, "v1", "Secret", names.peers(name), names.labels(name, names.PEERS)),
        "type": "Opaque",
        "data": {
            names.PEER_TOKEN_KEY: _encoded(token),
            names.LIMITS_PASSWORD_KEY: _encoded(store.password(token)),
        },
    }


def control_secret(proxy: LLMProxy, token: str) -> Manifest:
    """Return the Secret with the *token* of the control port; pods read it anew, so a new one rolls nothing."""
    name = proxy.metadata.name
    return {
        **owned(proxy, "v1", "Secret", names.control(name), names.labels(name, names.CONTROL)),
        "type": "Opaque",
        "data": {names.CONTROL_TOKEN_KEY: _encoded(token)},
    }


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
