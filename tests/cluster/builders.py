"""docker, podman or buildah: the same few words for each. The first that works is used."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import packages, pipconf
from .places import Places
from .progress import output, run

PULL_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to build: a Dockerfile's target with its base, from a folder.

    `inputs` are the files and folders of the context that end in the image.
    """

    image: str
    file: Path
    context: Path
    inputs: tuple[str, ...]
    target: str | None = None
    base: str | None = None
    compiler: str | None = None
    """The base that it is compiled on, if that is another."""
    labels: tuple[str, ...] = ()
    """VERSION=..., REVISION=... and SOURCE=... of a release."""
    platform: str = ""
    """As `linux/arm64`; empty for this machine's."""

    def words(self) -> list[str]:
        """The part of the command line that all builders share."""
        target = ["--target", self.target] if self.target else []
        base = ["--build-arg", f"BASE={self.base}"] if self.base else []
        compiler = ["--build-arg", f"COMPILER_BASE={self.compiler}"] if self.compiler else []
        labels = [word for pair in self.labels for word in ("--build-arg", pair)]
        platform = ["--platform", self.platform] if self.platform else []
        return ["--file", str(self.file), "--tag", self.image, *target, *base, *compiler, *labels, *platform]

    def key(self, builder: str) -> str:
        """Changes whenever the image would."""
        digest = hashlib.sha256(
            "\0".join(
                [
                    builder,
                    self.image,
                    self.target or "",
                    self.base or "",
                    self.compiler or "",
                    *self.labels,
                    self.platform,
                ]
            ).encode()
        )
        for path in [self.file, *(file for name in self.inputs for file in _files(self.context / name))]:
            digest.update(f"\0{path.relative_to(self.context)}\0".encode() + path.read_bytes())
        return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [file for file in files if "__pycache__" not in file.parts]


@dataclass(frozen=True, slots=True)
class Builder:
    """An image builder: how it is called, and how it writes an archive."""

    name: str
    prefix: tuple[str, ...]
    build_words: tuple[str, ...]

    def build(self, recipe: Recipe, on_line: Callable[[str], None]) -> None:
        """Build and tag an image."""
        with tempfile.TemporaryDirectory() as folder:
            secrets = _secrets(Path(folder))
            words: list[str | Path] = [*self.prefix, *self.build_words, *secrets, *recipe.words(), recipe.context]
            run(words, env=os.environ | {"DOCKER_BUILDKIT": "1"}, on_line=on_line)

    def has(self, image: str) -> bool:
        """Whether the image is in the builder's own store."""
        kind = ["--type", "image"]
        return output([*self.prefix, "inspect", *kind, image]) is not None

    def pull(self, image: str) -> bool:
        """Try to get an image from its registry."""
        return output([*self.prefix, "pull", image], timeout_s=PULL_TIMEOUT_S) is not None

    def save(self, image: str, archive: Path) -> None:
        """Write an image to an archive that containerd and kind understand."""
        archive.unlink(missing_ok=True)
        if self.name == "buildah":
            # Compressed a little: it goes from this disk to this disk, but is read more than once.
            little = ("--compression-format", "gzip", "--compression-level", "1")
            run([*self.prefix, "push", *little, image, f"oci-archive:{archive}:{image}"])
        elif self.name == "podman":
            run([*self.prefix, "save", "--format", "oci-archive", "--output", archive, image])
        else:
            run([*self.prefix, "save", "--output", archive, image])


def _secrets(folder: Path) -> list[str]:
    config = folder / "pip"
    config.touch(mode=0o600)
    config.write_text(pipconf.text())
    words = ["--secret", f"id=pip,src={config}"]
    if bundle := pipconf.certificates():
        words += ["--secret", f"id=certificates,src={bundle}"]
    return words


def docker_answers() -> bool:
    """Whether a Docker engine runs that this user may speak to."""
    return output(["docker", "info", "--format", "{{.ServerVersion}}"]) is not None


@contextmanager
def best(places: Places) -> Iterator[Builder]:
    """The builder to use here. Raises UnavailableError when there is none and none can be installed."""
    if docker_answers():
        yield Builder("docker", ("docker",), ("build",))
    elif shutil.which("podman"):
        yield Builder("podman", ("podman",), ("build",))
    else:
        packages.ensure(packages.IMAGES)
        with _buildah(places) as builder:
            yield builder


@contextmanager
def _buildah(places: Places) -> Iterator[Builder]:
    """buildah with a store of its own, in a mount namespace of its own.

    What it mounts ends with the command even if it is killed, and the next one starts with fresh
    run-time state: a store that was left in the middle of a build is none the worse.
    """
    store = places.cache / "buildah"
    isolate = ("unshare", "--mount", "--propagation", "private") if os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory(prefix="llmproxy-buildah-") as running:
        where = ("buildah", "--root", str(store), "--runroot", running)
        isolation = ("--isolation", "chroot") if os.geteuid() == 0 else ()
        yield Builder("buildah", (*isolate, *where), ("bud", "--layers", *isolation))
