"""Address of a LightningStore for other processes. Makes no network request."""

from typing import Any

from llmproxy_agl.errors import ProxyError
from llmproxy_api.litellm.convert import is_loopback

_FIX = (
    "start the trainer with AGL_SERVER_HOST set to its pod's IP (env valueFrom fieldRef status.podIP), or set "
    "store_url= to the URL of a store that pods can reach"
)


def store_address(store: object, store_url: str | None, *, in_cluster: bool) -> str:
    """Return the base URL of the store; raise ProxyError with what to do if pods cannot reach it."""
    if store is None and not store_url:
        raise ValueError("Store is not set. Please set the store before starting the LLMProxy, or set store_url=.")
    url = store_url or _of(store)
    if url is None:
        raise ProxyError(
            f"store {type(store).__name__}: has no address, and the proxy runs in other processes: use the "
            'client-server strategy (Trainer(strategy="cs")), a LightningStoreServer or LightningStoreClient, or set '
            "store_url="
        )
    if in_cluster and is_loopback(url):
        raise ProxyError(f"store {url}: is a loopback address, which the proxy's pods cannot reach: {_FIX}")
    return url.rstrip("/")


def has_address(store: object) -> bool:
    """Return whether other processes can reach *store* by an address."""
    return _of(store) is not None


def _of(store: object) -> str | None:
    """Return the address of *store*; of a wrapped client that client's, since the wrapper has another."""
    inner: Any = store
    visited: set[int] = set()
    while inner is not None and id(inner) not in visited:
        visited.add(id(inner))
        root = getattr(inner, "server_address_root", None)
        if isinstance(root, str):
            return root
        inner = getattr(inner, "store", None)
    own = getattr(store, "endpoint", None)
    return own if isinstance(own, str) else None
