"""Generator of docs/api.md (from the CRD) and docs/providers.md (from the table of providers).

docs/api.md has every field with type, bounds and description, and the rules between fields.

`python -m llmproxy_api.docs --write` regenerates both below the current folder. A test compares them with what is
committed.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmproxy.providers import PROVIDERS, REFUSED, Protocol, Provider, Way
from llmproxy_api.crd import SHORT_NAME, crd
from llmproxy_api.models import API_VERSION, KIND

FILE = Path("docs/api.md")
PROVIDERS_FILE = Path("docs/providers.md")

PROVIDERS_HEAD = """# Providers

Generated from `proxy_image/llmproxy/providers.py` by `make crds`. A deployment's `model` is `provider/name`, with
LiteLLM's name for the provider, or one of ours. A test checks that every provider of the pinned LiteLLM is listed once.
Requests go to the addresses below unless `apiBase` is set. The tests call servers of their own, not the providers.

## Native: called by the gateway

The gateway forwards bytes, or maps between OpenAI's and Anthropic's protocol. Any other server that speaks OpenAI's
protocol is `openai_like/NAME` with `apiBase`.

| provider | address | remarks |
|---|---|---|
"""
TRANSLATED_HEAD = """
## Translated: called by LiteLLM

The pod then has a container with LiteLLM: [protocols.md](protocols.md#translated-providers). `apiBase` has the meaning
of LiteLLM's `api_base` for that provider. Providers that need environment variables get them by `pod.env`; they are
**not tested**: the tests have no access to those clouds. LiteLLM 1.106.2 parses each line of Cohere's stream as JSON,
so a stream with `event:` lines, as Cohere documents it, fails there; plain responses do not.

| provider | address | needs |
|---|---|---|
"""
REFUSED_HEAD = """
## Refused

| provider | reason, and what to do |
|---|---|
"""

HEAD = f"""# API reference: {KIND} ({API_VERSION}, short {SHORT_NAME})

Generated from the models by `make crds`. `kubectl explain {KIND.lower()}.spec --recursive` shows the same. The schema
has no defaults; the descriptions name them. `llmproxy check` and strict clients such as `kubectl` refuse unknown
fields; for other clients the API server drops them with a warning.

Annotations on the object: `llmproxy.dev/paused: "true"` pauses reconciliation until it is removed; a new value of
`llmproxy.dev/restart` restarts the pods once. See [rolls](rolls.md).
"""

_BOUNDS = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("maxProperties", "at most {} keys"),
)
_PLAIN = {("minimum", 0), ("minLength", 1), ("minItems", 1)}
"""Bounds that are not worth a word."""


def markdown() -> str:
    """Return the page."""
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    parts = [HEAD, *_rules(schema, KIND)]
    for name in ("spec", "status"):
        parts += _section(schema["properties"][name], name)
    return "\n".join(parts).rstrip() + "\n"


def providers_markdown() -> str:
    """Return the page of providers."""
    rows = sorted(PROVIDERS.values(), key=lambda row: row.name)
    native = [f"| {row.name} | {_address(row)} | {_remarks(row)} |" for row in rows if row.way is Way.NATIVE]
    translated = [f"| {row.name} | {_address(row)} | {row.environment} |" for row in rows if row.way is Way.TRANSLATED]
    refused = [f"| {name} | {why} |" for name, why in sorted(REFUSED.items())]
    parts = (PROVIDERS_HEAD, native, TRANSLATED_HEAD, translated, REFUSED_HEAD, refused)
    return "".join(part if isinstance(part, str) else "\n".join(part) + "\n" for part in parts)


def _address(row: Provider) -> str:
    if row.api_base is None:
        return f"`apiBase`, `{row.path}` is added" if row.path else "`apiBase`"
    return row.api_base or "LiteLLM's"


def _remarks(row: Provider) -> str:
    remarks = (
        (row.protocol is Protocol.ANTHROPIC, "Anthropic's protocol"),
        (row.token_ids, "token ids"),
        (row.responses, "has `/responses`"),
        (row.key_optional, "a key is optional"),
        (bool(row.why), row.why),
    )
    return "; ".join(text for holds, text in remarks if holds)


def _section(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the table of one object, its rules, and then the objects in it."""
    inner = [(name, child) for name, child in schema["properties"].items() if _object(child) is not None]
    yield f"## {path}\n\n{schema.get('description', '')}\n"
    yield "| field | type | description |\n|---|---|---|"
    required = schema.get("required", ())
    for name, child in schema["properties"].items():
        need = " (required)" if name in required else ""
        yield f"| `{name}`{need} | {_type(child)} | {_cell(child)} |"
    yield ""
    yield from _rules(schema, path)
    for name, child in inner:
        part = _object(child)
        if part is not None:
            yield from _section(part, f"{path}.{name}{'[]' if child.get('type') == 'array' else ''}")


def _rules(schema: dict[str, Any], path: str) -> Iterator[str]:
    rules = [rule for rule in schema.get("x-kubernetes-validations", ()) if ".params." not in rule.get("fieldPath", "")]
    if rules:
        yield f"Rules of `{path}`:\n"
        for rule in rules:
            field = rule.get("fieldPath", "").removeprefix(".")
            yield f"- {f'`{field}`: ' if field else ''}{rule['message']}"
        yield ""


def _object(schema: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of the object in a field or in its list; None for plain values."""
    item: dict[str, Any] = schema.get("items", schema)
    free = item.get("x-kubernetes-preserve-unknown-fields")
    return item if item.get("properties") and not free else None


def _type(schema: dict[str, Any]) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}s"
    if schema["type"] == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map of {_type(schema['additionalProperties'])}s"
    return {"integer": "integer", "boolean": "boolean", "string": "string"}.get(schema["type"], "object")


def _cell(schema: dict[str, Any]) -> str:
    bounds = [text.format(schema[key]) for key, text in _BOUNDS if key in schema and (key, schema[key]) not in _PLAIN]
    description = str(schema.get("description", "")).replace("|", "\\|")
    return f"{description} *{', '.join(bounds)}*".strip() if bounds else description


def main(arguments: list[str]) -> None:
    """Print the page; with --write, write it."""
    if arguments == ["--write"]:
        FILE.write_text(markdown(), encoding="utf-8")
        PROVIDERS_FILE.write_text(providers_markdown(), encoding="utf-8")
        return
    if arguments:
        raise SystemExit(f"unknown arguments {' '.join(arguments)}: there is only --write")
    sys.stdout.write(markdown())


if __name__ == "__main__":
    main(sys.argv[1:])
