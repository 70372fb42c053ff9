"""From the bytes of an answer to one JSON object, whether it came whole or as server-sent events. Pure.

A stream is put together to what the same call would have answered without `stream`: text, tool calls, log-probabilities
and token ids of each choice, in order, and the usage of its last event.
"""

import json
from typing import Any, TypeVar, cast

import msgspec

from llmproxy.protocols.repair import arguments_text, content_text
from llmproxy.protocols.sse import stream_data
from llmproxy.protocols.tool_calls import StreamedCalls

Json = dict[str, Any]
T = TypeVar("T", dict[str, Any], list[Any])
_decode = msgspec.json.Decoder().decode
_LONG = ("content", "reasoning_content", "reasoning", "refusal", "text")
"""Strings of a delta that are continued by the next."""


class _Pieces(list[str]):
    """A text that grows: joined once, at the end."""


def parse(body: bytes) -> object:
    """Return the JSON value in *body*, None if there is none."""
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        try:
            return json.loads(body)  # takes NaN and lone surrogates, which some servers write
        except (ValueError, RecursionError):
            return None


def read_answer(body: bytes, *, streamed: bool) -> Json | None:
    """Return the answer in *body* as one object, None if it is none."""
    if streamed and body.lstrip()[:1] != b"{":
        return joined(events(body))
    answer = parse(body)
    if not isinstance(answer, dict):
        return None
    for choice in _dicts(answer.get("choices")):
        message = choice.get("message")
        if not isinstance(message, dict):
            continue
        if isinstance(message.get("content"), list):
            message["content"], _ = content_text(message["content"])
        for call in _dicts(message.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, dict) and function.get("arguments") is not None:
                function["arguments"] = arguments_text(function["arguments"])
    return answer


def events(body: bytes) -> list[Json]:
    """Return the objects in the events of a stream."""
    chunks = (parse(data) for data in stream_data(body) if data.strip() != b"[DONE]")
    return [chunk for chunk in chunks if isinstance(chunk, dict)]


def joined(chunks: list[Json]) -> Json | None:
    """Return the answer that *chunks* are the parts of; None without any choice or usage."""
    answer: Json = {}
    choices: dict[int, Json] = {}
    for chunk in chunks:
        for name, value in chunk.items():
            if name == "choices":
                for part in value if isinstance(value, list) else ():
                    if isinstance(part, dict):
                        _add_choice(choices, part)
            elif value is not None and (name not in answer or name == "usage"):
                answer[name] = value
    if not choices and "usage" not in answer:
        return None
    if str(answer.get("object", "")).endswith(".chunk"):
        answer["object"] = str(answer["object"]).removesuffix(".chunk")
    answer["choices"] = [_whole_choice(choices[i]) for i in sorted(choices)]
    return answer


def _dicts(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _add_choice(choices: dict[int, Json], part: Json) -> None:
    index = part.get("index")
    index = index if isinstance(index, int) else 0
    choice = choices.setdefault(index, {"index": index})
    for name, value in part.items():
        if value is None or name == "index":
            continue
        if name == "delta":
            if isinstance(value, dict):
                _add_delta(_part(choice, "message", dict), value)
        elif name == "token_ids":
            _extend(choice, name, value)
        elif name == "logprobs":
            _add_logprobs(choice, value)
        elif name in _LONG:
            _continue(choice, name, value)
        elif name == "prompt_token_ids":
            choice.setdefault(name, value)
        else:
            choice[name] = value


def _add_delta(message: Json, delta: Json) -> None:
    for name, value in delta.items():
        if value is None:
            continue
        if name == "tool_calls":
            _add_tool_calls(message, value)
        elif name == "function_call" and isinstance(value, dict):
            _add_function(_part(message, name, dict), value)
        elif name == "content" and isinstance(value, list):
            text, thought = content_text(value)
            _continue(message, name, text)
            _continue(message, "reasoning_content", thought)
        elif name in _LONG:
            _continue(message, name, value)
        elif isinstance(value, list):
            _extend(message, name, value)
        else:
            message[name] = value


def _add_tool_calls(message: Json, parts: object) -> None:
    calls = message.get("tool_calls")
    for part in _dicts(parts):
        if not isinstance(calls, _ToolCalls):
            calls = message["tool_calls"] = _ToolCalls()
        calls.add(part)


class _ToolCalls:
    """The calls of a message, with the type that stands beside each."""

    def __init__(self) -> None:
        self._calls = StreamedCalls()
        self._types: dict[int, object] = {}
        self._with_arguments: set[int] = set()

    def add(self, part: Json) -> None:
        """Add a piece of a call."""
        function = part.get("function")
        function = function if isinstance(function, dict) else {}
        index, arguments = part.get("index"), arguments_text(function.get("arguments"))
        call = self._calls.add(
            index if isinstance(index, int) else None,
            str(part.get("id") or ""),
            str(function.get("name") or ""),
            arguments or "",
        )
        self._types[call.number] = part.get("type") or self._types.get(call.number) or "function"
        if arguments is not None:
            self._with_arguments.add(call.number)

    def whole(self) -> list[Json]:
        """Return the calls."""
        calls: list[Json] = []
        for call in self._calls.calls:
            function: Json = {"name": call.name} if call.name else {}
            if call.number in self._with_arguments:
                function["arguments"] = call.arguments
            ident = {"id": call.id} if call.id else {}
            calls.append({**ident, "type": self._types[call.number], "function": function})
        return calls


def _add_function(function: Json, part: Json) -> None:
    if part.get("name"):
        function["name"] = function.get("name") or part["name"]
    if isinstance(part.get("arguments"), str):
        _continue(function, "arguments", part["arguments"])


def _add_logprobs(choice: Json, part: object) -> None:
    if not isinstance(part, dict):
        return
    whole = _part(choice, "logprobs", dict)
    for name, value in part.items():
        if isinstance(value, list):
            _extend(whole, name, value)


def _part(whole: Json, name: str, kind: type[T]) -> T:
    """Return the part of *made* that grows under *name*; what a server has put there of another kind gives way."""
    part = whole.get(name)
    if type(part) is kind:
        return part
    fresh = whole[name] = kind()
    return fresh


def _extend(whole: Json, name: str, more: object) -> None:
    if isinstance(more, list):
        _part(whole, name, list).extend(more)


def _continue(whole: Json, name: str, more: object) -> None:
    before = whole.get(name)
    if isinstance(before, _Pieces) and isinstance(more, str):
        before.append(more)
    else:
        whole[name] = _Pieces([more]) if isinstance(more, str) else more


def _whole(value: object) -> object:
    """Return *value* with its texts in one piece."""
    if isinstance(value, _Pieces):
        return "".join(value)
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return value


def _whole_choice(choice: Json) -> Json:
    whole = cast("Json", _whole(choice))
    message = whole.get("message")
    if isinstance(message, dict) and isinstance(message.get("tool_calls"), _ToolCalls):
        message["tool_calls"] = message["tool_calls"].whole()
        message["content"] = message.get("content") or None  # as it is without a stream
    return whole
