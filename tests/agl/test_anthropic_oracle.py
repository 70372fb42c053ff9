"""Our mapping between Anthropic's and OpenAI's protocols against LiteLLM's, which serves as an oracle, not as a judge.

Both map the same cases; what they make is brought into one form and must be equal. Where they differ on purpose, the
case says so and says which of the two loses something. LiteLLM's module paths are internal: this file is the one place
that knows them, for the pinned release.
"""

import copy
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
litellm = pytest.importorskip("litellm", reason="needs the environment of LiteLLM: make test-agl")

from litellm.llms.anthropic.chat.handler import ModelResponseIterator  # noqa: E402
from litellm.llms.anthropic.chat.transformation import AnthropicConfig  # noqa: E402
from litellm.llms.anthropic.pass_through.adapters import streaming_iterator, transformation  # noqa: E402

from llmproxy.protocols.anthropic_to_openai import request as request_to_openai  # noqa: E402
from llmproxy.protocols.anthropic_to_openai import response as response_from_openai  # noqa: E402
from llmproxy.protocols.anthropic_to_openai.stream import MessagesStream  # noqa: E402
from llmproxy.protocols.json_fields import decode_fields, encode  # noqa: E402
from llmproxy.protocols.openai_to_anthropic import request as request_to_anthropic  # noqa: E402
from llmproxy.protocols.openai_to_anthropic import response as response_from_anthropic  # noqa: E402
from llmproxy.protocols.openai_to_anthropic.stream import ChatStream  # noqa: E402

pytestmark = [pytest.mark.agl, pytest.mark.filterwarnings("ignore")]

Json = dict[str, Any]
MODEL = "claude-sonnet-4-5-20250929"
SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
PNG = "iVBORw0KGgo="


@dataclass(frozen=True)
class Case:
    """One body, and what is known to differ."""

    name: str
    body: Json
    known: str = ""
    """Why the two differ here; the case then proves that they still do."""


def user(*content: Any) -> Json:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def tool_use(ident: str, **given: Any) -> Json:
    return {"type": "tool_use", "id": ident, "name": "get_weather", "input": given}


def tool_result(ident: str, content: Any, **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": ident, "content": content, **more}


OFFERED = {"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
ASKS = {"role": "assistant", "content": [text("I look."), tool_use("t1", place="Bern"), tool_use("t2", place="Rom")]}

MESSAGES = [
    Case("text", {"messages": [user("hi")]}),
    Case("odd text", {"messages": [user("a\u0085b\u2028c\u2029d 🦊 e\u0301")]}),
    Case("system", {"system": "Be brief.", "messages": [user("hi")]}),
    Case("turns", {"messages": [user("hi"), {"role": "assistant", "content": "Hello."}, user("and?")]}),
    Case("several texts", {"messages": [user(text("a"), text("b"))]}),
    Case("an image", {"messages": [user(text("see"), IMAGE)]}),
    Case(
        "an image by its address",
        {"messages": [user({"type": "image", "source": {"type": "url", "url": "https://x"}})]},
    ),
    Case("settings", {"messages": [user("hi")], "temperature": 0.5, "top_p": 0.9, "stop_sequences": ["#"], "top_k": 5}),
    Case("the user", {"messages": [user("hi")], "metadata": {"user_id": "u-1"}}),
    Case("tools", {"messages": [user("hi")], "tools": [OFFERED], "tool_choice": {"type": "any"}}),
    Case(
        "a tool by its name",
        {"messages": [user("hi")], "tools": [OFFERED], "tool_choice": {"type": "tool", "name": "get_weather"}},
    ),
    Case("no tool", {"messages": [user("hi")], "tools": [OFFERED], "tool_choice": {"type": "none"}}),
    Case("parallel tools", {"messages": [user("hi"), ASKS, user(tool_result("t1", "sun"), tool_result("t2", "rain"))]}),
    Case(
        "results in blocks",
        {
            "messages": [
                user("hi"),
                ASKS,
                user(tool_result("t1", [text("sun")]), tool_result("t2", "rain"), text("so?")),
            ]
        },
    ),
    Case(
        "one tool at a time",
        {
            "messages": [user("hi")],
            "tools": [OFFERED],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        },
        known="LiteLLM drops disable_parallel_tool_use",
    ),
    Case(
        "a tool's error",
        {"messages": [user("hi"), ASKS, user(tool_result("t1", "gone", is_error=True), tool_result("t2", "rain"))]},
        known="LiteLLM drops is_error",
    ),
    Case(
        "a tool's image",
        {"messages": [user("hi"), ASKS, user(tool_result("t1", [text("seen"), IMAGE]), tool_result("t2", "rain"))]},
        known="LiteLLM puts images into tool messages, which OpenAI takes for text only",
    ),
    Case(
        "a long name of a tool",
        {"messages": [user("hi")], "tools": [{**OFFERED, "name": "n" * 70}]},
        known="LiteLLM shortens names over 64 characters",
    ),
]


@pytest.mark.parametrize("case", MESSAGES, ids=lambda c: c.name)
def test_messages_request_to_chat(case: Case) -> None:
    body = {"model": "gpt-4o", "max_tokens": 100, **case.body}
    ours = json.loads(encode(request_to_openai.from_messages(decode_fields(encode(body)), request_to_openai.Traits())))
    adapter = transformation.LiteLLMAnthropicMessagesAdapter()
    theirs, _ = adapter.translate_anthropic_to_openai(copy.deepcopy(body), custom_llm_provider="openai")
    _compare(case, _chat_form(ours), _chat_form(json.loads(json.dumps(theirs))))


TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}}
CALLS = [
    {"id": i, "type": "function", "function": {"name": "get_weather", "arguments": json.dumps({"place": p})}}
    for i, p in (("c1", "Bern"), ("c2", "Zürich"))
]
ROUND = [
    user("hi"),
    {"role": "assistant", "content": "I look.", "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    {"role": "tool", "tool_call_id": "c2", "content": "rain"},
]
DATA_URL = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}

CHATS = [
    Case("text", {"messages": [user("hi")]}),
    Case("odd text", {"messages": [user("a\u0085b\u2028c\u2029d 🦊 e\u0301")]}),
    Case("system", {"messages": [{"role": "system", "content": "Be brief."}, user("hi")]}),
    Case("turns", {"messages": [user("hi"), {"role": "assistant", "content": "Hello."}, user("and?")]}),
    Case("an image", {"messages": [user(text("see"), DATA_URL)]}),
    Case("settings", {"messages": [user("hi")], "temperature": 0.5, "top_p": 0.9, "stop": ["#"], "max_tokens": 7}),
    Case("one stop", {"messages": [user("hi")], "stop": "#"}),
    Case("the user", {"messages": [user("hi")], "user": "u-1"}),
    Case("tools", {"messages": [user("hi")], "tools": [TOOL], "tool_choice": "required"}),
    Case("no tool", {"messages": [user("hi")], "tools": [TOOL], "tool_choice": "none"}),
    Case("one tool at a time", {"messages": [user("hi")], "tools": [TOOL], "parallel_tool_calls": False}),
    Case(
        "a tool by its name",
        {
            "messages": [user("hi")],
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        },
    ),
    Case("parallel tools", {"messages": ROUND, "tools": [TOOL]}),
    Case("and a question", {"messages": [*ROUND, user("so?")], "tools": [TOOL]}),
    Case("a budget", {"messages": [user("hi")], "reasoning_effort": "low", "max_tokens": 9000}),
]


@pytest.mark.parametrize("case", CHATS, ids=lambda c: c.name)
def test_chat_request_to_messages(case: Case) -> None:
    body = {"model": MODEL, "max_tokens": 100, **case.body}
    ours = json.loads(encode(request_to_anthropic.from_chat(decode_fields(encode(body)), MODEL)))
    config = AnthropicConfig()
    given = copy.deepcopy(body)
    messages = given.pop("messages")
    given.pop("model")
    params = config.map_openai_params(given, {}, MODEL, drop_params=False)
    theirs = config.transform_request(MODEL, messages, params, {}, {})
    _compare(case, _messages_form(ours), _messages_form(json.loads(json.dumps(theirs))))


USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 2}}
COMPLETIONS = [
    Case("text", {"message": {"content": "a\u2028b 🦊"}, "finish_reason": "stop"}),
    Case("cut", {"message": {"content": "a"}, "finish_reason": "length"}),
    Case("calls", {"message": {"content": "I look.", "tool_calls": CALLS}, "finish_reason": "tool_calls"}),
    Case("reasoning", {"message": {"content": "a", "reasoning_content": "hm"}, "finish_reason": "stop"}),
    Case(
        "a forced call",
        {"message": {"content": None, "tool_calls": CALLS[:1]}, "finish_reason": "stop"},
        known="LiteLLM says end_turn for a call that tool_choice forced, so that agents do not run it",
    ),
]


@pytest.mark.parametrize("case", COMPLETIONS, ids=lambda c: c.name)
def test_completion_to_message(case: Case) -> None:
    choice = {"index": 0, **case.body, "message": {"role": "assistant", **case.body["message"]}}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    body["usage"] = USAGE
    ours = json.loads(response_from_openai.from_chat(encode(body))[0])
    adapter = transformation.LiteLLMAnthropicMessagesAdapter()
    theirs = adapter.translate_openai_response_to_anthropic(litellm.ModelResponse(**copy.deepcopy(body)))
    _compare(case, _message_form(ours), _message_form(json.loads(json.dumps(theirs, default=dict))))


ANSWERS = [
    Case("text", {"content": [text("a\u2028b 🦊")], "stop_reason": "end_turn"}),
    Case("cut", {"content": [text("a")], "stop_reason": "max_tokens"}),
    Case("calls", {"content": [text("I look."), *ASKS["content"][1:]], "stop_reason": "tool_use"}),
    Case(
        "thinking",
        {"content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, text("a")], "stop_reason": "end_turn"},
    ),
    Case("a refusal", {"content": [text("no")], "stop_reason": "refusal"}),
]


@pytest.mark.parametrize("case", ANSWERS, ids=lambda c: c.name)
def test_message_to_completion(case: Case) -> None:
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, **case.body}
    body["usage"] = {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 4}
    ours = json.loads(response_from_anthropic.from_message(encode(body), 1)[0])
    theirs = AnthropicConfig().transform_parsed_response(
        completion_response=copy.deepcopy(body),
        raw_response=_Raw(),
        model_response=litellm.ModelResponse(),
    )
    _compare(case, _completion_form(ours), _completion_form(json.loads(theirs.model_dump_json())))


class _Raw:
    """What LiteLLM reads of an HTTP response here."""

    def __init__(self) -> None:
        self.status_code = 200
        self.headers: Json = {}
        self.text = ""


def _chunks(*deltas: Json, finish: str = "stop") -> list[Json]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    made = [{**head, "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    made.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return [*made, {**head, "choices": [], "usage": USAGE}]


def _call(index: int, arguments: str, **more: Any) -> Json:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments, **more.pop("named", {})}, **more}]}


_FIRST = {"id": "c1", "type": "function", "named": {"name": "get_weather"}}
CHAT_STREAMS = [
    Case(
        "text", {"chunks": _chunks({"role": "assistant", "content": ""}, {"content": "a\u2028"}, {"content": "b 🦊"})}
    ),
    Case("cut", {"chunks": _chunks({"content": "a"}, finish="length")}),
    Case(
        "text and a call",
        {
            "chunks": _chunks(
                {"content": "I look."},
                _call(0, "", **_FIRST),
                _call(0, '{"place":'),
                _call(0, '"Bern"}'),
                finish="tool_calls",
            )
        },
    ),
    Case(
        "parallel calls",
        {
            "chunks": _chunks(
                _call(0, "{}", **_FIRST), _call(1, '{"place":"Rom"}', **{**_FIRST, "id": "c2"}), finish="tool_calls"
            )
        },
    ),
    Case("reasoning", {"chunks": _chunks({"reasoning_content": "hm"}, {"content": "a"})}),
]


@pytest.mark.parametrize("case", CHAT_STREAMS, ids=lambda c: c.name)
def test_chat_stream_to_messages(case: Case) -> None:
    chunks = case.body["chunks"]
    stream = MessagesStream()
    data = b"".join(b"data: " + encode(c) + b"\n\n" for c in chunks) + b"data: [DONE]\n\n"
    ours = _joined_message(_events(b"".join([*stream.feed(data), stream.rest()])))
    given = iter([litellm.ModelResponseStream(**copy.deepcopy(c)) for c in chunks])
    wrapper = streaming_iterator.AnthropicStreamWrapper(completion_stream=given, model="m")
    theirs = _joined_message(_events(b"".join(wrapper.anthropic_sse_wrapper())))
    _compare(case, ours, theirs)


def _block(index: int, start: Json, *deltas: Json) -> Iterator[Json]:
    yield {"type": "content_block_start", "index": index, "content_block": start}
    yield from ({"type": "content_block_delta", "index": index, "delta": d} for d in deltas)
    yield {"type": "content_block_stop", "index": index}


def _message(*blocks: Iterator[Json], stop: str = "end_turn") -> list[Json]:
    usage = {"input_tokens": 7, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 0, "output_tokens": 1}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [], "usage": usage}
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": stop, "stop_sequence": None},
        "usage": {"output_tokens": 4},
    }
    return [{"type": "message_start", "message": head}, *(e for b in blocks for e in b), end, {"type": "message_stop"}]


def _said(*pieces: str) -> list[Json]:
    return [{"type": "text_delta", "text": p} for p in pieces]


def _input(*pieces: str) -> list[Json]:
    return [{"type": "input_json_delta", "partial_json": p} for p in pieces]


MESSAGE_STREAMS = [
    Case("text", {"events": _message(_block(0, text(""), *_said("a\u2028", "b 🦊")))}),
    Case("cut", {"events": _message(_block(0, text(""), *_said("a")), stop="max_tokens")}),
    Case(
        "text and calls",
        {
            "events": _message(
                _block(0, text(""), *_said("I look.")),
                _block(1, tool_use("t1"), *_input("", '{"place":', '"Bern"}')),
                _block(2, tool_use("t2"), *_input('{"place":"Rom"}')),
                stop="tool_use",
            )
        },
    ),
    Case(
        "thinking",
        {
            "events": _message(
                _block(
                    0,
                    {"type": "thinking", "thinking": "", "signature": ""},
                    {"type": "thinking_delta", "thinking": "hm"},
                    {"type": "signature_delta", "signature": "s"},
                ),
                _block(1, text(""), *_said("a")),
            )
        },
    ),
]


@pytest.mark.parametrize("case", MESSAGE_STREAMS, ids=lambda c: c.name)
def test_messages_stream_to_chat(case: Case) -> None:
    events = case.body["events"]
    stream = ChatStream(1, with_usage=True)
    data = b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), encode(e)) for e in events)
    made = b"".join([*stream.feed(data), stream.rest()]).removesuffix(b"data: [DONE]\n\n")
    ours = _joined_chat([json.loads(e[6:]) for e in made.removesuffix(b"\n\n").split(b"\n\n")])
    reader = ModelResponseIterator(streaming_response=iter(()), sync_stream=True)
    theirs = _joined_chat([json.loads(reader.chunk_parser(copy.deepcopy(e)).model_dump_json()) for e in events])
    _compare(case, ours, theirs)


def _compare(case: Case, ours: Any, theirs: Any) -> None:
    if case.known:
        assert ours != theirs, f"no longer true: {case.known}"
    else:
        assert ours == theirs


# -- one form for both


def _parts(content: Any, known: Callable[[Json], Any]) -> Any:
    if not content:
        return []
    parts = [text(content)] if isinstance(content, str) else content
    return [known(part) for part in parts if part != text("")]


def _part_form(part: Json) -> Any:
    if part["type"] == "image_url":
        url = part["image_url"]
        return {"image": url if isinstance(url, str) else url["url"]}
    if part["type"] == "tool_result":
        return {"result": part["tool_use_id"], "content": _parts(part.get("content"), _part_form)}
    return {k: v for k, v in part.items() if v is not None and k not in {"cache_control", "citations", "caller"}}


def _chat_form(body: Json) -> Json:
    """Calls' arguments as values, contents as parts; a server's own defaults as absent."""
    made = {k: v for k, v in body.items() if v is not None and k != "messages"}
    made["messages"] = [
        {
            "role": m["role"],
            "content": _parts(m.get("content"), _part_form),
            "calls": [_call_form(c) for c in m.get("tool_calls") or ()],
            "result": m.get("tool_call_id"),
        }
        for m in body["messages"]
    ]
    return made


def _call_form(call: Json) -> Json:
    return {"id": call["id"], "name": call["function"]["name"], "input": json.loads(call["function"]["arguments"])}


def _messages_form(body: Json) -> Json:
    made = {k: v for k, v in body.items() if v is not None and k not in {"messages", "system", "tools"}}
    made["system"] = _parts(body.get("system"), _part_form)
    made["messages"] = [{"role": m["role"], "content": _parts(m["content"], _part_form)} for m in body["messages"]]
    made["tools"] = [{k: t.get(k) for k in ("name", "description", "input_schema")} for t in body.get("tools", ())]
    return made


def _message_form(body: Json) -> Json:
    content = [
        {k: v for k, v in b.items() if v not in (None, "") and k in {"type", "text", "thinking", "id", "name", "input"}}
        for b in body["content"]
    ]
    usage = {k: body["usage"].get(k) or 0 for k in ("input_tokens", "cache_read_input_tokens", "output_tokens")}
    return {"content": content, "stop_reason": body["stop_reason"], "usage": usage}


def _completion_form(body: Json) -> Json:
    choice = body["choices"][0]
    message = choice["message"]
    usage = {k: body["usage"][k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")}
    return {
        "content": message.get("content") or "",
        "reasoning": message.get("reasoning_content") or "",
        "thinking": [(b["thinking"], b["signature"]) for b in message.get("thinking_blocks") or ()],
        "calls": [_call_form(c) for c in message.get("tool_calls") or ()],
        "finish_reason": choice["finish_reason"],
        "usage": {**usage, "cached": body["usage"]["prompt_tokens_details"]["cached_tokens"]},
    }


def _events(data: bytes) -> list[Json]:
    lines = [line for line in data.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line[6:]) for line in lines]


def _joined_message(events: list[Json]) -> Json:
    """Return what an Anthropic client ends up with. A block that said nothing is as good as none."""
    blocks: dict[int, Json] = {}
    end: Json = {}
    for event in events:
        if event["type"] == "content_block_start":
            blocks[event["index"]] = {**event["content_block"], "json": ""}
        elif event["type"] == "content_block_delta":
            block, delta = blocks[event["index"]], event["delta"]
            for name, field in (("text", "text"), ("thinking", "thinking"), ("partial_json", "json")):
                if name in delta:
                    block[field] = block.get(field, "") + delta[name]
        elif event["type"] == "message_delta":
            end = {"stop_reason": event["delta"]["stop_reason"], "usage": event["usage"]}
    content = [{**b, "input": json.loads(b["json"] or "{}")} if b["type"] == "tool_use" else b for b in blocks.values()]
    made = _message_form({"content": content, **end})
    made["content"] = [b for b in made["content"] if b.keys() != {"type"}]
    return made


def _joined_chat(chunks: list[Json]) -> Json:
    """Return what an OpenAI client ends up with."""
    joined: Json = {"content": "", "reasoning": "", "calls": {}, "finish_reason": None, "usage": None}
    for chunk in chunks:
        usage = chunk.get("usage")
        if usage:
            joined["usage"] = {k: usage[k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")}
        for choice in chunk["choices"]:
            delta = choice["delta"]
            joined["content"] += delta.get("content") or ""
            joined["reasoning"] += delta.get("reasoning_content") or ""
            joined["finish_reason"] = choice.get("finish_reason") or joined["finish_reason"]
            for call in delta.get("tool_calls") or ():
                made = joined["calls"].setdefault(call["index"], {"id": None, "name": None, "arguments": ""})
                made["id"] = made["id"] or call.get("id")
                made["name"] = made["name"] or call["function"].get("name")
                made["arguments"] += call["function"].get("arguments") or ""
    return joined
