"""`llmproxy render` prints what a cluster then has: all but owners, hashes and what the API server adds."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from e2e.kube import Kube, Object, eventually
from e2e.proxies import an_llmproxy
from integration.operator.conftest import IMAGE, Operator, settled
from llmproxy_cli.__main__ import app
from llmproxy_operator import names

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

KINDS = "deployments,services,configmaps,horizontalpodautoscalers,poddisruptionbudgets,networkpolicies"
MINE = "app.kubernetes.io/managed-by=llmproxy-operator"
HASHES = (names.ANNOTATION_CONFIG_HASH, names.ANNOTATION_TEMPLATE_HASH)
"""They know the contents of Secrets, by the uid of the proxy."""
KEY = {"secretKeyRef": {"name": "keys", "key": "api-key"}}
GEMINI = {"name": "g", "deployments": [{"model": "gemini/g", "apiKey": KEY}]}


def differences(wanted: Any, live: Any, path: str) -> Iterator[str]:
    """Yield what is printed and is not live; the API server may have filled in more."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        for key, value in wanted.items():
            if key not in HASHES:
                yield from differences(value, live.get(key), f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        for i, pair in enumerate(zip(wanted, live, strict=True)):
            yield from differences(*pair, f"{path}[{i}]")
    elif wanted != live and (wanted or live is not None):  # what is empty is not kept
        yield f"{path}: printed {wanted!r}, live {live!r}"


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="defaults"),
        pytest.param(
            {
                "models": [*an_llmproxy("x")["spec"]["models"], GEMINI],
                "replicas": 3,
                "rateLimits": {"rpm": 5},
                "spans": {"store": "http://store:4747"},
                "access": {"namespaces": ["agents"], "egress": [{"cidr": "10.0.0.0/8", "ports": [443]}]},
                "pod": {"labels": {"team": "a"}, "nodeSelector": {"disk": "fast"}},
            },
            id="many parts",
        ),
        pytest.param({"autoscaling": {"maxReplicas": 4}, "rateLimits": {"rpm": 5}}, id="an autoscaler"),
    ],
)
def test_what_is_printed_is_what_a_cluster_has(team: Kube, operator: Operator, tmp_path: Path, spec: Object) -> None:
    proxy = an_llmproxy("printed", **spec)
    file = tmp_path / "proxy.yaml"
    file.write_text(yaml.safe_dump(proxy | {"metadata": {"name": "printed", "namespace": team.namespace}}))
    done = CliRunner().invoke(app, ["render", "-f", str(file), "--image", IMAGE])
    assert done.exit_code == 0, done.output
    printed = by_name(list(yaml.safe_load_all(done.output)))

    team.run("create", "secret", "generic", "keys", "--from-literal=api-key=k")
    team.apply(proxy)
    eventually(lambda: live(team), lambda found: "Deployment/printed" in found, 30, "children")
    settled(lambda: operator.metric("llmproxy_operator_writes_total"))

    found = live(team)
    assert set(found) == set(printed)
    assert "\n".join(line for key, item in printed.items() for line in differences(item, found[key], key)) == ""


def live(kube: Kube) -> dict[str, Object]:
    return by_name(kube.list(KINDS, MINE), kube.get("llmproxy", "printed")["metadata"]["uid"])


def by_name(objects: list[Object], uid: str | None = None) -> dict[str, Object]:
    """Return the objects without the hash of the document, and with the name for the uid, as limits are counted by."""
    text = re.sub(r"printed-config-[0-9a-f]+", "printed-config-HASH", json.dumps(objects))
    text = text if uid is None else text.replace(uid, "printed")
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in json.loads(text)}
