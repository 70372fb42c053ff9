"""What the end-to-end tests do with a cluster, by kubectl, as a person would.

Only the cluster named by LLMPROXY_E2E_KUBECONFIG is ever touched, never the one of the user's own configuration.
"""

import atexit
import functools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import yaml

Object = dict[str, Any]
T = TypeVar("T")
HERE = Path(__file__).parent


class KubectlError(AssertionError):
    """kubectl ended with an error; the message has the command and what it printed."""


@dataclass(frozen=True)
class Kube:
    """kubectl in one namespace of the test cluster."""

    namespace: str
    kubeconfig: str = os.environ.get("LLMPROXY_E2E_KUBECONFIG", "")
    kubectl: str = os.environ.get("LLMPROXY_E2E_KUBECTL", "kubectl")

    def run(self, *args: str, stdin: str | None = None, timeout_s: float = 120, check: bool = True) -> str:
        """Run kubectl and return what it printed; raise KubectlError if it failed."""
        command = [self.kubectl, "--kubeconfig", self.kubeconfig, "--namespace", self.namespace, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
        if check and done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    def apply(self, *objects: Object | str | Path) -> None:
        """Apply manifests: objects, YAML text or files."""
        parts = []
        for item in objects:
            text = item.read_text() if isinstance(item, Path) else item
            parts.append(text if isinstance(text, str) else yaml.safe_dump(text))
        self.run("apply", "-f", "-", stdin="\n---\n".join(parts))

    def refused(self, manifest: Object | str) -> str:
        """Apply a manifest that must be refused; return the API server's message."""
        text = manifest if isinstance(manifest, str) else yaml.safe_dump(manifest)
        try:
            self.run("create", "--validate=strict", "-f", "-", stdin=text)
        except KubectlError as exc:
            return str(exc)
        raise AssertionError("the API server accepted it")

    def get(self, kind: str, name: str) -> Object:
        """Return one object."""
        found: Object = json.loads(self.run("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, selector: str = "") -> list[Object]:
        """Return the objects of a kind that a label selector picks."""
        args = ["get", kind, "-o", "json", *(["-l", selector] if selector else [])]
        items: list[Object] = json.loads(self.run(*args))["items"]
        return items

    def patch(self, kind: str, name: str, change: Object) -> None:
        """Merge *change* into an object."""
        self.run("patch", kind, name, "--type=merge", "-p", json.dumps(change))

    def raw(self, path: str, *, post: Object | None = None) -> str:
        """Ask the API server, also as a proxy to a Service: see `service`."""
        if post is None:
            return self.run("get", "--raw", path)
        # `kubectl create --raw` says no content type, and not every server guesses JSON.
        answer = httpx2.post(_proxy(self.kubectl, self.kubeconfig) + path, json=post, timeout=30)
        assert answer.is_success, f"POST {path}: {answer.status_code} {answer.text}"
        text: str = answer.text
        return text

    def service(self, name: str, port: int, path: str, *, post: Object | None = None) -> Any:
        """Ask a Service through the API server and return its JSON."""
        return json.loads(
            self.raw(f"/api/v1/namespaces/{self.namespace}/services/{name}:{port}/proxy{path}", post=post)
        )

    def answer(self, name: str, port: int, path: str, body: bytes) -> tuple[int, Any]:
        """Post to a Service through the API server, whatever it answers; return the status and the JSON."""
        return self.posted(f"/api/v1/namespaces/{self.namespace}/services/{name}:{port}/proxy{path}", body)

    def posted(self, path: str, body: bytes) -> tuple[int, Any]:
        """Post JSON to the API server; return the status and the JSON of the answer."""
        headers = {"content-type": "application/json"}
        answer = httpx2.post(self.address + path, content=body, headers=headers, timeout=60)
        return answer.status_code, answer.json()

    def pod(self, name: str, port: int, path: str) -> str:
        """Ask one pod through the API server and return the text."""
        return self.raw(f"/api/v1/namespaces/{self.namespace}/pods/{name}:{port}/proxy{path}")

    def pod_answer(self, name: str, port: int, path: str, body: bytes) -> int:
        """Post to one pod through the API server; return the status."""
        where = f"/api/v1/namespaces/{self.namespace}/pods/{name}:{port}/proxy{path}"
        headers = {"content-type": "application/json"}
        answer = httpx2.post(_proxy(self.kubectl, self.kubeconfig) + where, content=body, headers=headers, timeout=60)
        status: int = answer.status_code
        return status

    @property
    def address(self) -> str:
        """Where the API server can be called without an account, through `kubectl proxy`, while this process lives."""
        return _proxy(self.kubectl, self.kubeconfig)

    def wait(self, what: str, condition: str, timeout_s: float = 90) -> None:
        """Kubectl wait --for=*condition*."""
        self.run("wait", what, f"--for={condition}", f"--timeout={timeout_s:.0f}s", timeout_s=timeout_s + 10)

    def condition(self, kind: str, name: str, type_: str) -> Object:
        """Return a condition of an object's status, or an empty one."""
        conditions = self.get(kind, name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == type_), {})


def helm(kubeconfig: str, *args: str) -> str:
    """Run Helm on the test cluster and return what it printed."""
    command = [os.environ.get("LLMPROXY_E2E_HELM", "helm"), "--kubeconfig", kubeconfig, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"helm {' '.join(args)}: {done.stdout}{done.stderr}"
    return done.stdout


def proxied(kube: Kube) -> str:
    """Return where the API server answers on this machine without asking who it is: `kubectl proxy`."""
    return _proxy(kube.kubectl, kube.kubeconfig)


@functools.cache
def _proxy(kubectl: str, kubeconfig: str) -> str:
    """Start `kubectl proxy` for as long as this process lives; return where it listens."""
    command = [kubectl, "--kubeconfig", kubeconfig, "proxy", "--port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    assert process.stdout is not None
    line = process.stdout.readline()  # Starting to serve on 127.0.0.1:40000
    assert "Starting to serve on" in line, f"kubectl proxy said {line!r}"
    return f"http://{line.split()[-1]}"


def eventually(probe: Callable[[], T], wanted: Callable[[T], bool], timeout_s: float, what: str) -> T:
    """Return the first value of *probe* that is *wanted*; fail with the last one after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = probe()
        if wanted(value):
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s; last seen: {value!r}")
        time.sleep(0.5)


@dataclass
class Job:
    """A pod of a trainer: a script of `pods/` run with the OpenAI SDK and agentlightning at hand."""

    kube: Kube
    name: str

    def lines(self) -> list[Object]:
        """Return what the script has printed so far, one JSON object a line."""
        text = self.kube.run("logs", f"job/{self.name}", "--tail=-1", check=False)
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def wait_started(self, timeout_s: float = 90) -> None:
        """Wait for the first line."""
        eventually(self.lines, bool, timeout_s, f"first line of job {self.name}")

    def stop(self) -> None:
        """Have traffic end before its time."""
        self.kube.run("exec", f"job/{self.name}", "--", "touch", "/tmp/stop")  # noqa: S108 - in the pod

    def result(self, timeout_s: float = 120) -> list[Object]:
        """Wait for the end and return every line; fail with the log if the script failed."""

        def ended() -> Object:
            status: Object = self.kube.get("job", self.name).get("status", {})
            return status

        status = eventually(
            ended, lambda s: bool(s.get("succeeded") or s.get("failed")), timeout_s, f"end of {self.name}"
        )
        if not status.get("succeeded"):
            raise AssertionError(f"job {self.name} failed:\n{self.kube.run('logs', f'job/{self.name}', check=False)}")
        return self.lines()


@contextmanager
def trainer_job(
    kube: Kube, name: str, script: str, *args: str, endpoint: str = "", account: str = "default"
) -> Iterator[Job]:
    """Run `pods/SCRIPT.py ARGS` as a Job; with *endpoint*, its environment comes from that ConfigMap."""
    source = (HERE / "pods" / f"{script}.py").read_text()
    container: Object = {
        "name": "trainer",
        "image": os.environ.get("LLMPROXY_E2E_TESTKIT", "localhost/llmproxy-testkit:dev"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-u", "/scripts/main.py", *args],
        "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in the pod
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if endpoint:
        container["envFrom"] = [{"configMapRef": {"name": endpoint}}]
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "scripts", "configMap": {"name": name}}, {"name": "tmp", "emptyDir": {}}],
    }
    kube.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"main.py": source}},
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}},
        },
    )
    try:
        yield Job(kube, name)
    finally:
        kube.run("delete", "job", name, "--wait=false", check=False)
        kube.run("delete", "configmap", name, check=False)
