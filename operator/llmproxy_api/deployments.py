"""API model of a deployment, one server of a model. The providers are in `llmproxy.providers`."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from llmproxy.providers import PROVIDERS, Protocol, Way, unusable
from llmproxy_api import model_params as params_of
from llmproxy_api.base import ApiModel, ListMap, Weight
from llmproxy_api.durations import Duration, longer_than_zero, seconds
from llmproxy_api.rules import Rule
from llmproxy_api.secret_refs import SecretSource

DEFAULT_TIMEOUT = "10m"

TRANSLATED = [name for name, row in PROVIDERS.items() if row.way is Way.TRANSLATED]
_OWN_SERVER = [name for name, row in PROVIDERS.items() if row.api_base is None]
_KEYLESS = [name for name, row in PROVIDERS.items() if row.key_optional]
_WITHOUT_TOKEN_IDS = [*TRANSLATED, *(n for n, row in PROVIDERS.items() if row.protocol is not Protocol.OPENAI)]
_HOST = r"([A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])"
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
URL = f"https?://{_HOST}(:{_PORT})?" + r'(/[!"$->@-~]*)?'
"""No user, password, query or fragment: addresses are readable by everybody."""
_OWN_HEADERS = (
    "accept-encoding", "connection", "content-length", "content-type", "expect", "host", "te", "trailer",
    "transfer-encoding", "upgrade",
)  # fmt: skip


def provider_is_in(names: Iterable[str], model: str = "self.model") -> str:
    """Return the CEL test of the provider of *model* against *names*: a list costs less than a pattern."""
    return f"{model}.split('/')[0] in [{', '.join(repr(name) for name in sorted(names))}]"


def _refuses(key: str, why: str) -> Rule:
    """Return the rule that `params` has no *key*."""
    return Rule(
        f"!has(self.params) || !has(self.params.{key})",
        why,
        lambda d: d.params is None or key not in d.params,
        f".params.{key}",
    )


def _at_most_timeout(name: str, attribute: str) -> Rule:
    """Return the rule that timeouts.*name* is at most the timeout of the attempt, which would end it first."""

    def holds(d: "Deployment") -> bool:
        bound = getattr(d.timeouts, attribute, None)
        return bound is None or seconds(bound) <= seconds(d.timeout or DEFAULT_TIMEOUT)

    return Rule(
        f"!has(self.timeouts) || !has(self.timeouts.{name}) || duration(self.timeouts.{name}) <= "
        f"duration(has(self.timeout) ? self.timeout : '{DEFAULT_TIMEOUT}')",
        f"must be at most timeout (default: {DEFAULT_TIMEOUT}), which bounds the whole attempt",
        holds,
        f".timeouts.{name}",
    )


class Timeouts(ApiModel):
    """Timeouts of the phases of an attempt. A timeout before the first byte of the response is retried."""

    connect: Duration | None = None
    """Connect timeout. Default: 5s."""
    first_byte: Duration | None = None
    """Time from the request to the first byte of the response body, in which a model thinks. Default: only `timeout`
    applies."""
    idle: Duration | None = None
    """Time between two chunks of a response, not counting the time that a slow caller takes. Default: only `timeout`
    applies."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        longer_than_zero("connect", "connect"),
        longer_than_zero("firstByte", "first_byte"),
        longer_than_zero("idle", "idle"),
    )


class UpstreamTLS(ApiModel):
    """TLS to the server of a deployment."""

    ca: SecretSource | None = None
    """Secret with the certificates (PEM) of the CAs that the server's certificate is checked by, in place of the
    system's. Default: the system's."""
    server_name: Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$")] | None = (
        None
    )
    """Name that the server's certificate must have, also sent as SNI. Default: the host of `apiBase`."""


class UpstreamHeader(ApiModel):
    """A header of every request to the server of a deployment."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern="^[a-z0-9][a-z0-9-]*$")]
    """Name of the header, in lower case: `x-org`."""
    value: SecretSource
    """Secret with the value of the header."""


class Deployment(ApiModel):
    """One server of a model. Requests are balanced over the deployments of a model by weight."""

    model: Annotated[str, Field(min_length=3, max_length=288, pattern="^[!-)+-~]+[*]?$")]
    """Provider and model, as in LiteLLM: `hosted_vllm/Qwen2.5-7B`, `openai/gpt-4o-mini`. Servers that speak the
    client's protocol, OpenAI's or Anthropic's, get its bytes; the gateway maps between the two; LiteLLM translates for
    providers with other protocols. A `*` at its end stands for the rest of the requested name, if the model's name ends
    with `*`. docs/providers.md lists all providers."""
    api_base: Annotated[str, Field(max_length=256, json_schema_extra={"pattern": f"^{URL}$"})] | None = None
    """Base URL of the server, to which `/chat/completions` or `/messages` is appended: `http://vllm:8000/v1`. Default:
    the provider's address. Required for providers without one, such as hosted_vllm, sglang, azure and openai_like."""
    api_key: SecretSource | None = None
    """API key of the server. Default: none is sent."""
    weight: Weight | None = None
    """Share of the requests among the deployments of the model. Default: 1. With 0 it is a standby, used only when no
    other deployment is available."""
    token_ids: bool | None = None
    """Request token ids from the server, which trainers need. Default: true for hosted_vllm and vllm, else false."""
    tls: UpstreamTLS | None = None
    """TLS to a server at an `https` address in `apiBase`: an own CA, another server name. Default: the system's CAs."""
    headers: Annotated[tuple[UpstreamHeader, ...], Field(max_length=16, strict=False), ListMap("name")] | None = None
    """Headers of every request to the server, with values from Secrets. Default: none."""
    timeout: Duration | None = None
    """Timeout of one attempt, from the request to the last byte of the response. Default: 10m."""
    timeouts: Timeouts | None = None
    """Timeouts of the phases of an attempt: connect, first byte, idle; each at most `timeout`. Default: connect 5s."""
    params: (
        Annotated[
            dict[str, Any],
            BeforeValidator(params_of.without_nulls),
            WithJsonSchema(params_of.schema()),
        ]
        | None
    ) = None
    """Defaults for fields of the request body, such as `temperature` or `top_p`; the client's values win."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.model.matches('^[^/]+/.') && {provider_is_in(PROVIDERS)}",
            "must be provider/name with a provider of docs/providers.md; another server that speaks OpenAI's protocol "
            "is openai_like/NAME with apiBase",
            lambda d: _provider_of(d) in PROVIDERS and not d.model.endswith("/"),
            ".model",
            lambda d: unusable(d.model),
        ),
        Rule(
            "",  # the API server checks the schema's pattern: for this many deployments a rule costs too much
            "must be a URL such as http://vllm:8000/v1, without user, password, query or fragment",
            lambda d: d.api_base is None or re.fullmatch(URL, d.api_base) is not None,
            ".apiBase",
        ),
        Rule(
            f"has(self.apiBase) || !({provider_is_in(_OWN_SERVER)})",
            f"is required for the providers {', '.join(sorted(_OWN_SERVER))}, which have no default address",
            lambda d: _provider_of(d) not in _OWN_SERVER or d.api_base is not None,
            ".apiBase",
        ),
        Rule(
            f"has(self.apiKey) || has(self.apiBase) || {provider_is_in(_KEYLESS)}",
            "is required to call the provider at its default address: name a Secret in apiKey.secretKeyRef",
            lambda d: d.api_key is not None or d.api_base is not None or _provider_of(d) in _KEYLESS,
            ".apiKey",
        ),
        Rule(
            f"!has(self.tokenIds) || !self.tokenIds || (has(self.apiBase) && !({provider_is_in(_WITHOUT_TOKEN_IDS)}))",
            "can be true only for a server at apiBase that speaks vLLM's protocol: leave it out",
            lambda d: not d.token_ids or (d.api_base is not None and _provider_of(d) not in _WITHOUT_TOKEN_IDS),
            ".tokenIds",
        ),
        Rule(
            "!has(self.tls) || (has(self.apiBase) && self.apiBase.startsWith('https://'))",
            "requires an apiBase that begins with https://",
            lambda d: d.tls is None or (d.api_base or "").startswith("https://"),
            ".tls",
        ),
        Rule(
            f"!(has(self.tls) || has(self.headers)) || !({provider_is_in(TRANSLATED)})",
            "tls and headers are not for providers that LiteLLM translates: use pod.env",
            lambda d: (d.tls is None and d.headers is None) or _provider_of(d) not in TRANSLATED,
        ),
        longer_than_zero("timeout", "timeout"),
        _at_most_timeout("connect", "connect"),
        _at_most_timeout("firstByte", "first_byte"),
        _at_most_timeout("idle", "idle"),
        *(_refuses(key, why) for key, why in sorted(params_of.DENIED.items())),
    )

    @property
    def header_problem(self) -> str | None:
        """The problem of a header that the proxy sets itself, None without one; in CEL it would cost too much."""
        own = {*_OWN_HEADERS, *(("authorization", "x-api-key") if self.api_key is not None else ())}
        name = next((header.name for header in self.headers or () if header.name in own), None)
        return None if name is None else f"{name!r} is a header that the proxy sets itself: leave it out"

    @property
    def secrets(self) -> tuple[SecretSource, ...]:
        """Sources of the key, the CA and the headers."""
        key = () if self.api_key is None else (self.api_key,)
        ca = () if self.tls is None or self.tls.ca is None else (self.tls.ca,)
        return (*key, *ca, *(header.value for header in self.headers or ()))

    @property
    def translated(self) -> bool:
        """True if LiteLLM translates for it."""
        return _provider_of(self) in TRANSLATED


def _provider_of(deployment: Deployment) -> str:
    return deployment.model.partition("/")[0]
