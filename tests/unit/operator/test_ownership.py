"""Ownership of an object that has the name of a child."""

from typing import Any

import pytest

from fakes.children import a_raw_proxy
from llmproxy_api import LLMProxy, parse
from llmproxy_operator import names
from llmproxy_operator.ownership import Ownership, ownership_of

Manifest = dict[str, Any]


def a_child(uid: str, owner: str = "p", *, controller: bool = True, **metadata: Any) -> Manifest:
    reference = {"apiVersion": "llmproxy.dev/v1alpha1", "kind": "LLMProxy", "name": owner, "uid": uid}
    owners = [{**reference, "controller": controller}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "p", "ownerReferences": owners, **metadata}}


OWNER: Manifest = {"apiVersion": "v1", "kind": "LLMProxy", "name": "p", "uid": "other"}


def an_orphan(**metadata: Any) -> Manifest:
    """A child as a backup tool restores it: labels and managedFields, and no owner reference."""
    record = {"manager": names.FIELD_MANAGER, "operation": "Apply", "fieldsV1": {}}
    made = {"name": "p", "labels": names.labels("p", names.GATEWAY), "managedFields": [record], **metadata}
    return {"apiVersion": "v1", "kind": "Service", "metadata": made}


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        pytest.param(None, Ownership.ABSENT, id="nothing there"),
        pytest.param(a_child("u"), Ownership.OURS, id="ours"),
        pytest.param(a_child("u", deletionTimestamp="x"), Ownership.LEAVING, id="ours, being deleted"),
        pytest.param(a_child("older"), Ownership.LEAVING, id="of the one before of this name"),
        pytest.param(a_child("older", "q"), Ownership.FOREIGN, id="of another proxy"),
        pytest.param(a_child("u", controller=False), Ownership.FOREIGN, id="not controlled by us"),
        pytest.param({"kind": "Service", "metadata": {"name": "p"}}, Ownership.FOREIGN, id="of nobody"),
        pytest.param(
            {"kind": "Service", "metadata": {"name": "p", "labels": {"llmproxy.dev/name": "p"}}},
            Ownership.FOREIGN,
            id="with our labels only",
        ),
        pytest.param(an_orphan(), Ownership.ORPHANED, id="ours, restored without its owner"),
        pytest.param(an_orphan(deletionTimestamp="x"), Ownership.LEAVING, id="restored, being deleted"),
        pytest.param(an_orphan(labels=names.labels("q", names.GATEWAY)), Ownership.FOREIGN, id="an orphan of another"),
        pytest.param(an_orphan(managedFields=[]), Ownership.FOREIGN, id="never applied by us"),
        pytest.param(
            an_orphan(ownerReferences=[{**OWNER, "kind": "Application", "controller": True}]),
            Ownership.FOREIGN,
            id="restored and controlled by another",
        ),
    ],
)
def test_whose_an_object_is(live: Manifest | None, expected: Ownership) -> None:
    proxy: LLMProxy = parse(a_raw_proxy())

    assert ownership_of(live, proxy) is expected
