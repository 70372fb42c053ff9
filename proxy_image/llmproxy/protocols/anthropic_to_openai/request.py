"""A chat completion request from a messages request. Pure.

mapped     messages, system, max_tokens, tools, tool_choice, stop_sequences, metadata.user_id, thinking, output_config
left out   what only hints: cache_control (kept where the provider passes it on), service_tier, speed, ...
refused    what the answer would lack: server tools, files, containers, MCP servers
passed on  every other field, so that top_k, seed or a model server's own fields can be given with `extra_body`

A tool's result keeps its text; `is_error`, which OpenAI lacks, becomes `Error: ` before it; its images follow in a user
message, because OpenAI's tool messages hold text only.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from llmproxy.protocols.effort import bounded_effort
from llmproxy.protocols.json_fields import Fields, Json, MappingError, decode, encode, refuse_unknown, value
from llmproxy.protocols.openai_to_anthropic import tools
from llmproxy.protocols.system_messages import BILLING_HEADER, lead_by_one_system

_MAPPED = frozenset({
    *("messages", "system", "max_tokens", "tools", "tool_choice", "stop_sequences", "metadata", "thinking"),
    "output_config",
})  # fmt: skip
_HINTS = frozenset({
    *("cache_control", "service_tier", "speed", "diagnostics", "context_management", "user_profile_id"),
    "workspace_id",
})  # fmt: skip
_REFUSED = {
    "n": "an answer in Anthropic's protocol is one",
    "container": "a container runs at Anthropic only",
    "mcp_servers": "MCP servers are called by Anthropic only: call them in the agent",
    "inference_geo": "where a model runs is the deployment's business",
}
_EMPTY = frozenset({b"null", b"[]", b"{}"})
_MARKS = frozenset({"type", "cache_control"})
_TEXT = _MARKS | {"text", "citations"}
_IMAGE = _MARKS | {"source"}
_DOCUMENT = _MARKS | {"source", "title", "context", "citations"}
_TOOL_USE = _MARKS | {"id", "name", "input", "caller"}
_TOOL_RESULT = _MARKS | {"tool_use_id", "content", "is_error"}
_MAX_USER = 64
"""Characters of OpenAI's `user`; a longer id is replaced by its SHA-256, which is as stable."""
_EFFORTS = ((4096, "low"), (16384, "medium"))


@dataclass(frozen=True, slots=True)
class Traits:
    """In what OpenAI-compatible servers differ."""

    output_limit: str = "max_tokens"
    """The field that bounds an answer; OpenAI's newer models take `max_completion_tokens` alone."""
    cache_control: bool = False
    """The upstream understands `cache_control` in parts; others refuse or ignore it."""
    reasoning_content: bool = False
    """An assistant message may carry `reasoning_content`, which the chat template sees."""
    max_effort: str = "high"
    """The highest `reasoning_effort` that the server knows."""


class _Message(msgspec.Struct):
    role: str
    content: str | list[msgspec.Raw]


class _ToolUse(msgspec.Struct):
    input: msgspec.Raw = msgspec.Raw(b"{}")


_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_tool_use = msgspec.json.Decoder(_ToolUse).decode


def from_messages(fields: Fields, traits: Traits, *, strict: bool = True) -> Json:
    """Return the chat completion request that says what *fields* say; raise MappingError naming the field.

    Without *strict*, what cannot be said is shown as it is: for records of calls that Anthropic itself has answered.
    """
    chat: Json = {}
    for name, raw in fields.items():
        if name in _REFUSED and strict and bytes(raw) not in _EMPTY:
            raise MappingError(name, _REFUSED[name])
        if name not in _MAPPED and name not in _HINTS and not (strict and name in _REFUSED):
            chat[name] = raw
    chat["messages"] = _Messages(traits, strict=strict).all(fields)
    limit = value(fields, "max_tokens", int, "a whole number")
    if limit is None and strict:
        raise MappingError("max_tokens", "Field required")
    if limit is not None:
        chat[traits.output_limit] = limit
    chat |= tools.tools(fields, keep_cache_control=traits.cache_control, strict=strict)
    chat |= _settings(fields, traits.max_effort, strict=strict)
    return chat


def _settings(fields: Fields, max_effort: str, *, strict: bool) -> Json:
    chat: Json = {}
    stop = value(fields, "stop_sequences", list[str], "a list of strings")
    if stop:
        chat["stop"] = stop
    user = (value(fields, "metadata", dict[str, Any], "an object") or {}).get("user_id")
    if isinstance(user, str) and user:
        chat["user"] = user if len(user) <= _MAX_USER else hashlib.sha256(user.encode()).hexdigest()
    effort = _effort(value(fields, "thinking", dict[str, Any], "an object"), strict=strict)
    config = value(fields, "output_config", dict[str, Any], "an object") or {}
    if strict:
        refuse_unknown(config, frozenset({"effort", "format", "task_budget"}), "output_config")
    effort = config.get("effort") or effort
    if effort:
        chat["reasoning_effort"] = bounded_effort(effort, max_effort)
    if config.get("format") is not None:
        chat["response_format"] = _response_format(config["format"])
    return chat


def _effort(thinking: Json | None, *, strict: bool) -> str | None:
    kind = thinking.get("type") if thinking else None
    if thinking is None or kind in {"disabled", "adaptive"}:
        return None  # adaptive: the model decides, as it does without the field
    budget = thinking.get("budget_tokens")
    if kind == "enabled" and isinstance(budget, int):
        return next((effort for limit, effort in _EFFORTS if budget < limit), "high")
    if strict:
        raise MappingError("thinking", "must be enabled with budget_tokens, adaptive or disabled")
    return None


def _response_format(style: object) -> Json:
    if not isinstance(style, dict) or style.get("type") != "json_schema" or not isinstance(style.get("schema"), dict):
        raise MappingError("output_config.format", "must be {type: json_schema, schema: {...}}")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": style["schema"], "strict": True}}


class _Messages:
    """Makes the messages of one request."""

    def __init__(self, traits: Traits, *, strict: bool) -> None:
        self._traits = traits
        self._strict = strict
        self._messages: list[Json] = []

    def all(self, fields: Fields) -> list[Json]:
        """Return them."""
        self._system(fields)
        raw = fields.get("messages")
        if raw is None:
            raise MappingError("messages", "Field required")
        try:
            messages = _decode_messages(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise MappingError("messages", f"must be a list of messages with role and content: {exc}") from exc
        if not messages and self._strict:
            raise MappingError("messages", "at least one message is required")
        for i, message in enumerate(messages):
            path = f"messages.{i}"
            if message.role not in {"user", "assistant", "system"}:
                raise MappingError(f"{path}.role", "must be user or assistant")
            if isinstance(message.content, str):
                self._messages.append({"role": message.role, "content": message.content})
            elif message.role == "assistant":
                self._assistant(message.content, f"{path}.content")
            elif message.role == "user":
                self._user(message.content, f"{path}.content")
            else:
                parts = [self._part(_block(b), f"{path}.content.{k}") for k, b in enumerate(message.content)]
                self._messages.append({"role": "system", "content": _collapsed(parts)})
        return lead_by_one_system(self._messages) if self._strict else self._messages

    def _system(self, fields: Fields) -> None:
        system = value(fields, "system", str | list[dict[str, Any]], "a string or a list of text blocks")
        if not system:
            return
        if not isinstance(system, str):
            for i, block in enumerate(system):
                if block.get("type") != "text":
                    raise MappingError(f"system.{i}.type", "must be text")
            blocks = [(i, block) for i, block in enumerate(system) if not _is_billing(block.get("text"))]
            system = _collapsed([self._part(block, f"system.{i}") for i, block in blocks])
        elif _is_billing(system):
            system = system.partition("\n")[2].lstrip()
        if not system:
            return
        self._messages.append({"role": "system", "content": system})

    def _user(self, blocks: list[msgspec.Raw], path: str) -> None:
        """Results of tools first, each a message of its own, right after the calls: OpenAI takes them nowhere else."""
        parts: list[Json] = []
        media: list[Json] = []
        for k, raw in enumerate(blocks):
            block = _block(raw)
            if block.get("type") == "tool_result":
                media += self._tool_result(block, f"{path}.{k}")
            else:
                parts.append(self._part(block, f"{path}.{k}"))
        if media or parts or not blocks:
            self._messages.append({"role": "user", "content": _collapsed(media + parts)})

    def _tool_result(self, block: Json, path: str) -> list[Json]:
        """Add the tool message; return what only a user message can show."""
        self._check(block, _TOOL_RESULT, path)
        ident = _text_of(block, "tool_use_id", path)
        content = block.get("content") or ""
        texts: list[Json] = []
        media: list[Json] = []
        if isinstance(content, str):
            texts.append({"type": "text", "text": content})
        elif isinstance(content, list):
            for k, inner in enumerate(content):
                part = self._part(inner, f"{path}.content.{k}")
                (texts if part.get("type") == "text" else media).append(part)
        else:
            raise MappingError(f"{path}.content", "must be a string or a list of blocks")
        if block.get("is_error") is True:
            if not texts:
                texts.append({"type": "text", "text": ""})
            texts[0]["text"] = f"Error: {texts[0]['text']}"
        if media:
            media.insert(0, {"type": "text", "text": f"What tool call {ident} returned beside its text:"})
        self._messages.append({"role": "tool", "tool_call_id": ident, "content": _collapsed(texts)})
        return media

    def _assistant(self, blocks: list[msgspec.Raw], path: str) -> None:
        text, thought = "", ""
        calls: list[Json] = []
        for k, raw in enumerate(blocks):
            block, here = _block(raw), f"{path}.{k}"
            kind = block.get("type")
            if kind == "text":
                self._check(block, _TEXT, here)
                text += _text_of(block, "text", here)
            elif kind == "tool_use":
                self._check(block, _TOOL_USE, here)
                arguments = bytes(_decode_tool_use(raw).input).decode()
                function = {"name": _text_of(block, "name", here), "arguments": arguments}
                calls.append({"id": _text_of(block, "id", here), "type": "function", "function": function})
            elif kind == "thinking":
                thought += _text_of(block, "thinking", here)
            elif kind != "redacted_thinking":  # which nobody but Anthropic can read
                text += encode(self._other(block, here)).decode()
        reply: Json = {"role": "assistant", "content": text if text or not calls else None}
        if thought and self._traits.reasoning_content:
            reply["reasoning_content"] = thought
        if calls:
            reply["tool_calls"] = calls
        self._messages.append(reply)

    def _part(self, block: object, path: str) -> Json:
        """Return the part of a message's content that shows *block*."""
        if not isinstance(block, dict):
            raise MappingError(path, "must be a block with a type")
        kind = block.get("type")
        if kind == "text":
            self._check(block, _TEXT, path)
            content: Json = {"type": "text", "text": _text_of(block, "text", path)}
        elif kind == "image":
            self._check(block, _IMAGE, path)
            content = self._image(block, path)
        elif kind == "document":
            self._check(block, _DOCUMENT, path)
            content = self._document(block, path)
        elif kind == "tool_reference" and self._strict:
            content = {"type": "text", "text": f"Tool: {_text_of(block, 'tool_name', path)}"}
        elif kind == "search_result" and self._strict:
            content = {"type": "text", "text": self._search_result(block, path)}
        else:
            return self._other(block, path)
        if self._traits.cache_control and block.get("cache_control"):
            content["cache_control"] = block["cache_control"]
        return content

    def _image(self, block: Json, path: str) -> Json:
        source = block.get("source")
        kind = source.get("type") if isinstance(source, dict) else None
        if isinstance(source, dict) and kind == "base64":
            media, data = (_text_of(source, name, f"{path}.source") for name in ("media_type", "data"))
            return {"type": "image_url", "image_url": {"url": f"data:{media};base64,{data}"}}
        if isinstance(source, dict) and kind == "url":
            return {"type": "image_url", "image_url": {"url": _text_of(source, "url", f"{path}.source")}}
        return self._other(block, f"{path}.source")

    def _document(self, block: Json, path: str) -> Json:
        source = block.get("source")
        kind = source.get("type") if isinstance(source, dict) else None
        if isinstance(source, dict) and kind == "text":
            above = [str(block[name]) for name in ("title", "context") if block.get(name)]
            return {"type": "text", "text": "\n".join([*above, _text_of(source, "data", f"{path}.source")])}
        if isinstance(source, dict) and kind == "base64":
            media, data = (_text_of(source, name, f"{path}.source") for name in ("media_type", "data"))
            name = str(block.get("title") or "document.pdf")
            return {"type": "file", "file": {"filename": name, "file_data": f"data:{media};base64,{data}"}}
        return self._other(block, f"{path}.source")

    def _search_result(self, block: Json, path: str) -> str:
        lines = [str(block[name]) for name in ("title", "source") if block.get(name)]
        content = block.get("content")
        for k, part in enumerate(content if isinstance(content, list) else ()):
            lines.append(str(self._part(part, f"{path}.content.{k}").get("text") or ""))
        return "\n".join(lines)

    def _other(self, block: Json, path: str) -> Json:
        if self._strict:
            raise MappingError(path, f"a block of type {block.get('type')!r} like this is known to Anthropic only")
        return block

    def _check(self, block: Json, names: frozenset[str], path: str) -> None:
        if self._strict and not block.keys() <= names:
            refuse_unknown(block, names, path)


def _is_billing(text: object) -> bool:
    return isinstance(text, str) and text.startswith(BILLING_HEADER)


def _block(raw: msgspec.Raw) -> Json:
    block = decode(raw)
    return block if isinstance(block, dict) else {"type": None}


def _text_of(block: Json, name: str, path: str) -> str:
    text = block.get(name)
    if not isinstance(text, str):
        raise MappingError(f"{path}.{name}", "must be a string")
    return text


def _collapsed(parts: list[Json]) -> str | list[Json]:
    """Return a single plain text as a string, which every chat template takes; otherwise the parts."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return str(parts[0]["text"])
    return parts
