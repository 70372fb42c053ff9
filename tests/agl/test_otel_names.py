"""Every name of `gen_ai.*` that a collector is sent is one of OpenTelemetry's, and none that it has given up."""

import pytest
from opentelemetry.semconv._incubating.attributes import error_attributes, gen_ai_attributes

import spanrig
from llmproxy.shipper.spans import otel_genai
from llmproxy.shipper.spool.records import SpoolRecord

GIVEN_UP = {
    "gen_ai.completion",
    "gen_ai.prompt",
    "gen_ai.system",
    "gen_ai.usage.completion_tokens",
    "gen_ai.usage.prompt_tokens",
}
REQUEST = (
    b'{"model": "m", "n": 2, "stop": ["x"], "seed": 1, "top_k": 2, "top_p": 0.5, "temperature": 1, "max_tokens": 3,'
    b'"frequency_penalty": 1, "presence_penalty": 1, "encoding_format": "float", "dimensions": 4,'
    b'"response_format": {"type": "text"}, "tools": [{"function": {"name": "f"}}],'
    b'"messages": [{"role": "user", "content": "hi"}]}'
)
RESPONSE = (
    b'{"id": "x", "model": "m", "choices": [{"finish_reason": "stop", "message": {"content": "a"}}], "usage":'
    b'{"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1},'
    b'"completion_tokens_details": {"reasoning_tokens": 1}}}'
)


@pytest.mark.agl
def test_every_name_is_opentelemetrys() -> None:
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    call = spanrig.a_call(1, "ro", request=REQUEST, response=RESPONSE)
    failed = spanrig.a_call(1, "ro", status=500, error="http_500", route="embeddings")
    used = {
        name for made in (call, failed) for name in otel_genai.span_of(SpoolRecord("gw", 1, made), "Full").attributes
    }
    ours = {name for name in used if name.startswith("gen_ai.")}
    assert len(ours) > 20
    assert ours <= known - GIVEN_UP
    assert error_attributes.ERROR_TYPE in used
    providers = {item.value for item in gen_ai_attributes.GenAiProviderNameValues}
    assert set(otel_genai._PROVIDERS.values()) <= providers
    operations = {item.value for item in gen_ai_attributes.GenAiOperationNameValues}
    assert {*otel_genai._OPERATIONS.values(), "chat"} <= operations
