"""How each provider is reached: one row each, under LiteLLM's name for it.

Read by the gateway (where to send a call), by the translator (what it must serve) and by the operator (whether a pod
needs a translator, and what to tell the author of a model nobody can reach). A new provider is one row here.
"""

from dataclasses import dataclass
from enum import Enum


class Way(Enum):
    """Which road a call takes."""

    NATIVE = "native"
    """The gateway speaks the provider's protocol, OpenAI's or Anthropic's."""
    TRANSLATED = "translated"
    """The call goes through the translator, which speaks the provider's own protocol by LiteLLM."""


class Protocol(Enum):
    """What a provider's server speaks; a translated one is met through the translator, which speaks OpenAI's."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class Provider:
    """One row of the table."""

    name: str
    way: Way
    api_base: str | None = None
    """The provider's own address, up to where `/chat/completions` or `/messages` begins; None: a deployment must say
    its apiBase."""
    token_ids: bool = False
    """Whether its server understands `return_token_ids`; asked for by default then."""
    key_optional: bool = False
    """Whether it serves without a key."""
    protocol: Protocol = Protocol.OPENAI
    stream_options: bool = True
    """Whether a stream may be asked for its usage by `stream_options`; one that may not tells it unasked."""
    output_limit: str = "max_tokens"
    """Which field bounds an answer, when an Anthropic client's call is mapped."""
    reasoning_content: bool = False
    """Whether an assistant's message may carry `reasoning_content`: its chat templates see earlier thinking then."""
    cache_control: bool = False
    """Whether it understands Anthropic's `cache_control` in parts of OpenAI's messages."""


def _native(name: str, api_base: str) -> Provider:
    return Provider(name, Way.NATIVE, api_base)


_TABLE = (
    Provider("openai", Way.NATIVE, "https://api.openai.com/v1", output_limit="max_completion_tokens"),
    Provider("anthropic", Way.NATIVE, "https://api.anthropic.com/v1", protocol=Protocol.ANTHROPIC),
    # Servers that people run themselves: no address of their own, usually no key.
    Provider("hosted_vllm", Way.NATIVE, token_ids=True, key_optional=True, reasoning_content=True),
    # ours: LiteLLM's `vllm` runs in its process
    Provider("vllm", Way.NATIVE, token_ids=True, key_optional=True, reasoning_content=True),
    Provider("sglang", Way.NATIVE, key_optional=True, reasoning_content=True),  # ours: LiteLLM has no name for SGLang
    Provider("openai_like", Way.NATIVE, key_optional=True),
    # Addresses as LiteLLM 1.106.2 has them.
    _native("cerebras", "https://api.cerebras.ai/v1"),
    Provider("deepseek", Way.NATIVE, "https://api.deepseek.com/beta", reasoning_content=True),
    _native("fireworks_ai", "https://api.fireworks.ai/inference/v1"),
    _native("groq", "https://api.groq.com/openai/v1"),
    # Its schema forbids fields that it does not know.
    Provider("mistral", Way.NATIVE, "https://api.mistral.ai/v1", stream_options=False),
    Provider("openrouter", Way.NATIVE, "https://openrouter.ai/api/v1", cache_control=True),
    _native("together_ai", "https://api.together.xyz/v1"),
    _native("xai", "https://api.x.ai/v1"),
    # Providers with a protocol of their own, which LiteLLM speaks.
    Provider("gemini", Way.TRANSLATED, api_base="https://generativelanguage.googleapis.com"),
    Provider("cohere", Way.TRANSLATED, api_base="https://api.cohere.com"),
)

PROVIDERS: dict[str, Provider] = {row.name: row for row in _TABLE}


class UnknownProviderError(Exception):
    """No row has the name; the message lists those there are."""


def split(model: str) -> tuple[Provider, str]:
    """Return the provider and its own name of *model* (`provider/name`); raise UnknownProviderError."""
    name, slash, rest = model.partition("/")
    provider = PROVIDERS.get(name)
    if not slash or not rest or provider is None:
        known = ", ".join(sorted(PROVIDERS))
        raise UnknownProviderError(f"model {model!r} must be provider/name with one of the providers {known}")
    return provider, rest
