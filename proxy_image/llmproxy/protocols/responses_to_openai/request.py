"""A chat completion request from a request of the Responses API, for model servers that lack that API. Pure.

Nothing is kept between calls here, so a request must bring all its turns: what points at stored ones is refused, with
the field's name, and so is what only a provider's own tools could do. What hints is left out, and a field that the API
does not define is passed on. `response` and `stream` are the way back.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any

import msgspec

from llmproxy.protocols.effort import bounded_effort
from llmproxy.protocols.json_fields import NULL, Fields, Json, MappingError, decode, encode, refuse_unknown, value
from llmproxy.protocols.responses_to_openai.tools import LOCAL_SHELL, Tools
from llmproxy.protocols.system_messages import lead_by_one_system

_STORED = "answers are not stored here: send the turns before as items of input"
_REFUSED = {
    "previous_response_id": _STORED,
    "conversation": _STORED,
    "prompt": "prompts are not stored here: send instructions and input",
    "context_management": "the model server does not do that: shorten input yourself",
}
_MAPPED = frozenset({
    "input", "instructions", "max_output_tokens", "reasoning", "store", "text", "tool_choice", "tools", "top_logprobs",
    "truncation", "include",
})  # fmt: skip
_HINTS = frozenset({"background", "max_tool_calls", "metadata", "prompt_cache_retention", "stream_options"})
_LOGPROBS = "message.output_text.logprobs"
_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_CALLS = frozenset({"function_call", "custom_tool_call", "local_shell_call"})
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output", "local_shell_call_output"})
_DETAILS = frozenset({"auto", "low", "high"})
"""Of chat completions; the Responses API has more, and a detail is a hint."""
_MEDIA = frozenset({"input_image", "input_file"})
_THINKING_PREFIX = "llmproxy-thinking:"
"""Begins an `encrypted_content` of ours: Anthropic wants its signed thinking back with the results of tools."""


def from_responses(fields: Fields, output_limit: str, max_effort: str = "max") -> Json:
    """Return the chat completion request that says what *fields* say; raise MappingError naming the field."""
    chat: Json = {}
    for name, raw in fields.items():
        if name in _REFUSED and bytes(raw) != NULL:
            raise MappingError(name, _REFUSED[name])
        if name not in _REFUSED and name not in _MAPPED and name not in _HINTS:
            chat[name] = raw
    if value(fields, "store", bool, "true or false"):
        raise MappingError("store", "answers are not stored here: leave it out, or say false")
    if value(fields, "truncation", str, "a text") == "auto":
        raise MappingError("truncation", "the model server shortens nothing: leave it out, and shorten input yourself")
    tools = Tools(fields)
    chat["messages"] = _messages(fields, tools)
    limit = value(fields, "max_output_tokens", int, "a whole number")
    if limit is not None:
        chat[output_limit] = limit
    choice = value(fields, "tool_choice", str | dict[str, Any], "a text or an object")
    return chat | tools.choice(choice) | _settings(fields, max_effort)


def keep(blocks: list[Json]) -> str:
    """Return `encrypted_content` for signed thinking."""
    return _THINKING_PREFIX + urlsafe_b64encode(encode(blocks)).decode()


def _settings(fields: Fields, max_effort: str) -> Json:
    chat: Json = {}
    reasoning = value(fields, "reasoning", dict[str, Any], "an object") or {}
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = bounded_effort(reasoning["effort"], max_effort)
    text = value(fields, "text", dict[str, Any], "an object") or {}
    refuse_unknown(text, frozenset({"format", "verbosity"}), "text")
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    if text.get("format"):
        chat |= _format(text["format"])
    top = value(fields, "top_logprobs", int, "a whole number")
    if top is not None or _LOGPROBS in (value(fields, "include", list[str], "a list of texts") or ()):
        chat["logprobs"] = True
        chat |= {} if top is None else {"top_logprobs": top}
    return chat


def _format(settings: Mapping[str, Any]) -> Json:
    kind = settings.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if kind == "json_schema":
        schema = {name: content for name, content in settings.items() if name != "type" and content is not None}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    raise MappingError("text.format.type", f"{kind!r} is none of text, json_schema and json_object")


def _messages(fields: Fields, tools: Tools) -> list[Json]:
    messages: list[Json] = []
    instructions = value(fields, "instructions", str, "a text")
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    items: Any = value(fields, "input", str | list[dict[str, Any]], "a text or a list of items")
    if items is None:
        raise MappingError("input", "Field required")
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    turn = _Turn(messages, tools)
    for i, item in enumerate(items):
        turn.add(item, f"input.{i}")
    turn.show()
    return lead_by_one_system(messages)


class _Turn:
    """Joins the items that an assistant said in one turn: what it thought, its text, its calls."""

    def __init__(self, messages: list[Json], tools: Tools) -> None:
        self._messages = messages
        self._tools = tools
        self._media: list[Json] = []
        """Images that tools returned: a user message shows them after the results, which hold text only."""
        self._reply: Json | None = None

    def add(self, item: Json, path: str) -> None:
        """Add what becomes of *item*."""
        kind = item.get("type") or "message"
        if kind == "message" and item.get("role") == "assistant":
            reply = self._assistant()
            reply["content"] = (reply["content"] or "") + _plain(item.get("content"), f"{path}.content")
        elif kind == "message":
            role = _ROLES.get(str(item.get("role")))
            if role is None:
                raise MappingError(f"{path}.role", "must be user, assistant, system or developer")
            self._put({"role": role, "content": _content(item.get("content"), f"{path}.content")})
        elif kind in _CALLS:
            self.show()
            self._assistant().setdefault("tool_calls", []).append(self._call(item, kind, path))
        elif kind in _OUTPUTS:
            self._output(item, path)
        elif kind == "reasoning":
            self._think(item)
        elif kind != "item_reference" or not str(item.get("id")).startswith("rs_"):
            # A reference to reasoning alone can be left out: only the provider that stored it could read it.
            problem = f"{kind!r} is of what is stored, or runs, at a provider: send messages and function calls"
            raise MappingError(f"{path}.type", problem)

    def show(self) -> None:
        """Add a user message with the images of the tool results before it."""
        media, self._media = self._media, []
        if media:
            self._put({"role": "user", "content": media})

    def _call(self, item: Json, kind: str, path: str) -> Json:
        if kind == "local_shell_call":
            name, arguments = LOCAL_SHELL, encode(item.get("action") or {}).decode()
        elif kind == "custom_tool_call":
            name, arguments = _str(item, "name", path), encode({"input": _str(item, "input", path)}).decode()
        else:
            _str(item, "name", path)
            name, arguments = self._tools.call_name(item), _str(item, "arguments", path)
        ident = item.get("call_id") or item.get("id")
        if not isinstance(ident, str):
            raise MappingError(f"{path}.call_id", "must be a text")
        return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}

    def _output(self, item: Json, path: str) -> None:
        output, ident = item.get("output"), item.get("call_id") or item.get("id")
        if not isinstance(ident, str):
            raise MappingError(f"{path}.call_id", "must be a text")
        texts = output
        if isinstance(output, list):
            texts = [part for part in output if part.get("type") not in _MEDIA]
            media = [_part(part, f"{path}.output.{i}") for i, part in enumerate(output) if part.get("type") in _MEDIA]
            if media:
                self._media += [{"type": "text", "text": f"What tool call {ident} returned beside its text:"}, *media]
        media, self._media = self._media, []
        self._put({"role": "tool", "tool_call_id": ident, "content": _plain(texts, f"{path}.output")})
        self._media = media

    def _put(self, message: Json) -> None:
        if self._media and message["role"] != "tool":
            self.show()
        self._reply = None
        self._messages.append(message)

    def _assistant(self) -> Json:
        self.show()
        if self._reply is None:
            self._reply = {"role": "assistant", "content": None}
            self._messages.append(self._reply)
        return self._reply

    def _think(self, item: Json) -> None:
        thinking = _thinking_blocks(item.get("encrypted_content"))
        thought = "".join(str(part.get("text") or "") for part in item.get("content") or item.get("summary") or ())
        if thinking or thought:
            self._reply = None  # thinking begins a turn
            reply = self._assistant()
            reply |= {"thinking_blocks": thinking} if thinking else {}
            reply |= {"reasoning_content": thought} if thought else {}


def _thinking_blocks(content: object) -> list[Json]:
    if not isinstance(content, str) or not content.startswith(_THINKING_PREFIX):
        return []
    try:
        blocks = decode(urlsafe_b64decode(content.removeprefix(_THINKING_PREFIX)))
    except (Base64Error, ValueError, msgspec.MsgspecError):
        return []
    return blocks if isinstance(blocks, list) else []


def _str(item: Mapping[str, Any], name: str, path: str) -> str:
    text = item.get(name)
    if not isinstance(text, str):
        raise MappingError(f"{path}.{name}", "must be a text")
    return text


def _plain(content: object, path: str) -> str:
    """Return text: of what an assistant said, or of what a function gave."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise MappingError(path, "must be a text or a list of parts")
    texts = []
    for i, part in enumerate(content):
        if part.get("type") in _TEXTS:
            texts.append(_str(part, "text", f"{path}.{i}"))
        elif part.get("type") == "refusal":
            texts.append(_str(part, "refusal", f"{path}.{i}"))
        else:
            raise MappingError(
                f"{path}.{i}.type", f"{part.get('type')!r} cannot be told to this model server: send text"
            )
    return "".join(texts)


def _content(content: object, path: str) -> str | list[Json]:
    """Return what a user or a system said: a text, or parts in chat's words."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise MappingError(path, "must be a text or a list of parts")
    return [_part(part, f"{path}.{i}") for i, part in enumerate(content)]


def _part(part: Json, path: str) -> Json:
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": _str(part, "text", path)}
    if part.get("file_id") is not None:
        raise MappingError(f"{path}.file_id", "files are not stored here: send the data itself")
    if kind == "input_image":
        detail = {"detail": part["detail"]} if part.get("detail") in _DETAILS else {}
        return {"type": "image_url", "image_url": {"url": _str(part, "image_url", path), **detail}}
    if kind == "input_file":
        if part.get("file_data") is None:
            raise MappingError(path, "a file must be there as file_data")
        file = {name: part[name] for name in ("filename", "file_data") if part.get(name) is not None}
        return {"type": "file", "file": file}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    raise MappingError(f"{path}.type", f"{kind!r} is none of input_text, input_image, input_file and input_audio")
