"""A server that plays every oddity, each at a path of its own: /NAME/v1/chat/completions or /NAME/v1/messages."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from zoo.oddity import Oddity

Json = dict[str, Any]
ANSWER = {
    "id": "chatcmpl-zoo",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
}
STREAM = [
    '{"id": "chatcmpl-zoo", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hi"}}]}',
    '{"id": "chatcmpl-zoo", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}',
]


def later_system(body: Json) -> str:
    """Qwen's template: raises for a system message that is not the first."""
    roles = [message["role"] for message in body["messages"]]
    return "System message must be at the beginning." if "system" in roles[1:] else ""


def effort_above_high(body: Json) -> str:
    """SGLang's literal."""
    known = body.get("reasoning_effort") in {None, "low", "medium", "high"}
    return "" if known else "Input should be 'low', 'medium' or 'high'"


def billing_nonce(body: Json) -> str:
    """No server: it stands for a prefix cache that the nonce empties."""
    return "the prompt has a nonce" if "cch=" in json.dumps(body["messages"]) else ""


def odd_tools(body: Json) -> str:
    """A server that knows functions with the fields of chat completions, and nothing else."""
    for tool in body.get("tools") or ():
        function = tool.get("function")
        if tool.keys() - {"type", "function"} or not isinstance(function, dict):
            return f"unknown tool {tool}"
        if function.keys() - {"name", "description", "parameters", "strict"}:
            return f"unknown fields of {function}"
    return ""


CHECKS: dict[str, Callable[[Json], str]] = {
    check.__name__: check for check in (later_system, effort_above_high, billing_nonce, odd_tools)
}


class ZooServer(ThreadingHTTPServer):
    """All oddities on one port."""

    daemon_threads = True

    def __init__(self, oddities: dict[str, Oddity]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.oddities = oddities
        self.requests: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ZooServer

    def do_POST(self) -> None:
        name = self.path.split("/")[1]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        plays = self.server.oddities[name].server
        self.server.requests[name] += 1
        first = self.server.requests[name] == 1
        problem = CHECKS[plays.refuses](body) if plays.refuses else ""
        if problem:
            self._answer(400, json.dumps({"error": {"message": problem, "code": 400}}).encode())
        elif body.get("stream"):
            events = (first and plays.first_stream) or plays.stream or STREAM
            text = "".join(_event(event, plays.protocol) for event in events)
            self._answer(200, (text + ("data: [DONE]\n\n" if plays.done else "")).encode(), "text/event-stream")
        else:
            self._answer(200, ((first and plays.first_plain) or plays.plain or json.dumps(ANSWER)).encode())

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _event(event: str, protocol: str) -> str:
    if event.startswith(":"):
        return f"{event}\n\n"
    name = f"event: {json.loads(event)['type']}\n" if protocol == "anthropic" else ""
    return f"{name}data: {event}\n\n"
