"""Edits of a watched file."""

import asyncio
from pathlib import Path

import pytest

from llmproxy_cli.local.file_watcher import FileWatcher


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "proxy.yaml"
    path.write_text("one")
    return path


def write(path: Path, text: str | None, *, move_to: Path | None = None) -> None:
    if text is None:
        path.unlink()
        return
    path.write_text(text)
    if move_to is not None:
        path.replace(move_to)


async def test_an_edit_is_noticed_however_it_is_written(file: Path, tmp_path: Path) -> None:
    watch = FileWatcher(file)

    write(file, "two")
    await asyncio.wait_for(watch.changed(), 5)
    write(tmp_path / "new", "three", move_to=file)
    await asyncio.wait_for(watch.changed(), 5)
    write(file, None)
    away = asyncio.ensure_future(watch.changed())
    await asyncio.sleep(0.6)
    assert not away.done()
    write(file, "four")
    await asyncio.wait_for(away, 5)


async def test_writing_the_same_again_is_no_edit(file: Path) -> None:
    watch = FileWatcher(file)

    write(file, "one")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watch.changed(), 0.8)
