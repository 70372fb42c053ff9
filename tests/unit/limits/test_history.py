"""Counters on their way between pods, with transits and clocks that the tests choose."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.gateway.limits.local import transfer
from llmproxy.gateway.limits.local.counters import Book, Charge
from windows import Clock, document, worst_window


class Pod:
    """A book whose clock is another one's, shifted: no two pods agree on the time."""

    def __init__(self, world: Clock, offset: float, limits: dict[str, int]) -> None:
        self.book = Book(document(limits), lambda: world.now + offset)
        self.plan = self.book.plan("m")

    def used(self, kind: str) -> int:
        return next(window.used for window in self.book.windows() if window.kind == kind)


offsets = st.floats(-500, 100_000)


@settings(max_examples=200, deadline=None)
@given(
    limits=st.fixed_dictionaries({"rpm": st.integers(1, 40), "rps": st.integers(1, 6)}),
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
            told = transfer.tell(pod.book)
            world.now += time_s  # in transit: nobody admits
            pod = Pod(world, number, limits)
            transfer.adopt(pod.book, told)
            continue
        world.now += time_s
        if what == "ask":
            if pod.book.take(pod.plan, 0):
                used_at.append((world.now, 1))
        else:
            taken = pod.book.take_ahead(pod.plan, 0)
            if taken is not None:
                used_at.append((world.now + number * taken[1], 1))

    for kind, window_s in (("rpm", 60.0), ("rps", 1.0)):
        assert worst_window(used_at, window_s) <= limits[kind]


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
        if pod.book.take(pod.plan, 0):
            used_at.append((world.now, 1))
    apart = len(used_at)
    told = transfer.tell(second.book)
    world.now += transit

    transfer.merge(first.book, told)
    joined_at = world.now
    for gap in later:
        world.now += gap
        if first.book.take(first.plan, 0):
            used_at.append((world.now, 1))

    assert worst_window(used_at, 60.0) <= 2 * limit, "bound while apart: 2 L"
    for at, _ in used_at[apart:]:
        in_window = sum(1 for when, _ in used_at if at - 60 < when <= at)
        assert in_window <= limit, f"admitted {at - joined_at:.2f} s after joining"


def test_a_charge_is_settled_at_the_third_pod() -> None:
    world = Clock()
    limits = {"tpm": 1000, "rpm": 5}
    first = Pod(world, 0.0, limits)
    assert first.book.take(first.plan, 800)
    lineage, charge = first.book.lineage, Charge(first.book.minute.number, first.book.second.number, 800)
    second, third = Pod(world, 77.0, limits), Pod(world, -300.0, limits)
    world.now += 0.3
    transfer.adopt(second.book, transfer.tell(first.book))
    world.now += 0.3
    transfer.adopt(third.book, transfer.tell(second.book))

    here = third.book.translated(lineage, charge)
    third.book.settle(third.plan, here, 100)
    third.book.refund(third.plan, here)

    assert third.used("tpm") == 100
    assert third.used("rpm") == 0


def test_a_charge_of_a_pod_that_was_joined_is_settled_where_it_was_put() -> None:
    world = Clock()
    first, second = Pod(world, 0.0, {"tpm": 1000}), Pod(world, 5.0, {"tpm": 1000})
    world.now += 33.3
    assert second.book.take(second.plan, 600)
    charge = Charge(second.book.minute.number, second.book.second.number, 600)
    transfer.merge(first.book, transfer.tell(second.book))

    first.book.settle(first.plan, first.book.translated(second.book.lineage, charge), 50)

    assert first.used("tpm") == 50


def test_a_charge_of_a_pod_that_nobody_knows_takes_nothing_from_others() -> None:
    world = Clock()
    pod = Pod(world, 0.0, {"tpm": 1000})
    assert pod.book.take(pod.plan, 600)

    pod.book.settle(pod.plan, pod.book.translated("unknown", Charge(0, 0, 600)), 0)

    assert pod.used("tpm") == 600


@pytest.mark.parametrize(("old", "new"), [({"tpm": 100}, {"tpm": 1000}), ({"rpm": 9}, {"rpm": 9, "tpm": 1000})])
def test_a_charge_under_another_limit_gives_back_no_more_than_it_took(old: dict[str, int], new: dict[str, int]) -> None:
    world = Clock()
    before = Pod(world, 0.0, old)
    assert before.book.take(before.plan, 500)
    charge = Charge(before.book.minute.number, before.book.second.number, 500)
    after = Pod(world, 1.0, new)
    transfer.adopt(after.book, transfer.tell(before.book))
    taken = after.used("tpm")
    assert after.book.take(after.plan, 300)

    after.book.settle(after.plan, after.book.translated(before.book.lineage, charge), 0)

    assert after.used("tpm") >= 300, f"the 300 of another call stay; the old call held {taken}"


def test_a_copy_is_kept_true_by_what_is_told_of_the_last_buckets() -> None:
    world = Clock()
    leader, other = Pod(world, 0.0, {"rpm": 50, "rps": 5}), Pod(world, 9.0, {"rpm": 50, "rps": 5})
    transfer.follow(other.book, transfer.tell(leader.book), whole=True)
    for _ in range(200):
        world.now += 0.05
        since = {window: window.at for window in leader.book.windows()}
        leader.book.take(leader.plan, 0)
        transfer.follow(other.book, transfer.tell(leader.book, since), whole=False)

        assert other.used("rps") == leader.used("rps")
        assert other.used("rpm") == leader.used("rpm")


def test_the_difference_is_what_came_after() -> None:
    world = Clock()
    pod = Pod(world, 0.0, {"rpm": 50})
    for _ in range(3):
        pod.book.take(pod.plan, 0)
    before = transfer.tell(pod.book)
    world.now += 7
    for _ in range(4):
        pod.book.take(pod.plan, 0)

    after = transfer.difference(transfer.tell(pod.book), before)

    assert sum(sum(counts.amounts) for counts in after.windows) == 4
