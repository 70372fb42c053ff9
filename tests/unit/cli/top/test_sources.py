"""Sources of samples: pods of a cluster."""

import json

from llmproxy_cli.top import sources


def test_pods_that_do_not_run_are_not_asked() -> None:
    def raw(name: str, phase: str, labels: dict[str, str]) -> dict[str, object]:
        return {"metadata": {"name": name, "namespace": "n", "labels": labels}, "status": {"phase": phase}}

    mine = {"llmproxy.dev/name": "p"}
    pods = [raw("a", "Running", mine), raw("b", "Pending", mine), raw("c", "Running", {})]

    assert sources.running_pods(pods) == [(("n", "p"), "a")]


def test_a_missing_right_is_named_with_the_way_out() -> None:
    body = json.dumps({"kind": "Status", "message": 'pods "p-1" is forbidden: User "a" cannot get pods/proxy'})

    assert "cannot get pods/proxy; it needs list on pods and get on pods/proxy" in sources.refusal(403, body)
    assert sources.refusal(503, "upstream\nconnect error") == "503 upstream connect error"
