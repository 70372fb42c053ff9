"""The Secrets of a proxy's own: by which its pods and their store know each other, and of its control port."""

import base64

from llmproxy_api import LLMProxy
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned
from llmproxy_operator.render import store


def peers_secret(proxy: LLMProxy, token: str) -> Manifest:
    """Return the Secret with *token*; it is written only where there is none, for a new token would part the pods.

    The password is there before the first pod asks for it, and as long as an old one may start again.
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
    """Return the Secret with *token*, for whoever may pause; pods read it anew, so that another rolls none."""
    name = proxy.metadata.name
    return {
        **owned(proxy, "v1", "Secret", names.control(name), names.labels(name, names.CONTROL)),
        "type": "Opaque",
        "data": {names.CONTROL_TOKEN_KEY: _encoded(token)},
    }


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
