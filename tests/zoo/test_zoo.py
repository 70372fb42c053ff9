"""Every oddity shown to every client, plain and streamed, through a real gateway; and the page that says so."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import waiting
from integration.protocols.conftest import Recorder
from llmproxy import contract, shipping_protocol
from llmproxy.shipper.spans.agent_lightning import spans_of
from llmproxy.shipper.spool.records import SpoolRecord
from procs import free_port, running
from zoo import clients
from zoo.clients import Outcome
from zoo.oddity import oddities
from zoo.page import PAGE, render
from zoo.server import ZooServer

ODDITIES = oddities()
CELLS = [
    pytest.param(name, client, mode, id=f"{name}-{client}-{mode}")
    for name, oddity in ODDITIES.items()
    for client, mode in oddity.cells()
]


@dataclass
class Zoo:
    """A gateway before the server of all oddities."""

    base: str
    server: ZooServer
    recorder: Recorder

    def call(self, attempt: str) -> shipping_protocol.CallRecord:
        """Return the record of an attempt's call; waits for it."""
        waiting.until(lambda: any(call.attempt_id == attempt for call in self.recorder.calls), "its record")
        return next(call for call in self.recorder.calls if call.attempt_id == attempt)


def _document(port: int) -> contract.Document:
    models: list[dict[str, Any]] = []
    for name, oddity in ODDITIES.items():
        anthropic = oddity.server.protocol == "anthropic"
        deployment = {
            "id": f"{name}/0",
            "model": "anthropic/claude-opus-5" if anthropic else "llamafile/m",
            "api_base": f"http://127.0.0.1:{port}/{name}" + ("" if anthropic else "/v1"),
            **({"api_key_env": "ZOO_KEY"} if anthropic else {}),
        }
        models.append({"name": name, "deployments": [deployment]})
    return contract.Document.model_validate(
        {
            "proxy": {"name": "zoo", "namespace": "default"},
            "models": models,
            "retries": {"max": 1, "initial_delay_s": 0.01, "max_delay_s": 0.05},
            "spans": {"store": "http://127.0.0.1:9", "ack_wait_s": 0},
        }
    )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    folder = tmp_path_factory.mktemp("z")
    recorder = Recorder(folder / "shipper.sock")
    server = ZooServer(ODDITIES)
    (folder / "config.json").write_text(_document(server.port).to_json())
    port, admin = free_port(), free_port()
    command = (
        *("llmproxy.gateway", "--config", str(folder / "config.json"), "--run-dir", str(folder)),
        *("--host", "127.0.0.1", "--port", str(port), "--admin-host", "127.0.0.1", "--admin-port", str(admin)),
    )
    with running(*command, ready="gateway_ready", env={"ZOO_KEY": "sk-zoo"}):
        yield Zoo(f"http://127.0.0.1:{port}", server, recorder)
    server.shutdown()
    server.server_close()
    recorder.close()


@pytest.mark.parametrize(("name", "client", "mode"), CELLS)
def test_a_client_gets_what_is_meant(
    zoo: Zoo, request: pytest.FixtureRequest, name: str, client: str, mode: str
) -> None:
    oddity = ODDITIES[name]
    if reason := oddity.red.get(f"{client}-{mode}"):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    zoo.server.requests.clear()
    attempt = f"{name}-{client}-{mode}"
    response = clients.send(
        f"{zoo.base}/rollout/ro-1/attempt/{attempt}",
        client,
        name,
        oddity.request.get(client, {}),
        stream=mode == "stream",
    )
    expected = oddity.expectation(client, mode)
    if expected.forwarded:
        body = oddity.server.plain if mode == "plain" else "".join(f"data: {e}\n\n" for e in oddity.server.stream)
        assert response.text.startswith(body)
    else:
        outcome = clients.read(client, response)
        assert expected.error in outcome.error
        assert bool(outcome.error) == bool(expected.error)
        assert outcome.whole != bool(expected.error)
        if not expected.error:
            assert _content(outcome) == (expected.text, expected.thinking, expected.calls)
    assert zoo.server.requests[name] == oddity.tries
    if oddity.span and not expected.error:
        assert _span_content(zoo.call(attempt)) == (oddity.expect.text, oddity.expect.calls)


def _content(outcome: Outcome) -> tuple[str, str, list[clients.Call]]:
    return outcome.text, outcome.thinking, outcome.calls


def _span_content(call: shipping_protocol.CallRecord) -> tuple[str, list[clients.Call]]:
    root = spans_of(SpoolRecord(gateway="g", call=call, sequence_id=1, late=False), "Full")[0].attributes
    calls: list[clients.Call] = []
    prefix = "gen_ai.completion.0"
    while (at := f"{prefix}.tool_calls.{len(calls)}") + ".name" in root:
        calls.append((str(root[f"{at}.id"]), str(root[f"{at}.name"]), json.loads(str(root[f"{at}.arguments"]))))
    return str(root.get(f"{prefix}.content") or ""), calls


def test_every_oddity_says_where_it_was_seen() -> None:
    assert all(oddity.seen and oddity.title for oddity in ODDITIES.values())


def test_the_page_is_what_is_run() -> None:
    assert PAGE.read_text() == render(ODDITIES), "run PYTHONPATH=tests:tests/support python -m zoo"


def test_a_red_cell_is_a_cell() -> None:
    for oddity in ODDITIES.values():
        assert set(oddity.red) <= {f"{client}-{mode}" for client, mode in oddity.cells()}
