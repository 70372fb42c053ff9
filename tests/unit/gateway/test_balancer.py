"""Which deployment gets a call."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.gateway.upstreams.balancer import (
    FAILURES_TO_EJECT,
    FIRST_EJECTION_S,
    MAX_EJECTION_S,
    NEVER_OVERLOADED,
    OVERLOAD,
    Balancer,
    capacities,
)
from unit.gateway.targets import target
from windows import Clock


def balancer(*weights: int) -> tuple[Balancer, Clock]:
    clock = Clock()
    targets = [target(f"m/{i}", weight=weight) for i, weight in enumerate(weights)]
    return Balancer(targets, clock, random.Random(7)), clock


def ids(chosen: Balancer, count: int, rollout: str = "") -> Counter[str]:
    return Counter(chosen.pick(rollout and f"{rollout}{i}").id for i in range(count))


def fail(chosen: Balancer, index: int, times: int) -> None:
    for _ in range(times):
        chosen.report(chosen.upstreams[index], ok=False)


def test_calls_without_a_rollout_go_by_weight() -> None:
    found = ids(balancer(3, 1)[0], 4000)
    assert 2800 < found["m/0"] < 3200


def test_rollouts_are_spread_by_weight() -> None:
    found = ids(balancer(3, 1)[0], 4000, "ro-")
    assert 2800 < found["m/0"] < 3200


def test_a_rollout_stays_where_it_is() -> None:
    chosen, _ = balancer(1, 1, 1)
    assert len({chosen.pick("ro-1").id for _ in range(100)}) == 1


def test_only_the_rollouts_of_one_that_leaves_move() -> None:
    three, _ = balancer(1, 1, 1)
    two, _ = balancer(1, 1)
    before = {f"ro-{i}": three.pick(f"ro-{i}").id for i in range(500)}
    moved = [r for r, ident in before.items() if two.pick(r).id != ident]
    assert {before[r] for r in moved} == {"m/2"}


def test_weight_zero_is_used_only_when_no_other_is_left() -> None:
    chosen, _ = balancer(1, 0)
    assert ids(chosen, 200) == {"m/0": 200}
    assert chosen.pick("", {"m/0"}).id == "m/1"
    fail(chosen, 0, FAILURES_TO_EJECT)
    assert ids(chosen, 50) == {"m/1": 50}


def test_a_retry_goes_elsewhere_and_back_only_when_all_were_tried() -> None:
    chosen, _ = balancer(1, 1)
    first = chosen.pick("ro-1").id
    second = chosen.pick("ro-1", {first}).id
    assert second != first
    assert chosen.has_untried({first})
    assert not chosen.has_untried({first, second})
    assert chosen.pick("ro-1", {first, second}).id == first


def test_failures_in_a_row_set_aside_and_a_success_in_between_does_not() -> None:
    chosen, _ = balancer(1, 1)
    fail(chosen, 0, FAILURES_TO_EJECT - 1)
    chosen.report(chosen.upstreams[0], ok=True)
    fail(chosen, 0, FAILURES_TO_EJECT - 1)
    assert not chosen.is_ejected("m/0")
    fail(chosen, 0, 1)
    assert chosen.is_ejected("m/0")
    assert ids(chosen, 50) == {"m/1": 50}


def test_real_traffic_brings_it_back_and_one_more_failure_sets_it_aside_for_longer() -> None:
    chosen, clock = balancer(1, 1)
    fail(chosen, 0, FAILURES_TO_EJECT)
    clock.now += FIRST_EJECTION_S
    assert not chosen.is_ejected("m/0")
    assert ids(chosen, 50)["m/0"] > 0
    fail(chosen, 0, 1)
    clock.now += FIRST_EJECTION_S
    assert chosen.is_ejected("m/0")
    clock.now += FIRST_EJECTION_S
    assert not chosen.is_ejected("m/0")
    chosen.report(chosen.upstreams[0], ok=True)
    fail(chosen, 0, FAILURES_TO_EJECT - 1)
    assert not chosen.is_ejected("m/0")


def test_never_are_all_set_aside() -> None:
    chosen, _ = balancer(1, 1)
    for index in (0, 1):
        fail(chosen, index, FAILURES_TO_EJECT)
    assert set(ids(chosen, 100)) == {"m/0", "m/1"}
    assert not chosen.has_untried(set())


def test_one_that_comes_back_gets_one_call_at_a_time_until_one_succeeds() -> None:
    chosen, clock = balancer(1, 1)
    back = chosen.upstreams[0]
    fail(chosen, 0, FAILURES_TO_EJECT)
    clock.now += FIRST_EJECTION_S

    chosen.start(back)
    assert ids(chosen, 50) == {"m/1": 50}
    chosen.finish(back)  # its caller left: nobody knows more than before
    assert ids(chosen, 50)["m/0"] > 0
    chosen.start(back)
    chosen.report(back, ok=True)
    assert ids(chosen, 50)["m/0"] > 0


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=16), st.integers(0, 100_000))
def test_somebody_always_has_room(weights: list[int], in_flight: int) -> None:
    assert sum(capacities(weights, in_flight)) > in_flight


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.lists(st.integers(0, 3), min_size=200, max_size=400))
def test_no_rollout_overloads_a_deployment(weights: list[int], rollouts: list[int]) -> None:
    """However unevenly: all calls are of four rollouts, and none of them ever ends."""
    chosen, _ = balancer(*weights)
    for there, rollout in enumerate(rollouts):
        picked = chosen.pick(f"ro-{rollout}")
        chosen.start(picked)
        load = chosen.health[picked.id].in_flight
        fair = (there + 1) * picked.weight / sum(weights)
        assert load <= max(NEVER_OVERLOADED, OVERLOAD * fair + 1)


def test_a_rollout_goes_home_when_there_is_room_again() -> None:
    chosen, _ = balancer(1, 1)
    home = chosen.pick("ro-1")
    for _ in range(NEVER_OVERLOADED):
        chosen.start(home)
    assert chosen.pick("ro-1") is not home
    chosen.finish(home)
    assert chosen.pick("ro-1") is home


STEPS = st.lists(
    st.tuples(st.sampled_from(("ok", "fail", "pick", "wait")), st.integers(0, 2), st.floats(0, MAX_EJECTION_S)),
    max_size=120,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_happens_a_call_has_somewhere_to_go_and_goes_where_it_is_healthy(
    steps: list[tuple[str, int, float]],
) -> None:
    chosen, clock = balancer(1, 1, 1)
    for what, index, seconds in steps:
        if what == "wait":
            clock.now += seconds
        elif what == "pick":
            picked = chosen.pick(f"ro-{index}")
            whole = [t for t in chosen.upstreams if not chosen.is_ejected(t.id)]
            assert picked in (whole or chosen.upstreams)
        else:
            chosen.report(chosen.upstreams[index], ok=what == "ok")
    clock.now += MAX_EJECTION_S
    assert not any(chosen.is_ejected(t.id) for t in chosen.upstreams), "nobody is away for more than a minute"


@pytest.mark.parametrize("count", [2, 16])
def test_only_the_rollouts_of_one_that_leaves_move_however_many_there_are(count: int) -> None:
    whole, _ = balancer(*[1] * count)
    left, _ = balancer(*[1] * (count - 1))
    for i in range(200):
        before = whole.pick(f"ro-{i}").id
        assert before in {left.pick(f"ro-{i}").id, f"m/{count - 1}"}
