"""A messages request from a chat completion request. Pure.

mapped     messages, max_tokens, max_completion_tokens, tools, tool_choice, parallel_tool_calls, stop, user,
           reasoning_effort, response_format
left out   what only hints: seed (best effort by its definition), store, metadata, service_tier, prompt_cache_key, ...
refused    what the answer would lack: n above 1, logprobs, penalties, audio, functions of the older form
passed on  every other field, so that thinking, top_k or output_config can be given with `extra_body`

System and developer messages go to `system`, wherever they stand. JSON mode without a schema, which Anthropic lacks, is
a tool with an open schema that the model must call; its input is the answer's text (`JSON_TOOL`).
"""

import re
from typing import Any

import msgspec

from llmproxy.protocols.json_fields import Fields, Json, MappingError, decode, refuse_unknown, value
from llmproxy.protocols.openai_to_anthropic import tools

DEFAULT_MAX_TOKENS = 4096
"""Anthropic demands `max_tokens`; this is taken when neither the request nor the deployment's params say one."""
JSON_TOOL = "answer_in_json"
_MAPPED = frozenset({
    *("messages", "max_tokens", "max_completion_tokens", "tools", "tool_choice", "parallel_tool_calls", "stop", "user"),
    *("safety_identifier", "reasoning_effort", "response_format"),
})  # fmt: skip
_HINTS = frozenset({
    *("stream_options", "seed", "store", "metadata", "service_tier", "prompt_cache_key", "prompt_cache_retention"),
    *("prompt_cache_options", "prediction", "verbosity"),
})  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "functions": (),
    "function_call": (),
    "web_search_options": (),
    "moderation": (),
}
"""Fields that Anthropic has nothing for, and the values that say nothing."""
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
"""For models before Claude 4.6, which know no effort."""
MIN_BUDGET = 1024
"""The least that Anthropic takes."""
_EFFORT_SINCE = (4, 6)
_NUMBER = re.compile(r"(?<![0-9])[0-9]{1,2}(?![0-9])")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")
_MARKS = frozenset({"type", "cache_control", "prompt_cache_breakpoint"})
_decode_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode


def from_chat(fields: Fields, model: str, default_max_tokens: int = DEFAULT_MAX_TOKENS) -> Json:
    """Return the messages request to *model* that says what *fields* say; raise MappingError naming the field."""
    body: Json = {}
    for name, raw in fields.items():
        if name in _NEUTRAL:
            content = decode(raw)
            if content is not None and content not in _NEUTRAL[name]:
                raise MappingError(name, "has no counterpart in Anthropic's API: leave it out")
        elif name not in _MAPPED and name not in _HINTS and bytes(raw) != b"null":
            body[name] = raw
    limit = value(fields, "max_completion_tokens", int, "a whole number")
    if limit is None:
        limit = value(fields, "max_tokens", int, "a whole number")
    body["max_tokens"] = default_max_tokens if limit is None else limit
    body |= _Conversation().all(fields)
    body |= tools.anthropic_tools(fields)
    _settings(fields, model, body)
    return body


def takes_effort(model: str) -> bool:
    """Return True if *model* takes an effort; older models take a budget, and each generation refuses the other.

    The generation is in the name: claude-sonnet-4-5-20250929, claude-3-7-sonnet-latest, claude-opus-5.
    """
    numbers = _NUMBER.findall(model)
    version = (int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0) if numbers else None
    return version is None or version >= _EFFORT_SINCE


def _settings(fields: Fields, model: str, body: Json) -> None:
    stop = value(fields, "stop", str | list[str], "a string or a list of strings")
    if stop:
        body["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    user = value(fields, "user", str, "a string") or value(fields, "safety_identifier", str, "a string")
    if user:
        body["metadata"] = {"user_id": user}
    effort = value(fields, "reasoning_effort", str, "a string")
    if effort and "thinking" not in fields:
        _think(effort, model, body)
    response_format = value(fields, "response_format", dict[str, Any], "an object")
    if response_format is not None:
        _shape(response_format, body)


def _think(effort: str, model: str, body: Json) -> None:
    if effort == "none":
        return
    if effort not in _BUDGETS:
        raise MappingError("reasoning_effort", f"must be one of none, {', '.join(_BUDGETS)}")
    if takes_effort(model):
        body["thinking"] = {"type": "adaptive"}
        body["output_config"] = {"effort": "low" if effort == "minimal" else effort}
        return
    budget = min(_BUDGETS[effort], body["max_tokens"] - 1)
    if budget >= MIN_BUDGET:  # an answer that short has no room for thinking
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _shape(response_format: Json, body: Json) -> None:
    kind = response_format.get("type")
    if kind == "json_schema" and isinstance(response_format.get("json_schema"), dict):
        schema = response_format["json_schema"].get("schema") or {"type": "object"}
        body["output_config"] = {**body.get("output_config", {}), "format": {"type": "json_schema", "schema": schema}}
    elif kind == "json_object":
        if body.get("tools") or body.get("thinking"):
            raise MappingError(
                "response_format", "json_object with tools or reasoning is not possible at Anthropic: use json_schema"
            )
        schema = {"type": "object", "additionalProperties": True}
        body["tools"] = [{"name": JSON_TOOL, "description": "Gives the answer as JSON.", "input_schema": schema}]
        body["tool_choice"] = {"type": "tool", "name": JSON_TOOL, "disable_parallel_tool_use": True}
    elif kind != "text":
        raise MappingError("response_format.type", "must be text, json_object or json_schema")


class _Conversation:
    """Makes `system` and `messages`; neighbours of one role become one message, as results of tools must."""

    def __init__(self) -> None:
        self._system: list[Json] = []
        self._messages: list[Json] = []

    def all(self, fields: Fields) -> Json:
        """Return both."""
        raw = fields.get("messages")
        if raw is None:
            raise MappingError("messages", "is missing")
        try:
            messages = _decode_messages(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise MappingError("messages", f"must be a list of messages: {exc}") from exc
        for i, message in enumerate(messages):
            self._add(message, f"messages.{i}")
        conversation: Json = {"messages": self._messages}
        if self._system:
            conversation["system"] = _collapsed(self._system)
        return conversation

    def _add(self, message: Json, path: str) -> None:
        role = message.get("role")
        content = message.get("content")
        if role in {"system", "developer"}:
            self._system += _parts(content, f"{path}.content")
        elif role == "user":
            self._append("user", _parts(content, f"{path}.content"))
        elif role == "assistant":
            self._append("assistant", _assistant(message, path))
        elif role == "tool":
            if not isinstance(message.get("tool_call_id"), str):
                raise MappingError(f"{path}.tool_call_id", "must be a string")
            result: Json = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
            if parts := _parts(content, f"{path}.content"):
                result["content"] = _collapsed(parts)
            self._append("user", [result])
        else:
            raise MappingError(f"{path}.role", "must be system, developer, user, assistant or tool")

    def _append(self, role: str, blocks: list[Json]) -> None:
        if not blocks and role == "assistant":
            return  # an assistant that said nothing; Anthropic refuses an empty message
        before = self._messages[-1] if self._messages else None
        if before is None or before["role"] != role:
            self._messages.append({"role": role, "content": _collapsed(blocks)})
            return
        if isinstance(before["content"], str):
            before["content"] = [{"type": "text", "text": before["content"]}]
        before["content"] = before["content"] + blocks


def _assistant(message: Json, path: str) -> list[Json]:
    if message.get("function_call") is not None:
        raise MappingError(f"{path}.function_call", "is the older form: use tool_calls")
    # Thinking as our answers give it: Anthropic wants it back unchanged.
    thinking = message.get("thinking_blocks") or ()
    blocks: list[Json] = [b for b in thinking if isinstance(b, dict) and (b.get("signature") or b.get("data"))]
    blocks += _parts(message.get("content"), f"{path}.content")
    if message.get("refusal"):
        blocks.append({"type": "text", "text": str(message["refusal"])})
    for k, call in enumerate(message.get("tool_calls") or ()):
        blocks.append(_tool_use(call, f"{path}.tool_calls.{k}"))
    return blocks


def _tool_use(call: object, path: str) -> Json:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(call.get("id"), str):
        raise MappingError(path, "must be a function call with an id")
    arguments = function.get("arguments") or "{}"
    try:
        readable = isinstance(decode(arguments), dict)
    except (msgspec.MsgspecError, TypeError):
        readable = False
    if not readable:
        raise MappingError(f"{path}.function.arguments", "must be a JSON object: Anthropic takes no other input")
    tool_use = {"type": "tool_use", "id": call["id"], "name": function.get("name")}
    return {**tool_use, "input": msgspec.Raw(arguments.encode())}


def _parts(content: object, path: str) -> list[Json]:
    """Return content as blocks, without empty texts, which Anthropic refuses."""
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise MappingError(path, "must be a string or a list of parts")
    return [block for k, part in enumerate(content) if (block := _part(part, f"{path}.{k}"))]


def _part(part: object, path: str) -> Json | None:
    if not isinstance(part, dict):
        raise MappingError(path, "must be a part with a type")
    kind = part.get("type")
    if kind in {"text", "refusal"} and isinstance(part.get(kind), str):
        refuse_unknown(part, _MARKS | {kind, "annotations"}, path)
        block: Json = {"type": "text", "text": part[kind]}
        if not block["text"]:
            return None
    elif kind == "image_url":
        block = {"type": "image", "source": _source(part.get("image_url"), path)}
    elif kind == "file":
        block = _document(part.get("file"), path)
    else:
        raise MappingError(f"{path}.type", f"{kind!r} has no counterpart in Anthropic's API")
    if part.get("cache_control"):
        block["cache_control"] = part["cache_control"]
    return block


def _source(image: object, path: str) -> Json:
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise MappingError(f"{path}.image_url.url", "must be a string")
    match = _DATA_URL.match(url)
    if match is not None:
        return {"type": "base64", "media_type": match.group(1), "data": url[match.end() :]}
    if url.startswith(("http://", "https://")):
        return {"type": "url", "url": url}
    raise MappingError(f"{path}.image_url.url", "must be an http(s) URL or data:TYPE;base64,...")


def _document(file: object, path: str) -> Json:
    data = file.get("file_data") if isinstance(file, dict) else None
    match = _DATA_URL.match(data) if isinstance(data, str) else None
    if match is None or not isinstance(data, str) or not isinstance(file, dict):
        raise MappingError(f"{path}.file", "must have file_data as data:TYPE;base64,...: no file is kept here")
    source = {"type": "base64", "media_type": match.group(1), "data": data[match.end() :]}
    document: Json = {"type": "document", "source": source}
    if file.get("filename"):
        document["title"] = file["filename"]
    return document


def _collapsed(blocks: list[Json]) -> str | list[Json]:
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return str(blocks[0]["text"])
    return blocks
