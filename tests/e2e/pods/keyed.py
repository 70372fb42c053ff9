"""Calls of every outcome, made inside of a gateway's container. Keys come on standard input: no object has them.

Prints the status of each call as JSON.
"""

import json
import sys
import urllib.error
import urllib.request

keys = json.loads(sys.stdin.readline())
MESSAGES = [{"role": "user", "content": "hello"}]
FAILS = json.dumps({"echo": {"status": 500}})


def call(headers: dict[str, str], body: object, path: str = "/v1/chat/completions") -> int:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:4000/rollout/ro-1/attempt/at-1{path}", data, {"content-type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - http, above
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        refused.read()
        return refused.code


known = {"authorization": f"Bearer {keys['caller']}"}
unknown = {"authorization": f"Bearer {keys['stranger']}"}
asked = {"messages": MESSAGES, "max_tokens": 20}
print(
    json.dumps(
        {
            "answered": call(known, {"model": "echo", **asked}),
            "streamed": call(known, {"model": "echo", "stream": True, **asked}),
            "anthropic": call({"x-api-key": keys["caller"]}, {"model": "echo", **asked}, "/v1/messages"),
            "failed upstream": call(known, {"model": "echo", "messages": [{"role": "user", "content": FAILS}]}),
            "no upstream": call(known, {"model": "dead", **asked}),
            "translated": call(known, {"model": "flash", **asked}),
            "failed translated": call(known, {"model": "nothing", **asked}),
            "bad body": call(known, b'{"model": "echo", "messages'),
            "no such model": call(known, {"model": "nobody", **asked}),
            "unknown key": call(unknown, {"model": "echo", **asked}),
        }
    )
)
