"""A pod's part of a limit while pods cannot ask one authority: whole numbers that sum to the limit.

All pods that know the same members come to the same parts without a word. The remainder goes to other pods for other
limits, so that one pod is not the poorest everywhere. A part of 0 is possible: fewer requests than pods.
"""

from collections.abc import Sequence
from zlib import crc32


def share(limit: int, pod: str, members: Sequence[str], name: str) -> int:
    """Return what *pod* may admit of the limit called *name*; *members* are all pods, *pod* among them."""
    ordered = sorted(members)
    whole, rest = divmod(limit, len(ordered))
    turn = (ordered.index(pod) + crc32(name.encode())) % len(ordered)
    return whole + (turn < rest)


def stranger_share(limit: int, max_pods: int) -> int:
    """Return what a pod may admit that has never met the others: so little that *max_pods* of them keep the limit."""
    return limit // max_pods
