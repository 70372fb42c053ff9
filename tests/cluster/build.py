"""Build Kubernetes, etcd, containerd, CoreDNS, Helm and what else tests need from Go modules, once per content.

Each part is a folder below `go/` with a locked `go.mod`. Its binaries lie in the cache under a key
made of that lock and the flags, and appear there by one rename: a build that was killed is never used.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .places import SOURCES, Places
from .progress import Step, run
from .toolchain import Go, find_or_fetch

FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
KUBERNETES_VERSION = "v1.37.2"


@dataclass(frozen=True, slots=True)
class Part:
    """One module of programs; `minutes` is what a cold build took on two cores.

    `keeps` names files of a module (its path, then patterns below it) that are copied beside the binaries. With
    `only_keeps` they are all that is wanted of it, and nothing is built.
    """

    name: str
    title: str
    minutes: str
    variables: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    only_keeps: bool = False

    @property
    def source(self) -> Path:
        """The folder that holds go.mod, go.sum and, where no module has the program, its source."""
        return SOURCES / "go" / self.name

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of go build."""
        words = ["-s", "-w", *(f"-X {variable}" for variable in self.variables)]
        return (*FLAGS, "-ldflags", " ".join(words))

    @property
    def key(self) -> str:
        """Changes whenever the binaries would."""
        digest = hashlib.sha256(platform.machine().encode())
        for path in sorted(self.source.iterdir()):
            digest.update(path.read_bytes())
        digest.update("\0".join([*self.flags, *self.keeps]).encode())
        return digest.hexdigest()[:12]

    def folder(self, places: Places) -> Path:
        """Where its binaries lie once they are built."""
        return places.cache / "bin" / f"{self.name}-{self.key}"


_VERSION = "k8s.io/component-base/version"
KUBERNETES = Part(
    "kubernetes",
    f"Kubernetes {KUBERNETES_VERSION} and etcd",
    "6 to 8",
    (
        f"{_VERSION}.gitVersion={KUBERNETES_VERSION}",
        f"{_VERSION}.gitMajor=1",
        f"{_VERSION}.gitMinor={KUBERNETES_VERSION.split('.')[1]}",
    ),
)
CONTAINERD = Part("containerd", "containerd", "1")
COREDNS = Part("coredns", "CoreDNS", "2")
# Helm takes the version of Kubernetes that it renders for from its build.
_HELM_ASKS = [f"helm.sh/helm/v3/pkg/{package}.k8sVersion" for package in ("chartutil", "lint/rules")]
HELM = Part(
    "helm",
    "Helm",
    "1",
    tuple(f"{name}{part}" for name in _HELM_ASKS for part in ("Major=1", f"Minor={KUBERNETES_VERSION.split('.')[1]}")),
)
# What a kind cluster takes beside these where its node image cannot be pulled.
KUBEADM = Part("kubeadm", "kubeadm", "2", KUBERNETES.variables)
KIND = Part("kind", "kind", "1")
COLLECTOR = Part("collector", "an OpenTelemetry Collector", "2")
_ARGOCD_MODULE = "github.com/argoproj/argo-cd/v3"
_ARGOCD_VERSION = "v3.2.6"
ARGOCD = Part(
    "argocd",
    f"Argo CD {_ARGOCD_VERSION}",
    "4",
    (f"{_ARGOCD_MODULE}/common.version={_ARGOCD_VERSION.removeprefix('v')}",),
    (_ARGOCD_MODULE, "manifests/crds/*-crd.yaml"),
)
# Kinds that the chart and LLMProxies make for a Prometheus operator.
_PROMETHEUS_MODULE = "github.com/prometheus-operator/prometheus-operator"
_PROMETHEUS_KINDS = ("podmonitors", "prometheusrules", "servicemonitors")
PROMETHEUS_CRDS = Part(
    "prometheus-crds",
    "the Prometheus operator's CRDs",
    "0",
    keeps=(
        _PROMETHEUS_MODULE,
        *(f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml" for kind in _PROMETHEUS_KINDS),
    ),
    only_keeps=True,
)
PARTS = (KUBERNETES, CONTAINERD, COREDNS, HELM)
"""Of a cluster."""
ALL = (*PARTS, COLLECTOR, ARGOCD, PROMETHEUS_CRDS)


def ensure(places: Places, *parts: Part) -> None:
    """Build those parts that the cache does not hold, one after another."""
    absent = [part for part in parts if not part.folder(places).exists()]
    if not absent:
        return
    go = find_or_fetch(places)
    for part in absent:
        _build(places, part, go)


def _build(places: Places, part: Part, go: Go) -> None:
    folder = part.folder(places)
    fresh = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    if part.only_keeps:
        with Step(f"Fetching {part.title}") as step:
            run([go.command, "mod", "download", part.keeps[0]], env=go.env(), cwd=part.source, on_line=step.note)
    else:
        _compile(part, go, fresh)
    if part.keeps:
        _keep(part, go, fresh)
    fresh.rename(folder)
    _forget_older(folder, part)


def _compile(part: Part, go: Go, folder: Path) -> None:
    # The build ends with this process, and leaves the machine usable meanwhile.
    polite = ["setpriv", "--pdeathsig", "KILL", "nice", "-n", "10"] if shutil.which("setpriv") else []
    build = [go.command, "build", "-v", *part.flags, "-o", f"{folder}{os.sep}", "tool"]
    with Step(f"Building {part.title} (once; about {part.minutes} min on 2 cores)") as step:
        count = _Count(step)
        run([*polite, *build], env=go.env(), cwd=part.source, on_line=count.line)


def _keep(part: Part, go: Go, folder: Path) -> None:
    module, *patterns = part.keeps
    asked = [go.command, "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module]
    answer = subprocess.run(asked, env=go.env(), cwd=part.source, capture_output=True, text=True, check=True)
    for pattern in patterns:
        for file in Path(answer.stdout.strip()).glob(pattern):
            (folder / file.name).write_bytes(file.read_bytes())


class _Count:
    """Turns the lines of `go build -v` into a note on how far the build is."""

    def __init__(self, step: Step) -> None:
        self._step, self._fetched, self._compiled = step, 0, 0

    def line(self, text: str) -> None:
        if text.startswith("go: downloading"):
            self._fetched += 1
        elif re.fullmatch(r"[\w./~-]+", text):
            self._compiled += 1
        self._step.note(f"{self._fetched} modules fetched, {self._compiled} packages compiled")


def _forget_older(folder: Path, part: Part) -> None:
    for other in folder.parent.glob(f"{part.name}-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def program(places: Places, part: Part, name: str) -> Path:
    """The path of one program of a part."""
    return part.folder(places) / name
