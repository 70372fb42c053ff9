"""The command line: see COMMANDS.

Exit codes: 0 done, 1 a step failed, 3 this machine cannot have a cluster.
"""

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import build, images, packages, providers
from .errors import ClusterError
from .places import Places
from .progress import Step, say


@contextmanager
def alone(places: Places) -> Iterator[None]:
    """Let one command at a time change things. The kernel drops the lock with the process."""
    places.state.mkdir(parents=True, exist_ok=True)
    places.cache.mkdir(parents=True, exist_ok=True)
    with (places.cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with Step("Waiting for another command on the test cluster to end"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(places: Places, _: list[str]) -> int:
    """Make sure that a cluster runs, and print its kubeconfig."""
    with alone(places):
        provider = providers.choose(places)
        provider.up()
    say(f"Cluster ({provider.name}) is up. KUBECONFIG={provider.kubeconfig}")
    return 0


def down(places: Places, _: list[str]) -> int:
    """Remove the cluster and everything it left."""
    with alone(places):
        providers.down(places)
    say("No cluster of the tests is left.")
    return 0


def status(places: Places, words: list[str]) -> int:
    """Say whether the cluster can be used; with --json in a form for programs."""
    provider = providers.choose(places)
    trouble = provider.trouble()
    found = {
        "provider": provider.name,
        "up": trouble is None,
        "trouble": trouble,
        "kubeconfig": str(provider.kubeconfig),
        "kubectl": _tool(places, build.KUBERNETES, "kubectl"),
        "helm": _tool(places, build.HELM, "helm"),
        "argocd": _tool(places, build.ARGOCD, "cmd"),
        "prometheus_crds": _folder(places, build.PROMETHEUS_CRDS),
        "logs": str(places.node / "log") if provider.name == "node" else None,
    }
    if "--json" in words:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            say(f"{name:<17}{value if value is not None else '-'}")
    return 0 if trouble is None else 1


def doctor(places: Places, _: list[str]) -> int:
    """Say whether this machine can have a cluster; exit code 3 and the reason if not."""
    provider = providers.choose(places)
    say(f"A cluster can be had here: {provider.name}")
    return 0


def build_programs(places: Places, words: list[str]) -> int:
    """Build the named parts (those of a cluster, if none is named) into the cache."""
    parts = [part for part in build.ALL if part.name in words] if words else list(build.PARTS)
    if unknown := set(words) - {part.name for part in parts}:
        raise ClusterError(f"unknown part {', '.join(unknown)}; there are {', '.join(p.name for p in build.ALL)}")
    if all(part.folder(places).exists() for part in parts):
        return 0
    with alone(places):
        build.ensure(places, *parts)
    say(f"Binaries: {places.cache / 'bin'}")
    return 0


def prepare(places: Places, _: list[str]) -> int:
    """Make everything that takes long and needs no cluster, so that `up` and `images` have little left to do."""
    provider = providers.choose(places)
    if provider.name == "node":
        build_programs(places, [])
    with alone(places):
        build.ensure(places, build.HELM, build.COLLECTOR, build.PROMETHEUS_CRDS)
        images.build(places, [])
    say("prepared")
    return 0


def argocd(places: Places, _: list[str]) -> int:
    """Build Argo CD into the cache, and install what it calls."""
    with alone(places):
        packages.ensure(packages.ARGOCD)
        build.ensure(places, build.ARGOCD)
    return 0


def build_images(places: Places, words: list[str]) -> int:
    """Build the named images (all, if none is named) and load them where a cluster is up."""
    with alone(places):
        made = images.build(places, words)
        _load(places, made)
    return 0


def release(places: Places, words: list[str]) -> int:
    """Build the product's images: VERSION [PLATFORM ...] [LABEL=VALUE ...]; print each with its archive."""
    version, *more = words
    labels = tuple(word for word in more if "=" in word)
    platforms = [word for word in more if "=" not in word]
    with alone(places):
        for image, archive in images.release(places, labels, version, platforms or [""]).items():
            print(image, archive)
    return 0


def _load(places: Places, made: dict[str, Path]) -> None:
    try:
        provider = providers.choose(places)
    except ClusterError:
        return
    if provider.trouble():
        say("No cluster is up: the images are built and kept, not loaded")
        return
    for image, archive in made.items():
        images.load_once(places, provider.load, image, archive)


def load_image(places: Places, words: list[str]) -> int:
    """Load image archives (files) into the cluster."""
    provider = providers.choose(places)
    for word in words:
        with Step(f"Loading {word}"):
            provider.load(Path(word).absolute(), word)
    return 0


def tool(places: Places, words: list[str]) -> int:
    """Print the path of kubectl, helm or argocd: the one built here, else the one on the PATH."""
    known = {"kubectl": build.KUBERNETES, "helm": build.HELM, "argocd": build.ARGOCD}
    for word in words:
        # Argo CD's one binary goes by any of its parts' names, and a command line of that name is not what is meant.
        path = _tool(places, known[word], "cmd" if word == "argocd" else word) if word in known else None
        if path is None:
            builds = "cluster-up" if word == "kubectl" else word
            raise ClusterError(f"there is no {word} yet; `make {builds}` builds it")
        print(path)
    return 0


def place(places: Places, words: list[str]) -> int:
    """Print the folder that holds the state of clusters made here; with the word kubeconfig, where that is."""
    print(providers.choose(places).kubeconfig if words == ["kubeconfig"] else places.state)
    return 0


def _folder(places: Places, part: build.Part) -> str | None:
    folder = part.folder(places)
    return str(folder) if folder.exists() else None


def _tool(places: Places, part: build.Part, name: str) -> str | None:
    built = build.program(places, part, name)
    return str(built) if built.exists() else shutil.which(name)


def _call(places: Places, part: build.Part, name: str, words: list[str]) -> int:
    """Call a tool, told where the cluster is; its exit code is ours."""
    if _tool(places, part, name) is None:
        with alone(places):
            build.ensure(places, part)
    provider = providers.choose(places)
    program = _tool(places, part, name)
    assert program is not None  # it was just built
    env = os.environ | {"KUBECONFIG": str(provider.kubeconfig)}
    return subprocess.run([program, *words], env=env, check=False).returncode


def kubectl(places: Places, words: list[str]) -> int:
    """Call kubectl on the cluster."""
    return _call(places, build.KUBERNETES, "kubectl", words)


def helm(places: Places, words: list[str]) -> int:
    """Call Helm on the cluster."""
    return _call(places, build.HELM, "helm", words)


COMMANDS = {
    "up": up,
    "down": down,
    "status": status,
    "release": release,
    "doctor": doctor,
    "build": build_programs,
    "prepare": prepare,
    "argocd": argocd,
    "tool": tool,
    "place": place,
    "images": build_images,
    "load-image": load_image,
    "kubectl": kubectl,
    "helm": helm,
}


def main() -> int:
    """Run one command and return its exit code."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m cluster", description=summary)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("words", nargs=argparse.REMAINDER, help="words for the command")
    given = parser.parse_args()
    try:
        return COMMANDS[given.command](Places.from_environment(), given.words)
    except ClusterError as exc:
        say(str(exc))
        return exc.exit_code
    except KeyboardInterrupt:
        say("Stopped. `make cluster-up` starts afresh; `make cluster-down` removes what is there.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
