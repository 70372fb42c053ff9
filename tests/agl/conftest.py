"""Fixtures for tests on the real `agl store`."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import procs
import spanrig
from aglrig import AglStore, Road


@pytest.fixture(scope="session")
def store() -> Iterator[AglStore]:
    port = procs.free_port()
    agl = str(procs.AGL_PYTHON.parent / "agl")
    command = (agl, "store", "--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING")
    with procs.running(*command, port=port, env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"}):
        yield AglStore(f"http://127.0.0.1:{port}")


@pytest.fixture(scope="session")
def shipper_process(store: AglStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[spanrig.ShipperProcess]:
    folder: Path = tmp_path_factory.mktemp("s")
    with spanrig.shipper(folder, store) as process:
        yield process


@pytest.fixture
async def road(store: AglStore, shipper_process: spanrig.ShipperProcess) -> AsyncIterator[Road]:
    async with spanrig.gateway(shipper_process.run_dir) as gateway:
        yield Road(store, shipper_process, gateway)
