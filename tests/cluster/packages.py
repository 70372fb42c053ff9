"""Programs of the host that a node or an image build needs, and the Debian packages they come in."""

import os
import shutil
from collections.abc import Iterable

from .errors import UnavailableError
from .progress import Step, output, run

# Where Debian puts programs that only an administrator calls, and the CNI plugins.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/cni"])
CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin")

NODE = {
    "runc": "runc",
    "ptp": "containernetworking-plugins",
    "host-local": "containernetworking-plugins",
    "loopback": "containernetworking-plugins",
    "portmap": "containernetworking-plugins",
    "nft": "nftables",
    "iptables": "iptables",
    "ip": "iproute2",
    "openssl": "openssl",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "cc": "gcc libc6-dev",
}
ARGOCD = {"redis-server": "redis-server", "git": "git", "setpriv": "util-linux"}
IMAGES = {"buildah": "buildah"}
BASE = {"mmdebstrap": "mmdebstrap"}


def find(program: str) -> str | None:
    """The path of a program, also where only an administrator's shell would look."""
    path = os.pathsep.join([SEARCH_PATH, *CNI_FOLDERS])
    return shutil.which(program, path=path)


def missing(programs: Iterable[str]) -> list[str]:
    """Which of these programs are not installed."""
    return [program for program in programs if find(program) is None]


def can_install() -> bool:
    """Whether this process may install Debian packages."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def ensure(table: dict[str, str]) -> None:
    """Install the packages of the programs that are missing. Raises UnavailableError if it may not."""
    absent = missing(table)
    if not absent:
        return
    wanted = sorted({package for name in absent for package in table[name].split()})
    if not can_install():
        raise UnavailableError(
            f"missing programs: {', '.join(absent)}; as root on Debian: apt-get install {' '.join(wanted)}"
        )
    with Step(f"Installing Debian packages {' '.join(wanted)}") as step:
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *wanted]
        if output(install, env=env, timeout_s=600) is None:
            run(["apt-get", "update"], env=env, on_line=step.note)
            run(install, env=env, on_line=step.note)
    if absent := missing(table):
        raise UnavailableError(f"still missing after the installation: {', '.join(absent)}")


def apt_proxy() -> list[str]:
    """The words that tell mmdebstrap about the proxy that apt is told to use here, if any."""
    proxy = (output(["apt-config", "shell", "P", "Acquire::http::Proxy"]) or "").strip()
    return [f'--aptopt=Acquire::http::Proxy "{proxy[3:-1]}"'] if proxy else []
