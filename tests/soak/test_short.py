"""The short form of `make soak`: seconds in place of minutes, so memory may still rise as a process warms up."""

from pathlib import Path

import pytest

import soak.soak
from soak.soak import Look, Result


@pytest.mark.timeout(240)
async def test_nothing_hangs_or_is_lost_and_no_file_stays_open(tmp_path: Path) -> None:
    result = await soak.soak.run(tmp_path, seconds=20.0, seed=7, say=print)
    found = soak.soak.verdicts(result, growth_bytes=24 << 20)
    assert [text for held, text in found if not held] == [], (result.wrong[:5], result.problems[:5])
    # Every kind was called, and rollouts were recorded: a run in which nothing happened says nothing.
    assert len({name for name, _ in result.ended}) == 7
    assert result.rollout_calls > 50
    assert len(result.looks) > 4


def grown(bytes_a_second: float) -> Result:
    looks = [Look(float(at), int(50e6 + bytes_a_second * at), int(50e6), 20, 20) for at in range(0, 600, 2)]
    return Result(600.0, looks=looks, fds=(10, 12))


def test_a_leak_of_ten_kilobytes_a_second_fails_and_of_none_passes() -> None:
    def held(result: Result) -> list[bool]:
        return [ok for ok, text in soak.soak.verdicts(result, soak.soak.GROWTH_BYTES) if "memory" in text]

    assert held(grown(0)) == [True, True]
    assert held(grown(11_000)) == [False, True]


def test_open_files_that_stay_and_calls_that_hang_fail() -> None:
    leaky = Result(600.0, fds=(10, 40))
    hung = Result(600.0, wrong=["plain: hung"], fds=(10, 12))
    assert [ok for ok, text in soak.soak.verdicts(leaky, 1) if "open files" in text] == [False]
    assert [text for ok, text in soak.soak.verdicts(hung, 1) if not ok] == ["0 calls, 1 not as expected, 1 hung"]
