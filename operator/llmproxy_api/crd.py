"""Writes the CustomResourceDefinition from the models: structural schema, rules, subresources, printed columns.

`python -m llmproxy_api.crd` prints it; with `--write` it writes `crds/` and the chart's copy anew, which a test holds
equal to what is committed.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from llmproxy_api.base import Part
from llmproxy_api.models import GROUP, KIND, PLURAL, VERSION, LLMProxy, Spec
from llmproxy_api.status import UNSEEN, Status

Schema = dict[str, Any]

SHORT_NAME = "llmp"
FILE = Path("crds") / f"{PLURAL}.{GROUP}.yaml"
CHART_FILE = Path("charts/llmproxy-operator/templates/crd.yaml")
HEADER = "# Made from operator/llmproxy_api/models.py by `make crds`; edit that.\n"

_DROPPED = {"title", "default"}
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
        column("Age", ".metadata.creationTimestamp", "date"),
    ]


def _root() -> Schema:
    return {
        "type": "object",
        "description": _text(LLMProxy.__doc__),
        "required": ["spec"],
        "x-kubernetes-validations": [rule.as_validation() for rule in LLMProxy.RULES],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema_of(Spec),
            "status": {**schema_of(Status), "default": {"observedGeneration": UNSEEN}},
        },
    }


def schema_of(part: type[Part]) -> Schema:
    """Return the structural schema of *part*, every reference written out."""
    raw = part.model_json_schema(by_alias=True, mode="validation")
    return _structural(raw, raw.get("$defs", {}))


def _structural(raw: Schema, defs: Schema) -> Schema:
    made = {k: v for k, v in _resolved(raw, defs).items() if k not in _DROPPED and not k.startswith("$")}
    if "const" in made:
        made["enum"] = [made.pop("const")]
    if "description" in made:
        made["description"] = _text(made["description"])
    if made.get("type") == "integer":
        made["format"] = "int32" if made["maximum"] <= _INT32_MAX else "int64"
    if "properties" in made:
        made["properties"] = {name: _structural(child, defs) for name, child in made["properties"].items()}
    if made.get("additionalProperties") is False:
        del made["additionalProperties"]  # said by the API server itself: what is unknown is pruned or refused
    elif isinstance(made.get("additionalProperties"), dict):
        made["additionalProperties"] = _structural(made["additionalProperties"], defs)
    if "items" in made:
        made["items"] = _structural(made["items"], defs)
    return made


def _resolved(raw: Schema, defs: Schema) -> Schema:
    """Write a reference out, and take an optional field for what it is when it is there: absent, not null."""
    if "$ref" in raw:
        return {**_resolved(defs[raw["$ref"].rsplit("/", 1)[1]], defs), **{k: v for k, v in raw.items() if k != "$ref"}}
    if "anyOf" in raw:
        (wanted,) = [branch for branch in raw["anyOf"] if branch != {"type": "null"}]
        return {**_resolved(wanted, defs), **{k: v for k, v in raw.items() if k != "anyOf"}}
    return raw


def _text(doc: str | None) -> str:
    return " ".join((doc or "").split())


def crd_yaml() -> str:
    """Return the file in `crds/`."""
    return HEADER + _dump(crd())


def chart_yaml() -> str:
    """Return the chart's template: the same object, installed and kept as the values say."""
    made = crd()
    body = _dump({k: v for k, v in made.items() if k in {"spec"}})
    return (
        "{{- /* " + HEADER.removeprefix("# ").strip() + " */ -}}\n"
        "{{- if .Values.crds.install }}\n"
        f"apiVersion: {made['apiVersion']}\n"
        f"kind: {made['kind']}\n"
        "metadata:\n"
        f"  name: {made['metadata']['name']}\n"
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
