"""What can go wrong, by who must act.

ClusterError         1  a step failed; the message names it and holds the end of its output
  UnavailableError   3  this machine cannot have a cluster; the message says what is missing
"""


class ClusterError(Exception):
    """A step failed. The message is for the person at the terminal."""

    exit_code = 1


class UnavailableError(ClusterError):
    """This machine lacks what a cluster needs; tests on a cluster are skipped because of it."""

    exit_code = 3
