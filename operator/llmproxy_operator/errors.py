"""Errors of this package, told apart by who must act.

OperatorError
  ClusterError           the API server did not serve a request; `status` is the HTTP status, 0 without an answer
    UnavailableError     nobody: the reconcile is repeated
      ConflictError      nobody: somebody else was faster, the next reconcile sees their work
    RefusedError         a person: the object or the operator's rights must change
  LeaseLostError         nobody: this process ends, another one leads
"""


class OperatorError(Exception):
    """Any error of this package."""

    retry_after_s = 0.0
    """Minimum delay of the next try, in seconds."""


class ClusterError(OperatorError):
    """The API server did not serve a request. The message names the object and quotes the server."""

    def __init__(self, message: str, *, status: int = 0, retry_after_s: float = 0.0) -> None:
        """*retry_after_s* is the API server's `Retry-After`."""
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class UnavailableError(ClusterError):
    """No answer, or a transient one: a later try may succeed."""


class ConflictError(UnavailableError):
    """The object was changed, replaced or created in between."""


class RefusedError(ClusterError):
    """The API server refused the request; the same one again will be refused too."""


class LeaseLostError(OperatorError):
    """Another process may lead from now on; this one must write nothing more."""
