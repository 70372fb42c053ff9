"""A trainer that changes the limit of its proxy of two pods in the midst of calls, over connections that are kept.

Prints what became of it, one JSON object a line.
"""

import asyncio
import json
import os
import threading
import time
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # importing agentlightning asks the internet for prices otherwise
import httpx

from llmproxy_agl import LLMProxy

BEFORE, AFTER = 60_000, 50_000
MODEL = {"model": "hosted_vllm/echo", "api_base": "http://echo:8000/v1"}
proxy = LLMProxy(
    model_list=[{"model_name": "echo", "litellm_params": MODEL}],
    litellm_config={"litellm_settings": {"max_requests_per_minute": BEFORE}},
    store_url="http://lightning-store:4747",
    spec={
        "replicas": 2,
        "resources": {"requests": {"cpu": "50m"}},
        "spans": {"resources": {"requests": {"cpu": "20m"}}},
    },
)
backend: Any = proxy._backend
ended = threading.Event()
calls: list[tuple[float, int, str]] = []


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def call_on() -> None:
    """Call until the end over one connection, as long as the server keeps it."""
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    with httpx.Client(base_url=proxy.server_launcher.access_endpoint, timeout=60) as client:
        while not ended.is_set():
            began = time.monotonic()
            answer = client.post("/v1/chat/completions", json=body)
            calls.append((began, answer.status_code, answer.headers.get("x-ratelimit-limit-requests", "")))
            time.sleep(0.05)


def of_trainer(live: dict[str, Any]) -> dict[str, Any]:
    """Return what a trainer writes into an LLMProxy, and when it did so; its status may go on."""
    meta = live["metadata"]
    own = [entry for entry in meta["managedFields"] if entry["manager"] == "llmproxy-agl"]
    return {"spec": live["spec"], "own": own, **{key: meta[key] for key in ("generation", "labels", "ownerReferences")}}


async def unchanged() -> None:
    before = of_trainer(backend._get())
    took = []
    for _ in range(5):
        began = time.monotonic()
        await proxy.restart()
        took.append(round(time.monotonic() - began, 3))
    after = of_trainer(backend._get())
    say(took=took, same=before == after, changed=sorted(key for key in after if after[key] != before.get(key)))


async def main() -> None:
    await proxy.start()
    say(name=proxy.name)
    await unchanged()
    threads = [threading.Thread(target=call_on) for _ in range(6)]
    for thread in threads:
        thread.start()
    await asyncio.sleep(2)
    changed = time.monotonic()
    proxy.litellm_config["litellm_settings"]["max_requests_per_minute"] = AFTER
    await proxy.restart()
    returned = time.monotonic()
    await asyncio.sleep(3)
    ended.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    say(
        restart_s=round(returned - changed, 1),
        statuses=sorted({status for _, status, _ in calls}),
        before=sorted({limit for began, _, limit in calls if began < changed - 1}),
        meanwhile=sum(changed < began < returned for began, _, _ in calls),
        after=sorted({limit for began, _, limit in calls if began > returned}),
        calls_after=sum(began > returned for began, _, _ in calls),
        owners=[owner["kind"] for owner in of_trainer(backend._get())["ownerReferences"]],
    )
    await proxy.stop()


asyncio.run(main())
