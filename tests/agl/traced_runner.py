"""A runner that traces itself: calls a model server under agentlightning's AgentOpsTracer, and prints what it saw.

A program of its own, because the tracer patches the process that it runs in. One JSON object on the last line: the
spans of the tracer, and the bytes of each exchange as they went over the wire.
"""

import asyncio
import base64
import json
import sys
from typing import Any

import httpx
import openai

from aglrig import agentlightning


async def main(url: str) -> None:
    seen: list[dict[str, str]] = []

    def keep(response: httpx.Response) -> None:
        both = {"request": response.request.content, "response": response.read()}
        seen.append({name: base64.b64encode(data).decode() for name, data in both.items()})

    http_client = httpx.Client(event_hooks={"response": [keep]})
    client = openai.OpenAI(base_url=url, api_key="none", http_client=http_client)
    tracer: Any = agentlightning.AgentOpsTracer()
    tracer.init()
    tracer.init_worker(0)
    async with tracer.trace_context("task"):
        for text in ("first question", "second question"):
            client.chat.completions.create(
                model="phi-2",
                messages=[{"role": "user", "content": text}],
                extra_body={"return_token_ids": True, "logprobs": True},
            )
    spans = [span.model_dump(mode="json") for span in tracer.get_last_trace()]
    print(json.dumps({"spans": spans, "exchanges": seen}))


asyncio.run(main(sys.argv[1]))
