"""The shape of a call's spans. Pure: a record in, spans out.

    litellm_request            everything: gen_ai.*, token ids, usage; each try as an event; the root
      raw_gen_ai_request       request and answer field by field, as LiteLLM writes them: llm.hosted_vllm.*
      openai.chat.completion   token ids, agentlightning.operation.*, nothing of gen_ai.*
      tool_call                one for each tool that the first choice calls: tool.*

It is the one shape of which `LlmProxyTraceToTriplet`, `TracerTraceToTriplet` and `TraceToMessages` of agentlightning
0.3.0 each make exactly one result a call at their defaults. A call that failed, and one of embeddings, is its root
alone, without a name that any of them looks for.
"""

import functools
import hashlib
import logging
from typing import Any, Literal

import msgspec

from llmproxy import shipping_protocol
from llmproxy.protocols.normalize import anthropic as as_chat
from llmproxy.protocols.normalize import responses
from llmproxy.protocols.normalize.assemble import Json, events, parse, read_answer
from llmproxy.shipper.spans import otlp
from llmproxy.shipper.spans.attributes import (
    Attributes,
    cut,
    flatten,
    name_part,
    put,
    put_each,
    render_json,
    render_python,
)
from llmproxy.shipper.spans.conversation import Conversation, converse
from llmproxy.shipper.spans.otlp import Event, Span
from llmproxy.shipper.spool.records import Record

log = logging.getLogger("llmproxy.shipper")

Content = Literal["Full", "TokensOnly"]

ROOT = "litellm_request"
RAW = "raw_gen_ai_request"
CHAT = "openai.chat.completion"
TOOL = "tool_call"
_RAW_PREFIX = "llm.hosted_vllm."
"""Whatever the provider is: it is the one that agentlightning's adapter reads."""
_REQUEST = (
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "n",
    "reasoning_effort",
)
_NAME = 4096
"""Characters of a name or an id."""
_EXTRA_TEXT = 4096
"""Characters of an error's body."""


class Encoder:
    """Makes the bytes of calls' spans, for one proxy."""

    def __init__(self, *, name: str, namespace: str, content: Content = "Full") -> None:
        self._resource: Attributes = {"service.name": name, "service.namespace": namespace}
        self._content: Content = content

    def encode(self, record: Record) -> list[bytes]:
        """Return each of a record's spans, encoded with its resource. Always the same ones for the same record."""
        try:
            made = spans_of(record, self._content)
        except Exception:  # what a provider answers is never the end of the rest
            log.exception("call_not_understood", extra={"call": call_name(record)})
            made = [_root(record, facts_of(record), error="not_understood")]
        call = record.call
        resource = {
            **self._resource,
            "agentlightning.rollout_id": call.rollout_id,
            "agentlightning.attempt_id": call.attempt_id,
            "agentlightning.span_sequence_id": record.sequence_id,
        }
        return otlp.encode(resource, made)


def call_name(record: Record) -> str:
    """Return what names a call, in logs and in its span."""
    return f"{record.gateway}/{record.call.call_id}"


def span_id(record: Record, part: str) -> bytes:
    """Return the id of one of a call's spans: the same whenever it is made, so that a store knows a repeated one."""
    return _digest(f"{call_name(record)}/{part}")[:8]


def trace_id(record: Record) -> bytes:
    """Return the id of the trace, which an attempt's calls share; a call of no rollout has one of its own."""
    of = f"{record.call.rollout_id}\0{record.call.attempt_id}" if record.call.rollout_id else call_name(record)
    return _digest(of)[:16]


@functools.lru_cache(maxsize=1024)
def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def spans_of(record: Record, content: Content) -> list[Span]:
    """Return the spans of a call, the root first."""
    call = in_openais_terms(record.call)
    facts = facts_of(record)
    full = content == "Full"
    request = parse(call.request)
    request = request if isinstance(request, dict) else {}
    if not is_answered(call):
        if full:
            add_exchange(facts, call)
        return [_root(record, facts, error=call.error or f"http_{call.status}")]
    answer = read_answer(call.response, streamed=call.streamed)
    if call.route == "embeddings":
        if full and request:
            facts["llmproxy.request"] = render_json(request)
        _add_usage(facts, answer or {}, prefix="llmproxy.usage.")
        return [_root(record, facts)]
    if answer is None or not isinstance(answer.get("choices"), list) or not answer["choices"]:
        if full:
            add_exchange(facts, call)
        return [_root(record, facts, error="answer_not_understood")]
    said = converse(request, answer, missing_id=f"chatcmpl-{span_id(record, 'id').hex()}")
    root = _root(record, {**facts, **_root_attributes(call, said, full=full)})
    tools = said.tool_calls if full else []
    return [
        root,
        _child(record, RAW, _raw_attributes(said, full=full)),
        _child(record, CHAT, _chat_attributes(said, full=full)),
        *(_child(record, TOOL, _tool_attributes(tool), part=f"{TOOL}.{i}") for i, tool in enumerate(tools)),
    ]


def in_openais_terms(call: shipping_protocol.CallRecord) -> shipping_protocol.CallRecord:
    """Return a call of Anthropic's or of the Responses API as the chat completion it was: adapters know no other."""
    if not is_answered(call):
        return call
    if call.route == "responses":
        return _of_responses(call)
    if call.route != "messages":
        return call
    answer = as_chat.answer(call.response, call.started_ns // 10**9, streamed=call.streamed)
    return msgspec.structs.replace(call, request=as_chat.request(call.request), response=answer)


def _of_responses(call: shipping_protocol.CallRecord) -> shipping_protocol.CallRecord:
    asked = parse(call.request)
    said = responses.of_events(events(call.response)) if call.streamed else parse(call.response)
    return msgspec.structs.replace(
        call,
        request=msgspec.json.encode(responses.request(asked)) if isinstance(asked, dict) else call.request,
        response=msgspec.json.encode(responses.answer(said)) if isinstance(said, dict) else call.response,
    )


def is_answered(call: shipping_protocol.CallRecord) -> bool:
    """Whether a call got what it asked for."""
    return not call.error and 200 <= call.status < 300  # noqa: PLR2004 - the class of successes


def facts_of(record: Record) -> Attributes:
    """Return what is known of any call, under names that no adapter reads."""
    call = record.call
    facts: Attributes = {
        "llmproxy.call": call_name(record),
        "llmproxy.route": call.route,
        "llmproxy.model": call.model,
        "llmproxy.provider": call.provider,
        "llmproxy.upstream_model": call.upstream_model,
        "llmproxy.streamed": call.streamed,
        "llmproxy.tries": len(call.tries),
        "http.response.status_code": call.status,
    }
    if record.late:
        facts["llmproxy.sequenced_late"] = True
    if call.error:
        facts["llmproxy.error"] = call.error
    if call.tries:
        facts["llmproxy.deployment"] = call.tries[-1].deployment
    if call.first_byte_ns:
        facts["llmproxy.time_to_first_byte_s"] = max(0.0, (call.first_byte_ns - call.started_ns) / 1e9)
    return facts


def add_exchange(facts: Attributes, call: shipping_protocol.CallRecord) -> None:
    """Add what was asked and answered to a call that failed."""
    request = parse(call.request)
    if request is not None:
        facts["llmproxy.request"] = render_json(request)
    if call.response:
        facts["llmproxy.response"] = call.response[:_EXTRA_TEXT].decode(errors="replace")


def _root(record: Record, attributes: Attributes, error: str = "") -> Span:
    call = record.call
    return Span(
        trace_id(record),
        span_id(record, ROOT),
        b"",
        ROOT,
        call.started_ns,
        max(call.started_ns, call.ended_ns),
        attributes,
        error,
        tuple(try_event(item) for item in call.tries),
        otlp.CLIENT,
    )


def try_event(item: shipping_protocol.Try) -> Event:
    """Return what is told of one request to an upstream."""
    facts: Attributes = {
        "deployment": item.deployment,
        "status": item.status,
        "duration_s": max(0.0, (item.ended_ns - item.started_ns) / 1e9),
    }
    if item.error:
        facts["error"] = item.error
    return Event("try", item.started_ns, facts)


def _child(record: Record, name: str, attributes: Attributes, *, part: str = "") -> Span:
    call = record.call
    return Span(
        trace_id(record),
        span_id(record, part or name),
        span_id(record, ROOT),
        name,
        call.started_ns,
        max(call.started_ns, call.ended_ns),
        attributes,
    )


def _root_attributes(call: shipping_protocol.CallRecord, said: Conversation, *, full: bool) -> Attributes:
    made: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": call.provider or "openai",
        "gen_ai.request.model": call.upstream_model or call.model,
        "gen_ai.response.id": said.id,
        "llm.is_streaming": call.streamed,
    }
    put(made, "gen_ai.response.model", said.answer.get("model"))
    put_each(made, "gen_ai.request.", said.request, (*_REQUEST, "stop") if full else _REQUEST)
    if said.finish_reasons:
        made["gen_ai.response.finish_reasons"] = said.finish_reasons
    _add_usage(made, said.answer, prefix="gen_ai.usage.")
    add_ids(made, said)
    add_logprobs(made, said, full=full)
    if full:
        for i, message in enumerate(said.messages):
            _add_message(made, f"gen_ai.prompt.{i}", message)
        for i, choice in enumerate(said.choices):
            said_by_it = choice.get("message")
            _add_message(made, f"gen_ai.completion.{i}", said_by_it if isinstance(said_by_it, dict) else {})
            put(made, f"gen_ai.completion.{i}.finish_reason", choice.get("finish_reason"))
        for i, function in enumerate(said.functions):
            prefix = f"gen_ai.request.functions.{i}"
            put(made, f"{prefix}.name", function.get("name"))
            put(made, f"{prefix}.description", function.get("description"))
            made[f"{prefix}.parameters"] = render_json(function.get("parameters") or {})
    return made


def _add_message(made: Attributes, prefix: str, message: Json) -> None:
    """Add a message under the names of the release that agentlightning 0.3.0 was made for."""
    made[f"{prefix}.role"] = _short(message.get("role") or "assistant")
    content = message.get("content")
    if isinstance(content, str):
        put(made, f"{prefix}.content", content)
    elif content is not None:
        made[f"{prefix}.content"] = render_json(content)
    put_each(made, f"{prefix}.", message, ("name", "tool_call_id", "refusal", "reasoning_content"))
    tools = message.get("tool_calls")
    for i, call in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(call, dict):
            continue
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        made[f"{prefix}.tool_calls.{i}.id"] = _short(call.get("id") or "")
        made[f"{prefix}.tool_calls.{i}.name"] = _short(function.get("name") or "")
        made[f"{prefix}.tool_calls.{i}.arguments"] = _arguments(function)


def _add_usage(made: Attributes, answer: Json, *, prefix: str) -> None:
    usage = answer.get("usage")
    if isinstance(usage, dict):
        put_each(made, prefix, usage, ("prompt_tokens", "completion_tokens"))
        total = "llm.usage.total_tokens" if prefix.startswith("gen_ai") else f"{prefix}total_tokens"
        put(made, total, usage.get("total_tokens"))


def add_ids(made: Attributes, said: Conversation) -> None:
    """Add the token ids of the prompt and of the first choice."""
    if said.prompt_ids:
        made["prompt_token_ids"] = said.prompt_ids
    if said.response_ids and said.response_ids[0]:
        made["response_token_ids"] = said.response_ids[0]


def add_logprobs(made: Attributes, said: Conversation, *, full: bool) -> None:
    """Add the log-probabilities of the first choice's tokens."""
    found = said.logprobs
    if found:
        made["logprobs.content"] = render_json(found if full else [{"logprob": item.get("logprob")} for item in found])


def _raw_attributes(said: Conversation, *, full: bool) -> Attributes:
    made: Attributes = {f"{_RAW_PREFIX}id": said.id}
    if said.prompt_ids:
        made[f"{_RAW_PREFIX}prompt_token_ids"] = render_python(said.prompt_ids)
    if any(said.response_ids):
        made[f"{_RAW_PREFIX}response_token_ids"] = render_python(said.response_ids)
    fields = {**said.said, **said.request, **said.answer}
    for name, value in fields.items():
        key = _RAW_PREFIX + name_part(name)
        if key in made or value is None or not (full or name in {"model", "usage", "created", "object"}):
            continue
        if isinstance(value, str):
            put(made, key, value)
        else:
            made[key] = render_python(value)
    return made


def _chat_attributes(said: Conversation, *, full: bool) -> Attributes:
    made: Attributes = {}
    add_ids(made, said)
    add_logprobs(made, said, full=full)
    request = {name: value for name, value in said.request.items() if full or name in {"model", *_REQUEST}}
    flatten("agentlightning.operation.input", {**request, **({"messages": said.messages} if full else {})}, made)
    shown = ("model", "object", "created", "system_fingerprint", "service_tier", "usage")
    flatten("agentlightning.operation.output", {k: said.answer[k] for k in shown if k in said.answer}, made)
    made["agentlightning.operation.output.id"] = said.id
    for i, choice in enumerate(said.choices):
        prefix = f"agentlightning.operation.output.choices.{i}"
        kept = ("index", "finish_reason", "stop_reason", *(("message",) if full else ()))
        flatten(prefix, {k: choice[k] for k in kept if k in choice}, made)
        ids = said.response_ids[i]
        if ids and len(said.choices) > 1:
            made[f"{prefix}.token_ids"] = ids
    return made


def _tool_attributes(tool: Json) -> Attributes:
    function = tool.get("function")
    function = function if isinstance(function, dict) else {}
    return {
        "tool.name": _short(function.get("name") or ""),
        "tool.parameters": _arguments(function),
        "tool.call.id": _short(tool.get("id") or ""),
        "tool.call.type": _short(tool.get("type") or "function"),
    }


def _arguments(function: Json) -> str:
    found: Any = function.get("arguments")
    return cut(found) if isinstance(found, str) else render_json({} if found is None else found)


def _short(value: object) -> str:
    """Return what is a name or an id as a text, of a size that those have."""
    return cut(str(value), _NAME)
