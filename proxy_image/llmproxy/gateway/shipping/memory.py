"""Memory that the process has freed and the allocator keeps is given back to the system: a burst leaves no trace."""

import contextlib
import ctypes
from collections.abc import Callable

_trim: Callable[[int], int] | None = None
with contextlib.suppress(AttributeError, OSError):  # a C library other than glibc
    _trim = ctypes.CDLL(None).malloc_trim


def trim() -> None:
    """Give back whole pages that are free, wherever in the heap they are; milliseconds."""
    if _trim is not None:
        _trim(0)
