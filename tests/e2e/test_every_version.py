"""Every version of an LLMProxy and of its Deployment that a watch sees, from its creation to its end.

Whoever reads them by the rules of kstatus is never told that a generation is in force before its pods serve, never that
somebody must act when nobody must, and never anything but "on its way out" once it is being deleted.
"""

import itertools
import json
from typing import Any

import pytest

import kstatus
from e2e.kube import Kube, Object, eventually
from e2e.proxies import an_llmproxy, wait_rolled
from e2e.watching import Seen, recorded, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NAME, GOOD, BAD = "witness", "localhost/llmproxy:dev", "localhost/llmproxy:is-not-there"
MINE = f"labelSelector=llmproxy.dev/name={NAME}"
WATCHED = (
    f"apis/llmproxy.dev/v1alpha1/.../llmproxies?fieldSelector=metadata.name={NAME}",
    f"apis/apps/v1/.../deployments?{MINE}",
    f"api/v1/.../pods?{MINE}",
    f"api/v1/.../configmaps?{MINE}",
)
CALL = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}).encode()


def of_kind(items: list[Object], kind: str) -> list[Object]:
    return [item for item in items if item["kind"] == kind]


def condition(item: Object, kind: str) -> Object:
    conditions = item.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def template_hash(item: Object) -> str:
    found: str = item["metadata"]["annotations"]["llmproxy.dev/template-hash"]
    return found


def not_serving(deployment: Object, there: list[Object]) -> list[str]:
    """Return what keeps the pods of a Deployment's template from being all there are, and all ready."""
    pods = [pod for pod in of_kind(there, "Pod") if not pod["metadata"].get("deletionTimestamp")]
    found = [f"{len(pods)} pods"] if len(pods) != deployment["spec"]["replicas"] else []
    for pod in pods:
        name = pod["metadata"]["name"]
        if template_hash(pod) != template_hash(deployment["spec"]["template"]):
            found.append(f"{name} is of another template")
        if condition(pod, "Ready").get("status") != "True":
            found.append(f"{name} is not ready")
    return found


def not_in_force(proxy: Object, there: list[Object]) -> list[str]:
    """Return what keeps this generation of an LLMProxy from being what is served."""
    deployments = of_kind(there, "Deployment")
    if len(deployments) != 1:
        return [f"{len(deployments)} Deployments"]
    [deployment] = deployments
    found = not_serving(deployment, there)
    if (read := kstatus.verdict(deployment)) != kstatus.CURRENT:
        found.append(f"its Deployment is {read}")
    pod = deployment["spec"]["template"]["spec"]
    if pod["containers"][0]["image"] != proxy["spec"].get("image", GOOD):
        found.append("another image")
    mounted = {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
    documents = [item for item in of_kind(there, "ConfigMap") if item["metadata"]["name"] in mounted]
    limits = [json.loads(item["data"]["config.json"])["rate_limits"] for item in documents]
    if [limit["rpm"] for limit in limits] != [proxy["spec"]["rateLimits"]["rpm"]]:
        found.append(f"the limits are {limits}")
    return found


def judge(seen: Seen, there: list[Object]) -> list[str]:
    """Return what is untrue about one version of an LLMProxy or a Deployment; *there* is all that was there then."""
    item, read = seen.item, kstatus.verdict(seen.item)
    if item["kind"] == "Deployment":
        found = not_serving(item, there) if read == kstatus.CURRENT else []
        return found + (["nobody must act"] if read == kstatus.FAILED else [])
    found = not_in_force(item, there) if read == kstatus.CURRENT else []
    told = {kind: condition(item, kind).get("status") for kind in ("Ready", "Reconciling", "Stalled")}
    if read == kstatus.CURRENT and told != {"Ready": "True", "Reconciling": "False", "Stalled": "False"}:
        found.append(f"done, and the conditions say {told}")
    if told["Reconciling"] == told["Stalled"] == "True":
        found.append("both on its way and stalled")
    stalled = condition(item, "Stalled")
    wrong = (item["spec"].get("image"), stalled.get("reason")) != (BAD, "ImagePullFailed")
    if read == kstatus.FAILED and wrong:
        found.append(f"stalled with {stalled['reason']}")
    return found


def untrue(log: list[Seen]) -> list[str]:
    """Return what is untrue in any version."""
    found = []
    for seen in log:
        if seen.how == "DELETED" or seen.item["kind"] not in {"LLMProxy", "Deployment"}:
            continue
        about = f"{seen.item['kind']} {seen.version}, generation {seen.item['metadata']['generation']}"
        found += [f"{about}: {words}" for words in judge(seen, until(log, seen.version))]
    return found


def times_that_moved(versions: list[Object]) -> list[str]:
    """Return the conditions whose time moved without a flip."""
    found = []
    for before, after in itertools.pairwise(versions):
        for now in after["status"]["conditions"]:
            was = condition(before, now["type"])
            moved = was.get("lastTransitionTime") != now["lastTransitionTime"]
            if was and moved and was["status"] == now["status"]:
                found.append(f"{now['type']} at {after['metadata']['resourceVersion']}")
    return found


def story(versions: list[Object]) -> list[tuple[Any, str]]:
    """Return each change of (generation, verdict)."""
    told: list[tuple[Any, str]] = []
    for item in versions:
        said = kstatus.verdict(item)
        now = ("any" if said == kstatus.TERMINATING else item["metadata"]["generation"], said)
        if not told or told[-1] != now:
            told.append(now)
    return told


def pretending(seen: Seen, other: Object) -> Seen:
    """Return a version that says of its own generation what another version says of that one's."""
    generation, status = seen.item["metadata"]["generation"], other["status"]
    conditions = [{**item, "observedGeneration": generation} for item in status["conditions"]]
    return Seen(
        seen.how, {**seen.item, "status": {**status, "observedGeneration": generation, "conditions": conditions}}
    )


def lies_that_pass(log: list[Seen]) -> list[str]:
    """Return the lies that `judge` does not find: each edit already in force, the bad one ever, a good one stalled."""
    proxies = [seen for seen in log if seen.item["kind"] == "LLMProxy" and seen.how != "DELETED"]
    done = next(seen.item for seen in proxies if kstatus.verdict(seen.item) == kstatus.CURRENT)
    stalled = next(seen.item for seen in proxies if kstatus.verdict(seen.item) == kstatus.FAILED)
    edits = {seen.item["metadata"]["generation"]: seen for seen in reversed(proxies)}
    alive = [seen for seen in proxies if not seen.item["metadata"].get("deletionTimestamp")]
    bad = [seen for seen in alive if seen.item["spec"].get("image") == BAD]
    lies = [(seen, done) for seen in (*edits.values(), *bad) if seen in alive]
    lies += [(seen, stalled) for seen in alive if seen not in bad]
    assert len(bad) > 2
    return [
        f"{seen.version} as {kstatus.verdict(other)}"
        for seen, other in lies
        if not judge(pretending(seen, other), until(log, seen.version))
    ]


def live(team: Kube) -> None:
    """Create it, edit it, break it, heal it and delete it; call it wherever it must answer."""
    team.apply(an_llmproxy(NAME, rateLimits={"rpm": 1001}, drainTimeout="1s"))
    wait_rolled(team, NAME)
    assert team.answer(NAME, 4000, "/v1/chat/completions", CALL)[0] == 200
    team.patch("llmproxy", NAME, {"spec": {"rateLimits": {"rpm": 1002}}})
    wait_rolled(team, NAME)
    team.patch("llmproxy", NAME, {"spec": {"image": BAD}})
    eventually(
        lambda: team.condition("llmproxy", NAME, "Stalled"), lambda c: c.get("status") == "True", 90, "it is stalled"
    )
    assert team.answer(NAME, 4000, "/v1/chat/completions", CALL)[0] == 200
    team.patch("llmproxy", NAME, {"spec": {"image": None}})
    wait_rolled(team, NAME)
    team.run("delete", "llmproxy", NAME, "--cascade=foreground", "--timeout=100s")


def test_no_version_of_it_says_what_is_not_so(team: Kube) -> None:
    with recorded(team, *WATCHED) as record:
        try:
            live(team)
        finally:
            team.run("delete", "llmproxy", NAME, "--ignore-not-found", "--wait=false")
        log = eventually(
            record.read, lambda seen: any(s.how == "DELETED" and s.item["kind"] == "LLMProxy" for s in seen), 30, "end"
        )

    versions = [seen.item for seen in log if seen.item["kind"] == "LLMProxy" and seen.how != "DELETED"]
    in_progress, current = kstatus.IN_PROGRESS, kstatus.CURRENT
    assert story(versions) == [
        *((1, in_progress), (1, current)),
        *((2, in_progress), (2, current)),
        *((3, in_progress), (3, kstatus.FAILED)),
        *((4, in_progress), (4, current)),
        ("any", kstatus.TERMINATING),
    ]
    assert untrue(log) == []
    assert lies_that_pass(log) == []  # it would have been seen
    assert times_that_moved(versions) == []
    ending = next(int(i["metadata"]["resourceVersion"]) for i in versions if kstatus.verdict(i) == kstatus.TERMINATING)
    assert [s.item["metadata"]["name"] for s in log if s.version > ending and s.how == "ADDED"] == []
    # From the first pod that serves until it is deleted, something serves.
    alive = [item for item in versions if kstatus.verdict(item) != kstatus.TERMINATING]
    available = [condition(item, "Available").get("status") for item in alive]
    assert "False" not in available[available.index("True") :]
