"""Span of a call under OpenTelemetry's semantic conventions for GenAI, for any collector. Pure.

Messages are JSON with `parts`, as the conventions' schemas say. Attributes without a conventional name are
`llmproxy.*`; token ids, trace id and span id are the same as in the store, so that one leads to the other.
"""

import contextlib
import logging
from typing import Any

import msgspec

from llmproxy import shipping_protocol
from llmproxy.protocols.normalize.assemble import Json, parse, read_answer
from llmproxy.shipper.spans import agent_lightning, otlp
from llmproxy.shipper.spans.agent_lightning import Content
from llmproxy.shipper.spans.attributes import Attributes, put, put_each, render_json
from llmproxy.shipper.spans.exchange import ChatExchange, read_exchange
from llmproxy.shipper.spans.otlp import Span
from llmproxy.shipper.spool.records import SpoolRecord

log = logging.getLogger("llmproxy.shipper")

_OPERATIONS = {"completions": "text_completion", "embeddings": "embeddings"}
_PROVIDERS = {"gemini": "gcp.gemini", "mistral": "mistral_ai", "xai": "x_ai"}
"""Conventional names of providers, where they differ from ours."""
_NUMBERS = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
_FINISHES = {"tool_calls": "tool_call", "function_call": "tool_call"}
"""Conventional values of a message's `finish_reason`, where they differ from OpenAI's."""


class GenAiEncoder:
    """Encoder of calls for the collector of one proxy."""

    def __init__(self, *, name: str, namespace: str, content: Content = "Full") -> None:
        self._resource: Attributes = {"service.name": name, "service.namespace": namespace}
        self._content: Content = content

    def encode(self, record: SpoolRecord) -> list[bytes]:
        """Return the span of *record*, encoded with its resource: the same bytes for the same record."""
        try:
            span = span_of(record, self._content)
        except Exception:  # no answer of a provider may stop the delivery of other calls
            log.exception("call_not_encoded", extra={"call": agent_lightning.call_name(record)})
            common = _common(record.call, agent_lightning.common_attributes(record))
            span = _span(record, common, error="not_encoded")
        return otlp.encode(self._resource, [span])


def span_of(record: SpoolRecord, content: Content) -> Span:
    """Return the span of *record*."""
    call = agent_lightning.to_chat_completion(record.call)
    full = content == "Full"
    attributes = _common(call, agent_lightning.common_attributes(record))
    request = parse(call.request)
    request = request if isinstance(request, dict) else {}
    _add_request(attributes, request, full=full)
    if not agent_lightning.is_answered(call):
        if full:
            agent_lightning.add_bodies(attributes, call)
        return _span(record, attributes, error=call.error or f"http_{call.status}")
    answer = read_answer(call.response, streamed=call.streamed)
    if call.route == "embeddings":
        _add_answer(attributes, answer or {})
        return _span(record, attributes)
    if answer is None or not isinstance(answer.get("choices"), list) or not answer["choices"]:
        if full:
            agent_lightning.add_bodies(attributes, call)
        return _span(record, attributes, error="unexpected_answer")
    exchange = read_exchange(request, answer, missing_id="")
    _add_answer(attributes, exchange.answer)
    if exchange.finish_reasons:
        attributes["gen_ai.response.finish_reasons"] = exchange.finish_reasons
    agent_lightning.add_ids(attributes, exchange)
    agent_lightning.add_logprobs(attributes, exchange, full=full)
    if full:
        _add_messages(attributes, exchange)
    return _span(record, attributes)


def _span(record: SpoolRecord, attributes: Attributes, error: str = "") -> Span:
    call = record.call
    if error:
        attributes["error.type"] = error.removeprefix("http_")
    name = f"{attributes['gen_ai.operation.name']} {attributes.get('gen_ai.request.model', '')}".rstrip()
    return Span(
        agent_lightning.trace_id(record),
        agent_lightning.span_id(record, agent_lightning.ROOT),
        b"",
        name,
        call.started_ns,
        max(call.started_ns, call.ended_ns),
        attributes,
        error,
        tuple(agent_lightning.try_event(item) for item in call.tries),
        otlp.CLIENT,
    )


def _common(call: shipping_protocol.CallRecord, common: Attributes) -> Attributes:
    attributes: Attributes = {
        **common,
        "gen_ai.operation.name": _OPERATIONS.get(call.route, "chat"),
        "gen_ai.request.stream": call.streamed,
    }
    if call.provider:
        attributes["gen_ai.provider.name"] = _PROVIDERS.get(call.provider, call.provider)
    if call.upstream_model or call.model:
        attributes["gen_ai.request.model"] = call.upstream_model or call.model
    if call.rollout_id:
        attributes["agentlightning.rollout_id"] = call.rollout_id
        attributes["agentlightning.attempt_id"] = call.attempt_id
    if call.streamed and call.first_byte_ns:
        attributes["gen_ai.response.time_to_first_chunk"] = max(0.0, (call.first_byte_ns - call.started_ns) / 1e9)
    return attributes


def _add_request(target: Attributes, request: Json, *, full: bool) -> None:
    put_each(target, "gen_ai.request.", request, _NUMBERS)
    put(target, "gen_ai.request.max_tokens", request.get("max_completion_tokens", request.get("max_tokens")))
    put(target, "gen_ai.embeddings.dimension.count", request.get("dimensions"))
    if isinstance(request.get("n"), int) and request["n"] != 1:
        put(target, "gen_ai.request.choice.count", request["n"])
    encoding = request.get("encoding_format")
    if isinstance(encoding, str):
        target["gen_ai.request.encoding_formats"] = [encoding]
    shape = request.get("response_format")
    if isinstance(shape, dict):
        target["gen_ai.output.type"] = "text" if shape.get("type") == "text" else "json"
    stop = request.get("stop")
    if full and stop:
        put_each(target, "gen_ai.request.", {"stop_sequences": [stop] if isinstance(stop, str) else stop}, _STOP)


_STOP = ("stop_sequences",)


def _add_answer(target: Attributes, answer: Json) -> None:
    put(target, "gen_ai.response.id", answer.get("id"))
    put(target, "gen_ai.response.model", answer.get("model"))
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return
    put(target, "gen_ai.usage.input_tokens", usage.get("prompt_tokens"))
    put(target, "gen_ai.usage.output_tokens", usage.get("completion_tokens"))
    for part, field, name in (
        ("prompt_tokens_details", "cached_tokens", "gen_ai.usage.cache_read.input_tokens"),
        ("completion_tokens_details", "reasoning_tokens", "gen_ai.usage.reasoning.output_tokens"),
    ):
        details = usage.get(part)
        if isinstance(details, dict):
            put(target, name, details.get(field))


def _add_messages(target: Attributes, exchange: ChatExchange) -> None:
    target["gen_ai.input.messages"] = render_json([_message(message) for message in exchange.messages])
    output = []
    for choice in exchange.choices:
        content = choice.get("message")
        reason = str(choice.get("finish_reason") or "stop")
        message = _message(content if isinstance(content, dict) else {}, role="assistant")
        output.append({**message, "finish_reason": _FINISHES.get(reason, reason)})
    target["gen_ai.output.messages"] = render_json(output)
    if exchange.functions:
        target["gen_ai.tool.definitions"] = render_json([{"type": "function", **item} for item in exchange.functions])


def _message(message: Json, *, role: str = "user") -> Json:
    """Return a message of OpenAI's API in the conventions' schema."""
    result: Json = {"role": str(message.get("role") or role), "parts": _parts(message)}
    if isinstance(message.get("name"), str):
        result["name"] = message["name"]
    return result


def _parts(message: Json) -> list[Json]:
    content = message.get("content")
    if message.get("role") == "tool":
        response = {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}
        return [response]
    parts: list[Json] = []
    thought = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thought, str):
        parts.append({"type": "reasoning", "content": thought})
    if isinstance(content, str):
        if content:
            parts.append({"type": "text", "content": content})
    elif isinstance(content, list):
        parts += [_part(item) for item in content if isinstance(item, dict)]
    if isinstance(message.get("refusal"), str):
        parts.append({"type": "refusal", "content": message["refusal"]})
    tools = message.get("tool_calls")
    parts += [_tool_call(item) for item in (tools if isinstance(tools, list) else ()) if isinstance(item, dict)]
    return parts


def _part(item: Json) -> Json:
    """Return one part of a message's content; unknown kinds stay unchanged."""
    if item.get("type") == "text":
        return {"type": "text", "content": item.get("text")}
    image = item.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        return item
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        kind = head.removeprefix("data:").removesuffix(";base64")
        return {"type": "blob", "modality": "image", "mime_type": kind, "content": data}
    return {"type": "uri", "modality": "image", "uri": url}


def _tool_call(item: Json) -> Json:
    function = item.get("function")
    function = function if isinstance(function, dict) else {}
    arguments: Any = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(msgspec.MsgspecError):  # what is no JSON stays the text that the model wrote
            arguments = msgspec.json.decode(arguments)
    return {"type": "tool_call", "id": item.get("id"), "name": function.get("name"), "arguments": arguments}
