"""Offline validation of an LLMProxy, with the same result as the API server, and the path of each invalid field.

Messages never repeat a value: a misplaced value may be a credential.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from llmproxy_api import model_params as params_of
from llmproxy_api.base import ApiModel, ListMap, UniqueItems
from llmproxy_api.models import API_VERSION, KIND, LLMProxy

MAX_PROBLEMS = 10
"""Bound of a message; the rest is counted."""

_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA = (
    *("annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers"),
    *("generateName", "generation", "labels", "managedFields", "name", "namespace", "ownerReferences"),
    *("resourceVersion", "selfLink", "uid"),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One invalid field."""

    path: str
    """Path of the field: `spec.models[0].deployments[1].apiKey`."""
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SpecError(Exception):
    """The object is invalid; `problems` has every reason."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        text = "; ".join(str(p) for p in problems[:MAX_PROBLEMS])
        more = len(problems) - MAX_PROBLEMS
        super().__init__(f"{text}; and {more} more" if more > 0 else text)
        self.problems = problems


def parse(raw: Mapping[str, Any]) -> LLMProxy:
    """Return the LLMProxy in *raw*, a manifest or an object of the API server; raise SpecError."""
    problems = tuple(_envelope_problems(raw))
    # A problem of the envelope is reported already, and must not hide those of the rest.
    body = {key: value for key, value in raw.items() if key in {"metadata", "spec"} and isinstance(value, Mapping)}
    try:
        proxy = LLMProxy.model_validate(body)
    except ValidationError as exc:
        reported = {problem.path for problem in problems}
        problems += tuple(problem for problem in _schema_problems(exc) if problem.path not in reported)
    if problems:
        raise SpecError(problems)  # without the cause, which repeats values that may be keys
    problems = tuple(_structural_problems(proxy, "")) or tuple(_rule_problems(proxy, ""))
    if problems:
        raise SpecError(problems)
    return proxy


def _envelope_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    if raw.get("apiVersion") != API_VERSION:
        yield Problem("apiVersion", f"must be {API_VERSION}")
    if raw.get("kind") != KIND:
        yield Problem("kind", f"must be {KIND}")
    for key in raw:
        if key not in _TOP:
            yield Problem(str(key), _unknown_field(str(key), _TOP))
    for key in ("metadata", "spec"):
        if key not in raw:
            yield Problem(key, "is required")
        elif not isinstance(raw[key], Mapping):
            yield Problem(key, "must be an object")
    metadata = raw.get("metadata")
    for key in metadata if isinstance(metadata, Mapping) else ():
        if key not in _METADATA:
            yield Problem(f"metadata.{key}", _unknown_field(str(key), _METADATA))


def _unknown_field(name: str, options: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.75)
    return f"unknown field: did you mean {close[0]}?" if close else f"unknown field: there are {', '.join(options)}"


def _schema_problems(error: ValidationError) -> Iterator[Problem]:
    errors = error.errors(include_input=False, include_url=False)
    places = [item["loc"] for item in errors]
    for item in errors:
        loc = item["loc"]
        if item["type"] == "too_short" and any(p[: len(loc)] == loc and len(p) > len(loc) for p in places):
            continue  # pydantic counts valid items only; the invalid ones are reported already
        yield Problem(_field_path(loc), _message(item["type"], item["msg"], loc))


def _message(kind: str, message: str, loc: tuple[int | str, ...]) -> str:
    part = _model_at(loc[:-1])
    if kind == "extra_forbidden" and part is not None:
        return _unknown_field(str(loc[-1]), _aliases(part))
    if kind == "missing":
        return "is required"
    if kind in {"model_type", "model_attributes_type"}:
        here = _model_at(loc)
        return f"must be an object with {', '.join(_aliases(here))}" if here is not None else "must be an object"
    if kind == "too_short":
        return "must not be empty"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    return message.replace("Input should", "must").replace("String should", "must").replace("Tuple should", "must")


def _field_path(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _aliases(part: type[BaseModel]) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in part.model_fields.items())


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model at *loc*, None where there is none."""
    here: type[BaseModel] | None = LLMProxy
    for step in loc:
        if here is None:
            return None
        if isinstance(step, int):
            continue
        field = next((f for n, f in here.model_fields.items() if (f.alias or n) == step), None)
        here = _model_in(field.annotation) if field is not None else None
    return here


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for arg in get_args(annotation) if (model := _model_in(arg)) is not None), None)


def _children(part: ApiModel) -> Iterator[tuple[str, str, Any]]:
    for name, field in type(part).model_fields.items():
        yield name, field.alias or name, getattr(part, name)


def _structural_problems(part: ApiModel, path: str) -> Iterator[Problem]:
    """Yield problems that pydantic does not check: duplicate keys of list-maps, parameters that are not JSON."""
    for name, alias, value in _children(part):
        here = f"{path}.{alias}" if path else alias
        if isinstance(value, dict):
            yield from _params_problems(value, here)
        field = type(part).model_fields[name]
        for mark in (*field.metadata, *_inner_markers(field.annotation)):
            if isinstance(mark, ListMap | UniqueItems):
                yield from _duplicate_problems(value or (), mark.key if isinstance(mark, ListMap) else None, here)
        for child, child_path in _submodels(value, here):
            yield from _structural_problems(child, child_path)


def _inner_markers(annotation: object) -> Iterator[object]:
    """Yield the markers of an optional field: `Annotated[X, marker] | None`."""
    for branch in get_args(annotation):
        yield from getattr(branch, "__metadata__", ())


def _params_problems(value: dict[str, Any], path: str) -> Iterator[Problem]:
    if len(value) > params_of.MAX_KEYS:
        yield Problem(path, f"must have at most {params_of.MAX_KEYS} keys")
    if not params_of.is_json(value):
        yield Problem(path, f"must be plain JSON, nested at most {params_of.MAX_DEPTH} deep: quote dates")


def _duplicate_problems(items: tuple[Any, ...], key: str | None, path: str) -> Iterator[Problem]:
    values: set[Any] = set()
    for i, item in enumerate(items):
        value = item if key is None else getattr(item, key)
        if value in values:
            yield Problem(f"{path}[{i}]", f"duplicate {key or 'value'} {value!r}: merge the entries into one")
        values.add(value)


def _submodels(value: object, path: str) -> Iterator[tuple[ApiModel, str]]:
    if isinstance(value, ApiModel):
        yield value, path
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _submodels(item, f"{path}[{i}]")


def _rule_problems(part: ApiModel, path: str) -> Iterator[Problem]:
    for rule in part.RULES:
        if not rule.holds(part):
            where = f"{path}{rule.field}" if path else rule.field.removeprefix(".")
            yield Problem(where, rule.message if rule.detail is None else rule.detail(part))
    for _, alias, value in _children(part):
        for child, child_path in _submodels(value, f"{path}.{alias}" if path else alias):
            yield from _rule_problems(child, child_path)
