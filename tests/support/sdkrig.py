"""What tests of the trainer's side have in common: a proxy, calls to it, its processes."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from llmproxy_agl import LLMProxy

Json = dict[str, Any]


def models(api_base: str, name: str = "echo", **params: Any) -> list[Json]:
    return [
        {"model_name": name, "litellm_params": {"model": "hosted_vllm/echo", "api_base": api_base, **params}},
    ]


def a_proxy(api_base: str, store_url: str, settings: Json | None = None, **more: Any) -> LLMProxy:
    given = {"model_list": models(api_base), "mode": "local", "store_url": store_url, **more}
    return LLMProxy(litellm_config={"litellm_settings": settings or {}}, **given)


def chat(endpoint: str, text: str = "hi", model: str = "echo") -> tuple[int, Json, Json]:
    """Return status, headers and body of one call."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()
    request = urllib.request.Request(  # noqa: S310 - http on loopback
        f"{endpoint}/v1/chat/completions", body, {"content-type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, dict(answer.headers), json.load(answer)
    except urllib.error.HTTPError as exc:
        return exc.code, dict(exc.headers), json.loads(exc.read())


def ask(store_url: str, path: str, body: Json | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{store_url}/v1/agl{path}", data, headers)  # noqa: S310 - http on loopback
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


def processes_with(text: str) -> dict[int, str]:
    """Return the processes whose command line has *text*."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found[int(entry.name)] = command
    return found
