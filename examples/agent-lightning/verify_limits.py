"""4. Verify that limiting is active: 20 rapid requests against 5 a minute, and what the other 15 are told."""

import asyncio
import os
from collections import Counter

import agentlightning as agl
from openai import OpenAI, RateLimitError

from llmproxy_agl import LLMProxy

API_BASE = os.environ.get("MODEL_API_BASE", "http://127.0.0.1:8000/v1")

proxy = LLMProxy(
    model_list=[{"model_name": "echo", "litellm_params": {"model": "hosted_vllm/echo", "api_base": API_BASE}}],
    litellm_config={"litellm_settings": {"max_requests_per_minute": 5}},
    store=agl.LightningStoreClient(os.environ.get("STORE_URL", "http://127.0.0.1:4747")),
)


async def main() -> None:
    """Call twenty times, and count."""
    await proxy.start()
    client = OpenAI(base_url=f"{proxy.server_launcher.access_endpoint}/v1", api_key="dummy", max_retries=0)
    seen: Counter[int] = Counter()
    for i in range(20):
        try:
            client.chat.completions.create(model="echo", messages=[{"role": "user", "content": f"number {i}"}])
            seen[200] += 1
        except RateLimitError as exc:
            seen[exc.status_code] += 1
            print(f"request {i}: {exc.status_code}, come back in {exc.response.headers['retry-after']} s")
    print("answered:", seen[200], "rejected:", seen[429])
    await proxy.stop()


asyncio.run(main())
