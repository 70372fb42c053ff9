"""3. Change limits at runtime: no call is dropped, and none is admitted under the old limit after `restart`."""

import asyncio
import os

import agentlightning as agl
from openai import OpenAI

from llmproxy_agl import LLMProxy

API_BASE = os.environ.get("MODEL_API_BASE", "http://127.0.0.1:8000/v1")

proxy = LLMProxy(
    model_list=[{"model_name": "echo", "litellm_params": {"model": "hosted_vllm/echo", "api_base": API_BASE}}],
    litellm_config={"litellm_settings": {"max_requests_per_minute": 60}},
    store=agl.LightningStoreClient(os.environ.get("STORE_URL", "http://127.0.0.1:4747")),
)


def limit() -> str:
    """Make a call, and return the limit that its answer tells of."""
    client = OpenAI(base_url=f"{proxy.server_launcher.access_endpoint}/v1", api_key="dummy")
    answer = client.chat.completions.with_raw_response.create(
        model="echo", messages=[{"role": "user", "content": "hello"}]
    )
    return answer.headers["x-ratelimit-limit-requests"]


async def main() -> None:
    """Start, change, end."""
    await proxy.start()
    print("before:", limit())
    proxy.litellm_config["litellm_settings"]["max_requests_per_minute"] = 120
    await proxy.restart()
    print("after:", limit())
    await proxy.stop()


asyncio.run(main())
