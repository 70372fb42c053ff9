"""A whole training run but for the weights: a Trainer, an algorithm, four runners and a rewarded agent.

The proxy is `llmproxy_agl.LLMProxy`; everything else is Agent-Lightning as it is. The algorithm reads each rollout's
spans at the instant it succeeds and prints what a trainer would train on, a JSON line a rollout:

    MODEL_API_BASE=http://127.0.0.1:8000/v1 python train.py --rollouts 8

In a cluster the same file runs as a Job (trainer-job.yaml), and the proxy is pods of its own.
"""

import argparse
import asyncio
import functools
import json
import os
import time

import agentlightning as agl
from agents import AGENTS, TURNS

from llmproxy_agl import LLMProxy

MODEL = os.environ.get("MODEL", "echo")
API_BASE = os.environ.get("MODEL_API_BASE", "http://127.0.0.1:8000/v1")


def say(**line: object) -> None:
    """Print a line for programs, at once."""
    print(json.dumps(line), flush=True)


async def one_batch(
    store: agl.LightningStore, adapter: agl.TraceToTripletBase, resources_id: str, tasks: list[str]
) -> None:
    """Enqueue *tasks* and tell of each rollout the moment it has ended."""
    waiting = {
        (await store.enqueue_rollout(input=t, mode="train", resources_id=resources_id)).rollout_id for t in tasks
    }
    while waiting:
        for rollout in await store.wait_for_rollouts(rollout_ids=sorted(waiting), timeout=0.05):
            spans = await store.query_spans(rollout_id=rollout.rollout_id, attempt_id="latest")
            waiting.discard(rollout.rollout_id)
            triplets = adapter.adapt(spans) if spans else []
            say(
                rollout=rollout.rollout_id,
                status=rollout.status,
                tokens=[[len(t.prompt["token_ids"]), len(t.response["token_ids"])] for t in triplets],
                rewards=[t.reward for t in triplets],
                calls=[s.start_time for s in spans if s.name == "litellm_request"],
            )
        await asyncio.sleep(0.005)


async def update_weights(llm_proxy: LLMProxy) -> None:
    """Let no call reach the model server for a while; agents wait, because their SDKs ask again."""
    async with llm_proxy.paused(retry_after_s=1):
        began = time.time()
        await asyncio.sleep(2)  # load them here
        say(paused_from=began, paused_to=time.time())


def algorithm(options: argparse.Namespace) -> agl.Algorithm:
    """Return the algorithm: batches of rollouts, and between two of them another limit if that is asked for."""

    @agl.algo
    async def run(*, store: agl.LightningStore, llm_proxy: LLMProxy, adapter: agl.TraceToTripletBase) -> None:
        await llm_proxy.start()
        say(proxy=llm_proxy.name, endpoint=llm_proxy.server_launcher.access_endpoint)
        sampling = {"temperature": 0.7} if options.agent == "openai" else {}
        resource = llm_proxy.as_resource(sampling_parameters=sampling)
        resources = await store.add_resources({"main_llm": resource})
        await one_batch(store, adapter, resources.resources_id, [f"task {i}" for i in range(options.rollouts)])
        if options.raise_to is not None:
            llm_proxy.litellm_config["litellm_settings"]["rps"] = options.raise_to
            began = time.monotonic()
            await llm_proxy.restart()
            say(limit=options.raise_to, restart_s=round(time.monotonic() - began, 3))
            await one_batch(store, adapter, resources.resources_id, [f"more {i}" for i in range(options.rollouts)])
        if options.update_weights:
            tasks = [f"meanwhile {i}" for i in range(options.rollouts)]
            batch = asyncio.create_task(one_batch(store, adapter, resources.resources_id, tasks))
            await update_weights(llm_proxy)
            await batch
        if not options.no_stop:
            await llm_proxy.stop()
            say(running=llm_proxy.is_running())

    return run


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agent", choices=sorted(AGENTS), default="openai")
    parser.add_argument("--tracer", choices=["agentops", "otel"], default="otel")
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--runners", type=int, default=4)
    parser.add_argument("--rps", type=int, help="limit of the whole proxy, per second")
    parser.add_argument("--raise-to", type=int, help="another limit for a second batch of rollouts")
    parser.add_argument("--update-weights", action="store_true", help="pause the proxy in the middle of one more batch")
    parser.add_argument("--replicas", type=int, default=1, help="pods of the proxy, in a cluster")
    parser.add_argument("--no-stop", action="store_true", help="end as VERL does, without stop()")
    options = parser.parse_args()
    limits = {} if options.rps is None else {"rps": options.rps}
    proxy = LLMProxy(
        model_list=[{"model_name": MODEL, "litellm_params": {"model": f"hosted_vllm/{MODEL}", "api_base": API_BASE}}],
        litellm_config={"litellm_settings": limits},
        num_retries=2,
        spec={"replicas": options.replicas},
    )
    trainer = agl.Trainer(
        algorithm=algorithm(options),
        llm_proxy=proxy,
        n_runners=options.runners,
        tracer=agl.OtelTracer() if options.tracer == "otel" else agl.AgentOpsTracer(),
    )
    say(calls_of_a_rollout=TURNS)
    trainer.fit(agl.rollout(functools.partial(_agent, options.agent)))


def _agent(kind: str, task: str, llm: agl.LLM) -> float | None:
    return AGENTS[kind](task, llm)


if __name__ == "__main__":
    main()
