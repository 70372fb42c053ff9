"""Segments and the spool on them, torn, corrupted and full in every way that a test can bring about."""

import errno
import json
import os
import random
from pathlib import Path

import pytest

from llmproxy.shipper.spool.segments import HEAD, MAGIC, Segments
from llmproxy.shipper.spool.spool import CURSOR, Spool, encode_cursor

PAYLOADS = [b"first", b"second \xf5\xc1\n\xa7 with a mark inside", b"", b"fourth" * 30]


def everything(spool: Spool, *, records: int = 3, size: int = 64) -> list[bytes]:
    """Take all there is, in small bites."""
    found: list[bytes] = []
    while taken := spool.take(records, size):
        found += [payload for _, payload in taken]
    return found


def written(folder: Path, payloads: list[bytes] = PAYLOADS) -> Path:
    """Write *payloads* one by one and return the file."""
    made = Segments(folder)
    for payload in payloads:
        made.append([payload])
    made.close()
    return made.path(1)


def test_what_was_appended_is_read_back_by_place_and_in_order(tmp_path: Path) -> None:
    made = Segments(tmp_path)
    places = [made.append([payload])[0] for payload in PAYLOADS]
    assert [made.read(place) for place in places] == PAYLOADS
    assert list(made.walk(1)) == list(zip(places, PAYLOADS, strict=True))
    assert made.size == (tmp_path / "000000000001.seg").stat().st_size


def test_a_file_that_is_cut_at_any_byte_gives_the_records_before_the_cut(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole").read_bytes()
    ends = [len(MAGIC)]
    for payload in PAYLOADS:
        ends.append(ends[-1] + HEAD.size + len(payload))
    for length in range(len(whole) + 1):
        folder = tmp_path / f"cut{length}"
        folder.mkdir()
        (folder / "000000000001.seg").write_bytes(whole[:length])
        spool = Spool(folder)
        expected = PAYLOADS[: sum(1 for end in ends[1:] if end <= length)]
        assert spool.unread() == len(expected), length
        assert everything(spool) == expected, length
        spool.append([b"after the crash"])
        assert everything(spool) == [b"after the crash"], length
        spool.close()


def test_what_is_unread_is_counted_over_all_files_from_where_reading_is(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=64)
    assert spool.unread() == 0
    for payload in PAYLOADS * 3:
        spool.append([payload])
    for left in (12, 7, 2):
        assert spool.unread() == left
        spool.take(5, 1 << 20)
        while spool.unread() > max(0, left - 5):  # a bite ends with its file
            spool.take(spool.unread() - max(0, left - 5), 1 << 20)
    assert spool.unread() == 0
    assert spool.unsettled == 12


def test_a_record_with_a_flipped_byte_costs_itself_alone(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole").read_bytes()
    starts = [len(MAGIC)]
    for payload in PAYLOADS[:-1]:
        starts.append(starts[-1] + HEAD.size + len(payload))
    for at in range(len(MAGIC), len(whole)):
        folder = tmp_path / f"flip{at}"
        folder.mkdir()
        (folder / "000000000001.seg").write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        hit = max(i for i, start in enumerate(starts) if start <= at)
        spool = Spool(folder)
        assert everything(spool) == [p for i, p in enumerate(PAYLOADS) if i != hit], at
        assert sum(damage.bytes for damage in spool.segments.damages) == HEAD.size + len(PAYLOADS[hit]), at


def test_damage_that_is_larger_than_a_bite_does_not_hide_what_follows(tmp_path: Path) -> None:
    path = written(tmp_path, [b"a" * 10, b"b" * 5000, b"c" * 10, b"d" * 10])
    data = bytearray(path.read_bytes())
    start = len(MAGIC) + HEAD.size + 10
    data[start : start + 400] = os.urandom(400)
    path.write_bytes(data)
    assert everything(Spool(tmp_path), size=50) == [b"a" * 10, b"c" * 10, b"d" * 10]


def test_a_file_of_noise_gives_nothing_and_does_not_stop_the_next(tmp_path: Path) -> None:
    rand = random.Random(3)
    (tmp_path / "000000000001.seg").write_bytes(rand.randbytes(5000))
    (tmp_path / "000000000002.seg").write_bytes(b"")
    spool = Spool(tmp_path)
    spool.append([b"good"])
    assert everything(spool) == [b"good"]


def test_a_new_process_never_appends_to_a_file_that_is_there(tmp_path: Path) -> None:
    before = written(tmp_path).read_bytes()
    made = Segments(tmp_path)
    assert made.append([b"new"])[0].segment == 2
    assert (tmp_path / "000000000001.seg").read_bytes() == before


@pytest.mark.parametrize("broken", ["pwrite", "fdatasync"])
def test_a_full_disk_writes_nothing_and_the_next_record_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    spool = Spool(tmp_path)
    spool.append([b"before"])
    real = getattr(os, broken)
    calls = 0

    def full(fd: int, *rest: object) -> object:
        nonlocal calls
        calls += 1
        if broken == "pwrite" and calls == 1:
            data, offset = rest
            return real(fd, bytes(data)[:7], offset)  # type: ignore[call-overload]  # a short write, then no room
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space left"):
        spool.append([b"lost", b"lost too"])
    monkeypatch.setattr(os, broken, real)
    spool.append([b"after"])
    assert everything(spool) == [b"before", b"after"]
    spool.close()
    assert everything(Spool(tmp_path)) == [b"before", b"after"]


def test_no_room_for_another_segment_leaves_none_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Segments(tmp_path)
    real = os.fdatasync

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(OSError, match="No space left"):
        made.append([b"x"])
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "fdatasync", real)
    assert made.read(made.append([b"x"])[0]) == b"x"


def test_the_cursor_moves_with_the_oldest_unsettled_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=200)
    for i in range(20):
        spool.append([b"%02d" % i * 20])
    taken = [item for _ in range(20) for item in spool.take(1, 1)]
    for place, _ in [*taken[:5], *taken[6:]]:
        spool.settle(place)
    assert spool.cursor == (taken[5][0].segment, taken[5][0].offset)
    spool.save(spool.cursor)
    assert min(spool.segments.sizes) == taken[5][0].segment
    spool.close()
    # What came after the unsettled one is sent again, what came before is not.
    assert everything(Spool(tmp_path)) == [payload for _, payload in taken[5:]]


def test_when_all_is_settled_only_the_open_segment_is_left(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=200)
    for i in range(20):
        spool.append([b"%02d" % i * 20])
    for place, _ in [item for _ in range(20) for item in spool.take(1, 1)]:
        spool.settle(place)
    spool.save(spool.cursor)
    assert len(spool.segments.sizes) == 1
    assert not spool.unsettled
    assert spool.unread_bytes == 0
    spool.close()
    assert everything(Spool(tmp_path)) == []


def test_segments_are_unlinked_after_the_cursor_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, segment_bytes=50)
    spool.append([b"a" * 60])
    spool.append([b"b" * 60])
    for place, _ in [*spool.take(1, 1), *spool.take(1, 1)]:
        spool.settle(place)
    order: list[str] = []
    real = Segments.unlink

    def unlink(self: Segments, number: int) -> None:
        order.append(f"unlink with cursor {json.loads((tmp_path / CURSOR).read_text())[0]}")
        real(self, number)

    monkeypatch.setattr(Segments, "unlink", unlink)
    spool.save(spool.cursor)
    assert order == ["unlink with cursor 2"]


def test_a_cursor_that_cannot_be_written_still_gives_room_back_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, segment_bytes=50)
    spool.append([b"a" * 60])
    spool.append([b"b" * 60])
    spool.settle(spool.take(1, 1)[0][0])
    spool.take(1, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Spool, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        spool.save(spool.cursor)
    assert list(spool.segments.sizes) == [2]
    monkeypatch.undo()
    spool.close()
    again = Spool(tmp_path, segment_bytes=50)
    assert everything(again) == [b"b" * 60]


@pytest.mark.parametrize("text", [b"", b"[1", b'{"a": 1}', b"[null, 2, 3]", b"7", b"[2, 17, 1]", b"[2, 17]"])
def test_a_cursor_that_says_nothing_means_everything_once_more(tmp_path: Path, text: bytes) -> None:
    written(tmp_path)
    (tmp_path / CURSOR).write_bytes(text)
    spool = Spool(tmp_path)
    assert everything(spool) == PAYLOADS
    assert spool.segments.report_damages() == len(text)


def test_a_cursor_that_points_at_nothing_never_skips_a_new_record(tmp_path: Path) -> None:
    (tmp_path / CURSOR).write_bytes(encode_cursor((7, 1000)))
    spool = Spool(tmp_path)
    spool.append([b"new" * 1000])
    assert everything(spool, size=4000) == [b"new" * 1000]


def test_records_of_any_size_come_in_bites_of_any_size(tmp_path: Path) -> None:
    rand = random.Random(5)
    payloads = [rand.randbytes(rand.choice([0, 1, 100, 3000])) for _ in range(60)]
    spool = Spool(tmp_path, segment_bytes=5000)
    for payload in payloads:
        spool.append([payload])
    found: list[bytes] = []
    while taken := spool.take(rand.randint(1, 9), rand.choice([1, 50, 500, 10_000])):
        found += [payload for _, payload in taken]
    assert found == payloads


def test_a_settled_segment_that_is_still_open_gives_its_room_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=1000)
    spool.append([b"a" * 900, b"b" * 900])
    taken = spool.take(10, 10_000)
    spool.rotate()
    assert spool.size > 1800  # nothing is settled yet
    for place, _ in taken:
        spool.settle(place)
    spool.append([b"c"])  # came in between: nothing may be forgotten
    spool.rotate()
    assert everything(spool) == [b"c"]
    for place in list(spool._unsettled):
        spool.settle(place)
    spool.rotate()
    spool.save(spool.cursor)
    assert spool.size < 100
    spool.append([b"d"])
    assert everything(spool) == [b"d"]
    spool.close()
    assert everything(Spool(tmp_path)) == [b"d"]


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_what_is_no_file_is_counted_and_neither_opened_nor_overwritten(tmp_path: Path, kind: str) -> None:
    written(tmp_path)
    odd = Segments(tmp_path).path(7)
    if kind == "folder":
        odd.mkdir()
    elif kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/etc/passwd")
    spool = Spool(tmp_path)
    assert everything(spool) == PAYLOADS
    assert spool.segments.report_damages() > 0
    spool.append([b"new"])
    assert everything(spool) == [b"new"]
    assert max(spool.segments.sizes) == 8


def test_a_segment_that_somebody_removes_costs_itself_and_is_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=50)
    for i in range(3):
        spool.append([bytes([i]) * 60])
    spool.segments.path(2).unlink()
    assert [payload[0] for payload in everything(spool)] == [0, 2]
    assert spool.segments.report_damages() > 60
    spool.segments.path(3).unlink()
    spool.append([b"new" * 20])
    assert everything(spool) == [b"new" * 20]


def test_a_head_that_is_damaged_is_counted(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    spool = Spool(tmp_path)
    assert everything(spool) == PAYLOADS
    assert spool.segments.report_damages() == len(MAGIC)
