"""A real Argo CD beside the cluster: its repository server and application controller, with a Redis, on loopback.

They are processes of this machine, not pods, and meet the cluster as any client does. Ends with the tests: every
process is killed by the kernel when its parent ends.
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from e2e.kube import HERE, Kube, Object, eventually
from procs import free_port, running
from redisd import redis_server

NAMESPACE = "argocd"
IN_CLUSTER = "https://kubernetes.default.svc"
MARKS = {"app.kubernetes.io/part-of": "argocd"}
"""Argo CD reads only settings with this label."""
HEALTH = HERE.parent.parent / "gitops/argocd/argocd-cm.yaml"


@contextmanager
def argo_cd(program: Path, folder: Path) -> Iterator[Kube]:
    """Run Argo CD with our health script while the context lasts; yield its namespace."""
    kube = Kube(NAMESPACE)
    _install(kube, program.parent)
    environment = {
        "KUBECONFIG": kube.kubeconfig,
        "ARGOCD_FAKE_IN_CLUSTER": "true",  # the cluster's inner address stands for that of the kubeconfig
        "ARGOCD_GPG_ENABLED": "false",
        # What it thinks of each object stands in the Application then, for the tests to read.
        "ARGOCD_APPLICATION_CONTROLLER_PERSIST_RESOURCE_HEALTH": "true",
        "ARGOCD_ASK_PASS_SOCK": str(folder / "ask.sock"),
        "ARGOCD_RECONCILIATION_TIMEOUT": "3s",  # how often it looks into Git, and how long an answer of Git counts
        "ARGOCD_RECONCILIATION_JITTER": "0s",
        "HOME": str(folder),
        "TMPDIR": str(folder),
    }
    for name in ("TLS", "SSH"):
        (folder / name).mkdir()
        environment[f"ARGOCD_{name}_DATA_PATH"] = str(folder / name)
    died = ("setpriv", "--pdeathsig", "KILL")
    setpriv = shutil.which(died[0]) or "/usr/bin/setpriv"
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        answers, metrics = free_port(), free_port()

        def start(part: str, *flags: str, port: int | None = None) -> None:
            command = (setpriv, *died[1:], str(program), *flags, "--redis", f"127.0.0.1:{redis.port}")
            stack.enter_context(
                running(*command, env={**environment, "ARGOCD_BINARY_NAME": part}, cwd=folder, port=port)
            )

        listen = ("--address", "127.0.0.1", "--port", str(answers), "--metrics-address", "127.0.0.1")
        start("argocd-repo-server", *listen, "--metrics-port", str(metrics), "--disable-tls", port=answers)
        source = ("--repo-server", f"127.0.0.1:{answers}", "--repo-server-plaintext")
        metrics = free_port()
        start("argocd-application-controller", *source, "--namespace", NAMESPACE, "--metrics-port", str(metrics))
        yield kube


def _install(kube: Kube, files: Path) -> None:
    kube.run(
        "apply", "--server-side", "--force-conflicts", *(w for f in files.glob("*-crd.yaml") for w in ("-f", str(f)))
    )
    kube.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s")
    kube.run("create", "namespace", NAMESPACE)
    config: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm", "labels": MARKS}}
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "argocd-secret", "labels": MARKS}}
    project: Object = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": "default"},
        "spec": {
            "sourceRepos": ["*"],
            "destinations": [{"namespace": "*", "server": "*"}],
            "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
        },
    }
    kube.apply(config, {**secret, "stringData": {"server.secretkey": "of tests"}})
    kube.run("wait", "--for=condition=Established", "crd/applications.argoproj.io", "--timeout=30s")
    kube.apply(project)
    # As docs/gitops.md says.
    kube.run("patch", "configmap", "argocd-cm", "--patch-file", str(HEALTH))


@dataclass(frozen=True)
class Repository:
    """A Git repository of manifests on this machine."""

    folder: Path

    def git(self, *words: str) -> str:
        """Call git in it and return what it printed."""
        who = ("-c", "user.name=tests", "-c", "user.email=tests@example.test")
        done = subprocess.run(["git", *who, *words], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"git {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    @property
    def head(self) -> str:
        """The newest commit."""
        return self.git("rev-parse", "HEAD")

    def commit(self, application: str, manifest: Object | None) -> str:
        """Write the manifest of an application, or remove it, and commit; return the commit."""
        folder = self.folder / application
        folder.mkdir(exist_ok=True)
        (folder / "README.md").write_text("What Argo CD keeps.\n")  # Git knows no empty folder
        file = folder / "proxy.json"
        if manifest is None:
            file.unlink()
        else:
            file.write_text(json.dumps(manifest, indent=1))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", f"Change {application}")
        return self.head


def a_repository(folder: Path) -> Repository:
    """Make an empty repository."""
    folder.mkdir()
    made = Repository(folder)
    made.git("init", "--quiet", "--initial-branch", "main")
    return made


@dataclass
class Application:
    """An Application, and everything that Argo CD said about it from its first moment on."""

    kube: Kube
    name: str
    repository: Repository
    seen: list[Object] = field(default_factory=list)

    def state(self) -> tuple[str, str, str]:
        """Return health, sync and the commit that both are about, as they were last seen."""
        return _state(self.seen[-1]) if self.seen else ("", "", "")

    def compare(self) -> None:
        """Have Argo CD compare now, without what it remembers, and wait for its answer."""
        self.kube.run("annotate", "application", self.name, "argocd.argoproj.io/refresh=hard")
        eventually(
            lambda: self.kube.get("application", self.name)["metadata"].get("annotations") or {},
            lambda marks: "argocd.argoproj.io/refresh" not in marks,
            60,
            f"{self.name} compared",
        )

    def wait(self, health: str, timeout_s: float = 90) -> None:
        """Wait until it is synced to the newest commit and of a health."""
        wanted = (health, "Synced", self.repository.head)
        self.kube.run("annotate", "application", self.name, "--overwrite", "argocd.argoproj.io/refresh=normal")
        eventually(self.state, lambda now: now == wanted, timeout_s, f"{self.name} {health}")

    def healths(self, *, ever: bool = False) -> list[str]:
        """Return the healths that were seen at the newest commit, or ever, in order and without repeats."""
        head = self.repository.head
        states = map(_state, self.seen)
        told = [health for health, sync, commit in states if sync == "Synced" and (ever or commit == head)]
        return [one for before, one in zip(["", *told], told, strict=False) if one != before]

    def message(self) -> str:
        """Return what the health script said about the LLMProxy."""
        resources = self.kube.get("application", self.name)["status"]["resources"]
        found = next(item for item in resources if item["kind"] == "LLMProxy")
        text: str = found["health"].get("message", "")
        return text

    def drifted(self) -> list[tuple[str, str, str]]:
        """Return every report of a difference to a commit that had been synced before."""
        found, done = [], set()
        for health, sync, commit in map(_state, self.seen):
            if sync == "Synced":
                done.add(commit)
            elif sync == "OutOfSync" and commit in done:
                found.append((health, sync, commit))
        return found


def _state(item: Object) -> tuple[str, str, str]:
    status = item.get("status") or {}
    sync = status.get("sync") or {}
    health = (status.get("health") or {}).get("status", "")
    return health, sync.get("status", ""), sync.get("revision", "")


@contextmanager
def application(
    kube: Kube, name: str, repository: Repository, namespace: str, *, server_side: bool
) -> Iterator[Application]:
    """Have Argo CD keep what lies in the repository's folder of that name; remove it all in the end."""
    options = {"argocd.argoproj.io/compare-options": "ServerSideDiff=true"} if server_side else {}
    kube.apply(
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": {
                "name": name,
                "annotations": options,
                "finalizers": ["resources-finalizer.argocd.argoproj.io"],
            },
            "spec": {
                "project": "default",
                "source": {"repoURL": f"file://{repository.folder}", "path": name, "targetRevision": "main"},
                "destination": {"server": IN_CLUSTER, "namespace": namespace},
                "syncPolicy": {
                    "automated": {"prune": True, "selfHeal": True, "allowEmpty": True},
                    "syncOptions": ["ServerSideApply=true"] if server_side else [],
                },
            },
        }
    )
    made = Application(kube, name, repository)
    watching = [kube.kubectl, "--kubeconfig", kube.kubeconfig, "--namespace", kube.namespace]
    watching += ["get", "application", name, "--watch", "--output", "json"]
    with subprocess.Popen(watching, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        reader = threading.Thread(target=_read, args=(process, made.seen), daemon=True)
        reader.start()
        try:
            yield made
        finally:
            kube.run("delete", "application", name, "--ignore-not-found", "--timeout=90s")
            process.kill()
            reader.join(10)


def _read(process: "subprocess.Popen[str]", seen: list[Object]) -> None:
    """Take the objects that `kubectl get --watch` writes one after another."""
    assert process.stdout is not None
    decoder, text = json.JSONDecoder(), ""
    for line in process.stdout:
        text += line
        if line.rstrip() == "}":  # no object within one stands at the margin
            item, _ = decoder.raw_decode(text.lstrip())
            seen.append(item)
            text = ""
