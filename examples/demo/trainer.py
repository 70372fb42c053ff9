"""What runs in a trainer's pod of `make demo-cluster`: one JSON object a line.

Usage: trainer.py burst N ROLLOUT=ATTEMPT ...   N rapid requests with the OpenAI SDK
       trainer.py probe SECONDS                 GET /v1/models without a pause, each on a connection of its own
The endpoint comes from the environment, as `envFrom` of NAME-endpoint gives it.
"""

import json
import os
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openai import APIConnectionError, APIStatusError, OpenAI

ENDPOINT = os.environ["LLMPROXY_ENDPOINT"]


def one(number: int, rollout: str, client: OpenAI) -> dict[str, Any]:
    """Send one request."""
    line: dict[str, Any] = {"number": number, "rollout": rollout}
    messages: Any = [{"role": "user", "content": f"hello number {number}"}]
    try:
        raw = client.chat.completions.with_raw_response.create(model="echo", messages=messages, max_tokens=64)
    except APIStatusError as exc:
        wait = exc.response.headers.get("retry-after", "")
        return line | {"status": exc.status_code, "retry_after": wait, "text": exc.message}
    except APIConnectionError as exc:
        return line | {"status": 0, "text": repr(exc.__cause__ or exc)}
    answer = raw.parse()
    limit = raw.headers.get("x-ratelimit-limit-requests", "")
    text = answer.choices[0].message.content or ""
    return line | {"status": raw.status_code, "limit": limit, "ident": answer.id, "text": text}


def burst(count: int, attempts: list[str]) -> None:
    """Send the requests, of each rollout in turn."""
    clients = [
        (rollout, OpenAI(base_url=f"{ENDPOINT}/rollout/{rollout}/attempt/{attempt}/v1", max_retries=0))
        for rollout, _, attempt in (word.partition("=") for word in attempts)
    ]
    with ThreadPoolExecutor(8) as pool:
        for line in pool.map(lambda i: one(i, *clients[i % len(clients)]), range(count)):
            print(json.dumps(line), flush=True)


def probe(seconds: float) -> None:
    """Ask until the time is up; print how often, and what went wrong."""
    print(json.dumps({"started": True}), flush=True)
    asked, failed, end_s = 0, [], time.monotonic() + seconds
    while time.monotonic() < end_s:
        try:
            urllib.request.urlopen(f"{ENDPOINT}/v1/models", timeout=10).read()  # noqa: S310 - the cluster's own
        except OSError as exc:
            failed.append(str(exc))
        asked += 1
        time.sleep(0.01)
    print(json.dumps({"asked": asked, "failed": failed}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "burst":
        burst(int(sys.argv[2]), sys.argv[3:])
    else:
        probe(float(sys.argv[2]))
