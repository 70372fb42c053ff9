"""Contract document of a proxy, and the hashes that name it and roll its pods.

The only translation of the resource into the contract; defaults are filled in here.
"""

import hashlib
import hmac
from collections.abc import Mapping

from llmproxy import contract, providers
from llmproxy_api import LLMProxy, Problem, SpecError, deployments, limits, models, quantities
from llmproxy_api.durations import seconds
from llmproxy_api.scaling import MAX_REPLICAS
from llmproxy_api.secret_refs import SecretSource
from llmproxy_api.spans import DEFAULT_ACK_WAIT, DEFAULT_SPOOL_SIZE, Otlp, Spans
from llmproxy_operator import names

SecretRef = tuple[str, str]
"""Name of a Secret and key in it."""

MAX_DOCUMENT_BYTES = 1_000_000
"""A ConfigMap holds 1 MiB."""

LIMITS_URL = "LIMITS_URL"
LIMITS_CA = "LIMITS_CA"
"""Environment variables of the gateway: URL of the store of shared limits, and the CA of its certificate."""
MAX_SURGE = 1
"""Pods of a roll beyond the desired number."""

_STEPS = (4, 8, 16, 32, MAX_REPLICAS + MAX_SURGE)

_HASH_CHARS = 16
_DOCUMENT_HASH_CHARS = 10


def document(proxy: LLMProxy) -> contract.Document:
    """Return the contract document of *proxy*; raise SpecError for two equal names, and above a ConfigMap's size."""
    spec = proxy.spec
    _check_aliases(spec)
    _check_headers(spec)
    fallbacks = {item.model: item.to for item in spec.fallbacks or ()}
    contents = contract.Document(
        proxy=contract.Proxy(name=proxy.metadata.name, namespace=proxy.metadata.namespace),
        models=tuple(_model(model, fallbacks.get(model.name, ())) for model in spec.models),
        rate_limits=_limits(spec.rate_limits),
        overflow=_overflow(spec.rate_limits),
        retries=_retries(spec.retries or models.Retries()),
        spans=None if spec.spans is None else _spans(proxy, spec.spans),
        translation=_translation(spec.litellm),
        require_api_key=client_secret(proxy) is not None,
        forward_headers=spec.forward_headers,
        drain_timeout_s=drain_timeout_s(spec),
        shared_limits=_shared(proxy),
    )
    size = len(contents.to_json().encode())
    if size > MAX_DOCUMENT_BYTES:
        message = f"makes a configuration of {size} bytes, {MAX_DOCUMENT_BYTES} fit: shorten params"
        raise SpecError((Problem("spec.models", message),))
    return contents


def _check_aliases(spec: models.Spec) -> None:
    """Raise SpecError for an alias that is another name; CEL is too expensive over this many models."""
    names = {model.name for model in spec.models}
    problems = []
    for i, model in enumerate(spec.models):
        for j, alias in enumerate(model.aliases or ()):
            if alias in names:
                problems.append(Problem(f"spec.models[{i}].aliases[{j}]", f"{alias!r} is the name of another model"))
            names.add(alias)
    if problems:
        raise SpecError(tuple(problems))


def _check_headers(spec: models.Spec) -> None:
    """Raise SpecError for a header of a deployment that the proxy sets itself."""
    problems = [
        Problem(f"spec.models[{i}].deployments[{j}].headers", item.header_problem)
        for i, model in enumerate(spec.models)
        for j, item in enumerate(model.deployments)
        if item.header_problem is not None
    ]
    if problems:
        raise SpecError(tuple(problems))


def document_hash(text: str) -> str:
    """Return the hash of a document for the name of its ConfigMap."""
    return hashlib.sha256(text.encode()).hexdigest()[:_DOCUMENT_HASH_CHARS]


def config_hash(document: contract.Document, secret_digests: Mapping[SecretRef, str]) -> str:
    """Return the hash of the document and the contents of its Secrets; a new one rolls the pods."""
    digest = hashlib.sha256(document.to_json().encode())
    for (name, key), content in sorted(secret_digests.items()):
        digest.update(f"{name}\0{key}\0{content}\0".encode())
    return digest.hexdigest()[:_HASH_CHARS]


def secret_digest(uid: str, content: bytes) -> str:
    """Return the digest of *content* of a Secret of the proxy *uid*.

    Keyed by the uid, so that the annotations of pods do not show that two proxies have the same Secret.
    """
    return hmac.new(uid.encode(), content, hashlib.sha256).hexdigest()


def secret_references(proxy: LLMProxy) -> tuple[SecretRef, ...]:
    """Return every (Secret, key) that *proxy* names, once, in a stable order."""
    keys = {ref for _, ref in keyed_deployments(proxy)}
    others = {*store_references(proxy).values(), *environment_references(proxy).values(), *header_references(proxy)}
    return tuple(sorted(keys | others))


def digested(proxy: LLMProxy) -> tuple[SecretRef, ...]:
    """Return every (Secret, key) whose content rolls the pods: those that *proxy* names, and the store's password."""
    own = (names.peers(proxy.metadata.name), names.LIMITS_PASSWORD_KEY)
    return (*secret_references(proxy), *((own,) if proxy.spec.sharing == "Managed" else ()))


def environment_references(proxy: LLMProxy) -> dict[str, SecretRef]:
    """Return the Secret references of the translator's environment, by variable."""
    env = proxy.spec.pod.env if proxy.spec.pod is not None else None
    refs = {variable.name: variable.secret_key_ref for variable in env or ()}
    return {name: (ref.name, ref.key) for name, ref in refs.items() if ref is not None}


def environment_values(proxy: LLMProxy) -> dict[str, str]:
    """Return the plain variables of the translator's environment."""
    env = proxy.spec.pod.env if proxy.spec.pod is not None else None
    return {variable.name: variable.value for variable in env or () if variable.value is not None}


def store_references(proxy: LLMProxy) -> dict[str, SecretRef]:
    """Return the Secret references of the user's own store of shared limits, by the gateway's variable."""
    shared = proxy.spec.rate_limits.shared if proxy.spec.rate_limits is not None else None
    if proxy.spec.sharing != "Redis" or shared is None:
        return {}
    sources = {LIMITS_URL: shared.url, LIMITS_CA: shared.ca}
    return {name: (s.secret_key_ref.name, s.secret_key_ref.key) for name, s in sources.items() if s is not None}


def client_secret(proxy: LLMProxy) -> str | None:
    """Return the Secret with the keys of callers; pods read it anew, so its content rolls nothing."""
    access = proxy.spec.access
    return None if access is None or access.api_keys is None else access.api_keys.secret_ref.name


def keyed_deployments(proxy: LLMProxy) -> tuple[tuple[deployments.Deployment, SecretRef], ...]:
    """Return the Secret references of deployments: keys, CAs and headers, each with its deployment."""
    return tuple(
        (deployment, _ref(source))
        for model in proxy.spec.models
        for deployment in model.deployments
        for source in deployment.secrets
    )


def header_references(proxy: LLMProxy) -> tuple[SecretRef, ...]:
    """Return the Secret references of the headers for a collector, once, in a stable order."""
    otlp = proxy.spec.spans.otlp if proxy.spec.spans is not None else None
    headers = (otlp.headers if otlp is not None else None) or ()
    return tuple(sorted({_ref(header.value) for header in headers}))


def _ref(source: SecretSource) -> SecretRef:
    return source.secret_key_ref.name, source.secret_key_ref.key


def key_variable(ref: SecretRef) -> str:
    """Return the environment variable that holds the content of *ref*."""
    name, key = ref
    return f"UPSTREAM_KEY_{hashlib.sha256(f'{name}/{key}'.encode()).hexdigest()[:16].upper()}"


def _variable(source: SecretSource | None) -> str | None:
    return None if source is None else key_variable(_ref(source))


def is_translated(deployment: deployments.Deployment) -> bool:
    """Return whether calls of *deployment* go through the translator."""
    return deployment.translated


def drain_timeout_s(spec: models.Spec) -> float:
    """Return the time for calls in flight at shutdown, in seconds."""
    return seconds(spec.drain_timeout or models.DEFAULT_DRAIN_TIMEOUT)


def max_pods(spec: models.Spec) -> int:
    """Return the maximum number of pods at one time; a pod that cannot reach the others applies that part of a limit.

    In steps with `replicas`, so that scaling within a step rolls nothing.
    """
    if spec.autoscaling is not None:
        return spec.autoscaling.max_replicas + MAX_SURGE
    pods = (spec.replicas or 1) + MAX_SURGE
    return next(step for step in _STEPS if step >= pods)


def spool_bytes(spans: Spans) -> int:
    """Return the size of the spool, in bytes."""
    size = spans.spool.size if spans.spool is not None else None
    return int(quantities.value(size or DEFAULT_SPOOL_SIZE))


def _model(model: models.Model, fallbacks: tuple[str, ...]) -> contract.Model:
    upstreams = tuple(_deployment(f"{model.name}/{i}", item) for i, item in enumerate(model.deployments))
    limits = _limits(model.rate_limits)
    return contract.Model(
        name=model.name, aliases=model.aliases, rate_limits=limits, deployments=upstreams, fallbacks=fallbacks
    )


def _deployment(name: str, item: deployments.Deployment) -> contract.Deployment:
    provider, _ = providers.split(item.model)
    tls = item.tls or deployments.UpstreamTLS()
    timeouts = item.timeouts or deployments.Timeouts()
    return contract.Deployment(
        id=name,
        model=item.model,
        api_base=item.api_base,
        api_key_env=_variable(item.api_key),
        ca_env=_variable(tls.ca),
        server_name=tls.server_name,
        headers=None
        if item.headers is None
        else tuple(
            contract.UpstreamHeader(name=header.name, value_env=key_variable(_ref(header.value)))
            for header in item.headers
        ),
        weight=1 if item.weight is None else item.weight,
        token_ids=provider.token_ids if item.token_ids is None else item.token_ids,
        timeout_s=seconds(item.timeout or deployments.DEFAULT_TIMEOUT),
        connect_timeout_s=seconds(timeouts.connect or models.DEFAULT_CONNECT_TIMEOUT),
        first_byte_timeout_s=None if timeouts.first_byte is None else seconds(timeouts.first_byte),
        idle_timeout_s=None if timeouts.idle is None else seconds(timeouts.idle),
        params=item.params or {},
    )


def _limits(spec: limits.ModelRateLimits | None) -> contract.Limits:
    if spec is None:
        return contract.Limits()
    return contract.Limits(rpm=spec.rpm, rps=spec.rps, tpm=spec.tpm, max_parallel=spec.max_parallel)


def _overflow(spec: limits.RateLimits | None) -> contract.Overflow:
    if spec is None or spec.overflow is None:
        return contract.Overflow()
    wait = spec.max_queue_time or models.DEFAULT_MAX_QUEUE_TIME
    return contract.Overflow(mode=spec.overflow, max_queue_time_s=seconds(wait))


def _shared(proxy: LLMProxy) -> contract.SharedLimits | None:
    if proxy.spec.sharing == "Local":
        return None
    # The scope outlives every edit, so that counters survive a roll.
    return contract.SharedLimits(
        url_env=LIMITS_URL,
        ca_env=LIMITS_CA if LIMITS_CA in store_references(proxy) else None,
        scope=proxy.metadata.uid or proxy.metadata.name,
        max_pods=max_pods(proxy.spec),
    )


def _retries(retries: models.Retries) -> contract.Retries:
    return contract.Retries(
        max=models.DEFAULT_MAX_RETRIES if retries.max is None else retries.max,
        initial_delay_s=seconds(retries.initial_delay or models.DEFAULT_INITIAL_DELAY),
        max_delay_s=seconds(retries.max_delay or models.DEFAULT_MAX_DELAY),
    )


def _translation(spec: models.LiteLLM | None) -> contract.Translation | None:
    drops = spec is not None and spec.settings is not None and spec.settings.drop_params
    return contract.Translation(drop_params=True) if drops else None


def _spans(proxy: LLMProxy, spans: Spans) -> contract.Spans:
    metadata, name = proxy.metadata, spans.register_resource
    endpoint = names.endpoint_url(metadata.name, metadata.namespace)
    return contract.Spans(
        store=spans.store,
        otlp=None if spans.otlp is None else _otlp(spans.otlp),
        resource=None if name is None else contract.Resource(name=name, endpoint=endpoint),
        ack_wait_s=seconds(spans.ack_wait or DEFAULT_ACK_WAIT),
        content=spans.content or "Full",
        spool_bytes=spool_bytes(spans),
    )


def _otlp(otlp: Otlp) -> contract.Otlp:
    headers = tuple(
        contract.OtlpHeader(name=header.name, value_env=key_variable(_ref(header.value)))
        for header in otlp.headers or ()
    )
    return contract.Otlp(endpoint=otlp.endpoint, headers=headers)
