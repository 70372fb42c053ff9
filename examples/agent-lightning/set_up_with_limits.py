"""1. Set up a proxy with limits. STORE_URL names a LightningStore (`agl store`), MODEL_API_BASE a model server."""

import asyncio
import os

import agentlightning as agl
from openai import OpenAI

from llmproxy_agl import LLMProxy

API_BASE = os.environ.get("MODEL_API_BASE", "http://127.0.0.1:8000/v1")

proxy = LLMProxy(
    model_list=[
        {
            "model_name": "echo",
            "litellm_params": {"model": "hosted_vllm/echo", "api_base": API_BASE, "rpm": 100, "tpm": 50_000},
        }
    ],
    litellm_config={"litellm_settings": {"max_requests_per_minute": 60}},
    num_retries=3,
    store=agl.LightningStoreClient(os.environ.get("STORE_URL", "http://127.0.0.1:4747")),
)


async def main() -> None:
    """Start, call once, end."""
    await proxy.start()
    client = OpenAI(base_url=f"{proxy.server_launcher.access_endpoint}/v1", api_key="dummy")
    answer = client.chat.completions.with_raw_response.create(
        model="echo", messages=[{"role": "user", "content": "hello"}]
    )
    print("answer:", answer.parse().choices[0].message.content)
    print("requests a minute:", answer.headers["x-ratelimit-limit-requests"])
    await proxy.stop()


asyncio.run(main())
