"""Update weights: no call is on its way to the model server meanwhile, and no agent sees an error.

While it is paused, calls get 429 with Retry-After, and the SDKs of OpenAI and Anthropic send them again by themselves:
as often as `max_retries` says.
"""

import asyncio
import os
import threading
import time

import agentlightning as agl
from anthropic import Anthropic
from openai import OpenAI

from llmproxy_agl import LLMProxy

API_BASE = os.environ.get("MODEL_API_BASE", "http://127.0.0.1:8000/v1")

proxy = LLMProxy(
    model_list=[{"model_name": "echo", "litellm_params": {"model": "hosted_vllm/echo", "api_base": API_BASE}}],
    store=agl.LightningStoreClient(os.environ.get("STORE_URL", "http://127.0.0.1:4747")),
)
ended = threading.Event()
answered: list[float] = []


def openai_agent() -> None:
    """Call until the end, as a runner does that knows nothing of an update."""
    client = OpenAI(base_url=f"{proxy.server_launcher.access_endpoint}/v1", api_key="dummy", max_retries=20)
    while not ended.is_set():
        client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hello"}])
        answered.append(time.monotonic())


def anthropic_agent() -> None:
    """Do the same by another protocol."""
    client = Anthropic(base_url=proxy.server_launcher.access_endpoint, api_key="dummy", max_retries=20)
    while not ended.is_set():
        client.messages.create(model="echo", max_tokens=16, messages=[{"role": "user", "content": "hello"}])
        answered.append(time.monotonic())


async def main() -> None:
    """Start, let agents call, update the weights in the middle of it, end."""
    await proxy.start()
    agents = [threading.Thread(target=agent) for agent in (openai_agent, anthropic_agent)]
    for agent in agents:
        agent.start()
    await asyncio.sleep(1)
    async with proxy.paused(retry_after_s=1):
        began = time.monotonic()
        await asyncio.sleep(2)  # load the weights here
        over = time.monotonic()
    await asyncio.sleep(2)
    ended.set()
    for agent in agents:
        await asyncio.to_thread(agent.join)
    await proxy.stop()
    print("before:", sum(at < began for at in answered))
    print("while the weights were loaded:", sum(began < at < over for at in answered))
    print("after:", sum(at > over for at in answered))


asyncio.run(main())
