"""A trainer that sends N requests as fast as it can; prints one line a request.

Usage: main.py N MODEL [ROLLOUT ATTEMPT]; the endpoint comes from the environment (envFrom of NAME-endpoint).
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from openai import APIConnectionError, APIStatusError, OpenAI

count, model = int(sys.argv[1]), sys.argv[2]
base = os.environ["OPENAI_BASE_URL"]
if len(sys.argv) > 4:
    base = f"{os.environ['LLMPROXY_ENDPOINT']}/rollout/{sys.argv[3]}/attempt/{sys.argv[4]}/v1"
client = OpenAI(base_url=base, max_retries=0)


def one(i: int) -> dict[str, object]:
    started = time.time()
    line: dict[str, object] = {"i": i, "at": started}
    try:
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": f"request {i}"}], max_tokens=16
        )
        answer = raw.parse()
        line |= {"status": raw.status_code, "id": answer.id, "text": answer.choices[0].message.content}
        line |= {"limit": raw.headers.get("x-ratelimit-limit-requests")}
    except APIStatusError as exc:
        line |= {"status": exc.status_code, "retry_after": exc.response.headers.get("retry-after"), "body": exc.body}
    except APIConnectionError as exc:
        line |= {"status": 0, "error": repr(exc.__cause__ or exc)}
    return line | {"took": time.time() - started}


with ThreadPoolExecutor(8) as pool:
    for line in pool.map(one, range(count)):
        print(json.dumps(line), flush=True)
