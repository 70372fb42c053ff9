"""A trainer with steady traffic: short calls and streams of ten seconds, each of a rollout, until its time is up
or there is a file /tmp/stop.

Usage: main.py SECONDS MODEL PER_SECOND ROLLOUT ATTEMPT; prints one line a call and a last one `{"done": true}`.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from openai import APIConnectionError, APIStatusError, OpenAI

seconds, model, per_second = float(sys.argv[1]), sys.argv[2], float(sys.argv[3])
base = f"{os.environ['LLMPROXY_ENDPOINT']}/rollout/{sys.argv[4]}/attempt/{sys.argv[5]}/v1"
end = time.time() + seconds
lock = threading.Lock()
STOP = Path("/tmp/stop")  # noqa: S108 - the pod's own
SLOW = json.dumps({"echo": {"chunks": 20, "chunk_ms": 500}})


def going() -> bool:
    return time.time() < end and not STOP.exists()


def say(**line: object) -> None:
    with lock:
        print(json.dumps(line), flush=True)


def call(client: OpenAI, kind: str, i: int) -> None:
    started = time.time()
    line: dict[str, object] = {"kind": kind, "at": started}
    try:
        if kind == "stream":
            stream = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": SLOW}], max_tokens=64, stream=True
            )
            finish, chunks, ident = None, 0, ""
            for chunk in stream:
                ident = chunk.id or ident
                chunks += 1
                if chunk.choices and chunk.choices[0].finish_reason:
                    finish = chunk.choices[0].finish_reason
            line |= {"status": 200, "id": ident, "chunks": chunks, "finish": finish}
        else:
            raw = client.chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": f"call {i}"}], max_tokens=16
            )
            line |= {
                "status": raw.status_code,
                "id": raw.parse().id,
                "limit": raw.headers.get("x-ratelimit-limit-requests"),
            }
    except APIStatusError as exc:
        line |= {
            "status": exc.status_code,
            "retry_after": exc.response.headers.get("retry-after"),
            "body": str(exc.body),
        }
    except APIConnectionError as exc:
        line |= {"status": 0, "error": repr(exc.__cause__ or exc)}
    except Exception as exc:  # noqa: BLE001 - a stream that is cut: the SDK raises what its HTTP library does
        line |= {"status": -1, "error": repr(exc)}
    say(**line, took=time.time() - started)


def streams() -> None:
    client = OpenAI(base_url=base, max_retries=0)
    i = 0
    while going():
        call(client, "stream", i)
        i += 1


def shorts() -> None:
    client = OpenAI(base_url=base, max_retries=0)
    fresh = 0
    while going():
        if fresh % 5 == 0:  # new connections too, not only kept ones
            client = OpenAI(base_url=base, max_retries=0)
        threading.Thread(target=call, args=(client, "short", fresh)).start()
        fresh += 1
        time.sleep(1 / per_second)


threads = [threading.Thread(target=streams) for _ in range(3)] + [threading.Thread(target=shorts)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
time.sleep(2)
say(done=True)
