"""Spans of a call for Agent-Lightning. Pure: a record in, spans out.

    litellm_request            everything: gen_ai.*, token ids, usage; each try as an event; the root
      raw_gen_ai_request       fields of request and answer, as LiteLLM writes them: llm.hosted_vllm.*
      openai.chat.completion   token ids, agentlightning.operation.*, nothing of gen_ai.*
      tool_call                one for each tool that the first choice calls: tool.*

`LlmProxyTraceToTriplet`, `TracerTraceToTriplet` and `TraceToMessages` of agentlightning 0.3.0 each derive exactly one
result a call from this shape at their defaults. A failed call, and one of embeddings, is its root alone, under names
that no adapter reads; so is one without token ids that were requested, since a trainer would learn from nothing.
"""

import functools
import hashlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from llmproxy import shipping_protocol
from llmproxy.protocols.normalize import anthropic, responses
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
from llmproxy.shipper.spans.exchange import ChatExchange, read_exchange
from llmproxy.shipper.spans.otlp import Span, SpanEvent
from llmproxy.shipper.spool.records import SpoolRecord

log = logging.getLogger("llmproxy.shipper")

Content = Literal["Full", "TokensOnly"]

ROOT = "litellm_request"
RAW = "raw_gen_ai_request"
CHAT = "openai.chat.completion"
TOOL = "tool_call"
WITHOUT_IDS = "llmproxy.token_ids_missing"
_OPENAI_FIELDS = frozenset({
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "messages", "metadata", "modalities", "model", "n", "parallel_tool_calls", "prediction",
    "presence_penalty", "prompt", "reasoning_effort", "response_format", "seed", "service_tier", "stop", "store",
    "stream", "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
    "web_search_options",
})  # fmt: skip
"""Fields of OpenAI's API; LiteLLM sends all others of a request as its client's `extra_body`."""
_RAW_PREFIX = "llm.hosted_vllm."
"""The same for every provider: agentlightning's adapter reads no other."""
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
_MAX_NAME = 4096
"""Characters of a name or an id."""
_MAX_ERROR_BODY = 4096
"""Characters of an error's body."""


class AgentLightningEncoder:
    """Encoder of calls for the LightningStore of one proxy."""

    def __init__(
        self, *, name: str, namespace: str, content: Content = "Full", token_id_deployments: Iterable[str] = ()
    ) -> None:
        """*token_id_deployments* are asked for token ids in every call."""
        self._resource: Attributes = {"service.name": name, "service.namespace": namespace}
        self._content: Content = content
        self._token_id_deployments = frozenset(token_id_deployments)
        self._deployments_logged: set[str] = set()
        self.on_missing_token_ids: Callable[[], None] = lambda: None
        """Called for each record whose answer lacks token ids that were requested."""

    def encode(self, record: SpoolRecord) -> list[bytes]:
        """Return each span of *record*, encoded with its resource: the same bytes for the same record."""
        try:
            deployment = record.call.tries[-1].deployment if record.call.tries else ""
            spans = spans_of(record, self._content, token_ids=deployment in self._token_id_deployments)
            if WITHOUT_IDS in spans[0].attributes and not record.tries:
                self._report_missing(record, deployment)
        except Exception:  # no answer of a provider may stop the delivery of other calls
            log.exception("call_not_encoded", extra={"call": call_name(record)})
            spans = [_root(record, common_attributes(record), error="not_encoded")]
        call = record.call
        resource = {
            **self._resource,
            "agentlightning.rollout_id": call.rollout_id,
            "agentlightning.attempt_id": call.attempt_id,
            "agentlightning.span_sequence_id": record.sequence_id,
        }
        return otlp.encode(resource, spans)

    def _report_missing(self, record: SpoolRecord, deployment: str) -> None:
        self.on_missing_token_ids()
        if deployment not in self._deployments_logged:
            self._deployments_logged.add(deployment)
            reason = "its answer has no token ids, so no trainer is given the call"
            advice = "serve the model with vLLM 0.10.2 or newer, or set tokenIds: false for the deployment"
            extra = {"call": call_name(record), "deployment": deployment, "route": record.call.route}
            log.warning("token_ids_missing", extra={**extra, "reason": reason, "advice": advice})


def call_name(record: SpoolRecord) -> str:
    """Return the name of a call in logs and spans."""
    return f"{record.gateway}/{record.call.call_id}"


def span_id(record: SpoolRecord, part: str) -> bytes:
    """Return the id of a span of *record*: derived, so that a store recognizes a repeated delivery."""
    return _digest(f"{call_name(record)}/{part}")[:8]


def trace_id(record: SpoolRecord) -> bytes:
    """Return the trace id, one for all calls of an attempt, or one for a call without a rollout."""
    name = f"{record.call.rollout_id}\0{record.call.attempt_id}" if record.call.rollout_id else call_name(record)
    return _digest(name)[:16]


@functools.lru_cache(maxsize=1024)
def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def spans_of(record: SpoolRecord, content: Content, *, token_ids: bool = False) -> list[Span]:
    """Return the spans of *record*, the root first. With *token_ids* its deployment is asked for them."""
    call = to_chat_completion(record.call)
    common = common_attributes(record)
    full = content == "Full"
    request = parse(call.request)
    request = request if isinstance(request, dict) else {}
    if not is_answered(call):
        if full:
            add_bodies(common, call)
        return [_root(record, common, error=call.error or f"http_{call.status}")]
    answer = read_answer(call.response, streamed=call.streamed)
    if call.route == "embeddings":
        if full and request:
            common["llmproxy.request"] = render_json(request)
        _add_usage(common, answer or {}, prefix="llmproxy.usage.")
        return [_root(record, common)]
    if answer is None or not isinstance(answer.get("choices"), list) or not answer["choices"]:
        if full:
            add_bodies(common, call)
        return [_root(record, common, error="unexpected_answer")]
    exchange = read_exchange(request, answer, missing_id=f"chatcmpl-{span_id(record, 'id').hex()}")
    if _lacks_token_ids(request, exchange, expected=token_ids):
        common[WITHOUT_IDS] = True
        if full:
            add_bodies(common, call)
        _add_usage(common, answer, prefix="llmproxy.usage.")
        return [_root(record, common)]
    root = _root(record, {**common, **_root_attributes(call, exchange, full=full)})
    tools = exchange.tool_calls if full else []
    return [
        root,
        _child(record, RAW, _raw_attributes(exchange, full=full)),
        _child(record, CHAT, _chat_attributes(exchange, full=full)),
        *(_child(record, TOOL, _tool_attributes(tool), part=f"{TOOL}.{i}") for i, tool in enumerate(tools)),
    ]


def _lacks_token_ids(request: Json, exchange: ChatExchange, *, expected: bool) -> bool:
    """Return True if token ids were requested, by the body that was sent or by the deployment, and are not there."""
    if not request.get("return_token_ids", expected):
        return False
    usage = exchange.answer.get("usage")
    is_empty = isinstance(usage, dict) and usage.get("completion_tokens") == 0
    return not exchange.prompt_ids or not (exchange.response_ids[0] or is_empty)


def to_chat_completion(call: shipping_protocol.CallRecord) -> shipping_protocol.CallRecord:
    """Return an answered Messages or Responses call as a chat completion: adapters know no other."""
    if not is_answered(call):
        return call
    if call.route == "responses":
        return _of_responses(call)
    if call.route != "messages":
        return call
    answer = anthropic.answer(call.response, call.started_ns // 10**9, streamed=call.streamed)
    return msgspec.structs.replace(call, request=anthropic.request(call.request), response=answer)


def _of_responses(call: shipping_protocol.CallRecord) -> shipping_protocol.CallRecord:
    request = parse(call.request)
    answer = responses.of_events(events(call.response)) if call.streamed else parse(call.response)
    return msgspec.structs.replace(
        call,
        request=msgspec.json.encode(responses.request(request)) if isinstance(request, dict) else call.request,
        response=msgspec.json.encode(responses.answer(answer)) if isinstance(answer, dict) else call.response,
    )


def is_answered(call: shipping_protocol.CallRecord) -> bool:
    """Return True if the call succeeded."""
    return not call.error and 200 <= call.status < 300  # noqa: PLR2004 - the class of successes


def common_attributes(record: SpoolRecord) -> Attributes:
    """Return the attributes of every call, under names that no adapter reads."""
    call = record.call
    attributes: Attributes = {
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
        attributes["llmproxy.sequenced_late"] = True
    if call.error:
        attributes["llmproxy.error"] = call.error
    if call.tries:
        attributes["llmproxy.deployment"] = call.tries[-1].deployment
    if call.first_byte_ns:
        attributes["llmproxy.time_to_first_byte_s"] = max(0.0, (call.first_byte_ns - call.started_ns) / 1e9)
    return attributes


def add_bodies(target: Attributes, call: shipping_protocol.CallRecord) -> None:
    """Add request and response to the attributes of a failed call."""
    request = parse(call.request)
    if request is not None:
        target["llmproxy.request"] = render_json(request)
    if call.response:
        target["llmproxy.response"] = call.response[:_MAX_ERROR_BODY].decode(errors="replace")


def _root(record: SpoolRecord, attributes: Attributes, error: str = "") -> Span:
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


def try_event(item: shipping_protocol.Try) -> SpanEvent:
    """Return the span event of one request to an upstream."""
    attributes: Attributes = {
        "deployment": item.deployment,
        "status": item.status,
        "duration_s": max(0.0, (item.ended_ns - item.started_ns) / 1e9),
    }
    if item.error:
        attributes["error"] = item.error
    return SpanEvent("try", item.started_ns, attributes)


def _child(record: SpoolRecord, name: str, attributes: Attributes, *, part: str = "") -> Span:
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


def _root_attributes(call: shipping_protocol.CallRecord, exchange: ChatExchange, *, full: bool) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": call.provider or "openai",
        "gen_ai.request.model": call.upstream_model or call.model,
        "gen_ai.response.id": exchange.id,
        "llm.is_streaming": call.streamed,
    }
    put(attributes, "gen_ai.response.model", exchange.answer.get("model"))
    put_each(attributes, "gen_ai.request.", exchange.request, (*_REQUEST, "stop") if full else _REQUEST)
    if exchange.finish_reasons:
        attributes["gen_ai.response.finish_reasons"] = exchange.finish_reasons
    _add_usage(attributes, exchange.answer, prefix="gen_ai.usage.")
    add_ids(attributes, exchange)
    add_logprobs(attributes, exchange, full=full)
    if full:
        for i, message in enumerate(exchange.messages):
            _add_message(attributes, f"gen_ai.prompt.{i}", message)
        for i, choice in enumerate(exchange.choices):
            answer = choice.get("message")
            _add_message(attributes, f"gen_ai.completion.{i}", answer if isinstance(answer, dict) else {})
            put(attributes, f"gen_ai.completion.{i}.finish_reason", choice.get("finish_reason"))
        for i, function in enumerate(exchange.functions):
            prefix = f"gen_ai.request.functions.{i}"
            put(attributes, f"{prefix}.name", function.get("name"))
            put(attributes, f"{prefix}.description", function.get("description"))
            attributes[f"{prefix}.parameters"] = render_json(function.get("parameters") or {})
    return attributes


def _add_message(target: Attributes, prefix: str, message: Json) -> None:
    """Add a message under the attribute names that agentlightning 0.3.0 reads."""
    target[f"{prefix}.role"] = _short(message.get("role") or "assistant")
    content = message.get("content")
    if isinstance(content, str):
        put(target, f"{prefix}.content", content)
    elif content is not None:
        target[f"{prefix}.content"] = render_json(content)
    put_each(target, f"{prefix}.", message, ("name", "tool_call_id", "refusal", "reasoning_content"))
    tools = message.get("tool_calls")
    for i, call in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(call, dict):
            continue
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        target[f"{prefix}.tool_calls.{i}.id"] = _short(call.get("id") or "")
        target[f"{prefix}.tool_calls.{i}.name"] = _short(function.get("name") or "")
        target[f"{prefix}.tool_calls.{i}.arguments"] = _arguments(function)


def _add_usage(target: Attributes, answer: Json, *, prefix: str) -> None:
    usage = answer.get("usage")
    if isinstance(usage, dict):
        put_each(target, prefix, usage, ("prompt_tokens", "completion_tokens"))
        total = "llm.usage.total_tokens" if prefix.startswith("gen_ai") else f"{prefix}total_tokens"
        put(target, total, usage.get("total_tokens"))


def add_ids(target: Attributes, exchange: ChatExchange) -> None:
    """Add the token ids of the prompt and of the first choice."""
    if exchange.prompt_ids:
        target["prompt_token_ids"] = exchange.prompt_ids
    if exchange.response_ids and exchange.response_ids[0]:
        target["response_token_ids"] = exchange.response_ids[0]


def add_logprobs(target: Attributes, exchange: ChatExchange, *, full: bool) -> None:
    """Add the log-probabilities of the first choice's tokens."""
    tokens = exchange.logprobs
    if tokens:
        target["logprobs.content"] = render_json(
            tokens if full else [{"logprob": item.get("logprob")} for item in tokens]
        )


def _raw_attributes(exchange: ChatExchange, *, full: bool) -> Attributes:
    attributes: Attributes = {f"{_RAW_PREFIX}id": exchange.id}
    if exchange.prompt_ids:
        attributes[f"{_RAW_PREFIX}prompt_token_ids"] = render_python(exchange.prompt_ids)
    if any(exchange.response_ids):
        attributes[f"{_RAW_PREFIX}response_token_ids"] = render_python(exchange.response_ids)
    extra_body = {name: value for name, value in exchange.request.items() if name not in _OPENAI_FIELDS}
    if full and extra_body:
        attributes[f"{_RAW_PREFIX}extra_body"] = render_python(extra_body)
    fields = {**exchange.input, **exchange.request, **exchange.answer}
    for name, value in fields.items():
        key = _RAW_PREFIX + name_part(name)
        if key in attributes or value is None or not (full or name in {"model", "usage", "created", "object"}):
            continue
        if isinstance(value, str):
            put(attributes, key, value)
        else:
            attributes[key] = render_python(value)
    return attributes


def _chat_attributes(exchange: ChatExchange, *, full: bool) -> Attributes:
    attributes: Attributes = {}
    add_ids(attributes, exchange)
    add_logprobs(attributes, exchange, full=full)
    request = {name: value for name, value in exchange.request.items() if full or name in {"model", *_REQUEST}}
    flatten(
        "agentlightning.operation.input", {**request, **({"messages": exchange.messages} if full else {})}, attributes
    )
    answer_fields = ("model", "object", "created", "system_fingerprint", "service_tier", "usage")
    flatten(
        "agentlightning.operation.output",
        {k: exchange.answer[k] for k in answer_fields if k in exchange.answer},
        attributes,
    )
    attributes["agentlightning.operation.output.id"] = exchange.id
    for i, choice in enumerate(exchange.choices):
        prefix = f"agentlightning.operation.output.choices.{i}"
        choice_fields = ("index", "finish_reason", "stop_reason", *(("message",) if full else ()))
        flatten(prefix, {k: choice[k] for k in choice_fields if k in choice}, attributes)
        ids = exchange.response_ids[i]
        if ids:  # LiteLLM's place for them
            attributes[f"{prefix}.provider_specific_fields.token_ids"] = ids
        if ids and len(exchange.choices) > 1:
            attributes[f"{prefix}.token_ids"] = ids
    return attributes


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
    arguments: Any = function.get("arguments")
    return cut(arguments) if isinstance(arguments, str) else render_json({} if arguments is None else arguments)


def _short(value: object) -> str:
    """Return a name or an id as a text of bounded length."""
    return cut(str(value), _MAX_NAME)
