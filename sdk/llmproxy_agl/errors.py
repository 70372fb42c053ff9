"""Exceptions of the SDK."""


class ProxyError(RuntimeError):
    """The proxy cannot do this; the message names the object, its fault, and what to do."""
