"""The class on one machine: what upstream's promises, what the Trainer needs, and what becomes of its processes."""

import asyncio
import base64
import inspect
import json
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import agentlightning as agl
import agentlightning.llm_proxy
import cloudpickle
import pytest
from agentlightning.store.threading import LightningStoreThreaded

import llmproxy_agl
import procs
from llmproxy_agl import LLMProxy, ProxyError, notices
from llmproxy_agl import pause as pausing
from llmproxy_agl.patch_agent_lightning import install
from sdkrig import a_proxy, ask, chat, models, processes_with

pytestmark = [pytest.mark.agl, pytest.mark.timeout(180), pytest.mark.filterwarnings("default")]
UPSTREAM = agentlightning.llm_proxy.LLMProxy


@pytest.fixture(autouse=True)
def _own_folder(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(short_tmp))


def test_it_is_one_of_upstreams_with_upstreams_parameters_and_members() -> None:
    upstream = inspect.signature(UPSTREAM.__init__).parameters
    ours = inspect.signature(LLMProxy.__init__).parameters
    assert issubclass(LLMProxy, UPSTREAM)
    assert list(ours)[: len(upstream)] == list(upstream)
    assert {n: p.default for n, p in ours.items() if n in upstream} == {n: p.default for n, p in upstream.items()}
    public = {n for n in dir(UPSTREAM) if not n.startswith("_")}
    assert public <= set(dir(LLMProxy))
    made = LLMProxy()
    for name in ("model_list", "litellm_config", "server_launcher", "server_launcher_args", "store", "middlewares"):
        assert hasattr(made, name)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_constructor_starts_nothing_and_knows_the_endpoint() -> None:
    threads, files = threading.active_count(), _open_files()

    proxy = LLMProxy(model_list=models("http://vllm:8000/v1"))
    told = proxy.as_resource(sampling_parameters={"temperature": 0.5})

    assert (threading.active_count(), _open_files()) == (threads, files)
    assert told.endpoint == proxy.server_launcher.access_endpoint
    assert told.endpoint == f"http://127.0.0.1:{proxy.server_launcher_args.port}"
    assert (told.model, told.sampling_parameters) == ("echo", {"temperature": 0.5})
    assert not proxy.is_running()
    llm = proxy.as_resource("ro-1", "at-1")
    assert llm.endpoint == f"{told.endpoint}/rollout/ro-1/attempt/at-1"


def test_what_has_no_meaning_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_warned", set())
    with caplog.at_level(logging.WARNING, "llmproxy_agl"):
        for _ in range(2):
            LLMProxy(launch_mode="thread", num_workers=4, middlewares=["message_inspection"], callbacks=[object])

    assert len(caplog.messages) == 3
    with pytest.raises(ValueError, match="launcher_args"):
        LLMProxy(port=1, launcher_args=LLMProxy().server_launcher_args)


@pytest.mark.parametrize(
    ("store", "says"),
    [
        pytest.param(None, "Store is not set", id="none"),
        pytest.param(object(), "has no address", id="no store of Agent-Lightning's"),
    ],
)
def test_a_store_that_cannot_be_reached_is_told_before_anything_starts(store: Any, says: str) -> None:
    proxy = LLMProxy(model_list=models("http://127.0.0.1:1/v1"), store=store, mode="local")

    with pytest.raises((ValueError, ProxyError), match=says):
        asyncio.run(proxy.start())
    assert not proxy.is_running()
    assert processes_with(proxy.name) == {}


def test_start_and_stop_on_different_loops_and_again(echo: str, store_url: str) -> None:
    proxy = a_proxy(echo, store_url)
    endpoint = proxy.server_launcher.access_endpoint
    for _ in range(2):
        asyncio.run(proxy.start())
        assert proxy.is_running()
        assert chat(endpoint)[0] == 200
        assert proxy.server_launcher.access_endpoint == endpoint
        asyncio.run(proxy.stop())
        assert not proxy.is_running()
    assert processes_with(proxy.name) == {}


def test_limits_by_their_documented_names_at_start_and_at_runtime(echo: str, store_url: str) -> None:
    proxy = a_proxy(echo, store_url, {"max_requests_per_minute": 3})
    endpoint = proxy.server_launcher.access_endpoint

    async def life() -> list[int]:
        await proxy.start()
        before = [await asyncio.to_thread(lambda: chat(endpoint)[0]) for _ in range(5)]
        proxy.litellm_config["litellm_settings"]["max_requests_per_minute"] = 5
        await proxy.restart()
        return before + [await asyncio.to_thread(lambda: chat(endpoint)[0]) for _ in range(5)]

    try:
        statuses = asyncio.run(life())
    finally:
        asyncio.run(proxy.stop())

    assert statuses[:5] == [200, 200, 200, 429, 429]
    assert statuses[5:] == [200, 200, 429, 429, 429]  # what was admitted before counts


def test_a_limit_of_a_model(echo: str, store_url: str) -> None:
    both = [*models(echo, "free"), *models(echo, "held", rpm=2)]
    proxy = a_proxy(echo, store_url, model_list=both)
    endpoint = proxy.server_launcher.access_endpoint
    asyncio.run(proxy.start())
    try:
        seen = {name: [chat(endpoint, model=name)[0] for _ in range(4)] for name in ("held", "free")}
    finally:
        asyncio.run(proxy.stop())

    assert seen == {"held": [200, 200, 429, 429], "free": [200] * 4}


def test_restart_drops_no_call_and_admits_none_under_the_old_limit(echo: str, store_url: str) -> None:
    proxy = a_proxy(echo, store_url, {"rpm": 100_000})
    endpoint = proxy.server_launcher.access_endpoint
    asyncio.run(proxy.start())
    done = threading.Event()
    seen: list[tuple[float, int, str]] = []

    def traffic() -> None:
        while not done.is_set():
            began = time.monotonic()
            status, headers, _ = chat(endpoint)
            seen.append((began, status, {k.lower(): v for k, v in headers.items()}["x-ratelimit-limit-requests"]))

    threads = [threading.Thread(target=traffic) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        proxy.litellm_config["litellm_settings"]["rpm"] = 90_000
        asyncio.run(proxy.restart())
        returned = time.monotonic()
        time.sleep(0.5)
    finally:
        done.set()
        for thread in threads:
            thread.join()
        asyncio.run(proxy.stop())

    assert {status for _, status, _ in seen} == {200}
    assert {limit for began, _, limit in seen if began > returned} == {"90000"}
    assert {limit for began, _, limit in seen if began < returned - 3} <= {"100000"}


def test_restart_without_a_change_rolls_nothing(echo: str, store_url: str) -> None:
    proxy = a_proxy(echo, store_url, {"rpm": 10})
    asyncio.run(proxy.start())
    try:
        before = processes_with(proxy.name)
        took = []
        for _ in range(5):
            began = time.monotonic()
            asyncio.run(proxy.restart())
            took.append(time.monotonic() - began)
        after = processes_with(proxy.name)
    finally:
        asyncio.run(proxy.stop())

    assert before == after
    assert len(before) == 3  # the keeper, the gateway, the shipper
    assert min(took) < 0.5


def test_a_change_that_cannot_be_is_refused_with_its_place_and_what_ran_goes_on(echo: str, store_url: str) -> None:
    proxy = a_proxy(echo, store_url, {"rpm": 10})
    asyncio.run(proxy.start())
    try:
        proxy.litellm_config["litellm_settings"]["rpm"] = 0
        with pytest.raises(ProxyError, match=r"litellm_settings\.rpm"):
            asyncio.run(proxy.restart())
        assert chat(proxy.server_launcher.access_endpoint)[0] == 200
    finally:
        asyncio.run(proxy.stop())


def test_a_port_that_is_taken_is_told(echo: str, store_url: str) -> None:
    taken = int(echo.rpartition(":")[2].partition("/")[0])
    proxy = a_proxy(echo, store_url, port=taken)

    with pytest.raises(ProxyError, match=f"cannot listen on 127.0.0.1:{taken}"):
        asyncio.run(proxy.start())
    assert not proxy.is_running()


def _in_fork(proxy: LLMProxy, out: Any) -> None:
    out.put((proxy.is_running(), proxy.as_resource().endpoint))


def test_a_fork_sees_it_and_takes_nothing_along_when_it_ends(echo: str, store_url: str) -> None:
    proxy = a_proxy(echo, store_url)
    asyncio.run(proxy.start())
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    try:
        child = context.Process(target=_in_fork, args=(proxy, out))
        child.start()
        seen = out.get(timeout=30)
        child.join()
        assert seen == (True, proxy.as_resource().endpoint)
        assert chat(proxy.server_launcher.access_endpoint)[0] == 200
    finally:
        asyncio.run(proxy.stop())


def test_a_pickled_copy_attaches_rolls_and_stops_it(echo: str, store_url: str) -> None:
    proxy = a_proxy(echo, store_url, {"rpm": 50})
    asyncio.run(proxy.start())

    copy: LLMProxy = cloudpickle.loads(cloudpickle.dumps(proxy))
    assert copy.is_running()
    assert copy.as_resource().endpoint == proxy.as_resource().endpoint
    copy.litellm_config["litellm_settings"]["rpm"] = 60
    asyncio.run(copy.restart())
    headers = {k.lower(): v for k, v in chat(proxy.server_launcher.access_endpoint)[1].items()}
    asyncio.run(copy.stop())

    assert headers["x-ratelimit-limit-requests"] == "60"
    deadline = time.monotonic() + 20
    while (proxy.is_running() or processes_with(proxy.name)) and time.monotonic() < deadline:
        time.sleep(0.05)  # another process's child: it is gone a moment after its lock
    assert processes_with(proxy.name) == {}


VERL = """
import asyncio, base64, json, os, sys, threading, urllib.request
import cloudpickle
proxy = cloudpickle.loads(base64.b64decode(sys.stdin.read()))
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
def on_loop(work): return asyncio.run_coroutine_threadsafe(work, loop).result(300)
assert not proxy.is_running()
proxy.update_model_list([
    {"model_name": "policy", "litellm_params": {"model": "hosted_vllm/policy", "api_base": os.environ["ECHO"] + "/"}}
])
on_loop(proxy.restart())
llm = proxy.as_resource(sampling_parameters={"temperature": 0.7})
body = json.dumps({"model": llm.model, "messages": [{"role": "user", "content": "x"}]}).encode()
url = llm.get_base_url(os.environ["RID"], os.environ["AID"]) + "/v1/chat/completions"
urllib.request.urlopen(urllib.request.Request(url, body, {"content-type": "application/json"}), timeout=60).read()
print(json.dumps({"name": proxy.name, "sampling": llm.sampling_parameters}), flush=True)
"""


def test_a_run_as_verls_a_pickled_copy_its_own_loop_thread_and_no_stop(
    echo: str, store_url: str, short_tmp: Path
) -> None:
    proxy = LLMProxy(model_list=[], store=agl.LightningStoreClient(store_url), mode="local")
    made = ask(store_url, "/rollouts", {"input": {"a": 1}, "mode": "train"})
    rollout, attempt = made["rollout_id"], made["attempt"]["attempt_id"]
    env = {**os.environ, "ECHO": echo, "RID": rollout, "AID": attempt, "TMPDIR": str(short_tmp)}
    sent = base64.b64encode(cloudpickle.dumps(proxy)).decode()

    done = subprocess.run(
        [sys.executable, "-c", VERL], input=sent, env=env, capture_output=True, text=True, timeout=150, check=False
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"name": proxy.name, "sampling": {"temperature": 0.7}}
    spans = ask(store_url, f"/spans?rollout_id={rollout}&name=openai.chat.completion")["items"]
    assert len(spans) == 1
    assert spans[0]["attributes"]["response_token_ids"]
    assert processes_with(proxy.name) == {}
    assert list(short_tmp.glob("llmproxy-agl*")) == []


KILLED = """
import asyncio, os, time
from llmproxy_agl import LLMProxy
proxy = LLMProxy(model_list=[{"model_name": "m", "litellm_params":
    {"model": "hosted_vllm/m", "api_base": os.environ["ECHO"], "api_key": "sk-planted"}}],
    store_url="http://127.0.0.1:9", mode="local")
asyncio.run(proxy.start())
print("name", proxy.name, flush=True)
time.sleep(600)
"""


def test_a_trainer_that_is_killed_leaves_no_process(echo: str, short_tmp: Path) -> None:
    env = {"ECHO": echo, "TMPDIR": str(short_tmp)}
    with procs.running(sys.executable, "-c", KILLED, ready="name agl-", env=env) as trainer:
        name = trainer.ready_line.split()[1]
        before = len(processes_with(name))
        trainer.signal(9)
        trainer.wait()
        deadline = time.monotonic() + 60
        while processes_with(name) and time.monotonic() < deadline:
            time.sleep(0.1)

    assert before == 3
    assert processes_with(name) == {}
    left = [path for path in short_tmp.rglob("*") if path.is_file()]
    assert [path for path in left if "sk-planted" in path.read_text(errors="replace")] == []
    assert list(short_tmp.glob("llmproxy-agl-*")) == []


def test_keys_are_in_no_log_and_readable_by_their_owner_only(
    echo: str, store_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-from-environment")
    proxy = a_proxy(echo, store_url, model_list=models(echo, api_key="os.environ/MY_KEY"))
    with caplog.at_level(logging.DEBUG):
        proxy.update_model_list([*proxy.model_list, *models(echo, "other", api_key="sk-literal")])
        asyncio.run(proxy.start())
    try:
        folder = proxy._backend.folder  # type: ignore[attr-defined]
        modes = {oct(p.stat().st_mode & 0o777) for p in (folder, folder / "proxy.yaml")}
        commands = " ".join(processes_with(proxy.name).values())
        status, _, _ = chat(proxy.server_launcher.access_endpoint, model="other")
    finally:
        asyncio.run(proxy.stop())

    assert status == 200
    assert modes == {"0o700", "0o600"}
    assert "sk-" not in caplog.text + commands
    assert not folder.exists()


def test_install_has_agent_lightning_build_ours(monkeypatch: pytest.MonkeyPatch, store_url: str) -> None:
    monkeypatch.setattr(agl, "LLMProxy", UPSTREAM)
    monkeypatch.setattr(agentlightning.llm_proxy, "LLMProxy", UPSTREAM)

    made = install(mode="local", name="from-install")
    built: Any = agl.LLMProxy(port=23456, model_list=[], store=agl.LightningStoreClient(store_url))
    copy = cloudpickle.loads(cloudpickle.dumps(built))

    assert agentlightning.llm_proxy.LLMProxy is made
    assert isinstance(built, llmproxy_agl.LLMProxy)
    assert (built.name, copy.name) == ("from-install", "from-install")
    assert copy.server_launcher.access_endpoint == "http://127.0.0.1:23456"
    assert isinstance(agl.Trainer(llm_proxy=built, n_runners=1).llm_proxy, UPSTREAM)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(LLMProxy, id="class"),
        pytest.param("llmproxy_agl.LLMProxy", id="name"),
        pytest.param({"type": "llmproxy_agl.LLMProxy", "num_retries": 3}, id="mapping"),
        pytest.param(lambda: LLMProxy(num_retries=3), id="factory"),
    ],
)
def test_the_trainer_takes_it_in_every_form(spec: Any) -> None:
    store = agl.InMemoryLightningStore()

    proxy = agl.Trainer(llm_proxy=spec, n_runners=1, store=store).llm_proxy

    assert isinstance(proxy, LLMProxy)
    assert proxy.litellm_config["litellm_settings"]["num_retries"] in {0, 3}


def test_a_pause_waits_for_calls_in_flight_and_ends_with_its_block(echo: str, store_url: str) -> None:
    proxy = a_proxy(echo, store_url)
    endpoint = proxy.server_launcher.access_endpoint
    slow = json.dumps({"echo": {"delay_ms": 1500}})
    seen: dict[str, Any] = {}

    def call() -> None:
        seen["in flight"] = chat(endpoint, slow)[0], time.monotonic()

    async def life() -> None:
        await proxy.start()
        thread = threading.Thread(target=call)
        thread.start()
        await asyncio.sleep(0.7)
        async with proxy.paused(retry_after_s=2):
            seen["quiet"] = time.monotonic()
            status, headers, body = await asyncio.to_thread(chat, endpoint)
            seen["paused"] = (status, {k.lower(): v for k, v in headers.items()}["retry-after"], body["error"]["code"])
        seen["after"] = (await asyncio.to_thread(chat, endpoint))[0]
        thread.join()

    try:
        asyncio.run(life())
    finally:
        asyncio.run(proxy.stop())

    assert seen["in flight"][0] == 200
    assert seen["quiet"] >= seen["in flight"][1] - 0.5  # its answer may reach its thread a moment later
    assert (seen["paused"], seen["after"]) == ((429, "2", "paused"), 200)


def test_a_pause_that_does_not_become_quiet_is_told_and_undone(echo: str, store_url: str) -> None:
    proxy = a_proxy(echo, store_url)
    endpoint = proxy.server_launcher.access_endpoint
    asyncio.run(proxy.start())
    thread = threading.Thread(target=chat, args=(endpoint, json.dumps({"echo": {"delay_ms": 8000}})))
    thread.start()
    try:
        time.sleep(1)
        with pytest.raises(ProxyError, match=r"1 requests are still in flight after 0\.5 s"):
            asyncio.run(proxy.pause(wait_s=0.5))
        assert chat(endpoint)[0] == 200
        copy: LLMProxy = cloudpickle.loads(cloudpickle.dumps(proxy))
        thread.join()
        asyncio.run(copy.pause(ttl_s=60))
        assert chat(endpoint)[0] == 429
        asyncio.run(proxy.resume())
        assert chat(endpoint)[0] == 200
    finally:
        thread.join()
        asyncio.run(proxy.stop())


def test_a_held_pause_reaches_a_gateway_that_starts_in_it_and_a_short_one_ends(
    echo: str, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pausing, "INTERVAL_S", 0.3)
    proxy = a_proxy(echo, store_url, {"rpm": 1000})
    endpoint = proxy.server_launcher.access_endpoint

    async def life() -> list[int]:
        await proxy.start()
        async with proxy.paused():
            proxy.litellm_config["litellm_settings"]["rpm"] = 2000
            await proxy.restart()  # another gateway, which knows of no pause
            deadline = time.monotonic() + 30
            while (status := (await asyncio.to_thread(chat, endpoint))[0]) != 429 and time.monotonic() < deadline:
                await asyncio.to_thread(time.sleep, 0.1)
        return [status, (await asyncio.to_thread(chat, endpoint))[0]]

    try:
        assert asyncio.run(life()) == [429, 200]
    finally:
        asyncio.run(proxy.stop())


def test_what_does_not_run_cannot_be_paused(echo: str, store_url: str) -> None:
    with pytest.raises(ProxyError, match="is not running here"):
        asyncio.run(a_proxy(echo, store_url).pause())


def in_memory() -> Any:
    return LightningStoreThreaded(agl.InMemoryLightningStore())


def test_a_store_of_this_process_is_served_while_the_proxy_runs(echo: str) -> None:
    store = in_memory()
    proxy = LLMProxy(model_list=models(echo), store=store, mode="local")

    async def run() -> tuple[Any, Any]:
        await proxy.start()
        rollout = await store.start_rollout(input={"task": 1})
        url = f"{proxy.as_resource().endpoint}/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}"
        status, _, _ = await asyncio.to_thread(chat, url)
        await proxy.restart()
        return status, await store.query_spans(rollout.rollout_id)

    status, spans = asyncio.run(run())
    served = proxy._served_store
    assert served is not None
    copy = pickle.loads(pickle.dumps(proxy))  # noqa: S301 - our own
    asyncio.run(proxy.stop())

    assert status == 200
    assert len(spans) == 3
    assert copy._store_url.startswith("http://127.0.0.1:")
    assert proxy._served_store is None
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{copy._store_url}/v1/agl/health", timeout=5)  # noqa: S310 - http on loopback


def test_the_start_is_logged_with_the_limits(echo: str, store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    proxy = a_proxy(echo, store_url, {"rpm": 60}, model_list=models(echo, rpm=7))
    with caplog.at_level(logging.INFO, "llmproxy_agl"):
        asyncio.run(proxy.start())
    asyncio.run(proxy.stop())

    assert f"serves on {proxy.as_resource().endpoint}; models echo (rpm 7); limits rpm 60" in caplog.text


def test_upstreams_names_are_exported() -> None:
    assert llmproxy_agl.ModelConfig is agentlightning.llm_proxy.ModelConfig
