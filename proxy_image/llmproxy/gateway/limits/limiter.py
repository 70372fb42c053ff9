"""What the pipeline calls: ask to be admitted, then say what was used and that the call has ended.

The Limiter asks one authority: the counters of this process, or the pod that took them over (`peer`). Who is in charge
may change between any two awaits; a Grant is good under both.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from llmproxy.contract import Document
from llmproxy.gateway.limits.headers import Header, anthropic_headers, headers
from llmproxy.gateway.limits.local.counters import Blocked, Book, Charge, Plan
from llmproxy.gateway.limits.local.kinds import Denial, KindName, Scope
from llmproxy.gateway.limits.local.queue import Line, Waiter
from llmproxy.gateway.limits.store.protocol import Told


class Away(Protocol):
    """The authority is another: a pod (`asker`), or a store that all pods ask (`shared`)."""

    def ask(self, plan: Plan, tokens: int, wait_s: float) -> "Grant | Denial | Waiter[Grant | Denial]":
        """Ask it, if that is needed; *wait_s* is how long the request may stand in its line, 0 for not at all."""

    def settle(self, plan: Plan, lineage: str, charge: Charge, tokens: int, requests: int) -> None:
        """Tell what was used; with *requests* 1 the request itself is taken back too."""

    def release(self, plan: Plan) -> None:
        """Tell that a call has ended."""


class Keeper(Away, Protocol):
    """Shares limits with other pods, also while it is not the authority."""

    @property
    def joined(self) -> bool:
        """Whether it is the authority now."""

    @property
    def waiting(self) -> int:
        """Requests that wait for its answer."""

    @property
    def reason(self) -> str:
        """Why it is not."""

    @property
    def told(self) -> Told:
        """What its conversation with the store came to."""

    def state(self) -> dict[str, object]:
        """Return what a person wants to know of it."""

    def note_settle(self, plan: Plan, lineage: str, charge: Charge, tokens: int, requests: int) -> None:
        """A charge was changed in this pod's own counters."""


class Grant:
    """One admitted request. `release` it when the call has ended; `settle` it, or give it back, before or after.

    Of `settle`, `refund` and `refund_tokens` the first one counts.
    """

    __slots__ = ("_limiter", "_lineage", "_minute", "_open", "_plan", "_second", "_settled", "_tokens")

    def __init__(self, limiter: "Limiter", plan: Plan, lineage: str, minute: int, second: int, tokens: int) -> None:
        self._limiter = limiter
        self._plan = plan
        self._lineage = lineage
        self._minute = minute
        self._second = second
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
            self._limiter.release(self._plan)

    def _finish(self, tokens: int, requests: int) -> None:
        if self._settled:
            return
        self._settled = True
        if requests or self._plan.tokens or self._limiter.asks_pod:
            charge = Charge(self._minute, self._second, self._tokens)
            self._limiter.settle(self._plan, self._lineage, charge, tokens, requests)


@dataclass(frozen=True, slots=True)
class Use:
    """One limit and how much of it is taken now."""

    kind: KindName
    scope: Scope
    model: str
    """Empty for the proxy's."""
    limit: int
    used: int
    share: int
    """What this pod may admit of it: less than the limit while it goes by its share."""


@dataclass(slots=True)
class Decisions:
    """How often; only ever grows."""

    granted: int = 0
    denied: int = 0
    queued: int = 0
    """Had to wait, whatever became of it."""
    refunded: int = 0
    """Given back: nothing was used, or nobody was left to use it."""


class Limiter:
    """All limits of one pod."""

    def __init__(self, document: Document, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Count for *document* from zero. *clock* returns seconds and never goes back."""
        self.book = Book(document, clock)
        self.decisions = Decisions()
        self.away: Away | None = None
        """Set while another decides; by `peer` or `shared` only."""
        self.shared: Keeper | None = None
        """Set if limits are shared with other pods; by `shared` only."""
        self._queue_s = document.overflow.max_queue_time_s if document.overflow.mode == "Queue" else 0.0
        self.line = Line(self.book)

    @property
    def decides(self) -> bool:
        """Whether this pod's own counters are in charge."""
        return self.away is None

    @property
    def asks_pod(self) -> bool:
        """Whether another pod decides, which may limit tokens where this one does not."""
        return self.away is not None and self.shared is None

    @property
    def mode(self) -> str:
        """Whose counters decide.

        `local`: this pod's. `successor`: those of the pod that took them over. `shared`: the store's, for all pods.
        `shares`: this pod's, up to its share of each limit, because the store is away.
        """
        if self.shared is not None:
            return "shared" if self.shared.joined else "shares"
        return "local" if self.away is None else "successor"

    def admit(
        self, model_name: str, tokens: int, *, queue: bool = True, again: bool = False
    ) -> "Grant | Denial | Waiter[Grant | Denial]":
        """Admit one request that may use up to *tokens*, or say why not.

        The answer comes at once if nothing must be asked or waited for; else await it, within overflow's maximum (plus
        a second if the other pod is silent). Cancelling gives the place up, and what was granted in that moment back.
        *tokens* above a tpm limit are charged as the whole limit. With *queue* False it never waits for its turn.
        *again*: the call was admitted for another model before, so the proxy's rpm and rps have counted it, and it came
        before those that wait.
        """
        queue_s = self._queue_s if queue else 0.0
        book = self.book
        plan = (book.again if again else book.plans).get(model_name, book.other)
        if self.away is not None:
            return self.away.ask(plan, tokens, queue_s)
        if (not self.line.waiting or not self.line.is_behind(plan)) and book.take(plan, tokens):
            self.decisions.granted += 1
            plan.in_flight += 1
            return Grant(self, plan, book.lineage, book.minute.number, book.second.number, tokens)
        if queue_s <= 0:
            return self._deny(plan, tokens)
        waiter: Waiter[Grant | Denial] = Waiter(plan, tokens, queue_s, self)
        return self.enqueue(waiter) or waiter

    def counts_tokens(self, model_name: str) -> bool:
        """Whether a limit of tokens holds for this model: then its calls must be settled."""
        return bool(self.book.plan(model_name).tokens)

    def headers(self, model_name: str) -> list[Header]:
        """Return `x-ratelimit-*` for an answer to a request of this model; empty if nothing limits it."""
        return headers(self.book, self.book.plan(model_name))

    def anthropic_headers(self, model_name: str) -> list[Header]:
        """Return the same as `anthropic-ratelimit-*`."""
        return anthropic_headers(self.book, self.book.plan(model_name), time.time())

    def usage(self) -> list[Use]:
        """Return every limit with its present use. While another pod decides, as far as it has told."""
        by_shares = self.mode == "shares"
        found = []
        for w in self.book.windows():
            share = w.share if by_shares else w.limit
            found.append(Use(w.kind, "model" if w.model else "proxy", w.model, w.limit, w.used + w.elsewhere, share))
        for s in self.book.slots():
            if s.limit is not None:
                share = s.share if by_shares and s.share is not None else s.limit
                scope: Scope = "model" if s.model else "proxy"
                found.append(Use("maxParallel", scope, s.model, s.limit, s.held + s.elsewhere, share))
        return found

    @property
    def waiting(self) -> int:
        """Requests in the line of this pod."""
        return self.line.waiting + (self.shared.waiting if self.shared is not None else 0)

    @property
    def queues(self) -> bool:
        """Whether a request over a limit waits for its turn."""
        return self._queue_s > 0

    def settle(self, plan: Plan, lineage: str, charge: Charge, tokens: int, requests: int) -> None:
        """Change a charge to what was used; for Grants."""
        self.decisions.refunded += requests
        if self.away is not None:
            self.away.settle(plan, lineage, charge, tokens, requests)
        else:
            if self.shared is not None:
                self.shared.note_settle(plan, lineage, charge, tokens, requests)
            self.settle_here(plan, lineage, charge, tokens, requests)

    def settle_here(self, plan: Plan, lineage: str, charge: Charge, tokens: int, requests: int) -> None:
        """Change a charge in this pod's own counters."""
        here = self.book.translated(lineage, charge)
        self.book.settle(plan, here, tokens)
        if requests:
            self.book.refund(plan, here)
        self.line.poke()

    def release(self, plan: Plan) -> None:
        """A call of this pod has ended; for Grants."""
        plan.in_flight -= 1
        self.book.release(plan)
        if self.away is not None:
            self.away.release(plan)
        else:
            self.line.poke()

    def enqueue(self, waiter: "Waiter[Grant | Denial]") -> Denial | None:
        """Put *waiter* into the line; a Denial if that is full."""
        if self.line.is_full:
            return self._deny(waiter.plan, waiter.tokens, "too many requests wait already")
        self.decisions.queued += 1
        self.line.join(waiter)
        return None

    def readmit(self, waiter: "Waiter[Grant | Denial]", now: float) -> None:
        """Decide here about one that another pod was asked for; *now* is the loop's time."""
        result = None if self.line.is_behind(waiter.plan) else self.take(waiter.plan, waiter.tokens)
        if result is not None:
            waiter.answer(result)
        elif waiter.deadline <= now:
            waiter.answer(self._deny(waiter.plan, waiter.tokens))
        else:
            refused = self.enqueue(waiter)
            if refused is not None:
                waiter.answer(refused)

    def take(self, plan: Plan, tokens: int) -> Grant | None:
        """Admit a request whose turn it is; for the line."""
        book = self.book
        if not book.take(plan, tokens):
            return None
        self.decisions.granted += 1
        plan.in_flight += 1
        return Grant(self, plan, book.lineage, book.minute.number, book.second.number, tokens)

    def refuse(self, plan: Plan, tokens: int, reason: str) -> Denial:
        """Return the answer for a request that waited in vain; for the line."""
        return self._deny(plan, tokens, reason)

    def undo(self, result: Grant | Denial) -> None:
        """Give back what was granted to a request that has left; for the line."""
        if isinstance(result, Grant):
            result.refund()
            result.release()

    def in_way(self, plan: Plan, tokens: int) -> Blocked:
        """Return the limit that a request waits for, its own or that of those before it."""
        return self.book.blocked(plan, tokens) or self.line.blocked or self.book.tightest(plan)

    def _deny(self, plan: Plan, tokens: int, reason: str = "") -> Denial:
        self.decisions.denied += 1
        if not reason and self.shared is not None and not self.shared.joined:
            reason = "the store of shared limits is away, so this pod admits only its share;"
        return self.in_way(plan, tokens).denial(reason)
