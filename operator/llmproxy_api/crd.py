"""Generator of the CustomResourceDefinition: structural schema, CEL rules, subresources, printer columns.

`python -m llmproxy_api.crd` prints it; `--write` regenerates `crds/` and the chart's copy. A test compares both with
what is committed.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from llmproxy_api.base import ApiModel
from llmproxy_api.models import GROUP, KIND, PLURAL, VERSION, LLMProxy, Spec
from llmproxy_api.status import UNSEEN, Status

Schema = dict[str, Any]

SHORT_NAME = "llmp"
FILE = Path("crds") / f"{PLURAL}.{GROUP}.yaml"
CHART_FILE = Path("charts/llmproxy-operator/templates/crd.yaml")
HEADER = "# Generated from operator/llmproxy_api/models.py by `make crds`; edit that.\n"

_REMOVED_KEYS = {"title", "default"}
_INT32_MAX = (1 << 31) - 1


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root()},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": _columns(),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": ["all", "llm"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def _columns() -> list[dict[str, Any]]:
    def column(name: str, path: str, type_: str = "string", **more: Any) -> dict[str, Any]:
        return {"name": name, "type": type_, "jsonPath": path, **more}

    ready = '.status.conditions[?(@.type=="Ready")]'
    return [
        column("Ready", f"{ready}.status"),
        column("Reason", f"{ready}.reason"),
        column("Replicas", ".status.readyReplicas", "integer"),
        column("Models", ".status.models"),
        column("Endpoint", ".status.endpoint"),
        column("RPM", ".status.limits.rpm", "integer", priority=1),
        column("Image", ".status.image", priority=1),
        column("Age", ".metadata.creationTimestamp", "date"),
    ]


def _root() -> Schema:
    return {
        "type": "object",
        "description": _text(LLMProxy.__doc__),
        "required": ["spec"],
        "x-kubernetes-validations": [rule.validation() for rule in LLMProxy.RULES],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema_of(Spec),
            "status": {**schema_of(Status), "default": {"observedGeneration": UNSEEN}},
        },
    }


def schema_of(part: type[ApiModel]) -> Schema:
    """Return the structural schema of *part*, references inlined."""
    raw = part.model_json_schema(by_alias=True, mode="validation")
    return _structural(raw, raw.get("$defs", {}))


def _structural(raw: Schema, defs: Schema) -> Schema:
    schema = {k: v for k, v in _resolved(raw, defs).items() if k not in _REMOVED_KEYS and not k.startswith("$")}
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if "description" in schema:
        schema["description"] = _text(schema["description"])
    if schema.get("type") == "integer":
        schema["format"] = "int32" if schema["maximum"] <= _INT32_MAX else "int64"
    if "properties" in schema:
        schema["properties"] = {name: _structural(child, defs) for name, child in schema["properties"].items()}
    if schema.get("additionalProperties") is False:
        del schema["additionalProperties"]  # the API server prunes or refuses unknown fields itself
    elif isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _structural(schema["additionalProperties"], defs)
    if "items" in schema:
        schema["items"] = _structural(schema["items"], defs)
    return schema


def _resolved(raw: Schema, defs: Schema) -> Schema:
    """Inline references, and drop the null branch of optional fields: a field is absent, not null."""
    if "$ref" in raw:
        return {**_resolved(defs[raw["$ref"].rsplit("/", 1)[1]], defs), **{k: v for k, v in raw.items() if k != "$ref"}}
    if "anyOf" in raw:
        (branch,) = [branch for branch in raw["anyOf"] if branch != {"type": "null"}]
        return {**_resolved(branch, defs), **{k: v for k, v in raw.items() if k != "anyOf"}}
    return raw


def _text(doc: str | None) -> str:
    return " ".join((doc or "").split())


def crd_yaml() -> str:
    """Return the file in `crds/`."""
    return HEADER + _dump(crd())


def chart_yaml() -> str:
    """Return the chart's template: the same object, with the values `crds.install` and `crds.keep`."""
    definition = crd()
    body = _dump({"spec": definition["spec"]})
    return (
        "{{- /* " + HEADER.removeprefix("# ").strip() + " */ -}}\n"
        "{{- if .Values.crds.install }}\n"
        f"apiVersion: {definition['apiVersion']}\n"
        f"kind: {definition['kind']}\n"
        "metadata:\n"
        f"  name: {definition['metadata']['name']}\n"
        "  labels:\n"
        '    {{- include "llmproxy-operator.labels" . | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n"
        "    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
        f"{body}"
        "{{- end }}\n"
    )


def _dump(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, width=120, allow_unicode=True)


def main(arguments: list[str]) -> None:
    """Print the CRD, or write both files below the current folder."""
    if arguments == ["--write"]:
        for path, text in ((FILE, crd_yaml()), (CHART_FILE, chart_yaml())):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return
    if arguments:
        raise SystemExit(f"unknown arguments {' '.join(arguments)}: there is only --write")
    sys.stdout.write(crd_yaml())


if __name__ == "__main__":
    main(sys.argv[1:])
