"""`make demo-cluster`: the quickstart on a real cluster, with kubectl and Helm; the same story as `make demo`.

Everything shown is checked: it ends with 1 and says what was not as promised. It works in a namespace of its own, and
removes that, and the operator if it installed it, in the end; `--keep` leaves both to look at.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import demo
from demo import AFTER, BEFORE, QUICKSTART, REQUESTS, ROLLOUTS, Answer, expect
from processes import DemoError, running
from rich.console import Console

HERE = Path(__file__).parent
CHART = HERE.parents[1] / "charts/llmproxy-operator"
NAMESPACE, RELEASE, SYSTEM = "llmproxy-demo", "llmproxy-operator", "llmproxy-system"
IMAGES = ("image.repository=localhost/llmproxy-operator", "image.tag=dev", "proxyImage.tag=dev", "crds.keep=false")
TRAINER_IMAGE = "localhost/llmproxy-testkit:dev"
WINDOW_S = 60
PROBE_S = 20


@dataclass(frozen=True)
class Cluster:
    """kubectl and Helm on one cluster; every command is shown as a person would type it."""

    console: Console
    kubeconfig: str
    kubectl_program: str
    helm_program: str

    def kubectl(self, *words: str, stdin: str | None = None, quiet: bool = False) -> str:
        """Run kubectl in the demo's namespace; return what it printed; raise DemoError."""
        program = [self.kubectl_program, "--kubeconfig", self.kubeconfig, "--namespace", NAMESPACE]
        return self._run("kubectl", program, words, stdin, quiet=quiet)

    def helm(self, *words: str, quiet: bool = False) -> str:
        """Run Helm; return what it printed; raise DemoError."""
        program = [self.helm_program, "--kubeconfig", self.kubeconfig, "--namespace", SYSTEM]
        return self._run("helm", program, words, None, quiet=quiet)

    def _run(self, name: str, program: list[str], words: tuple[str, ...], stdin: str | None, *, quiet: bool) -> str:
        if not quiet:
            self.console.print(f"[bold cyan]$ {name} {' '.join(_short(word) for word in words)}[/]", soft_wrap=True)
        done = subprocess.run([*program, *words], input=stdin, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            raise DemoError(f"{name} {' '.join(words)}\n{done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def _short(word: str) -> str:
    path = Path(word)
    if path.is_absolute() and path.is_relative_to(HERE.parents[1]):
        word = str(path.relative_to(HERE.parents[1]))
    return f"'{word}'".replace("[", "\\[") if {" ", '"', "{"} & set(word) else word.replace("[", "\\[")


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description="The quickstart on a cluster.")
    for name in ("kubeconfig", "kubectl", "helm"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--keep", action="store_true", help="leave the namespace and the operator")
    flags = parser.parse_args()
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=demo.PIPED_WIDTH, highlight=False)
    cluster = Cluster(console, flags.kubeconfig, flags.kubectl, flags.helm)
    started_s = time.monotonic()
    try:
        with ExitStack() as stack:
            if not flags.keep:
                stack.callback(remove, cluster, installed=not is_installed(cluster))
            show(cluster, stack)
    except DemoError as exc:
        console.print(f"\n[bold red]NOT AS PROMISED[/]: {str(exc).replace('[', chr(92) + '[')}")
        return 1
    except KeyboardInterrupt:
        console.print("\nended before its end")
        return 130
    console.print(f"\n[bold green]As promised[/], in {time.monotonic() - started_s:.0f} s.")
    return 0


def show(cluster: Cluster, stack: ExitStack) -> None:
    """Tell the story; raise DemoError where it is not true."""
    console = cluster.console
    console.rule("1. The operator, a LightningStore, a model server, and the quickstart's LLMProxy")
    install(cluster)
    services = proxied(cluster, stack)
    echo, store = f"{services}/echo:8000/proxy", f"{services}/lightning-store:4747/proxy"

    console.rule(f"2. {REQUESTS} rapid requests of {ROLLOUTS} rollouts against rpm: {BEFORE}")
    attempts = dict(demo.start_rollout(store) for _ in range(ROLLOUTS))
    began_s = time.monotonic()
    first = burst(cluster, attempts)
    console.print(demo.table_of(first))
    demo.check_burst(first, answered=BEFORE, limit=BEFORE)
    seen = demo.get(f"{echo}/stats")["calls"]
    expect(seen == BEFORE, f"the model server saw {seen} calls, not {BEFORE}")
    console.print(
        f"{BEFORE} answered, {REQUESTS - BEFORE} told when to come back; the model server saw {seen} calls.\n"
    )

    console.rule("3. The spans in the store")
    console.print(demo.spans_table(store, attempts, first))

    console.rule(f"4. An edit while requests go on: rpm: {BEFORE} becomes rpm: {AFTER}")
    asked = edit(cluster)
    second = burst(cluster, attempts)
    in_time = time.monotonic() - began_s < WINDOW_S
    more = sum(answer.status == 200 for answer in second)  # noqa: PLR2004 - HTTP
    demo.check_burst(second, answered=AFTER - BEFORE if in_time else more, limit=AFTER)
    expect(AFTER - BEFORE <= more <= AFTER, f"{more} requests were answered after the edit")
    console.print(demo.table_of(second, only_answered=True))
    console.print(
        f"{more} more are answered: {AFTER} in any minute, and the new gateway knows of the {BEFORE} before. "
        f"{asked} requests to /v1/models during the roll: none refused."
    )
    demo.spans_table(store, attempts, [*first, *second])
    console.print(cluster.kubectl("get", "llmproxy,pods"), soft_wrap=True)


def is_installed(cluster: Cluster) -> bool:
    """Whether the operator is there already."""
    return RELEASE in cluster.helm("list", "--short", quiet=True).split()


def install(cluster: Cluster) -> None:
    """Install the operator and apply the quickstart, each waited for."""
    values = [word for value in IMAGES for word in ("--set", value)]
    where = ("--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout=120s")
    cluster.helm("upgrade", "--install", RELEASE, str(CHART), *where, *values)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", quiet=True)
    cluster.kubectl("create", "namespace", NAMESPACE)
    folder = QUICKSTART.parent
    for name in ("echo.yaml", "lightning-store.yaml", "proxy.yaml"):
        cluster.kubectl("apply", "-f", str(folder / name))
    cluster.kubectl(
        "wait", "--for=condition=Available", "deployment/lightning-store", "deployment/echo", "--timeout=120s"
    )
    cluster.kubectl("wait", "--for=condition=Ready", "llmproxy/quickstart", "--timeout=120s")
    cluster.console.print(cluster.kubectl("get", "llmproxy"), soft_wrap=True)


def remove(cluster: Cluster, *, installed: bool) -> None:
    """Remove what the demo made."""
    cluster.console.rule("Removing what the demo made (--keep leaves it)")
    # First what may take its time to drain: a namespace goes on with the rest only after the longest grace period.
    with suppress(DemoError):  # without a CRD there are none
        cluster.kubectl("delete", "llmproxy", "quickstart", "--ignore-not-found")
        cluster.kubectl("wait", "--for=delete", "pods", "--selector=llmproxy.dev/name=quickstart", "--timeout=120s")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")
    if installed:
        cluster.helm("uninstall", RELEASE, "--ignore-not-found", "--wait")


def proxied(cluster: Cluster, stack: ExitStack) -> str:
    """Start `kubectl proxy`; return where the Services of the namespace are."""
    port = demo.free_port()
    command = [cluster.kubectl_program, "--kubeconfig", cluster.kubeconfig, "proxy", f"--port={port}"]
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmproxy-demo-")))
    process = stack.enter_context(running("kubectl proxy", command, folder))
    process.wait_for("it was ready", lambda: process.printed("Starting to serve") > 0, 30)
    return f"http://127.0.0.1:{port}/api/v1/namespaces/{NAMESPACE}/services"


def burst(cluster: Cluster, attempts: dict[str, str]) -> list[Answer]:
    """Send the requests from a trainer's pod."""
    words = [f"{rollout}={attempt}" for rollout, attempt in attempts.items()]
    start(cluster, "burst", str(REQUESTS), *words)
    return [Answer(**line) for line in ended(cluster, "burst")]


def edit(cluster: Cluster) -> int:
    """Change the limit while requests go on; return how many did. None may be refused."""
    start(cluster, "probe", str(PROBE_S))
    deadline_s = time.monotonic() + 60
    while not lines(cluster, "probe"):
        expect(time.monotonic() < deadline_s, "the probing pod did not start in 60 s")
        time.sleep(0.2)
    patch = json.dumps({"spec": {"rateLimits": {"rpm": AFTER}}})
    cluster.kubectl("patch", "llmproxy", "quickstart", "--type=merge", "-p", patch)
    wanted = json.loads(cluster.kubectl("get", "llmproxy", "quickstart", "-o", "json", quiet=True))
    generation = wanted["metadata"]["generation"]
    seen = f"--for=jsonpath={{.status.observedGeneration}}={generation}"
    cluster.kubectl("wait", seen, "llmproxy/quickstart", "--timeout=60s", quiet=True)
    cluster.kubectl("wait", "--for=condition=Ready", "llmproxy/quickstart", "--timeout=120s")
    told = ended(cluster, "probe")[-1]
    failed = told["failed"]
    expect(not failed, f"{len(failed)} of {told['asked']} requests during the roll failed: {failed[:1]}")
    asked: int = told["asked"]
    return asked


def start(cluster: Cluster, name: str, *args: str) -> None:
    """Run trainer.py in a Job, with the endpoint of the proxy in its environment."""
    cluster.kubectl("delete", "job", name, "--ignore-not-found", quiet=True)
    script = {"main.py": (HERE / "trainer.py").read_text()}
    container = {
        "name": "trainer",
        "image": TRAINER_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-u", "/scripts/main.py", name, *args],
        "envFrom": [{"configMapRef": {"name": "quickstart-endpoint"}}],
        "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}],
    }
    pod = {"restartPolicy": "Never", "containers": [container]}
    pod["volumes"] = [{"name": "scripts", "configMap": {"name": "trainer"}}]
    objects = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "trainer"}, "data": script},
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}},
        },
    ]
    cluster.console.print(f"[dim]a Job runs examples/demo/trainer.py {name}, envFrom quickstart-endpoint[/]")
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    cluster.kubectl("apply", "-f", "-", stdin=manifest, quiet=True)


def lines(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """Return what a Job has printed; nothing if it has not started."""
    try:
        text = cluster.kubectl("logs", f"job/{name}", "--tail=-1", quiet=True)
    except DemoError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def ended(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """Wait for the end of a Job; return what it printed."""
    cluster.kubectl("wait", "--for=condition=Complete", f"job/{name}", "--timeout=120s", quiet=True)
    return lines(cluster, name)


if __name__ == "__main__":
    sys.exit(main())
