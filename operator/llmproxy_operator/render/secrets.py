"""The Secret that the pods of one proxy know each other by."""

import base64

from llmproxy_api import LLMProxy
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned


def peers_secret(proxy: LLMProxy, token: str) -> Manifest:
    """Return the Secret with *token*; it is written only where there is none, for a new token would part the pods."""
    name = proxy.metadata.name
    return {
        **owned(proxy, "v1", "Secret", names.peers(name), names.labels(name, names.PEERS)),
        "type": "Opaque",
        "data": {names.PEER_TOKEN_KEY: base64.b64encode(token.encode()).decode()},
    }
