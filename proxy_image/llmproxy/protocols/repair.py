"""Chat completions of servers that are a little off, in the shapes of `openai_schemas`. Pure.

Read only after the strict decoder has refused: arguments as an object (llama.cpp, TGI), content as a list of parts
(Mistral), indexes as strings, numbers that JSON lacks (NaN and infinities of Python's json, in log-probabilities).
"""

import json

import msgspec

from llmproxy.protocols.json_fields import Json, decode, encode

IMPOSSIBLE = -9999.0
"""vLLM's log-probability of a token without a chance, which JSON can write; its infinities become this."""
_NOT_JSON = (b"NaN", b"Infinity")


def parse(data: bytes) -> object:
    """Return the JSON value in *data*, also with NaN, infinities and lone surrogates; raise ValueError."""
    try:
        return json.loads(data, parse_constant=lambda _: IMPOSSIBLE)
    except RecursionError as exc:
        raise ValueError(str(exc)) from exc


def readable(body: bytes) -> bytes:
    """Return *body* as JSON that every client can read; itself if it is that, or is no JSON at all."""
    if not any(word in body for word in _NOT_JSON):
        return body
    try:
        decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        try:
            return encode(parse(body))
        except (ValueError, msgspec.MsgspecError, UnicodeEncodeError):
            return body
    return body


def completion(data: bytes) -> Json:
    """Return a chat completion, or a chunk of one, with the types of `openai_schemas`; raise ValueError."""
    answer = parse(data)
    if not isinstance(answer, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - what the caller catches
    for name in ("id", "model"):
        if answer.get(name) is not None:
            answer[name] = str(answer[name])
    answer["choices"] = [_choice(choice) for choice in _dicts(answer.get("choices")) or ()]
    return answer


def content_text(content: object) -> tuple[str | None, str]:
    """Return the text of a message's content, and the thoughts in it: a string, or a list of parts."""
    if not isinstance(content, list):
        return (content if isinstance(content, str) else None), ""
    text, thought = "", ""
    for part in content:
        if isinstance(part, dict) and part.get("type") == "thinking":
            thought += content_text(part.get("thinking"))[0] or ""
        elif isinstance(part, dict):
            text += str(part.get("text") or "")
    return text, thought


def arguments_text(arguments: object) -> str | None:
    """Return a call's arguments as text: its JSON where a server gives the object itself."""
    if arguments is None or isinstance(arguments, str):
        return arguments
    return encode(arguments).decode()


def _choice(choice: Json) -> Json:
    choice["index"] = _index(choice.get("index")) or 0
    choice["finish_reason"] = _text(choice.get("finish_reason"))
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    choice["logprobs"] = {"content": _dicts(content)}
    for name in ("message", "delta"):
        if isinstance(choice.get(name), dict):
            choice[name] = _message(choice[name])
        else:
            choice.pop(name, None)
    return choice


def _message(message: Json) -> Json:
    text, thought = content_text(message.get("content"))
    message["content"] = text
    message["reasoning_content"] = _text(message.get("reasoning_content")) or thought or None
    message["refusal"] = _text(message.get("refusal"))
    message["thinking_blocks"] = _dicts(message.get("thinking_blocks"))
    message["tool_calls"] = [_call(call) for call in _dicts(message.get("tool_calls")) or ()]
    return message


def _call(call: Json) -> Json:
    tool_call: Json = {"index": _index(call.get("index"))}
    if call.get("id") is not None:
        tool_call["id"] = str(call["id"])
    function = call.get("function")
    if isinstance(function, dict):
        tool_call["function"] = {
            "name": _text(function.get("name")),
            "arguments": arguments_text(function.get("arguments")),
        }
    return tool_call


def _index(index: object) -> int | None:
    if isinstance(index, str) and index.isdecimal():
        return int(index)
    return int(index) if isinstance(index, int | float) and index == int(index) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _dicts(value: object) -> list[Json] | None:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else None
