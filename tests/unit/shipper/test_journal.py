"""Journal of calls in flight: torn writes, compaction."""

from pathlib import Path

import pytest

from llmproxy.shipper.delivery.journal import InFlightCall, Journal


def test_the_journal_is_read_after_a_cut_at_any_byte(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for i in range(3):
        journal.put(InFlightCall("gw", i, "ro", "at", 1, i))
    journal.remove([("gw", 1)])
    whole = (tmp_path / "j").read_bytes()
    journal.close()
    for length in range(len(whole) + 1):
        (tmp_path / "k").write_bytes(whole[:length])
        found = Journal(tmp_path / "k")
        torn = whole[:length].rpartition(b"\n")[2]
        assert found.damaged_bytes in {0, len(torn)}
        assert set(found.calls) <= {("gw", 0), ("gw", 1), ("gw", 2)}
        found.close()
    assert set(found.calls) == {("gw", 0), ("gw", 2)}


def test_the_journal_is_written_anew_when_it_is_mostly_of_the_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmproxy.shipper.delivery.journal.MAX_BYTES", 5000)
    journal = Journal(tmp_path / "j")
    for i in range(1000):
        journal.put(InFlightCall("gw", i, "ro", "at", 1, i))
        if i:
            journal.remove([("gw", i)])
    assert (tmp_path / "j").stat().st_size < 6000
    journal.close()
    assert list(Journal(tmp_path / "j").calls) == [("gw", 0)]


def test_damage_of_the_journal_is_counted(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for i in range(3):
        journal.put(InFlightCall("gw", i, "ro", "at", 1, i))
    journal.close()
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(lines[0] + b"+[broken\n" + b"noise\n" + lines[2])
    found = Journal(tmp_path / "j")
    assert (set(found.calls), found.damaged_bytes) == ({("gw", 0), ("gw", 2)}, len(b"+[brokennoise"))
