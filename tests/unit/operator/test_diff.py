"""When a live object is as wanted: by value, and by the server's record of what we own."""

import copy
from typing import Any

import pytest

from fakes.cluster import FakeCluster
from llmproxy_operator.diff import differences
from llmproxy_operator.names import FIELD_MANAGER

Manifest = dict[str, Any]


def a_deployment() -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "n", "labels": {"a": "b"}},
        "spec": {
            "replicas": 1,
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": "gateway",
                            "args": ["x", "y"],
                            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                            "ports": [{"name": "http", "containerPort": 4000, "protocol": "TCP"}],
                            "volumeMounts": [{"name": "tmp", "mountPath": "/etc/x"}],
                        }
                    ],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                }
            },
        },
    }


async def applied(manifest: Manifest) -> Manifest:
    return (await FakeCluster().apply(copy.deepcopy(manifest), force=False)).live


def container(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"]["template"]["spec"]["containers"][0]
    return found


async def test_what_was_just_applied_is_as_wanted() -> None:
    assert differences(a_deployment(), await applied(a_deployment()), FIELD_MANAGER) == ()


async def test_defaults_and_fields_of_others_make_no_difference() -> None:
    live = await applied(a_deployment())
    live["spec"]["minReadySeconds"] = 0
    live["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    container(live)["imagePullPolicy"] = "IfNotPresent"
    container(live)["env"].insert(0, {"name": "INJECTED", "value": "1"})
    live["spec"]["template"]["spec"]["containers"].insert(0, {"name": "mesh"})
    live["status"] = {"replicas": 1}

    assert differences(a_deployment(), live, FIELD_MANAGER) == ()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        pytest.param(lambda d: d["spec"].update(replicas=3), "spec.replicas", id="a number"),
        pytest.param(lambda d: d["spec"].pop("replicas"), "spec.replicas", id="a field gone"),
        pytest.param(lambda d: d["metadata"]["labels"].update(a="c"), "metadata.labels.a", id="a label"),
        pytest.param(
            lambda d: container(d).update(args=["y", "x"]),
            "spec.template.spec.containers.gateway.args",
            id="the order of a plain list",
        ),
        pytest.param(
            lambda d: container(d)["env"].pop(0), "spec.template.spec.containers.gateway.env.A.name", id="an item gone"
        ),
        pytest.param(
            lambda d: container(d)["ports"][0].update(containerPort=1),
            "spec.template.spec.containers.gateway.ports.4000/TCP.containerPort",
            id="a port",
        ),
    ],
)
async def test_what_somebody_changed_is_found(change: Any, path: str) -> None:
    live = await applied(a_deployment())
    change(live)

    assert path in differences(a_deployment(), live, FIELD_MANAGER)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        pytest.param(
            lambda d: container(d)["env"].pop(), "spec.template.spec.containers.gateway.env.B", id="an item of a list"
        ),
        pytest.param(lambda d: d["metadata"].pop("labels"), "metadata.labels", id="a field with all below"),
        pytest.param(
            lambda d: container(d).pop("args"), "spec.template.spec.containers.gateway.args", id="a plain list"
        ),
    ],
)
async def test_what_we_sent_once_and_want_no_more_is_found(change: Any, path: str) -> None:
    live = await applied(a_deployment())
    wanted = a_deployment()
    change(wanted)

    assert differences(wanted, live, FIELD_MANAGER) == (path,)


async def test_an_empty_list_is_no_list() -> None:
    wanted = a_deployment()
    container(wanted)["command"] = []

    assert differences(wanted, await applied(a_deployment()), FIELD_MANAGER) == ()


async def test_an_object_without_our_record_is_written_once() -> None:
    live = await applied(a_deployment())
    live["metadata"]["managedFields"] = []

    assert differences(a_deployment(), live, FIELD_MANAGER) == ("metadata.managedFields",)


async def test_a_key_that_somebody_added_to_a_map_of_one_value_is_a_difference() -> None:
    wanted = a_deployment()
    wanted["spec"]["template"]["spec"]["nodeSelector"] = {"a": "b"}
    live = await applied(wanted)
    assert differences(wanted, live, FIELD_MANAGER) == ()

    live["spec"]["template"]["spec"]["nodeSelector"]["theirs"] = "c"

    assert differences(wanted, live, FIELD_MANAGER) == ("spec.template.spec.nodeSelector",)
