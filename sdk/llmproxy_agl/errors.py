"""What goes wrong, in words for the person who trains."""


class ProxyError(RuntimeError):
    """The proxy cannot do what is asked; the message names the thing, what is wrong, and the way out."""
