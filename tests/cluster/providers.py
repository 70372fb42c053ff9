"""The ways to have a cluster, behind one small face: given, kind, built here, or kind with all it needs built here."""

import json
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from . import build, builders, cgroups, engine, kind, kind_image, node, oci, packages, toolchain
from .errors import ClusterError, UnavailableError
from .places import MASKED, MAX_STATE_PATH, Places, given_kubeconfig
from .progress import output, say


class Provider(Protocol):
    """A cluster for tests."""

    @property
    def name(self) -> str:
        """given, kind, node or kind-built."""

    @property
    def kubeconfig(self) -> Path:
        """Where its kubeconfig is, once it is up."""

    def why_not(self) -> str | None:
        """What keeps this machine from having it; None if nothing does. Changes nothing."""

    def trouble(self) -> str | None:
        """Why it cannot be used right now; None if it can."""

    def up(self) -> None:
        """Make sure that it runs."""

    def down(self) -> None:
        """Remove it with everything it left. Safe to repeat."""

    def load(self, archive: Path, image: str) -> None:
        """Make an image from an archive known to its nodes."""


@dataclass(frozen=True, slots=True)
class Given:
    """A cluster that belongs to the user: only ever used."""

    kubeconfig: Path
    name: str = "given"

    def why_not(self) -> str | None:
        """A kubeconfig that is not there."""
        return None if self.kubeconfig.exists() else f"LLMPROXY_TEST_KUBECONFIG={self.kubeconfig}: no such file"

    def trouble(self) -> str | None:
        """No kubectl, or no answer."""
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            return "kubectl is not on the PATH"
        ready = output([kubectl, "--kubeconfig", self.kubeconfig, "get", "--raw", "/readyz"])
        return None if ready else f"the API server of {self.kubeconfig} does not answer"

    def up(self) -> None:
        """It has to be up already."""
        if why := self.trouble():
            raise ClusterError(why)

    def down(self) -> None:
        """Left alone."""
        say("the cluster in LLMPROXY_TEST_KUBECONFIG is yours: nothing removed")

    def load(self, archive: Path, image: str) -> None:
        """Nobody here knows how its nodes get images."""
        say(f"{image}: bring {archive} to the nodes of your cluster yourself")


@dataclass(frozen=True, slots=True)
class Kind:
    """kind, where a Docker engine runs."""

    places: Places
    name: str = "kind"

    @property
    def kubeconfig(self) -> Path:
        """Written by `up`."""
        return self.places.kubeconfig

    def why_not(self) -> str | None:
        """No kind, or no engine."""
        if shutil.which("kind") is None:
            return "kind is not on the PATH"
        return None if builders.docker_answers() else "no Docker engine answers `docker info`"

    def trouble(self) -> str | None:
        """Not made, or not answering."""
        return kind.trouble(self.places)

    def up(self) -> None:
        """Create it unless it answers."""
        if self.trouble():
            kind.remove(self.places)
            kind.create(self.places)

    def down(self) -> None:
        """Delete it."""
        kind.remove(self.places)

    def load(self, archive: Path, image: str) -> None:
        """Copy the image into the node."""
        kind.load_archive(archive)


@dataclass(frozen=True, slots=True)
class Built:
    """The node built from Go modules."""

    places: Places
    name: str = "node"

    @property
    def kubeconfig(self) -> Path:
        """Written by `up`."""
        return self.places.kubeconfig

    def why_not(self) -> str | None:
        """The first thing that this machine lacks."""
        return next(filter(None, (check(self.places) for check in CHECKS)), None)

    def trouble(self) -> str | None:
        """Not made, of another version, or partly down."""
        return node.trouble(self.places) if node.exists(self.places) else "it is not up"

    def up(self) -> None:
        """Start a new one unless the one there is whole."""
        why = self.trouble()
        if why and node.exists(self.places):
            say(f"The node in {self.places.node} cannot be used ({why}): removing it")
        if why:
            node.remove(self.places)
            node.create(self.places)

    def down(self) -> None:
        """Remove every trace."""
        node.remove(self.places)

    def load(self, archive: Path, image: str) -> None:
        """Import into its container runtime."""
        node.load_archive(self.places, archive)


@dataclass(frozen=True, slots=True)
class KindBuilt:
    """kind where there is none: its engine, its node image and kind itself are made here. Only when asked for."""

    places: Places
    name: str = "kind-built"

    @property
    def kubeconfig(self) -> Path:
        """Written by `up`."""
        return self.places.kubeconfig

    @property
    def _env(self) -> dict[str, str]:
        return engine.env(self.places, build.KIND.folder(self.places))

    def why_not(self) -> str | None:
        """What the built node would lack, or Debian."""
        return Built(self.places).why_not() or (None if packages.can_install() else "not root on Debian")

    def trouble(self) -> str | None:
        """Not made, or not answering."""
        return kind.trouble(self.places, self._env) if engine.exists(self.places) else "it is not up"

    def up(self) -> None:
        """Start everything anew unless it answers."""
        if not self.trouble():
            return
        self.down()
        packages.ensure(packages.NODE)
        engine.start(self.places)
        kind_image.ensure(self.places, self._env)
        config = self.places.state / "kind.json"
        config.write_text(json.dumps(kind_image.config(engine.address(self.places))))
        kind.create(self.places, self._env, "--image", kind_image.IMAGE, "--config", config)

    def down(self) -> None:
        """The cluster goes with its engine."""
        engine.remove(self.places)
        self.places.kubeconfig.unlink(missing_ok=True)
        (self.places.state / "kind.json").unlink(missing_ok=True)

    def load(self, archive: Path, image: str) -> None:
        """Copy the image into the node."""
        kind.load_archive(archive, self._env)


def _linux(_: Places) -> str | None:
    known = platform.system() == "Linux" and platform.machine() in oci.ARCHITECTURES
    return None if known else f"{platform.system()} on {platform.machine()} is not supported"


def _root(_: Places) -> str | None:
    return None if os.geteuid() == 0 else "not root"


def _namespaces(_: Places) -> str | None:
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "true"]
    return (
        None if output(words) is not None else "new namespaces are not allowed here (a container without --privileged?)"
    )


def _control_groups(_: Places) -> str | None:
    roots = cgroups.hierarchies()
    writable = bool(roots) and all(os.access(root, os.W_OK) for root in roots)
    return None if writable else "/sys/fs/cgroup is not writable"


def _programs(_: Places) -> str | None:
    absent = packages.missing(packages.NODE)
    if not absent or packages.can_install():
        return None
    return f"missing programs: {', '.join(absent)}, and no apt-get to install them"


def _folders(places: Places) -> str | None:
    if len(str(places.state)) > MAX_STATE_PATH:
        return f"the path {places.state} is too long for sockets; set XDG_STATE_HOME to a shorter one"
    for folder in (places.state, places.cache):
        if any(folder.is_relative_to(masked) for masked in MASKED):
            return f"{folder} lies in a folder that the node replaces; set XDG_STATE_HOME and XDG_CACHE_HOME"
    return None


def _go(places: Places) -> str | None:
    built = all(part.folder(places).exists() for part in build.PARTS)
    if built or toolchain.installed():
        return None
    venv = output([toolchain.PYTHON, "-c", "import ensurepip, venv"]) is not None
    return None if venv else "no Go toolchain, and no python3-venv to fetch one with"


CHECKS = (_linux, _root, _namespaces, _control_groups, _programs, _folders, _go)


def choose(places: Places) -> Provider:
    """The cluster to use here: a given one, else kind, else the node built here.

    `LLMPROXY_TEST_PROVIDER` (kind, node or kind-built) skips the choice. Raises UnavailableError with the reasons.
    """
    given = given_kubeconfig()
    if given:
        ways: list[Provider] = [Given(given)]
    else:
        ways = [Kind(places), Built(places), KindBuilt(places)]
        wanted = os.environ.get("LLMPROXY_TEST_PROVIDER")
        ways = [way for way in ways if way.name == wanted] if wanted else ways[:2]
    reasons = []
    for way in ways:
        why = way.why_not()
        if why is None:
            return way
        reasons.append(f"{way.name}: {why}")
    raise UnavailableError(f"No cluster can be had here ({'; '.join(reasons) or 'unknown provider'})")


def down(places: Places) -> None:
    """Remove whatever an earlier `up` made, by whichever way."""
    if given_kubeconfig():
        return
    if shutil.which("kind") and builders.docker_answers():
        Kind(places).down()
    if engine.exists(places):
        KindBuilt(places).down()
    Built(places).down()
