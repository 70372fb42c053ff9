"""Plan of a local pod: contract document, keys of each process, required processes. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmproxy import contract, providers
from llmproxy_api import LLMProxy, SpecError
from llmproxy_cli.manifests import FileError, ManifestBundle, SecretRef
from llmproxy_operator.render import config


@dataclass(frozen=True, slots=True)
class PodPlan:
    """Configuration of the processes of one pod."""

    document: contract.Document
    gateway_keys: Mapping[str, str]
    """Environment variable to key."""
    translator_keys: Mapping[str, str]
    shipper_keys: Mapping[str, str]
    hash: str
    """Hash of the configuration, Secrets included: another hash is a roll."""
    client_keys: tuple[str, ...] = ()
    """API keys of callers; they are replaced without a roll."""
    notes: tuple[str, ...] = ()
    """Differences from a cluster."""

    @property
    def translated(self) -> tuple[str, ...]:
        """Models that need the translator."""
        return tuple(
            model.name
            for model in self.document.models
            if any(providers.split(d.model)[0].way is providers.Way.TRANSLATED for d in model.deployments)
        )


def build_plan(
    bundle: ManifestBundle, named: Mapping[SecretRef, str], environment: Mapping[str, str], source: str
) -> PodPlan:
    """Return the plan of *bundle*; *named* maps a Secret's key to an environment variable. Raise FileError."""
    proxy = bundle.proxy
    try:
        document = config.document(proxy)
    except SpecError as exc:
        raise FileError("\n".join(f"{source}: {problem}" for problem in exc.problems)) from exc
    keys = _resolve(bundle, named, environment, source)
    document, gateway_keys, notes = _single_gateway(proxy, document, keys)
    digests = {ref: config.secret_digest("local", value.encode()) for ref, value in keys.items()}
    ways: dict[bool, dict[str, str]] = {True: {}, False: gateway_keys}
    for deployment, ref in config.keyed_deployments(proxy):
        ways[config.is_translated(deployment)][config.key_variable(ref)] = keys[ref]
    ways[True] |= config.environment_values(proxy)
    ways[True] |= {name: keys[ref] for name, ref in config.environment_references(proxy).items()}
    headers = {config.key_variable(ref): keys[ref] for ref in config.header_references(proxy)}
    return PodPlan(
        document=document,
        gateway_keys=ways[False],
        translator_keys=ways[True],
        shipper_keys=headers,
        hash=config.config_hash(document, digests),
        client_keys=_client_keys(bundle, source),
        notes=notes,
    )


def _single_gateway(
    proxy: LLMProxy, document: contract.Document, keys: Mapping[SecretRef, str]
) -> tuple[contract.Document, dict[str, str], tuple[str, ...]]:
    """Return document, variables and notes for a single gateway: without a store of shared limits it counts alone."""
    references = config.store_references(proxy)
    secrets = {name: keys[ref] for name, ref in references.items() if ref in keys}
    notes = ["one gateway runs here; spec.replicas and spec.autoscaling have no effect"] if proxy.spec.multi_pod else []
    if document.shared_limits is None or (proxy.spec.sharing == "Redis" and secrets.keys() == references.keys()):
        return document, secrets, tuple(notes)
    if proxy.spec.sharing == "Redis":
        missing = ", ".join(f"{name}/{key}" for name, key in references.values() if (name, key) not in keys)
        notes.append(f"limits are counted in this gateway alone: the value of the Secret {missing} is unknown")
    return document.model_copy(update={"shared_limits": None}), {}, tuple(notes)


def _client_keys(bundle: ManifestBundle, source: str) -> tuple[str, ...]:
    name = config.client_secret(bundle.proxy)
    keys = sorted(v.strip() for (secret, _), v in bundle.secrets.items() if secret == name and v.strip())
    if name is not None and not keys:
        raise FileError(
            f"{source}: spec.access.apiKeys: Secret {name!r} with at least one value is not in the file: add it with "
            "stringData"
        )
    return tuple(keys)


def variable_for(ref: SecretRef) -> str:
    """Return the default environment variable of a Secret's key: OPENAI_API_KEY for `openai`, `api-key`."""
    return re.sub(r"[^A-Z0-9]", "_", "_".join(ref).upper())


def _resolve(
    bundle: ManifestBundle, named: Mapping[SecretRef, str], environment: Mapping[str, str], source: str
) -> dict[SecretRef, str]:
    references = config.secret_references(bundle.proxy)
    unknown = sorted(set(named) - set(references))
    if unknown:
        names = ", ".join("/".join(ref) for ref in references) or "none"
        raise FileError(f"--secret {'/'.join(unknown[0])}: no field in the file names it; it names {names}")
    # The store of shared limits is optional here: a single gateway counts alone.
    others = {ref for _, ref in config.keyed_deployments(bundle.proxy)}
    others |= set(config.environment_references(bundle.proxy).values())
    others |= set(config.header_references(bundle.proxy))
    needed = others | set(named)
    keys: dict[SecretRef, str] = {}
    missing = []
    for ref in references:
        variable = named.get(ref) or variable_for(ref)
        key = environment.get(variable, "") if ref in named else bundle.secrets.get(ref, environment.get(variable, ""))
        if key.strip():
            keys[ref] = key.strip()
        elif ref in needed:
            missing.append(f"{source}: {_field_of(bundle.proxy, ref)}: {_hint(ref, variable, named=ref in named)}")
    if missing:
        raise FileError("\n".join(missing))
    return keys


def _field_of(proxy: LLMProxy, ref: SecretRef) -> str:
    for i, model in enumerate(proxy.spec.models):
        for j, deployment in enumerate(model.deployments):
            sources = {
                "apiKey": deployment.api_key,
                "tls.ca": deployment.tls.ca if deployment.tls is not None else None,
            }
            sources |= {f"headers[{k}].value": header.value for k, header in enumerate(deployment.headers or ())}
            for field, source in sources.items():
                at = source.secret_key_ref if source is not None else None
                if at is not None and (at.name, at.key) == ref:
                    return f"spec.models[{i}].deployments[{j}].{field}"
    for i, variable in enumerate((proxy.spec.pod.env if proxy.spec.pod is not None else None) or ()):
        key = variable.secret_key_ref
        if key is not None and (key.name, key.key) == ref:
            return f"spec.pod.env[{i}].secretKeyRef"
    return "spec.spans.otlp.headers" if ref in config.header_references(proxy) else "spec.rateLimits.shared"


def _hint(ref: SecretRef, variable: str, *, named: bool) -> str:
    name, key = ref
    if named:
        return f"the environment variable {variable} of --secret {name}/{key} is not set"
    return (
        f"Secret {name!r} with key {key!r} is not in the file: set the environment variable {variable}, "
        f"or another one by --secret {name}/{key}=VARIABLE, or add the Secret to the file with stringData"
    )
