"""The limiter of one pod, on a clock that the tests move."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.gateway.limits import Grant, Limiter, Rejection
from windows import KINDS, SECONDS, Clock, document, rate, worst_window

TOKENS = {kind.name for kind in KINDS if kind.unit == "tokens"}
USABLE = 0.98

limits = st.fixed_dictionaries(
    {},
    optional={
        "rpm": st.integers(1, 60),
        "rps": st.integers(1, 12),
        "tpm": st.integers(1, 3000),
        "max_parallel": st.integers(1, 8),
        "rp10s": st.integers(1, 20),
        "tp10s": st.integers(1, 3000),
        "rp3d": st.integers(1, 100),
    },
)
UNTIL_FREE = -1.0
"""A gap that ends in the very moment at which the last denial said that there is room again."""
gaps = st.one_of(
    st.just(0.0),
    st.just(UNTIL_FREE),
    st.just(UNTIL_FREE),
    st.floats(0, 0.02),
    st.floats(0, 2),
    st.floats(0, 90),
    st.sampled_from([60 / 128, 1 / 128, 1.0, 60.0, 130 / 128, 130 * 60 / 128, 60 / 256, 259 / 256]),
)
endings = st.sampled_from(["settle", "overrun", "refund", "refund_tokens", "none"])
steps = st.lists(
    st.tuples(gaps, st.sampled_from("ab"), st.integers(0, 1500), endings, st.floats(0, 1), st.booleans()), max_size=120
)


class Run:
    """A limiter under a list of steps, with everything it admitted."""

    def __init__(self, proxy: dict[str, int], models: dict[str, dict[str, int]]) -> None:
        self.clock = Clock()
        self.limits = {"": proxy, **models}
        self.limiter = Limiter(document(proxy, models), clock=self.clock, kinds=KINDS)
        self.open: list[tuple[str, Grant]] = []
        self.requests: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self.tokens: defaultdict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)

    def ask(self, model: str, tokens: int) -> Grant | Rejection:
        decision = self.limiter.admit(model, tokens)
        assert isinstance(decision, Grant | Rejection)
        if isinstance(decision, Grant):
            self.open.append((model, decision))
        return decision

    def record(self, model: str, requests: int, used: int, bound: int) -> None:
        """Record what an admission came to: what was used beyond what was charged, no limit could refuse."""
        for scope in ("", model):
            if requests:
                self.requests[scope].append((self.clock.now, 1))
            for kind in TOKENS & self.limits[scope].keys():
                limit = self.limits[scope][kind]
                self.tokens[scope, kind].append((self.clock.now, min(used, bound, limit)))

    def check(self) -> None:
        for scope, admitted in self.requests.items():
            for kind in SECONDS.keys() & self.limits[scope].keys() - TOKENS:
                assert worst_window(admitted, SECONDS[kind]) <= self.limits[scope][kind]
        for (scope, kind), charged in self.tokens.items():
            assert worst_window(charged, SECONDS[kind]) <= self.limits[scope][kind]


def finish(grant: Grant, ending: str, used: int, bound: int) -> tuple[int, int]:
    """End a grant's tokens; return what (requests, tokens) it came to."""
    if ending == "settle":
        grant.settle(used)
    elif ending == "overrun":
        used = bound + used
        grant.settle(used)
    elif ending == "refund":
        grant.refund()
        return 0, 0
    elif ending == "refund_tokens":
        grant.refund_tokens()
        return 1, 0
    else:
        used = bound
    return 1, used


@settings(max_examples=400, deadline=None)
@given(
    limit=st.integers(1, 5),
    kind=st.sampled_from(["rpm", "rps", "rp10s", "rp3d"]),
    gaps=st.lists(st.one_of(st.just(UNTIL_FREE), st.floats(0, 0.9), st.integers(0, 400).map(float)), max_size=40),
)
def test_a_few_requests_at_the_worst_moments_hold_the_limit(limit: int, kind: str, gaps: list[float]) -> None:
    clock = Clock()
    limiter = Limiter(document({kind: limit}), clock=clock, kinds=KINDS)
    bucket_s = SECONDS[kind] / 256
    admitted, wait_s = [], 0.0
    for gap in gaps:  # in buckets: whole ones, parts of one, or exactly until there is room
        clock.now += wait_s if gap == UNTIL_FREE else gap * bucket_s
        for _ in range(limit):
            decision = limiter.admit("m", 0)
            if isinstance(decision, Grant):
                admitted.append((clock.now, 1))
                wait_s = 0.0
            elif isinstance(decision, Rejection):
                wait_s = decision.retry_after_s

    assert worst_window(admitted, SECONDS[kind]) <= limit


@settings(max_examples=300, deadline=None)
@given(proxy=limits, a=limits, b=limits, steps=steps)
def test_no_window_ever_holds_more_than_any_limit(
    proxy: dict[str, int],
    a: dict[str, int],
    b: dict[str, int],
    steps: list[tuple[float, str, int, str, float, bool]],
) -> None:
    run = Run(proxy, {"a": a, "b": b})
    wait_s = 0.0
    for gap, model, tokens, ending, share, leave in steps:
        run.clock.now += gap if gap >= 0 else wait_s
        before = run.limiter.usage()

        decision = run.ask(model, tokens)

        if isinstance(decision, Rejection):
            wait_s = decision.retry_after_s
            assert run.limiter.usage() == before, "a denial must reservation nothing"
            assert decision.retry_after_s > 0
        else:
            requests, used = finish(decision, ending, int(share * tokens), tokens)
            run.record(model, requests, used, tokens)
            for limit in run.limiter.usage():
                if limit.kind == "maxParallel":
                    assert limit.used <= limit.limit
            if leave:
                run.open.pop()[1].release()
    run.check()
    for _, grant in run.open:
        grant.release()
        grant.release()
    assert all(limit.used == 0 for limit in run.limiter.usage() if limit.kind == "maxParallel")


@settings(max_examples=200, deadline=None)
@given(proxy=limits, a=limits, steps=steps)
def test_a_denial_says_exactly_when_the_request_would_be_admitted(
    proxy: dict[str, int], a: dict[str, int], steps: list[tuple[float, str, int, str, float, bool]]
) -> None:
    run = Run(
        {k: v for k, v in proxy.items() if k != "max_parallel"},
        {"a": {k: v for k, v in a.items() if k != "max_parallel"}, "b": {}},
    )
    for gap, model, tokens, ending, share, _ in steps:
        run.clock.now += max(0.0, gap)
        decision = run.ask(model, tokens)
        if isinstance(decision, Grant):
            finish(decision, ending, int(share * tokens), tokens)
            continue
        asked_at = run.clock.now

        run.clock.now = asked_at + decision.retry_after_s - 3e-6
        too_early = run.ask(model, tokens) if run.clock.now > asked_at else decision
        run.clock.now = asked_at + decision.retry_after_s
        in_time = run.ask(model, tokens)

        assert isinstance(too_early, Rejection)
        assert isinstance(in_time, Grant)


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        *((kind, limit) for kind in ("rpm", "rps", "tpm") for limit in (*range(1, 51), 99, 100, 1000)),
        *((kind, limit) for kind in sorted(SECONDS.keys() - {"rpm", "rps", "tpm"}) for limit in (1, 2, 3, 7, 50, 100)),
    ],
)
def test_nearly_the_whole_limit_is_usable_under_continuous_backlog(kind: str, limit: int) -> None:
    clock = Clock()
    limiter = Limiter(document({kind: limit}), clock=clock, kinds=KINDS)
    window_s = SECONDS[kind]
    begin, end = clock.now + window_s, clock.now + 14 * window_s * 130 / 128
    admitted = []

    while clock.now < end + window_s:
        decision = limiter.admit("m", 1)
        if isinstance(decision, Grant):
            admitted.append((clock.now, 1))
        else:
            assert isinstance(decision, Rejection)
            clock.now += decision.retry_after_s

    # Whole cycles of 130 buckets, wherever they begin: a window of a small limit cannot hold 98 % of one admission.
    usable = rate(admitted, begin, begin + 13 * window_s * 130 / 128) * window_s / limit
    assert worst_window(admitted, window_s) <= limit
    assert usable >= USABLE, f"{kind}={limit}: {usable:.4f} >= {USABLE} = floor of 256/260"


@pytest.mark.parametrize("spread", [1, 7, 1000])
def test_backlog_that_began_in_drops_is_admitted_as_fully(spread: int) -> None:
    clock = Clock()
    limit = 500
    limiter = Limiter(document({"rpm": limit}), clock=clock)
    start = clock.now
    admitted = []
    while clock.now < start + 60 * 12:
        decision = limiter.admit("m", 0)
        if isinstance(decision, Grant):
            admitted.append((clock.now, 1))
            if clock.now < start + 55:
                clock.now += 1 / (spread * 10)
        else:
            assert isinstance(decision, Rejection)
            clock.now += decision.retry_after_s

    used = rate(admitted, start + 60, start + 60 + 10 * 60 * 130 / 128) * 60 / limit

    assert worst_window(admitted, 60.0) <= limit
    assert used >= USABLE


def test_a_million_a_window_is_kept_and_used() -> None:
    clock = Clock()
    limit = 1_000_000
    limiter = Limiter(document({"tpm": limit, "rps": limit}), clock=clock)
    start, admitted = clock.now, []
    while clock.now < start + 60 * 12:
        decision = limiter.admit("m", 997)
        if isinstance(decision, Grant):
            admitted.append((clock.now, 997))
        else:
            assert isinstance(decision, Rejection)
            clock.now += decision.retry_after_s

    assert worst_window(admitted, 60.0) <= limit
    assert rate(admitted, start + 60, start + 60 + 10 * 60 * 130 / 128) * 60 / limit >= USABLE


@settings(max_examples=50, deadline=None)
@given(limit=st.integers(1, 40), seed=st.randoms(use_true_random=False))
def test_the_upstream_sees_no_more_when_requests_reach_it_late_within_the_guard(limit: int, seed: object) -> None:
    clock = Clock()
    limiter = Limiter(document({"rps": limit}), clock=clock)
    seen, sent = [], 0
    while sent < limit * 4:
        decision = limiter.admit("m", 0)
        if isinstance(decision, Grant):
            seen.append((clock.now + seed.random() / 128, 1))  # type: ignore[attr-defined]  # hypothesis's Random
            sent += 1
            clock.now += seed.random() ** 8 / 32  # type: ignore[attr-defined]  # so that admissions lie anywhere in a bucket
        else:
            assert isinstance(decision, Rejection)
            clock.now += decision.retry_after_s

    assert worst_window(seen, 1.0) <= limit, "guard: three buckets of W/256"


def test_a_request_larger_than_the_token_limit_is_charged_the_whole_limit() -> None:
    clock = Clock()
    limiter = Limiter(document({"tpm": 100}), clock=clock)

    first = limiter.admit("m", 10_000)
    second = limiter.admit("m", 1)

    assert isinstance(first, Grant)
    assert isinstance(second, Rejection)
    assert (second.kind, second.scope) == ("tpm", "proxy")
    first.settle(40)
    assert isinstance(limiter.admit("m", 60), Grant)
    assert isinstance(limiter.admit("m", 1), Rejection)


def test_what_was_used_beyond_the_bound_is_counted_from_now_on() -> None:
    clock = Clock()
    limiter = Limiter(document({"tpm": 100}), clock=clock)
    grant = limiter.admit("m", 10)
    assert isinstance(grant, Grant)
    clock.now += 50

    grant.settle(100)

    denied = limiter.admit("m", 20)
    assert isinstance(denied, Rejection)
    assert denied.retry_after_s == pytest.approx(60 * 129 / 128, abs=60 / 128), "the 90 beyond are as young as can be"


def test_a_refund_gives_the_request_and_its_tokens_back_once() -> None:
    clock = Clock()
    limiter = Limiter(document({"rpm": 1, "rps": 1, "tpm": 10}, {"m": {"rpm": 1}}), clock=clock)
    grant = limiter.admit("m", 10)
    assert isinstance(grant, Grant)

    grant.refund()
    grant.refund()
    grant.settle(10)

    assert all(limit.used == 0 for limit in limiter.usage())
    assert isinstance(limiter.admit("m", 10), Grant)


def test_a_call_that_falls_back_is_a_request_of_each_model_and_one_of_the_proxy() -> None:
    limiter = Limiter(document({"rpm": 2, "tpm": 100, "max_parallel": 1}, {"a": {"rpm": 5}, "b": {"rpm": 1}}))
    first = limiter.admit("a", 10)
    assert isinstance(first, Grant)
    first.refund_tokens()
    first.release()

    second = limiter.admit("b", 30, queue=False, is_fallback=True)

    assert isinstance(second, Grant)
    found = {(use.kind, use.model): use.used for use in limiter.usage()}
    assert found == {("rpm", ""): 1, ("tpm", ""): 30, ("rpm", "a"): 1, ("rpm", "b"): 1,
                     ("maxParallel", ""): 1}  # fmt: skip
    assert limiter.counters.in_flight() == {"b": 1}
    second.release()
    denied = limiter.admit("b", 1, queue=False, is_fallback=True)
    assert isinstance(denied, Rejection)
    assert (denied.kind, denied.scope) == ("rpm", "model")
    second.refund()
    assert {use.used for use in limiter.usage() if use.model == "b" or use.kind == "tpm"} == {0}
    assert next(use.used for use in limiter.usage() if (use.kind, use.model) == ("rpm", "")) == 1


def test_refunded_tokens_leave_the_request_counted() -> None:
    limiter = Limiter(document({"rpm": 2, "tpm": 10}), clock=Clock())
    grant = limiter.admit("m", 10)
    assert isinstance(grant, Grant)

    grant.refund_tokens()

    assert {limit.kind: limit.used for limit in limiter.usage()} == {"rpm": 1, "tpm": 0}


def test_a_settlement_after_the_window_changes_nothing() -> None:
    clock = Clock()
    limiter = Limiter(document({"tpm": 100}), clock=clock)
    old = limiter.admit("m", 100)
    clock.now += 62
    new = limiter.admit("m", 100)
    assert isinstance(old, Grant)
    assert isinstance(new, Grant)

    old.settle(1)

    assert isinstance(limiter.admit("m", 1), Rejection)


def test_a_slot_is_free_when_the_call_is_released() -> None:
    limiter = Limiter(document({}, {"a": {"max_parallel": 1}, "b": {}}), clock=Clock())
    first = limiter.admit("a", 0)
    assert isinstance(first, Grant)

    denied = limiter.admit("a", 0)

    assert isinstance(denied, Rejection)
    assert (denied.kind, denied.scope) == ("maxParallel", "model")
    assert isinstance(limiter.admit("b", 0), Grant)
    first.release()
    first.release()
    assert isinstance(limiter.admit("a", 0), Grant)
    assert isinstance(limiter.admit("a", 0), Rejection)


def test_a_denial_names_the_limit_its_scope_and_the_way_out() -> None:
    limiter = Limiter(document({"rpm": 100}, {"phi": {"rpm": 1}, "b": {}}), clock=Clock())
    limiter.admit("phi", 0)

    denied = limiter.admit("phi", 0)

    assert isinstance(denied, Rejection)
    assert denied.message == (
        "Rate limit reached: model 'phi' admits 1 requests in any 60 s (rpm); try again in 60.9 s, or raise rpm"
    )
    assert (denied.kind, denied.scope) == ("rpm", "model")


def test_limits_of_an_hour_and_a_day_say_so_and_how_long_to_wait() -> None:
    clock = Clock()
    limiter = Limiter(document({"rph": 3, "tpd": 1000}), clock=clock)
    limiter.admit("m", 600)

    by_day = limiter.admit("m", 600)
    clock.now += 600
    grants = [limiter.admit("m", 1) for _ in range(2)]
    by_hour = limiter.admit("m", 1)

    assert isinstance(by_day, Rejection)
    assert by_day.message == (
        "Rate limit reached: the proxy admits 1000 tokens in any 24 hours (tpd); try again in 24 h 23 min, or raise tpd"
    )
    assert all(isinstance(grant, Grant) for grant in grants)
    assert isinstance(by_hour, Rejection)
    assert "3 requests in any hour (rph); try again in 51 min" in by_hour.message
    headers = dict(limiter.headers("m"))
    assert headers[b"x-ratelimit-remaining-tokens"] == b"398"
    assert headers[b"x-ratelimit-reset-tokens"].startswith(b"24h")
    clock.now += by_hour.retry_after_s
    assert isinstance(limiter.admit("m", 1), Grant)


def test_of_two_limits_in_the_way_the_longer_one_is_told() -> None:
    limiter = Limiter(document({"rps": 1, "rpm": 1}), clock=Clock())
    limiter.admit("m", 0)

    denied = limiter.admit("m", 0)

    assert isinstance(denied, Rejection)
    assert denied.kind == "rpm"
    assert denied.retry_after_s > 60


def test_headers_are_those_of_the_tightest_limit_in_openais_form() -> None:
    clock = Clock()
    limiter = Limiter(document({"rpm": 100, "tpm": 5000}, {"m": {"rpm": 20, "rps": 50}, "free": {}}), clock=clock)
    grant = limiter.admit("m", 600)
    assert isinstance(grant, Grant)

    found = dict(limiter.headers("m"))

    assert found == {
        b"x-ratelimit-limit-requests": b"20",
        b"x-ratelimit-remaining-requests": b"19",
        b"x-ratelimit-reset-requests": b"1m1s",
        b"x-ratelimit-limit-tokens": b"5000",
        b"x-ratelimit-remaining-tokens": b"4400",
        b"x-ratelimit-reset-tokens": b"1m1s",
    }
    clock.now += 60.5
    assert dict(limiter.headers("m"))[b"x-ratelimit-reset-tokens"] == b"469ms"
    clock.now += 1
    assert dict(limiter.headers("m"))[b"x-ratelimit-reset-tokens"] == b"0s"
    assert dict(limiter.headers("free"))[b"x-ratelimit-limit-requests"] == b"100"
    assert Limiter(document({"max_parallel": 1})).headers("m") == []


def test_usage_tells_every_limit_once() -> None:
    limiter = Limiter(document({"rpm": 9, "max_parallel": 3}, {"a": {"tpm": 50}, "b": {"rps": 4}}), clock=Clock())
    limiter.admit("a", 20)

    told = {(use.kind, use.scope, use.model): (use.used, use.limit) for use in limiter.usage()}

    assert told == {
        ("rpm", "proxy", ""): (1, 9),
        ("maxParallel", "proxy", ""): (1, 3),
        ("tpm", "model", "a"): (20, 50),
        ("rps", "model", "b"): (0, 4),
    }
    assert limiter.mode == "local"
    assert limiter.counts_tokens("a")
    assert not limiter.counts_tokens("b")
