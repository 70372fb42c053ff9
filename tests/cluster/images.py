"""The images: the product's two and the tests' two, built from this tree and kept as archives."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from . import packages, store
from .builders import Builder, Recipe, best
from .errors import ClusterError
from .places import REPOSITORY, SOURCES, Places
from .progress import Step, run, say

RECIPES = {
    "operator": Recipe(
        "localhost/llmproxy-operator:dev",
        REPOSITORY / "Dockerfile",
        REPOSITORY,
        (
            "requirements/install",
            "requirements/operator.txt",
            "operator/llmproxy_api",
            "operator/llmproxy_operator",
            "proxy_image/llmproxy/__init__.py",
            "proxy_image/llmproxy/contract.py",
            "proxy_image/llmproxy/logs.py",
            "proxy_image/llmproxy/providers.py",
        ),
        "operator",
    ),
    "proxy": Recipe(
        "localhost/llmproxy:dev",
        REPOSITORY / "Dockerfile",
        REPOSITORY,
        (
            "requirements/install",
            "requirements/translator.txt",
            "requirements/proxy.txt",
            "requirements/compile.txt",
            "proxy_image/compile_llmproxy.py",
            "proxy_image/llmproxy",
        ),
        "proxy",
    ),
    "testkit": Recipe(
        "localhost/llmproxy-testkit:dev",
        SOURCES / "images" / "testkit.Dockerfile",
        REPOSITORY,
        (
            "requirements/install",
            "requirements/testkit.txt",
            "operator/llmproxy_api",
            "proxy_image/llmproxy/__init__.py",
            "proxy_image/llmproxy/providers.py",
            "sdk/llmproxy_agl",
        ),
    ),
}
STORE = "store"
"""The one image whose folder is made here first."""
DEFAULT_BASE = "docker.io/library/python:3.13-slim-trixie"
DEBIAN_SUITE = "bookworm"
DEBIAN_PACKAGES = ("python3", "python3-venv", "ca-certificates", "libstdc++6")
COMPILER_PACKAGES = (*DEBIAN_PACKAGES, "gcc", "libc6-dev", "python3-dev")
"""Of the image where the gateway is compiled; nothing of it ends in the product's.
libstdc++ is what numpy's wheel, which Agent-Lightning brings, takes from the system."""
# Documentation and translations: nothing in a container reads them.
DEBIAN_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def build(places: Places, names: list[str]) -> dict[str, Path]:
    """Build images (all, if none is named); return an archive for each by the image's name."""
    known = [*RECIPES, STORE]
    unknown = set(names) - set(known)
    if unknown:
        raise ClusterError(f"unknown image {', '.join(unknown)}; there are {', '.join(known)}")
    with best(places) as builder:
        base = _base(places, builder)
        chosen = [_store(places) if name == STORE else RECIPES[name] for name in names or known]
        if RECIPES["proxy"] in chosen:
            compiler = _compiler_base(places, builder, base)
            chosen = [replace(recipe, compiler=compiler if recipe.target == "proxy" else None) for recipe in chosen]
        return {recipe.image: _build(places, builder, recipe, base) for recipe in chosen}


def release(places: Places, labels: tuple[str, ...], version: str, platforms: Sequence[str]) -> dict[str, Path]:
    """Build the product's two images as *version*; return an archive for each by its name and platform.

    An empty platform is this machine's. Another one needs a base of its kind from a registry, and an emulator.
    """
    archives = {}
    with best(places) as builder:
        for platform in platforms:
            base = (os.environ.get("BASE") or DEFAULT_BASE) if platform else _base(places, builder)
            for name in ("operator", "proxy"):
                image = f"{RECIPES[name].image.rpartition(':')[0]}:{version}{'-' * bool(platform)}{platform[6:]}"
                compiler = _compiler_base(places, builder, base) if name == "proxy" and not platform else None
                recipe = replace(RECIPES[name], image=image, labels=labels, platform=platform, compiler=compiler)
                archives[image] = _build(places, builder, recipe, base)
    return archives


def _store(places: Places) -> Recipe:
    folder = store.folder(places)
    return Recipe("localhost/llmproxy-limits-store:dev", folder / "store.Dockerfile", folder, ("root",))


def _build(places: Places, builder: Builder, recipe: Recipe, base: str) -> Path:
    based = replace(recipe, base=base)
    archive = _archive(places, recipe.image)
    made = archive.with_suffix(".key")
    key = based.key(builder.name)
    if archive.exists() and made.exists() and made.read_text() == key:
        say(f"{recipe.image} is up to date")
        return archive
    with Step(f"Building {recipe.image} with {builder.name}") as step:
        builder.build(based, on_line=step.note)
    with Step(f"Writing {recipe.image} to an archive"):
        made.unlink(missing_ok=True)
        archive.parent.mkdir(parents=True, exist_ok=True)
        builder.save(recipe.image, archive)
        made.write_text(key)
    return archive


def _archive(places: Places, image: str) -> Path:
    name = image.removeprefix("localhost/").replace(":", "-")
    return places.cache / "images" / f"{name}.tar"


def load_once(places: Places, load: Callable[[Path, str], None], image: str, archive: Path) -> None:
    """Load an archive into the cluster unless this cluster already got this very image."""
    record = places.state / "loaded.json"
    loaded: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    # The kubeconfig is written anew with each cluster: it tells one cluster from the next.
    cluster = str(places.kubeconfig.stat().st_mtime_ns) if places.kubeconfig.exists() else ""
    now = f"{cluster} {archive.with_suffix('.key').read_text()}"
    if loaded.get(image) == now:
        say(f"{image} is loaded already")
        return
    with Step(f"Loading {image} into the cluster"):
        load(archive, image)
    record.write_text(json.dumps(loaded | {image: now}))


def _base(places: Places, builder: Builder) -> str:
    """The base to build on: `BASE` if given, else the usual one if it can be had, else one made here."""
    if given := os.environ.get("BASE"):
        return given
    own = _own_base(DEBIAN_PACKAGES)
    if builder.has(own):
        return own
    if builder.has(DEFAULT_BASE):
        return DEFAULT_BASE
    with Step(f"Fetching {DEFAULT_BASE}"):
        fetched = builder.pull(DEFAULT_BASE)
    if fetched:
        return DEFAULT_BASE
    say("No registry answers: making a base from Debian packages instead")
    _make_base(places, builder, DEBIAN_PACKAGES)
    return own


def _compiler_base(places: Places, builder: Builder, base: str) -> str:
    """The base to compile on: `COMPILER_BASE` if given, one made here beside our own base, else the base itself."""
    if given := os.environ.get("COMPILER_BASE"):
        return given
    if base != _own_base(DEBIAN_PACKAGES):
        return base
    own = _own_base(COMPILER_PACKAGES)
    if not builder.has(own):
        _make_base(places, builder, COMPILER_PACKAGES)
    return own


def _own_base(wanted: Sequence[str]) -> str:
    words = [DEBIAN_SUITE, *wanted, *DEBIAN_LEFT_OUT]
    return f"localhost/llmproxy-base:{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:12]}"


def _make_base(places: Places, builder: Builder, wanted: Sequence[str]) -> None:
    image = _own_base(wanted)
    packages.ensure(packages.BASE)
    left_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in DEBIAN_LEFT_OUT]
    with tempfile.TemporaryDirectory(dir=places.cache) as folder:
        archive = Path(folder, "base.tar")
        more = " and a C compiler" if wanted is COMPILER_PACKAGES else ""
        with Step(f"Making a base from Debian {DEBIAN_SUITE} with Python{more}") as step:
            words = ["--variant=essential", f"--include={','.join(wanted)}", *left_out, *packages.apt_proxy()]
            run(["mmdebstrap", *words, DEBIAN_SUITE, archive], on_line=step.note)
        file = Path(folder, "Dockerfile")
        shutil.copy(SOURCES / "images" / "base.Dockerfile", file)
        with Step(f"Building {image}") as step:
            builder.build(Recipe(image, file, Path(folder), ()), on_line=step.note)
