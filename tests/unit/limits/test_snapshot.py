"""The file that keeps counters over a crash of the container."""

from pathlib import Path

import pytest

from llmproxy.gateway.limits import Grant, Limiter, Rejection
from llmproxy.gateway.limits.snapshot import Snapshot
from windows import Clock, document


def made(clock: Clock, path: Path, *, boot: str = "boot", wall: Clock | None = None) -> tuple[Limiter, Snapshot]:
    limiter = Limiter(document({"rpm": 5, "rps": 4}), clock=clock)
    return limiter, Snapshot(limiter, path, boot=boot, wall=wall or Clock(5e9))


def used(limiter: Limiter) -> dict[str, int]:
    return {use.kind: use.used for use in limiter.usage()}


def test_a_process_that_is_started_again_goes_on_counting(tmp_path: Path) -> None:
    clock = Clock()
    limiter, snapshot = made(clock, tmp_path / "limits")
    for _ in range(3):
        assert isinstance(limiter.admit("m", 0), Grant)
    snapshot.write(ended=True)
    clock.now += 5

    again, restored = made(clock, tmp_path / "limits")

    assert restored.restore()
    assert used(again) == {"rpm": 3, "rps": 0}
    assert [isinstance(again.admit("m", 0), Grant) for _ in range(3)] == [True, True, False]
    clock.now += 60 * 130 / 128 - 5
    assert isinstance(again.admit("m", 0), Grant)


def test_after_a_crash_the_limit_of_a_second_counts_as_full(tmp_path: Path) -> None:
    clock = Clock()
    limiter, snapshot = made(clock, tmp_path / "limits")
    limiter.admit("m", 0)
    snapshot.write()

    again, restored = made(clock, tmp_path / "limits")
    restored.restore()

    denied = again.admit("m", 0)
    assert isinstance(denied, Rejection)
    assert denied.kind == "rps"
    assert denied.retry_after_s < 1.1


@pytest.mark.parametrize(("passed", "left"), [(30.0, 3), (-3600.0, 3), (300.0, 0)])
def test_after_a_reboot_the_wall_clock_says_how_old_it_is(tmp_path: Path, passed: float, left: int) -> None:
    wall = Clock(5e9)
    limiter, snapshot = made(Clock(90_000.0), tmp_path / "limits", wall=wall)
    for _ in range(3):
        limiter.admit("m", 0)
    snapshot.write(ended=True)
    wall.now += passed

    again, restored = made(Clock(4.0), tmp_path / "limits", boot="another", wall=wall)
    restored.restore()

    assert used(again)["rpm"] == left


@pytest.mark.parametrize("content", [b"", b"not msgpack \xff\xff", b"\x96\x01"])
def test_a_file_that_is_broken_is_no_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "limits").write_bytes(content)
    limiter, snapshot = made(Clock(), tmp_path / "limits")

    assert not snapshot.restore()
    assert isinstance(limiter.admit("m", 0), Grant)


def test_it_is_written_again_only_when_something_was_counted(tmp_path: Path) -> None:
    clock = Clock()
    limiter, snapshot = made(clock, tmp_path / "limits")
    limiter.admit("m", 0)
    snapshot.write()
    first = (tmp_path / "limits").stat().st_ino
    snapshot.write()
    same = (tmp_path / "limits").stat().st_ino
    limiter.admit("m", 0)
    snapshot.write()

    assert same == first
    assert (tmp_path / "limits").stat().st_ino != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["limits"]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limiter, snapshot = made(Clock(), tmp_path / "missing" / "limits")
    limiter.admit("m", 0)

    snapshot.write()

    assert "limits_snapshot_failed" in caplog.text
