"""Records that `llmproxy local` counts as undelivered."""

from pathlib import Path

import pytest

from llmproxy.shipper.spool.spool import encode_cursor
from llmproxy_cli.local.runner import _undelivered


@pytest.mark.parametrize(
    ("cursor", "left"),
    [
        pytest.param(None, 150, id="no cursor: everything"),
        pytest.param(encode_cursor((1, 100)), 50, id="at the end of the first"),
        pytest.param(encode_cursor((2, 20)), 30, id="in the second"),
        pytest.param(encode_cursor((2, 50)), 0, id="at the end of all"),
        pytest.param(b"torn", 150, id="a cursor that cannot be read: everything"),
    ],
)
def test_only_what_lies_behind_the_cursor_is_undelivered(tmp_path: Path, cursor: bytes | None, left: int) -> None:
    waiting = tmp_path / "waiting"
    waiting.mkdir()
    (waiting / "000000000001.seg").write_bytes(b"x" * 100)
    (waiting / "000000000002.seg").write_bytes(b"x" * 50)
    if cursor is not None:
        (waiting / "cursor").write_bytes(cursor)

    assert _undelivered(tmp_path) == left


def test_dead_letters_are_kept(tmp_path: Path) -> None:
    (tmp_path / "dead").mkdir()
    (tmp_path / "dead/000000000001.seg").write_bytes(b"x" * 7)

    assert _undelivered(tmp_path) == 7
