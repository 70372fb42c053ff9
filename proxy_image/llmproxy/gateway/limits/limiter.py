"""The limiter that requests call: ask for admission, then report what was used and that the call has ended.

The limiter asks one authority: the counters of this process, the pod that took them over (`peers`) or a `store`. The
authority may change between any two awaits; a Grant is good under each.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args

from llmproxy.contract import Document
from llmproxy.gateway.limits.headers import Header, anthropic_headers, headers
from llmproxy.gateway.limits.local.counters import Counters, ModelLimits, Reservation
from llmproxy.gateway.limits.local.kinds import KINDS, MAX_PARALLEL, LimitKind, Rejection, Scope
from llmproxy.gateway.limits.local.queue import Waiter, WaitQueue

Mode = Literal["local", "leader", "shared", "offline_quota"]
"""Whose counters decide: this pod's, those of the pod that took them over, the store's, or this pod's up to its quota
of each limit, while the store is away."""
FailureCause = Literal["connection", "timeout", "store_restarted", "expired"]
"""The connection was lost or not made; no answer in time; the store began anew; it had counted this pod out."""
LATENCY_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


class StoreStats:
    """Statistics of the calls of a store; they only ever grow."""

    def __init__(self) -> None:
        self.calls = 0
        self.disconnects = 0
        """Number of times the pod went offline."""
        self.failures: dict[FailureCause, int] = dict.fromkeys(get_args(FailureCause), 0)
        self.seconds = 0.0
        self.latency = [0] * (len(LATENCY_S) + 1)
        """Answers by how long they took: up to each of LATENCY_S, and longer."""

    def answered(self, took_s: float) -> None:
        """Count one answer."""
        self.seconds += took_s
        self.latency[bisect_left(LATENCY_S, took_s)] += 1


class RemoteLimiter(Protocol):
    """Another authority: a pod (`peers.follower`), or a store that all pods ask (`store.lease_limiter`)."""

    def ask(self, limits: ModelLimits, tokens: int, wait_s: float) -> "Grant | Rejection | Waiter[Grant | Rejection]":
        """Ask it, if that is needed; *wait_s* is how long the request may wait in its queue, 0 for not at all."""

    def settle(self, limits: ModelLimits, reservation: Reservation, tokens: int, requests: int) -> None:
        """Report what was used; with *requests* 1 the request itself is taken back too."""

    def release(self, limits: ModelLimits) -> None:
        """Report that a call has ended."""


class SharedLimiter(RemoteLimiter, Protocol):
    """Shares limits with other pods, also while it is not the authority."""

    @property
    def online(self) -> bool:
        """It is the authority now."""

    @property
    def waiting(self) -> int:
        """Requests that wait for its answer."""

    @property
    def reason(self) -> str:
        """Why it is not the authority; empty when it is."""

    @property
    def stats(self) -> StoreStats:
        """Statistics of its calls of the store."""

    def state(self) -> dict[str, object]:
        """Return its state for `/readyz`."""

    def note_settle(self, limits: ModelLimits, reservation: Reservation, tokens: int, requests: int) -> None:
        """Note a change in this pod's own counters, for the store."""


class Grant:
    """One admitted request. `release` it when the call has ended; `settle` it, or give it back, before or after.

    Of `settle`, `refund` and `refund_tokens` the first one counts.
    """

    __slots__ = ("_buckets", "_epoch", "_limiter", "_limits", "_open", "_settled", "_tokens")

    def __init__(
        self, limiter: "Limiter", limits: ModelLimits, epoch: str, buckets: tuple[int, ...], tokens: int
    ) -> None:
        self._limiter = limiter
        self._limits = limits
        self._epoch = epoch
        self._buckets = buckets
        self._tokens = tokens
        self._open = True
        self._settled = False

    def settle(self, tokens: int) -> None:
        """Replace the upper bound by the *tokens* that were used, in the bucket where it was charged.

        What was used beyond the bound is booked now: no limit can refuse it any more, but it is counted.
        """
        self._finish(max(0, tokens), 0)

    def refund_tokens(self) -> None:
        """No token was used; the request still counts, because the upstream saw it."""
        self._finish(0, 0)

    def refund(self) -> None:
        """Nothing was used and no upstream saw it: request and tokens are given back."""
        self._finish(0, 1)

    def release(self) -> None:
        """The call has ended: its maxParallel slot is free. Again is nothing."""
        if self._open:
            self._open = False
            self._limiter.release(self._limits)

    def _finish(self, tokens: int, requests: int) -> None:
        if self._settled:
            return
        self._settled = True
        if requests or self._limits.tokens or self._limiter.asks_peer:
            reservation = Reservation(self._epoch, self._buckets, self._tokens)
            self._limiter.settle(self._limits, reservation, tokens, requests)


@dataclass(frozen=True, slots=True)
class Use:
    """One limit and how much of it is taken now."""

    kind: str
    scope: Scope
    model: str
    """Empty for the proxy's."""
    limit: int
    used: int
    quota: int
    """The most that this pod admits of it: less than the limit in offline mode."""


@dataclass(slots=True)
class Decisions:
    """Counts of decisions; they only ever grow."""

    granted: int = 0
    rejected: int = 0
    queued: int = 0
    """Had to wait, whatever became of it."""
    refunded: int = 0
    """Given back: nothing was used, or nobody was left to use it."""


class Limiter:
    """All limits of one pod."""

    def __init__(
        self,
        document: Document,
        *,
        clock: Callable[[], float] = time.monotonic,
        kinds: Sequence[LimitKind] = KINDS,
    ) -> None:
        """Count for *document* from zero. *clock* returns seconds and never goes back."""
        self.counters = Counters(document, clock, kinds)
        self.decisions = Decisions()
        self.remote: RemoteLimiter | None = None
        """Set while another decides; by `peers` or `store` only."""
        self.shared: SharedLimiter | None = None
        """Set if limits are shared with other pods; by `store` only."""
        self._queue_s = document.overflow.max_queue_time_s if document.overflow.mode == "Queue" else 0.0
        self.queue = WaitQueue(self.counters)

    @property
    def is_authority(self) -> bool:
        """This pod's own counters decide."""
        return self.remote is None

    @property
    def asks_peer(self) -> bool:
        """Another pod decides, which may limit tokens where this one does not."""
        return self.remote is not None and self.shared is None

    @property
    def mode(self) -> Mode:
        """Whose counters decide."""
        if self.shared is not None:
            return "shared" if self.shared.online else "offline_quota"
        return "local" if self.remote is None else "leader"

    def admit(
        self, model_name: str, tokens: int, *, queue: bool = True, is_fallback: bool = False
    ) -> "Grant | Rejection | Waiter[Grant | Rejection]":
        """Admit one request that may use up to *tokens*, or reject it.

        The answer comes at once if nothing must be asked or waited for; else await it, within overflow's maximum (plus
        a second if the other pod is silent). Cancelling gives the place up, and what was granted in that moment back.
        *tokens* above a tpm limit are charged as the whole limit. With *queue* False it never waits for its turn.
        *is_fallback*: the call was admitted for another model before, so the proxy has counted its request, and it came
        before those that wait.
        """
        queue_s = self._queue_s if queue else 0.0
        counters = self.counters
        limits = (counters.fallbacks if is_fallback else counters.models).get(model_name, counters.other)
        if self.remote is not None:
            return self.remote.ask(limits, tokens, queue_s)
        if (not self.queue.waiting or not self.queue.is_behind(limits)) and counters.take(limits, tokens):
            self.decisions.granted += 1
            limits.in_flight += 1
            return Grant(self, limits, counters.epoch, counters.buckets, tokens)
        if queue_s <= 0:
            return self.reject(limits, tokens)
        waiter: Waiter[Grant | Rejection] = Waiter(limits, tokens, queue_s, self)
        return self.enqueue(waiter) or waiter

    def counts_tokens(self, model_name: str) -> bool:
        """Return whether a limit of tokens holds for this model: then its calls must be settled."""
        return bool(self.counters.limits_of(model_name).tokens)

    def headers(self, model_name: str) -> list[Header]:
        """Return `x-ratelimit-*` for an answer to a request of this model; empty if nothing limits it."""
        return headers(self.counters, self.counters.limits_of(model_name))

    def anthropic_headers(self, model_name: str) -> list[Header]:
        """Return the same as `anthropic-ratelimit-*`."""
        return anthropic_headers(self.counters, self.counters.limits_of(model_name), time.time())

    def usage(self) -> list[Use]:
        """Return every limit with its present use. While another pod decides, as of its last report."""
        offline = self.mode == "offline_quota"
        uses = []
        for w in self.counters.windows():
            quota = w.quota if offline else w.limit
            uses.append(
                Use(w.kind.name, "model" if w.model else "proxy", w.model, w.limit, w.used + w.elsewhere, quota)
            )
        for c in self.counters.concurrency():
            if c.limit is not None:
                quota = c.quota if offline and c.quota is not None else c.limit
                uses.append(Use(MAX_PARALLEL.name, _scope(c.model), c.model, c.limit, c.held + c.elsewhere, quota))
        return uses

    @property
    def waiting(self) -> int:
        """Requests in the queue of this pod."""
        return self.queue.waiting + (self.shared.waiting if self.shared is not None else 0)

    @property
    def queues(self) -> bool:
        """A request over a limit waits for its turn."""
        return self._queue_s > 0

    def settle(self, limits: ModelLimits, reservation: Reservation, tokens: int, requests: int) -> None:
        """Change a reservation to what was used; for Grants."""
        self.decisions.refunded += requests
        if self.remote is not None:
            self.remote.settle(limits, reservation, tokens, requests)
        else:
            if self.shared is not None:
                self.shared.note_settle(limits, reservation, tokens, requests)
            self.settle_here(limits, reservation, tokens, requests)

    def settle_here(self, limits: ModelLimits, reservation: Reservation, tokens: int, requests: int) -> None:
        """Change a reservation in this pod's own counters."""
        here = self.counters.translate(reservation)
        self.counters.settle(limits, here, tokens)
        if requests:
            self.counters.refund(limits, here)
        self.queue.notify()

    def release(self, limits: ModelLimits) -> None:
        """End a call of this pod; for Grants."""
        limits.in_flight -= 1
        self.counters.release(limits)
        if self.remote is not None:
            self.remote.release(limits)
        else:
            self.queue.notify()

    def enqueue(self, waiter: "Waiter[Grant | Rejection]") -> Rejection | None:
        """Put *waiter* into the queue; return a Rejection if that is full."""
        if self.queue.is_full:
            return self.reject(waiter.limits, waiter.tokens, "too many requests wait already")
        self.decisions.queued += 1
        self.queue.join(waiter)
        return None

    def readmit(self, waiter: "Waiter[Grant | Rejection]", now: float) -> None:
        """Decide here about one that another pod was asked for; *now* is the loop's time."""
        result = None if self.queue.is_behind(waiter.limits) else self.take(waiter.limits, waiter.tokens)
        if result is not None:
            waiter.answer(result)
        elif waiter.deadline <= now:
            waiter.answer(self.reject(waiter.limits, waiter.tokens))
        else:
            rejection = self.enqueue(waiter)
            if rejection is not None:
                waiter.answer(rejection)

    def take(self, limits: ModelLimits, tokens: int) -> Grant | None:
        """Admit a request whose turn it is; for the queue."""
        counters = self.counters
        if not counters.take(limits, tokens):
            return None
        self.decisions.granted += 1
        limits.in_flight += 1
        return Grant(self, limits, counters.epoch, counters.buckets, tokens)

    def undo(self, result: Grant | Rejection) -> None:
        """Give back what was granted to a request that has left; for the queue."""
        if isinstance(result, Grant):
            result.refund()
            result.release()

    def rejection(self, limits: ModelLimits, tokens: int) -> Rejection:
        """Return the limit that a request waits for, its own or that of those before it."""
        return self.counters.rejection(limits, tokens) or self.queue.rejection or self.counters.tightest(limits)

    def reject(self, limits: ModelLimits, tokens: int, reason: str = "") -> Rejection:
        """Count and return the answer for a request that is not admitted."""
        self.decisions.rejected += 1
        if not reason and self.shared is not None and not self.shared.online:
            reason = "the store of shared limits is away, so this pod admits only its quota"
        return self.rejection(limits, tokens).because(reason)


def _scope(model: str) -> Scope:
    return "model" if model else "proxy"
