"""`spans.registerResource` in Agent-Lightning's own store, read by its own client and used by its own runner."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import procs
import spanrig
from aglrig import AglStore, agentlightning
from llmproxy.contract import Resource
from llmproxy.shipper.delivery import registration
from spanrig import until

pytestmark = [pytest.mark.agl, pytest.mark.filterwarnings("default")]

Json = dict[str, Any]


def latest(store: AglStore) -> Json:
    found = store.ask("GET", "/resources/latest")
    return {} if found is None else dict(found["resources"])


async def test_it_follows_an_edit_and_leaves_others_alone(store: AglStore, tmp_path: Path) -> None:
    prompt = {"resource_type": "prompt_template", "template": "say {x}", "engine": "f-string"}
    await asyncio.to_thread(store.ask, "POST", "/resources", {"prompt": prompt})
    first = Resource(name="main_llm", endpoint="http://phi.team.svc:4000/v1")
    with spanrig.shipper(tmp_path / "a", store, resource=first):
        await until(lambda: "main_llm" in latest(store))
    with spanrig.shipper(tmp_path / "b", store, resource=Resource(name="main_llm", endpoint="http://other:4000")):
        await until(lambda: latest(store)["main_llm"]["endpoint"] == "http://other:4000")
    client = agentlightning.LightningStoreClient(store.url)
    found = await client.get_latest_resources()
    await client.close()
    assert found is not None
    assert found.resources["prompt"].template == "say {x}"
    ours = found.resources["main_llm"]
    assert isinstance(ours, agentlightning.ProxyLLM)
    assert ours.model == "phi"
    assert ours.get_base_url("ro-1", "at-1") == "http://other:4000/rollout/ro-1/attempt/at-1"


async def test_an_edit_of_the_models_is_told_and_not_undone_by_a_later_look(store: AglStore, tmp_path: Path) -> None:
    """The operator rolls pods for an edit: for a while one with the old list and one with the new are there."""
    at = Resource(name="edited_llm", endpoint="http://phi:4000")
    with spanrig.shipper(tmp_path / "a", store, resource=at) as old:
        await until(lambda: latest(store).get("edited_llm", {}).get("model") == "phi", 60)
        spanrig.write_config(tmp_path / "b", store.url, resource=at)
        config = tmp_path / "b/config.json"
        document = json.loads(config.read_text())
        deployments = [{**document["models"][0]["deployments"][0], "id": "phi-4/0"}]
        document["models"].insert(0, {"name": "phi-4", "deployments": deployments})
        config.write_text(json.dumps(document))
        new = spanrig.ShipperProcess(tmp_path / "b", tmp_path / "b/spool")
        new.start()
        try:
            await until(lambda: latest(store)["edited_llm"]["model"] == "phi-4", 60)
            await asyncio.sleep(registration.CHECK_S + 2)  # in which the old pod has looked again
            assert latest(store)["edited_llm"]["model"] == "phi-4"
            assert len(old.events("resource_registered")) == len(new.events("resource_registered")) == 1
        finally:
            await asyncio.to_thread(new.end)


async def test_a_real_runner_calls_through_the_gateway_that_it_finds_there(store: AglStore, tmp_path: Path) -> None:
    with procs.running("llmproxy.echo", "--port", "0", ready="ready on") as echo:
        port, admin, peer = procs.free_port(), procs.free_port(), procs.free_port()
        with spanrig.shipper(
            tmp_path, store, resource=Resource(name="main_llm", endpoint=f"http://127.0.0.1:{port}")
        ) as process:
            config = tmp_path / "config.json"
            config.write_text(config.read_text().replace(spanrig.NOWHERE, f"http://127.0.0.1:{echo.port}/v1"))
            flags = ("--config", str(config), "--run-dir", str(tmp_path), "--host", "127.0.0.1", "--port", str(port))
            at = ("--admin-host", "127.0.0.1", "--admin-port", str(admin), "--peer-port", str(peer))
            with procs.running("llmproxy.gateway", *flags, *at, port=admin):
                await until(lambda: latest(store).get("main_llm", {}).get("endpoint") == f"http://127.0.0.1:{port}")
                rollout = await run_one(store)
            metrics = process.metrics()
        assert metrics["delivered_total"] == 1
    spans = await asyncio.to_thread(store.spans, rollout)
    (talk,) = agentlightning.TraceToMessages().adapt([span for span in spans if span.name == "litellm_request"])
    assert talk["messages"][0] == {"role": "user", "content": "hello"}


@agentlightning.rollout  # type: ignore[untyped-decorator]
async def agent(task: str, llm: Any) -> float:
    import openai  # noqa: PLC0415 - of Agent-Lightning's environment

    assert type(llm) is agentlightning.LLM  # the runner has put the rollout into its address
    async with openai.AsyncOpenAI(base_url=f"{llm.endpoint}/v1", api_key="none") as client:
        said = await client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": task}])
    return float(bool(said.choices[0].message.content))


async def run_one(store: AglStore) -> str:
    """Queue a task, let one of Agent-Lightning's runners do it, and return its rollout."""
    client = agentlightning.LightningStoreClient(store.url)
    runner = agentlightning.LitAgentRunner(agentlightning.OtelTracer(), max_rollouts=1)
    runner.init(agent)
    runner.init_worker(0, client)
    queued = await client.enqueue_rollout(input="hello", mode="train")
    await runner.iter(event=None)
    done = await client.get_rollout_by_id(queued.rollout_id)
    assert done is not None
    assert done.status == "succeeded", done
    runner.teardown_worker(0)
    runner.teardown()
    await client.close()
    rollout: str = queued.rollout_id
    return rollout
