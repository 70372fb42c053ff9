"""Limits of a proxy and its models: who is admitted, who waits, who is refused. docs/limits.md says what they mean.

kinds (names, words) <- window (arithmetic of one limit) <- local (all counters of a pod, the authority in process)
  <- line (waiting), headers <- limiter (what the pipeline calls)
"""

from llmproxy.gateway.limits.limiter import Decisions, Grant, Limiter, Use
from llmproxy.gateway.limits.local.kinds import Denial

__all__ = ["Decisions", "Denial", "Grant", "Limiter", "Use"]
