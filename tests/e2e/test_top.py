"""`llmproxy top` on a cluster, by an account that has the rights which docs/cli.md names, and no other."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from e2e.conftest import ROOT
from e2e.kube import Kube, trainer_job
from e2e.proxies import STORE, an_llmproxy, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def documented_role() -> dict[str, object]:
    [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/cli.md").read_text(), re.DOTALL)
    role: dict[str, object] = yaml.safe_load(text)
    return role


def kubeconfig_of(kube: Kube, account: str, folder: Path) -> Path:
    """Return a kubeconfig of a service account."""
    config = yaml.safe_load(Path(kube.kubeconfig).read_text())
    token = kube.run("create", "token", account).strip()
    config["users"] = [{"name": account, "user": {"token": token}}]
    config["contexts"] = [
        {
            "name": "c",
            "context": {"cluster": config["clusters"][0]["name"], "user": account, "namespace": kube.namespace},
        }
    ]
    config["current-context"] = "c"
    made = folder / "kubeconfig"
    made.write_text(yaml.safe_dump(config))
    made.chmod(0o600)
    return made


def top(kubeconfig: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / ".venv/bin/llmproxy"), "top", "--kubeconfig", str(kubeconfig), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_two_rights_are_enough_to_see_a_proxy_and_one_is_said_to_be_too_few(team: Kube, tmp_path: Path) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "looker"}}
    team.apply(account)
    kubeconfig = kubeconfig_of(team, "looker", tmp_path)
    nothing = top(kubeconfig, "--once", "--interval", "0.2")
    role = documented_role()
    subject = {"kind": "ServiceAccount", "name": "looker", "namespace": team.namespace}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "looker"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "llmproxy-top"},
        "subjects": [subject],
    }
    rules: list[dict[str, object]] = role["rules"]  # type: ignore[assignment]
    team.apply({**role, "rules": [rule for rule in rules if rule["resources"] == ["pods"]]}, binding)

    with running(team, an_llmproxy("seen", rateLimits={"rpm": 30}, spans={"store": STORE})):
        half = top(kubeconfig, "seen", "--once", "--interval", "0.2")
        team.apply(role)
        with trainer_job(team, "burst-seen", "burst", "10", "echo", endpoint="seen-endpoint") as job:
            job.result()
        whole = top(kubeconfig, "seen", "-o", "json", "--interval", "1")

    assert nothing.returncode == 1
    assert "cannot list resource" in nothing.stderr
    assert half.returncode == 1
    assert "it needs list on pods and get on pods/proxy: see docs/cli.md" in half.stderr
    assert (whole.returncode, whole.stderr) == (0, "")
    said = json.loads(whole.stdout)
    [row] = said["proxies"]
    assert (said["place"], row["namespace"], row["name"], row["pods"]) == (
        f"namespace {team.namespace}",
        team.namespace,
        "seen",
        1,
    )
    assert {(use["kind"], use["used"], use["limit"]) for use in row["limits"]} == {("rpm", 10.0, 30.0)}
    assert row["backlog"] is not None
