"""Counters on their way between pods, with transits and clocks that the tests choose."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.gateway.limits.local import transfer
from llmproxy.gateway.limits.local.counters import Counters, Reservation
from windows import KINDS, SECONDS, Clock, document, worst_window


class Pod:
    """Counters whose clock is another one's, shifted: no two pods agree on the time."""

    def __init__(self, world: Clock, offset: float, limits: dict[str, int]) -> None:
        self.counters = Counters(document(limits), lambda: world.now + offset, KINDS)
        self.limits = self.counters.limits_of("m")

    def used(self, kind: str) -> int:
        return next(window.used for window in self.counters.windows() if window.kind.name == kind)


offsets = st.floats(-500, 100_000)


@settings(max_examples=200, deadline=None)
@given(
    limits=st.fixed_dictionaries(
        {"rpm": st.integers(1, 40), "rps": st.integers(1, 6)}, optional={"rp10s": st.integers(1, 20)}
    ),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.floats(0, 1.5), st.floats(0, 1)),
            st.tuples(st.just("ask_for_another"), st.floats(0, 1.5), st.floats(0, 1)),
            st.tuples(st.just("hand_over"), st.floats(0, 0.4), offsets),
        ),
        max_size=80,
    ),
)
def test_over_any_number_of_hand_overs_no_window_holds_more_than_the_limit(
    limits: dict[str, int], steps: list[tuple[str, float, float]]
) -> None:
    world = Clock(1000.0)
    pod = Pod(world, 0.0, limits)
    used_at: list[tuple[float, int]] = []
    for what, time_s, number in steps:
        if what == "hand_over":
            told = transfer.export(pod.counters)
            world.now += time_s  # in transit: nobody admits
            pod = Pod(world, number, limits)
            transfer.take_over(pod.counters, told)
            continue
        world.now += time_s
        if what == "ask":
            if pod.counters.take(pod.limits, 0):
                used_at.append((world.now, 1))
        else:
            taken = pod.counters.take_ahead(pod.limits, 0)
            if taken is not None:
                used_at.append((world.now + number * taken[1], 1))

    for kind, limit in limits.items():
        assert worst_window(used_at, SECONDS[kind]) <= limit


@settings(max_examples=100, deadline=None)
@given(
    offset=offsets,
    alone=st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=40),
    later=st.lists(st.floats(0, 3), max_size=40),
    transit=st.floats(0, 0.4),
)
def test_what_two_pods_admitted_apart_is_counted_fully_once_they_are_joined(
    offset: float, alone: list[tuple[float, bool]], later: list[float], transit: float
) -> None:
    world = Clock(1000.0)
    limit = 10
    first, second = Pod(world, 0.0, {"rpm": limit}), Pod(world, offset, {"rpm": limit})
    used_at: list[tuple[float, int]] = []
    for gap, which in alone:
        world.now += gap
        pod = first if which else second
        if pod.counters.take(pod.limits, 0):
            used_at.append((world.now, 1))
    apart = len(used_at)
    told = transfer.export(second.counters)
    world.now += transit

    transfer.merge(first.counters, told)
    joined_at = world.now
    for gap in later:
        world.now += gap
        if first.counters.take(first.limits, 0):
            used_at.append((world.now, 1))

    assert worst_window(used_at, 60.0) <= 2 * limit, "bound while apart: 2 L"
    for at, _ in used_at[apart:]:
        in_window = sum(1 for when, _ in used_at if at - 60 < when <= at)
        assert in_window <= limit, f"admitted {at - joined_at:.2f} s after joining"


def test_a_charge_is_settled_at_the_third_pod() -> None:
    world = Clock()
    limits = {"tpm": 1000, "rpm": 5}
    first = Pod(world, 0.0, limits)
    assert first.counters.take(first.limits, 800)
    reservation = Reservation(first.counters.epoch, first.counters.buckets, 800)
    second, third = Pod(world, 77.0, limits), Pod(world, -300.0, limits)
    world.now += 0.3
    transfer.take_over(second.counters, transfer.export(first.counters))
    world.now += 0.3
    transfer.take_over(third.counters, transfer.export(second.counters))

    here = third.counters.translate(reservation)
    third.counters.settle(third.limits, here, 100)
    third.counters.refund(third.limits, here)

    assert third.used("tpm") == 100
    assert third.used("rpm") == 0


def test_a_charge_of_a_pod_that_was_joined_is_settled_where_it_was_put() -> None:
    world = Clock()
    first, second = Pod(world, 0.0, {"tpm": 1000}), Pod(world, 5.0, {"tpm": 1000})
    world.now += 33.3
    assert second.counters.take(second.limits, 600)
    reservation = Reservation(second.counters.epoch, second.counters.buckets, 600)
    transfer.merge(first.counters, transfer.export(second.counters))

    first.counters.settle(first.limits, first.counters.translate(reservation), 50)

    assert first.used("tpm") == 50


def test_a_reservation_is_settled_in_the_windows_that_both_pods_know() -> None:
    world = Clock()
    limits = {"rpm": 5, "rps": 5, "tpm": 1000}
    old, new = Counters(document(limits), world), Counters(document({**limits, "rp10s": 3}), world, KINDS)
    assert old.take(old.limits_of("m"), 800)
    buckets = old.by_window(old.buckets)
    transfer.take_over(new, transfer.export(old))
    assert new.take(new.limits_of("m"), 0)

    reservation = new.translate(Reservation(old.epoch, new.in_order(buckets), 800))
    new.settle(new.limits_of("m"), reservation, 100)
    new.refund(new.limits_of("m"), reservation)

    used = {window.kind.name: window.used for window in new.windows()}
    assert used == {"rps": 1, "rpm": 1, "tpm": 100, "rp10s": 1}, "the other request's own charge stays"


def test_a_charge_of_a_pod_that_nobody_knows_takes_nothing_from_others() -> None:
    world = Clock()
    pod = Pod(world, 0.0, {"tpm": 1000})
    assert pod.counters.take(pod.limits, 600)

    pod.counters.settle(
        pod.limits, pod.counters.translate(Reservation("unknown", tuple([0 for _ in pod.counters.tickers]), 600)), 0
    )

    assert pod.used("tpm") == 600


@pytest.mark.parametrize(("old", "new"), [({"tpm": 100}, {"tpm": 1000}), ({"rpm": 9}, {"rpm": 9, "tpm": 1000})])
def test_a_charge_under_another_limit_gives_back_no_more_than_it_took(old: dict[str, int], new: dict[str, int]) -> None:
    world = Clock()
    before = Pod(world, 0.0, old)
    assert before.counters.take(before.limits, 500)
    reservation = Reservation(before.counters.epoch, before.counters.buckets, 500)
    after = Pod(world, 1.0, new)
    transfer.take_over(after.counters, transfer.export(before.counters))
    taken = after.used("tpm")
    assert after.counters.take(after.limits, 300)

    after.counters.settle(after.limits, after.counters.translate(reservation), 0)

    assert after.used("tpm") >= 300, f"the 300 of another call stay; the old call held {taken}"


def test_a_copy_is_kept_true_by_what_is_told_of_the_last_buckets() -> None:
    world = Clock()
    leader, other = Pod(world, 0.0, {"rpm": 50, "rps": 5}), Pod(world, 9.0, {"rpm": 50, "rps": 5})
    transfer.replicate(other.counters, transfer.export(leader.counters), whole=True)
    for _ in range(200):
        world.now += 0.05
        since = {window: window.at for window in leader.counters.windows()}
        leader.counters.take(leader.limits, 0)
        transfer.replicate(other.counters, transfer.export(leader.counters, since), whole=False)

        assert other.used("rps") == leader.used("rps")
        assert other.used("rpm") == leader.used("rpm")


def test_the_difference_is_what_came_after() -> None:
    world = Clock()
    pod = Pod(world, 0.0, {"rpm": 50})
    for _ in range(3):
        pod.counters.take(pod.limits, 0)
    before = transfer.export(pod.counters)
    world.now += 7
    for _ in range(4):
        pod.counters.take(pod.limits, 0)

    after = transfer.difference(transfer.export(pod.counters), before)

    assert sum(sum(counts.amounts) for counts in after.windows) == 4
