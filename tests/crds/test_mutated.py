"""`check` and the API server say the same of a thousand objects that nobody thought of: verdict and field.

The seed is fixed, so that a difference stays; LLMPROXY_MUTATIONS_SEED tries another.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from kubernetes import client, config

from crds.conftest import CHECK_GROUP, NAMESPACE, PLURAL, ApiServer
from crds.every_field import Object
from crds.mutated import mutated
from llmproxy_api import Problem, SpecError, parse
from llmproxy_api.models import VERSION

pytestmark = pytest.mark.cluster

SEED = int(os.environ.get("LLMPROXY_MUTATIONS_SEED", "20250"))
COUNT = 1000
SHOWN = 3
_IN_REFUSED_PARAM = re.compile(r"\.params\.\w+\.")
"""A refused parameter should be a text, so what is in it is unknown to the API server; offline it is a rule's."""


def test_a_thousand_mutated_objects_are_judged_alike(api_server: ApiServer) -> None:
    api = client.CustomObjectsApi(config.new_client_from_config(api_server.kubeconfig))
    taken, differences = 0, []
    for made in mutated(SEED, COUNT):
        status = verdict(api, made)
        taken += status is None
        if difference := compared(offline(made), status):
            differences.append(f"{difference}\n{json.dumps(made)}")

    assert not differences, f"seed {SEED}: {len(differences)} differ, such as\n" + "\n\n".join(differences[:SHOWN])
    assert COUNT / 10 < taken < COUNT * 9 / 10, "the objects are all right or all wrong, which shows little"


def verdict(api: client.CustomObjectsApi, made: Object) -> Object | None:
    """Return the Status with which the API server refuses an object, None if it would take it."""
    moved = _as_sent(made) | {"apiVersion": f"{CHECK_GROUP}/{VERSION}"}
    try:
        api.create_namespaced_custom_object(
            CHECK_GROUP, VERSION, NAMESPACE, PLURAL, moved, dry_run="All", field_validation="Strict"
        )
    except client.ApiException as exc:
        status: Object = json.loads(exc.body)
        assert status["code"] in {400, 422}, status
        return status
    return None


def _as_sent(value: Any) -> Any:
    """Return 5 for 5.0, as kubectl and all that is written in Go send it; the API server knows a difference."""
    if isinstance(value, dict):
        return {key: _as_sent(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_sent(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def offline(made: Object) -> tuple[Problem, ...]:
    try:
        parse(made)
    except SpecError as exc:
        return exc.problems
    return ()


def compared(problems: tuple[Problem, ...], status: Object | None) -> str:
    """Return what the two say differently, nothing if they agree.

    Each judges in stages and need not go on after the first that fails, and what is a rule's for one may be of the
    structure for the other. So one of them must name all fields that the other names, and either may name more.
    """
    told = "; ".join(str(problem) for problem in problems)
    if status is None or not problems:
        return "" if status is None and not problems else f"offline: {told or 'right'}; API server: {status}"
    here, there = {_field(p.path, p.message) for p in problems}, set(_fields(status))
    unsaid_here = [field for field in there if not any(_near(field, mine) for mine in here)]
    unsaid_there = [field for field in here if not any(_near(field, theirs) for theirs in there)]
    if there and not (unsaid_here and unsaid_there):
        return ""
    return f"fields {sorted(here)} offline ({told}), {sorted(there)} at the API server: {status['message']}"


def _fields(status: Mapping[str, Any]) -> Iterator[str]:
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("field") and not re.search(
            "rules were not checked|^Invalid value: .*Checked value", cause["message"]
        ):
            yield _field(cause["field"].removeprefix(".").replace("<nil>", ""), cause["message"])
    unknown = re.findall(r'(?:unknown|duplicate) field "([^"]*)"', status["message"])
    yield from [field for field in unknown if not _IN_REFUSED_PARAM.search(field)] or unknown
    if found := re.search(r"Go struct field ObjectMeta\.(\w+)", status["message"]):
        yield f"metadata.{found[1]}"
    elif "Go value of type v1.ObjectMeta" in status["message"]:
        yield "metadata"


def _field(path: str, message: str) -> str:
    """Return the field; rules about the object's name are of the whole object, for no other place may speak of it."""
    return "metadata.name" if not path and "metadata.name must" in message else path


def _covers(mine: str, theirs: str) -> bool:
    return theirs == mine or (mine != "" and theirs.startswith((f"{mine}.", f"{mine}[")))


def _near(mine: str, theirs: str) -> bool:
    """Whether one is the other or in it; of equal items the API server names only the first."""
    a, b = (re.sub(r"\[\d+\]", "[]", path) for path in (mine, theirs))
    return _covers(a, b) or _covers(b, a)
