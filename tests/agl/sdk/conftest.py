"""A model server and Agent-Lightning's store, for what a trainer does with `llmproxy_agl`."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import procs

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # importing agentlightning fetches a price list otherwise
os.environ["AGENTOPS_API_KEY"] = "none"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of litellm, about its own code
    import agentlightning  # noqa: F401 - so that no test meets them


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def echo() -> Iterator[str]:
    """Where the model server is, as an apiBase."""
    with procs.running("llmproxy.echo", "--port", "0", ready="ready on") as process:
        yield f"http://127.0.0.1:{process.port}/v1"


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """Where a real `agl store` is."""
    port = procs.free_port()
    agl = str(procs.AGL_PYTHON.parent / "agl")
    command = (agl, "store", "--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING")
    with procs.running(*command, port=port, timeout_s=180):
        yield f"http://127.0.0.1:{port}"
