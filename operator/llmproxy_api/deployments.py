"""One place that serves a model: provider, address, key, weight, times. Which providers there are is `providers`'s."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from llmproxy.providers import PROVIDERS, Protocol, Way, unusable
from llmproxy_api import model_params as params_of
from llmproxy_api.base import Part, Weight
from llmproxy_api.durations import Duration, seconds
from llmproxy_api.rules import Rule, longer_than_zero, optional_matches
from llmproxy_api.secret_refs import SecretSource

DEFAULT_TIMEOUT = "10m"

TRANSLATED = [name for name, row in PROVIDERS.items() if row.way is Way.TRANSLATED]
_OWN_SERVER = [name for name, row in PROVIDERS.items() if row.api_base is None]
_KEYLESS = [name for name, row in PROVIDERS.items() if row.key_optional]
_WITHOUT_TOKEN_IDS = [*TRANSLATED, *(n for n, row in PROVIDERS.items() if row.protocol is not Protocol.OPENAI)]
_HOST = r"([A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])"
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
URL = f"https?://{_HOST}(:{_PORT})?" + r'(/[!"$->@-~]*)?'
"""No user, password, query or fragment: what stands in an address is readable by everybody."""


def provider_in(names: Iterable[str], model: str = "self.model") -> str:
    """Return CEL for whether the provider of *model* is one of *names*: a list is cheaper than a pattern."""
    return f"{model}.split('/')[0] in [{', '.join(repr(name) for name in sorted(names))}]"


def _refuses(key: str, why: str) -> Rule:
    """`params` has no *key*."""
    return Rule(
        f"!has(self.params) || !has(self.params.{key})",
        why,
        lambda d: d.params is None or key not in d.params,
        f".params.{key}",
    )


def _within_the_try(name: str, attribute: str) -> Rule:
    """A bound of a part of the try, if it is given, is no longer than the try may take: it would never be met."""

    def holds(d: "Deployment") -> bool:
        given = getattr(d.timeouts, attribute, None)
        return given is None or seconds(given) <= seconds(d.timeout or DEFAULT_TIMEOUT)

    return Rule(
        f"!has(self.timeouts) || !has(self.timeouts.{name}) || duration(self.timeouts.{name}) <= "
        f"duration(has(self.timeout) ? self.timeout : '{DEFAULT_TIMEOUT}')",
        f"must be at most timeout (default: {DEFAULT_TIMEOUT}), which bounds the whole try",
        holds,
        f".timeouts.{name}",
    )


class Timeouts(Part):
    """Bounds of the parts of a try. A try that ends by one is repeated if no byte of an answer has come."""

    connect: Duration | None = None
    """How long a connection may take. Default: 5s."""
    first_byte: Duration | None = None
    """How long the first byte of an answer's body may take, from the request on: a model thinks in this time.
    Default: no bound but `timeout`."""
    idle: Duration | None = None
    """How long an answer may pause between two parts, not counting while its caller is slow. Default: no bound but
    `timeout`."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        longer_than_zero("connect", "connect"),
        longer_than_zero("firstByte", "first_byte"),
        longer_than_zero("idle", "idle"),
    )


class Deployment(Part):
    """One place that serves a model. Calls are spread over the deployments of a model by weight."""

    model: Annotated[str, Field(min_length=3, max_length=128, pattern="^[!-~]+$")]
    """Provider and its own name of the model, as LiteLLM writes it: `hosted_vllm/Qwen2.5-7B`, `openai/gpt-4o-mini`.
    Servers that speak the client's protocol, OpenAI's or Anthropic's, get its bytes; between the two the gateway maps;
    LiteLLM translates for providers with a protocol of their own. docs/providers.md has them all."""
    api_base: Annotated[str, Field(max_length=256)] | None = None
    """URL of the server, up to where `/chat/completions` or `/messages` begins: `http://vllm:8000/v1`. Default: the
    provider's own address. Needed by those that have none, such as hosted_vllm, sglang, azure and openai_like."""
    api_key: SecretSource | None = None
    """The key to call the server with. Default: none is sent."""
    weight: Weight | None = None
    """Share of the calls among the deployments of the model. Default: 1. With 0 it is used only when no
    other is left."""
    token_ids: bool | None = None
    """Ask the server for token ids, which trainers need. Default: true for hosted_vllm and vllm, else false."""
    timeout: Duration | None = None
    """How long one try may take, from the request to its last byte. Default: 10m."""
    timeouts: Timeouts | None = None
    """How long the parts of one try may take: its connection, its first byte, its pauses; none longer than timeout.
    Default: connect 5s."""
    params: (
        Annotated[
            dict[str, Any],
            BeforeValidator(params_of.without_nulls),
            WithJsonSchema(params_of.schema()),
        ]
        | None
    ) = None
    """Defaults for fields of the request body, such as `temperature` or `top_p`; what the client sends wins."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.model.matches('^[^/]+/.') && {provider_in(PROVIDERS)}",
            "must be provider/name with a provider of docs/providers.md; another server that speaks OpenAI's protocol "
            "is openai_like/NAME with apiBase",
            lambda d: _provider_of(d) in PROVIDERS and not d.model.endswith("/"),
            ".model",
            lambda d: unusable(d.model),
        ),
        optional_matches(
            "apiBase",
            "api_base",
            URL,
            "must be a URL such as http://vllm:8000/v1, without user, password, query or fragment",
        ),
        Rule(
            f"has(self.apiBase) || !({provider_in(_OWN_SERVER)})",
            f"is needed by the providers {', '.join(sorted(_OWN_SERVER))}, which have no address of their own",
            lambda d: _provider_of(d) not in _OWN_SERVER or d.api_base is not None,
            ".apiBase",
        ),
        Rule(
            f"has(self.apiKey) || has(self.apiBase) || {provider_in(_KEYLESS)}",
            "is needed to call the provider at its own address: name a Secret in apiKey.secretKeyRef",
            lambda d: d.api_key is not None or d.api_base is not None or _provider_of(d) in _KEYLESS,
            ".apiKey",
        ),
        Rule(
            f"!has(self.tokenIds) || !self.tokenIds || (has(self.apiBase) && !({provider_in(_WITHOUT_TOKEN_IDS)}))",
            "can be true only for a server at apiBase that speaks vLLM's protocol: leave it out",
            lambda d: not d.token_ids or (d.api_base is not None and _provider_of(d) not in _WITHOUT_TOKEN_IDS),
            ".tokenIds",
        ),
        longer_than_zero("timeout", "timeout"),
        _within_the_try("connect", "connect"),
        _within_the_try("firstByte", "first_byte"),
        _within_the_try("idle", "idle"),
        *(_refuses(key, why) for key, why in sorted(params_of.DENIED.items())),
    )

    @property
    def translated(self) -> bool:
        """Whether LiteLLM must translate for it."""
        return _provider_of(self) in TRANSLATED


def _provider_of(deployment: Deployment) -> str:
    return deployment.model.partition("/")[0]
