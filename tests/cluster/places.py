"""Where things live on this machine, and every environment variable that the package reads."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
REPOSITORY = SOURCES.parent.parent

# The longest address of a unix socket, less the longest name that is put below the state folder.
MAX_STATE_PATH = 107 - len("/node/containerd.sock.ttrpc")
# Folders that the node sees its own version of; the state must stay visible from both sides.
MASKED = (Path("/run"), Path("/var/run"), Path("/var/lib"), Path("/var/log"))


@dataclass(frozen=True, slots=True)
class Places:
    """The folders in use, and the names on the host that follow from them."""

    cache: Path
    state: Path

    @classmethod
    def from_environment(cls) -> "Places":
        """Read `XDG_CACHE_HOME` and `XDG_STATE_HOME`, else the usual folders of the home."""
        home = Path.home()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
        state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state")
        return cls(
            cache=(cache / "llmproxy-tests").absolute(),
            state=(state / "llmproxy-tests").absolute(),
        )

    @property
    def node(self) -> Path:
        """State of the node built here: one folder, removed as a whole."""
        return self.state / "node"

    @property
    def kubeconfig(self) -> Path:
        """Where the kubeconfig of a cluster made here is written, whatever made it."""
        return self.state / "kubeconfig"

    @property
    def containerd_socket(self) -> Path:
        """The node's container runtime, reachable from the host."""
        return self.node / "containerd.sock"

    @property
    def host_id(self) -> str:
        """Six hex digits that tell this state folder's names on the host from another's."""
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:6]

    @property
    def link(self) -> str:
        """The host's end of the node's only network cable."""
        return f"llmp-{self.host_id}"

    @property
    def cgroup(self) -> str:
        """The control group below which every pod of the node lives."""
        return f"llmproxy-tests-{self.host_id}"


def given_kubeconfig() -> Path | None:
    """The kubeconfig of a cluster that the user gives to the tests, if any."""
    given = os.environ.get("LLMPROXY_TEST_KUBECONFIG")
    return Path(given).absolute() if given else None
