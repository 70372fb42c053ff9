"""A trainer that is in no pod of the cluster: a kubeconfig, a context that is not the current one, and an endpoint.

Usage: outside.py KUBECONFIG CONTEXT NAMESPACE ENDPOINT FILE; prints a JSON object a line; after the first it waits for
FILE.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

from llmproxy_agl import LLMProxy, ProxyError

kubeconfig, context, namespace, endpoint, goes_on = sys.argv[1:]
SMALL = {"resources": {"requests": {"cpu": "50m"}}, "spans": {"resources": {"requests": {"cpu": "20m"}}}}


def a_proxy(name: str, **more: Any) -> LLMProxy:
    model = {"model": "hosted_vllm/echo", "api_base": "http://echo:8000/v1", "api_key": "sk-of-the-trainer"}
    return LLMProxy(
        model_list=[{"model_name": "echo", "litellm_params": model}],
        litellm_config={"litellm_settings": {"rpm": 600}},
        store_url="http://lightning-store:4747",
        kubeconfig=kubeconfig,
        context=context,
        namespace=namespace,
        endpoint=endpoint,
        name=name,
        **more,
    )


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def wait() -> None:
    while not Path(goes_on).exists():
        time.sleep(0.1)


async def failure(proxy: LLMProxy) -> str:
    try:
        await proxy.start()
    except ProxyError as exc:
        return str(exc)
    finally:
        await proxy.stop()
    return "it started"


async def main() -> None:
    proxy = a_proxy("outside", keep=True, spec=SMALL)
    await proxy.start()
    client = OpenAI(base_url=f"{proxy.as_resource().endpoint}/v1", api_key="dummy")
    answer = client.chat.completions.with_raw_response.create(
        model="echo", messages=[{"role": "user", "content": "hello"}]
    )
    say(text=answer.parse().choices[0].message.content, limit=answer.headers["x-ratelimit-limit-requests"])
    await asyncio.to_thread(wait)
    await proxy.stop()
    say(running=proxy.is_running())
    missing = {"access": {"apiKeys": {"secretRef": {"name": "of-nobody"}}}}
    say(late=await failure(a_proxy("outside-late", spec=SMALL | missing, ready_timeout_s=5)))
    say(stalled=await failure(a_proxy("outside-stalled", spec=SMALL | {"image": "registry.example/other:1"})))


asyncio.run(main())
