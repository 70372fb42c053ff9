"""What can go wrong, told apart by who must act.

OperatorError
  ClusterError           the API server did not do what it was asked; `status` is the HTTP status, 0 without an answer
    UnavailableError     nobody: the pass is repeated
      ConflictError      nobody: somebody else was faster, the next pass sees their work
    RefusedError         a person: the object or the operator's rights must change
  LeaseLostError         nobody: this process ends, another one leads
"""


class OperatorError(Exception):
    """Any error of this package."""

    again_s = 0.0
    """The next try makes no sense any earlier, in seconds from now."""


class ClusterError(OperatorError):
    """The API server did not do what it was asked. The message names the object and repeats the server's words."""

    def __init__(self, message: str, *, status: int = 0, again_s: float = 0.0) -> None:
        """*again_s* is when the API server asked to be asked again."""
        super().__init__(message)
        self.status = status
        self.again_s = again_s


class UnavailableError(ClusterError):
    """No answer, or one that may be another the next time: a later try may succeed."""


class ConflictError(UnavailableError):
    """The object is not what the request took it for: it was changed, replaced or made in between."""


class RefusedError(ClusterError):
    """The API server understood and said no; trying the same again changes nothing."""


class LeaseLostError(OperatorError):
    """Another process may lead from now on; nothing more may be written by this one."""
