"""The echo model: the text or tool calls generated for a request. Pure; invalid bodies are rejected by field."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from llmproxy.echo import tokens
from llmproxy.echo.behaviour import Behaviour

SAYS = "This is the echo model server, not a language model. You said: "
MAX_CHOICES = 128

_CALL = re.compile(r"^call +([A-Za-z0-9_.-]+) *(\{.*\})? *$")


class BadBodyError(Exception):
    """The body cannot be used; `param` is the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class EchoToolCall:
    """A tool call in the output."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Generation:
    """Output of the model: pieces of text, or tool calls."""

    pieces: list[str]
    tool_calls: list[EchoToolCall]
    finish_reason: str
    thought: list[str] = field(default_factory=list)
    """Pieces of reasoning before the answer."""
    stopped_at: str | None = None
    """The one of the request's stop sequences that ended the answer."""

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)

    @property
    def generated(self) -> list[str]:
        """Every piece that was generated, the empty one at the end included when it came to its end."""
        pieces = [*self.thought, *self.pieces]
        for call in self.tool_calls:
            pieces += [*tokens.pieces(call.name), *tokens.pieces(call.arguments)]
        return pieces if self.finish_reason == "length" else [*pieces, ""]


def last_text(body: Mapping[str, Any]) -> str:
    """Return the text of the last user message, tool result or prompt."""
    if "messages" not in body:
        prompts = prompts_of(body) if "prompt" in body else []
        return prompts[-1][0] if prompts else ""
    messages = body["messages"]
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadBodyError("messages must be a list of messages, at least one", "messages")
    for message in reversed(messages):
        if message.get("role") in {"user", "tool"}:
            return text_of(message.get("content"))
    return ""


def text_of(content: object) -> str:
    """Return the text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(p.get("text", "")) for p in content if isinstance(p, dict) and p.get("type") == "text")
    return ""


def prompts_of(body: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """Return text and token ids of each prompt: a string, a list of strings, or token ids."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [(prompt, tokens.token_ids(prompt))]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(p, str) for p in prompt):
            return [(p, tokens.token_ids(p)) for p in prompt]
        if all(isinstance(p, int) for p in prompt):
            return [(f"{len(prompt)} token ids", prompt)]
        if all(isinstance(p, list) and p and all(isinstance(i, int) for i in p) for p in prompt):
            return [(f"{len(p)} token ids", p) for p in prompt]
    raise BadBodyError("prompt must be a string, a list of strings, or token ids", "prompt")


def prompt_ids(body: Mapping[str, Any]) -> list[int]:
    """Return the token ids of a conversation, as a chat template would lay it out."""
    return [
        ident
        for message in body["messages"]
        for ident in tokens.token_ids(f"<{message.get('role')}> {text_of(message.get('content'))}")
    ]


def generate(body: Mapping[str, Any], text: str, behaviour: Behaviour) -> Generation:
    """Return the output for *text*: the text itself, or the tool calls that it requests."""
    last_role = body["messages"][-1].get("role") if body.get("messages") else "user"
    calls = _tool_calls(body, text) if last_role != "tool" else []
    thought = tokens.pieces(behaviour.think) if "messages" in body else []
    if calls:
        return Generation([], calls, "tool_calls", thought)
    if behaviour.chunks is None:
        pieces = tokens.pieces(SAYS + (text if behaviour.say is None else behaviour.say))
    else:
        pieces = ["echo", *(f" {i}" for i in range(2, behaviour.chunks + 1))]
    limit = _limit(body)
    output, stopped_at = _cut(pieces[:limit], body)
    ended = stopped_at is not None or limit is None or len(pieces) < limit
    return Generation(output, [], "stop" if ended else "length", thought, stopped_at)


def _cut(pieces: list[str], body: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """Return the pieces before the first of the request's stop sequences, and which it is."""
    stops = body.get("stop") or ()
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list | tuple) or not all(isinstance(s, str) and s for s in stops):
        raise BadBodyError("stop must be a string or a list of strings", "stop")
    text = "".join(pieces)
    first = min(((at, stop) for stop in stops if (at := text.find(stop)) >= 0), default=None)
    return (pieces, None) if first is None else (tokens.pieces(text[: first[0]]), first[1])


def choices(body: Mapping[str, Any]) -> int:
    """Return the number of choices requested."""
    count = body.get("n")
    if count is None:
        return 1
    if not isinstance(count, int) or not 1 <= count <= MAX_CHOICES:
        raise BadBodyError(f"n must be a whole number from 1 to {MAX_CHOICES}", "n")
    return count


def _limit(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or value < 1:
            raise BadBodyError(f"{name} must be a whole number from 1 on", name)
        return value
    return None


def _tool_calls(body: Mapping[str, Any], text: str) -> list[EchoToolCall]:
    """Return a call for each line `call NAME {json}` that names one of the request's tools."""
    offered = {
        tool["function"].get("name")
        for tool in body.get("tools") or ()
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    }
    calls = []
    for line in text.split("\n") if offered else ():
        match = _CALL.match(line.strip())
        if match is not None and match.group(1) in offered:
            arguments = match.group(2) or "{}"
            try:
                msgspec.json.decode(arguments)
            except msgspec.DecodeError as exc:
                raise BadBodyError(f"call {match.group(1)}: its arguments are not JSON: {exc}", "messages") from exc
            calls.append(EchoToolCall(match.group(1), arguments))
    return calls if body.get("parallel_tool_calls") is not False else calls[:1]
