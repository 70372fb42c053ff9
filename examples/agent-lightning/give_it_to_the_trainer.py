"""2. Give it to the Trainer: the only line that differs from Agent-Lightning's own is the import."""

import asyncio
import os

import agentlightning as agl
from agents import openai_agent

from llmproxy_agl import LLMProxy  # was: from agentlightning import LLMProxy

API_BASE = os.environ.get("MODEL_API_BASE", "http://127.0.0.1:8000/v1")


@agl.rollout
def agent(task: str, llm: agl.LLM) -> float:
    """Do one task, and return its reward."""
    return openai_agent(task, llm)


def main() -> None:
    """Let Agent-Lightning's own baseline algorithm run it: it starts and stops the proxy by itself."""
    proxy = LLMProxy(
        model_list=[{"model_name": "echo", "litellm_params": {"model": "hosted_vllm/echo", "api_base": API_BASE}}],
        litellm_config={"litellm_settings": {"max_requests_per_minute": 600}},
    )
    trainer = agl.Trainer(
        algorithm=agl.Baseline(polling_interval=0.2),
        llm_proxy=proxy,
        initial_resources={"main_llm": proxy.as_resource()},
        n_runners=4,
        tracer=agl.OtelTracer(),
    )
    trainer.fit(agent, train_dataset=["one", "two", "three", "four"])
    asyncio.run(tell(trainer.store))


async def tell(store: agl.LightningStore) -> None:
    """Print what is left of it: each rollout, its calls and its reward."""
    for rollout in await store.query_rollouts():
        spans = await store.query_spans(rollout.rollout_id)
        calls = sum(span.name == "litellm_request" for span in spans)
        print(f"{rollout.input}: {rollout.status}, {calls} calls, reward {agl.find_final_reward(spans)}")


if __name__ == "__main__":
    main()
