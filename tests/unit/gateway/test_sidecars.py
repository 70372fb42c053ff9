"""A gateway waits for its translator, but not for ever."""

import asyncio
from pathlib import Path

import pytest

from llmproxy.gateway.shipping import sidecars


async def test_it_waits_until_the_translator_takes_connections(tmp_path: Path) -> None:
    path = tmp_path / "translator.sock"
    waiting = asyncio.create_task(sidecars.wait_for_translator(path, asyncio.Event()))
    await asyncio.sleep(3 * sidecars.PROBE_S)
    assert not waiting.done()

    async with await asyncio.start_unix_server(lambda _, writer: writer.close(), str(path)):
        await asyncio.wait_for(waiting, 30)


async def test_a_pod_that_is_to_end_does_not_wait(tmp_path: Path) -> None:
    stop = asyncio.Event()
    waiting = asyncio.create_task(sidecars.wait_for_translator(tmp_path / "none.sock", stop))
    await asyncio.sleep(0)
    stop.set()

    await asyncio.wait_for(waiting, 10)


async def test_one_that_does_not_come_is_told_and_other_models_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sidecars, "TRANSLATOR_S", 0.2)

    await sidecars.wait_for_translator(tmp_path / "none.sock", asyncio.Event())

    assert [record.message for record in caplog.records] == ["translator_unreachable"]
