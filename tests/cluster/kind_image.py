"""A node image for kind where none can be pulled: Debian packages, the programs built here, and kind's own files.

kind's files (entrypoint, units) are taken from its Go module when the image is built; none is kept here. The
control plane's images are made of the built programs and imported when the node starts.
"""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from . import build, oci, packages, settings
from .errors import ClusterError
from .places import SOURCES, Places
from .progress import Step, output, run
from .toolchain import find_or_fetch

IMAGE = "localhost/llmproxy-kind-node:1"
BASE = "localhost/llmproxy-kind-base:1"
SUITE = "bookworm"  # its systemd still starts on control groups of version 1
DEBIAN = (
    "bash,ca-certificates,conntrack,containernetworking-plugins,curl,ethtool,hostname,iproute2,iptables,jq,kmod,"
    "libseccomp2,mount,nftables,openssl,pigz,procps,runc,systemd,util-linux"
)
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
PROGRAMS = {
    build.KUBERNETES: ("kubelet", "kubectl"),
    build.KUBEADM: ("kubeadm",),
    build.CONTAINERD: ("containerd", "containerd-shim-runc-v2", "ctr"),
}


def config(address: str) -> dict[str, Any]:
    """kind's configuration: the API server is reached at `address`; what this kernel or root cannot do is left out."""
    kubelet = {
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "oomScoreAdj": 0,
        "localStorageCapacityIsolation": False,
    }
    # Connection tracking's settings are the host's.
    host = {"min": 0, "tcpBeLiberal": False, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    proxy = {"kind": "KubeProxyConfiguration", "conntrack": {"maxPerCore": 0} | host}
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {
            "disableDefaultCNI": True,
            "kubeProxyMode": "nftables",
            "apiServerAddress": address,
            "apiServerPort": 6443,
        },
        "kubeadmConfigPatches": [json.dumps(kubelet), json.dumps(proxy)],
    }


def ensure(places: Places, env: dict[str, str]) -> None:
    """Build the image on the engine of `env` unless it has it."""
    if output(["docker", "image", "inspect", IMAGE], env=env) is not None:
        return
    build.ensure(places, *PROGRAMS, build.COREDNS, build.KIND)
    base = _base(places)
    with tempfile.TemporaryDirectory(dir=places.cache) as folder:
        context = Path(folder)
        with Step("Gathering the files of kind's node image"):
            _gather(places, context)
        with Step("Building kind's node image") as step:
            run(["docker", "import", base, BASE], env=env, on_line=step.note)
            run(["docker", "build", "--tag", IMAGE, context], env=env, on_line=step.note)


def _base(places: Places) -> Path:
    archive = places.cache / "kind-base.tar"
    wanted = f"{SUITE} {DEBIAN}"
    made = archive.with_suffix(".key")
    if archive.exists() and made.exists() and made.read_text() == wanted:
        return archive
    packages.ensure(packages.BASE)
    left_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    with Step(f"Making a base from Debian {SUITE} with systemd (once; about 2 min)") as step:
        words = ["--variant=essential", f"--include={DEBIAN}", *left_out, *packages.apt_proxy()]
        run(["mmdebstrap", *words, SUITE, archive], on_line=step.note)
    made.write_text(wanted)
    return archive


def _gather(places: Places, context: Path) -> None:
    source = _kind_module(places)
    shutil.copytree(source / "images" / "base" / "files", context / "kind")
    for entry in context.rglob("*"):
        entry.chmod(0o755)  # modules are read-only
    for folder in ("bin", "images", "own"):
        (context / folder).mkdir()
    for part, names in PROGRAMS.items():
        for name in names:
            shutil.copy(build.program(places, part, name), context / "bin" / name)
    shutil.copy(SOURCES / "images" / "kind.Dockerfile", context / "Dockerfile")
    shutil.copy(SOURCES / "images" / "kind" / "load-images.service", context / "own")
    (context / "own" / "version").write_text(build.KUBERNETES_VERSION)
    (context / "own" / "10-pods.conflist").write_text(json.dumps(settings.pod_network(Path("/var/lib/cni/networks"))))
    _images(places, context)


def _kind_module(places: Places) -> Path:
    go = find_or_fetch(places)
    here: list[str | Path] = [go.command, "-C", build.KIND.source]
    run([*here, "mod", "download", "sigs.k8s.io/kind"], env=go.env())
    return Path((output([*here, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kind"], env=go.env()) or "").strip())


def _images(places: Places, context: Path) -> None:
    """Write an archive for each image that kubeadm asks for."""
    kubeadm = build.program(places, build.KUBEADM, "kubeadm")
    listed = output([kubeadm, "config", "images", "list", "--kubernetes-version", build.KUBERNETES_VERSION])
    if listed is None:
        raise ClusterError("kubeadm does not list its images")
    run(["cc", "-Os", "-static", "-s", "-o", context / "own" / "pause", SOURCES / "images" / "pause.c"])
    pause = next(image for image in listed.split() if "/pause:" in image)
    settings_text = (SOURCES / "images" / "kind" / "containerd.toml").read_text()
    (context / "own" / "containerd.toml").write_text(settings_text.replace("PAUSE_IMAGE", pause))
    for image in listed.split():
        name = image.rsplit("/", 1)[1].split(":")[0]
        files, start = _files(places, name, context)
        oci.write_files(context / "images" / f"{name}.tar", image=image, files=files, start=start)


def _files(places: Places, name: str, context: Path) -> tuple[dict[str, Path], str]:
    """What an image of the control plane holds, and what it starts."""
    if name == "pause":
        return {"pause": context / "own" / "pause"}, "/pause"
    if name == "coredns":
        return {"coredns": build.program(places, build.COREDNS, "coredns")}, "/coredns"
    # etcd's program is called by the last word of its import path.
    program = build.program(places, build.KUBERNETES, "server" if name == "etcd" else name)
    files = {f"usr/local/bin/{name}": program}
    if name == "kube-proxy":
        files |= _with_libraries(packages.find("nft"))
    return files, f"/usr/local/bin/{name}"


def _with_libraries(program: str | None) -> dict[str, Path]:
    """A program of this host with the libraries that it loads."""
    assert program is not None  # packages.ensure came before
    loaded = re.findall(r"(/\S+)", output(["ldd", program]) or "")
    return {"usr/sbin/nft": Path(program)} | {path.lstrip(os.sep): Path(path) for path in loaded}
