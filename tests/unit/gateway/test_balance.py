"""Which deployment gets a call."""

import random
from collections import Counter

from llmproxy.gateway.balance import FAILURES_TO_EJECT, FIRST_EJECTION_S, Balancer
from unit.gateway.targets import target
from windows import Clock


def balancer(*weights: int) -> tuple[Balancer, Clock]:
    clock = Clock()
    targets = [target(f"m/{i}", weight=weight) for i, weight in enumerate(weights)]
    return Balancer(targets, clock, random.Random(7)), clock


def ids(chosen: Balancer, count: int, rollout: str = "") -> Counter[str]:
    return Counter(chosen.pick(rollout and f"{rollout}{i}").deployment.id for i in range(count))


def fail(chosen: Balancer, index: int, times: int) -> None:
    for _ in range(times):
        chosen.report(chosen.targets[index], ok=False)


def test_calls_without_a_rollout_go_by_weight() -> None:
    found = ids(balancer(3, 1)[0], 4000)
    assert 2800 < found["m/0"] < 3200


def test_rollouts_are_spread_by_weight() -> None:
    found = ids(balancer(3, 1)[0], 4000, "ro-")
    assert 2800 < found["m/0"] < 3200


def test_a_rollout_stays_where_it_is() -> None:
    chosen, _ = balancer(1, 1, 1)
    assert len({chosen.pick("ro-1").deployment.id for _ in range(100)}) == 1


def test_only_the_rollouts_of_one_that_leaves_move() -> None:
    three, _ = balancer(1, 1, 1)
    two, _ = balancer(1, 1)
    before = {f"ro-{i}": three.pick(f"ro-{i}").deployment.id for i in range(500)}
    moved = [r for r, ident in before.items() if two.pick(r).deployment.id != ident]
    assert {before[r] for r in moved} == {"m/2"}


def test_weight_zero_is_used_only_when_no_other_is_left() -> None:
    chosen, _ = balancer(1, 0)
    assert ids(chosen, 200) == {"m/0": 200}
    assert chosen.pick("", {"m/0"}).deployment.id == "m/1"
    fail(chosen, 0, FAILURES_TO_EJECT)
    assert ids(chosen, 50) == {"m/1": 50}


def test_a_retry_goes_elsewhere_and_back_only_when_all_were_tried() -> None:
    chosen, _ = balancer(1, 1)
    first = chosen.pick("ro-1").deployment.id
    second = chosen.pick("ro-1", {first}).deployment.id
    assert second != first
    assert chosen.untried({first})
    assert not chosen.untried({first, second})
    assert chosen.pick("ro-1", {first, second}).deployment.id == first


def test_failures_in_a_row_set_aside_and_a_success_in_between_does_not() -> None:
    chosen, _ = balancer(1, 1)
    fail(chosen, 0, FAILURES_TO_EJECT - 1)
    chosen.report(chosen.targets[0], ok=True)
    fail(chosen, 0, FAILURES_TO_EJECT - 1)
    assert not chosen.is_aside("m/0")
    fail(chosen, 0, 1)
    assert chosen.is_aside("m/0")
    assert ids(chosen, 50) == {"m/1": 50}


def test_real_traffic_brings_it_back_and_one_more_failure_sets_it_aside_for_longer() -> None:
    chosen, clock = balancer(1, 1)
    fail(chosen, 0, FAILURES_TO_EJECT)
    clock.now += FIRST_EJECTION_S
    assert not chosen.is_aside("m/0")
    assert ids(chosen, 50)["m/0"] > 0
    fail(chosen, 0, 1)
    clock.now += FIRST_EJECTION_S
    assert chosen.is_aside("m/0")
    clock.now += FIRST_EJECTION_S
    assert not chosen.is_aside("m/0")
    chosen.report(chosen.targets[0], ok=True)
    fail(chosen, 0, FAILURES_TO_EJECT - 1)
    assert not chosen.is_aside("m/0")


def test_never_are_all_set_aside() -> None:
    chosen, _ = balancer(1, 1)
    for index in (0, 1):
        fail(chosen, index, FAILURES_TO_EJECT)
    assert set(ids(chosen, 100)) == {"m/0", "m/1"}
    assert not chosen.untried(set())
