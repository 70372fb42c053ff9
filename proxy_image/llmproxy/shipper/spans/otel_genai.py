"""A call under OpenTelemetry's names for generative AI: one span, for any collector. Pure: a record in, a span out.

The names are those of the semantic conventions for GenAI client spans; messages are JSON with `parts`, as the
conventions' schemas say. What they have no name for is called `llmproxy.*`, and token ids as in the store. Trace and
span ids are the same as in the store, so that one leads to the other.
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
from llmproxy.shipper.spans.conversation import Conversation, converse
from llmproxy.shipper.spans.otlp import Span
from llmproxy.shipper.spool.records import Record

log = logging.getLogger("llmproxy.shipper")

_OPERATIONS = {"completions": "text_completion", "embeddings": "embeddings"}
_PROVIDERS = {"gemini": "gcp.gemini", "mistral": "mistral_ai", "xai": "x_ai"}
"""Those that the conventions call otherwise than we do."""
_NUMBERS = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
_FINISHES = {"tool_calls": "tool_call", "function_call": "tool_call"}
"""Values of a message's `finish_reason` that the conventions' schema calls otherwise."""


class GenAiEncoder:
    """Makes the bytes of calls' spans, for one proxy."""

    def __init__(self, *, name: str, namespace: str, content: Content = "Full") -> None:
        self._resource: Attributes = {"service.name": name, "service.namespace": namespace}
        self._content: Content = content

    def encode(self, record: Record) -> list[bytes]:
        """Return a record's span, encoded with its resource. Always the same for the same record."""
        try:
            made = span_of(record, self._content)
        except Exception:  # what a provider answers is never the end of the rest
            log.exception("call_not_understood", extra={"call": agent_lightning.call_name(record)})
            made = _span(record, _common(record.call, agent_lightning.facts_of(record)), error="not_understood")
        return otlp.encode(self._resource, [made])


def span_of(record: Record, content: Content) -> Span:
    """Return the span of a call."""
    call = agent_lightning.in_openais_terms(record.call)
    full = content == "Full"
    made = _common(call, agent_lightning.facts_of(record))
    request = parse(call.request)
    request = request if isinstance(request, dict) else {}
    _add_request(made, request, full=full)
    if not agent_lightning.is_answered(call):
        if full:
            agent_lightning.add_exchange(made, call)
        return _span(record, made, error=call.error or f"http_{call.status}")
    answer = read_answer(call.response, streamed=call.streamed)
    if call.route == "embeddings":
        _add_answer(made, answer or {})
        return _span(record, made)
    if answer is None or not isinstance(answer.get("choices"), list) or not answer["choices"]:
        if full:
            agent_lightning.add_exchange(made, call)
        return _span(record, made, error="answer_not_understood")
    said = converse(request, answer, missing_id="")
    _add_answer(made, said.answer)
    if said.finish_reasons:
        made["gen_ai.response.finish_reasons"] = said.finish_reasons
    agent_lightning.add_ids(made, said)
    agent_lightning.add_logprobs(made, said, full=full)
    if full:
        _add_messages(made, said)
    return _span(record, made)


def _span(record: Record, attributes: Attributes, error: str = "") -> Span:
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


def _common(call: shipping_protocol.CallRecord, facts: Attributes) -> Attributes:
    made: Attributes = {
        **facts,
        "gen_ai.operation.name": _OPERATIONS.get(call.route, "chat"),
        "gen_ai.request.stream": call.streamed,
    }
    if call.provider:
        made["gen_ai.provider.name"] = _PROVIDERS.get(call.provider, call.provider)
    if call.upstream_model or call.model:
        made["gen_ai.request.model"] = call.upstream_model or call.model
    if call.rollout_id:
        made["agentlightning.rollout_id"] = call.rollout_id
        made["agentlightning.attempt_id"] = call.attempt_id
    if call.streamed and call.first_byte_ns:
        made["gen_ai.response.time_to_first_chunk"] = max(0.0, (call.first_byte_ns - call.started_ns) / 1e9)
    return made


def _add_request(made: Attributes, request: Json, *, full: bool) -> None:
    put_each(made, "gen_ai.request.", request, _NUMBERS)
    put(made, "gen_ai.request.max_tokens", request.get("max_completion_tokens", request.get("max_tokens")))
    put(made, "gen_ai.embeddings.dimension.count", request.get("dimensions"))
    if isinstance(request.get("n"), int) and request["n"] != 1:
        put(made, "gen_ai.request.choice.count", request["n"])
    encoding = request.get("encoding_format")
    if isinstance(encoding, str):
        made["gen_ai.request.encoding_formats"] = [encoding]
    shape = request.get("response_format")
    if isinstance(shape, dict):
        made["gen_ai.output.type"] = "text" if shape.get("type") == "text" else "json"
    stop = request.get("stop")
    if full and stop:
        put_each(made, "gen_ai.request.", {"stop_sequences": [stop] if isinstance(stop, str) else stop}, _STOP)


_STOP = ("stop_sequences",)


def _add_answer(made: Attributes, answer: Json) -> None:
    put(made, "gen_ai.response.id", answer.get("id"))
    put(made, "gen_ai.response.model", answer.get("model"))
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return
    put(made, "gen_ai.usage.input_tokens", usage.get("prompt_tokens"))
    put(made, "gen_ai.usage.output_tokens", usage.get("completion_tokens"))
    for part, field, name in (
        ("prompt_tokens_details", "cached_tokens", "gen_ai.usage.cache_read.input_tokens"),
        ("completion_tokens_details", "reasoning_tokens", "gen_ai.usage.reasoning.output_tokens"),
    ):
        details = usage.get(part)
        if isinstance(details, dict):
            put(made, name, details.get(field))


def _add_messages(made: Attributes, said: Conversation) -> None:
    made["gen_ai.input.messages"] = render_json([_message(message) for message in said.messages])
    output = []
    for choice in said.choices:
        found = choice.get("message")
        reason = str(choice.get("finish_reason") or "stop")
        message = _message(found if isinstance(found, dict) else {}, role="assistant")
        output.append({**message, "finish_reason": _FINISHES.get(reason, reason)})
    made["gen_ai.output.messages"] = render_json(output)
    if said.functions:
        made["gen_ai.tool.definitions"] = render_json([{"type": "function", **item} for item in said.functions])


def _message(message: Json, *, role: str = "user") -> Json:
    """Return a message of OpenAI's API as the conventions write it."""
    made: Json = {"role": str(message.get("role") or role), "parts": _parts(message)}
    if isinstance(message.get("name"), str):
        made["name"] = message["name"]
    return made


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
    """Return one part of a message's content; what the conventions do not know stays as it was sent."""
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
