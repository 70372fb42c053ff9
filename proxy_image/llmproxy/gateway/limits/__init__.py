"""Limits of a proxy and its models: admission, the wait queue, rejection. docs/limits.md has the semantics.

Begin with `limiter`, which requests call. `local` has the counters of this pod and the table of kinds; `peers` counts
together over a roll, `store` over replicas. May import: `contract`, and of the gateway nothing but this package.
"""

from llmproxy.gateway.limits.limiter import Decisions, Grant, Limiter, Use
from llmproxy.gateway.limits.local.kinds import Rejection

__all__ = ["Decisions", "Grant", "Limiter", "Rejection", "Use"]
