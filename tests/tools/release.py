#!/usr/bin/env python3
"""`make release`: everything that a release publishes, in build/release/VERSION. Nothing is published.

Images as OCI archives, the chart as a package, the CRD, the SBOMs, and SHA256SUMS over all of them. With --key, an EC
or RSA private key in PEM, the sums are signed: SHA256SUMS.sig, which `openssl dgst -sha256 -verify` and `cosign
verify-blob` check. Nothing is taken from the network but what the images are built from.
"""

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/llmproxy-operator"


class ReleaseError(Exception):
    """The release cannot be built; the message says why and the way out."""


def run(*command: str | Path) -> str:
    """Run a command of the release in the checkout; return its output."""
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        raise ReleaseError(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def version() -> str:
    """Return the project's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def check_changelog(number: str, text: str) -> None:
    """Raise ReleaseError unless the changelog *text* has a section of the version *number*."""
    if f"\n## [{number}] - " not in text:
        raise ReleaseError(f"CHANGELOG.md has no section [{number}]: cut it from Unreleased, with its date")


def write_images(folder: Path, number: str, revision: str, source: str, platforms: Sequence[str]) -> None:
    """Build the images and put their archives into *folder*."""
    labels = [f"VERSION={number}", f"REVISION={revision}", f"SOURCE={source}"]
    for line in run("python3", "-m", "cluster", "release", number, *labels, *platforms).splitlines():
        image, _, archive = line.partition(" ")
        name = image.removeprefix("localhost/")
        if archive and Path(archive).exists():
            shutil.copyfile(archive, folder / f"{name.replace(':', '-')}.oci.tar")


def write_chart(folder: Path, helm: str) -> None:
    """Package the chart, and put the CRD beside it."""
    run(helm, "package", CHART, "--destination", folder)
    for crd in (ROOT / "crds").glob("*llmprox*.yaml"):
        shutil.copyfile(crd, folder / crd.name)


def write_sums(folder: Path) -> Path:
    """Write SHA256SUMS over all files in *folder*, in the form of sha256sum."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("SHA256SUMS"))
    sums = folder / "SHA256SUMS"
    sums.write_text("".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files))
    return sums


def sign(sums: Path, key: Path) -> None:
    """Write the signature of *sums* by *key*, in base64."""
    line = ["openssl", "dgst", "-sha256", "-sign", str(key), str(sums)]
    done = subprocess.run(line, capture_output=True, check=False)
    if done.returncode != 0:
        raise ReleaseError(f"{key} cannot sign: {done.stderr.decode(errors='replace').strip()}")
    sums.with_suffix(".sig").write_bytes(base64.b64encode(done.stdout) + b"\n")


def build(flags: argparse.Namespace) -> Path:
    """Build all parts; return their folder."""
    number = version()
    if run("git", "status", "--porcelain") and not flags.dirty:
        raise ReleaseError("there are uncommitted changes: commit them, or give --dirty to try it out")
    check_changelog(number, (ROOT / "CHANGELOG.md").read_text())
    folder = Path(flags.out or ROOT / "build/release") / number
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    revision = run("git", "rev-parse", "HEAD").strip()
    if not flags.without_images:
        write_images(folder, number, revision, flags.source, flags.platform)
    write_chart(folder, os.environ.get("LLMPROXY_E2E_HELM") or "helm")
    run(ROOT / "tests/tools/sbom", flags.environment, folder)
    (folder / "release.json").write_text(
        json.dumps({"version": number, "revision": revision, "source": flags.source}) + "\n"
    )
    sums = write_sums(folder)
    if flags.key:
        sign(sums, flags.key)
    return folder


def main() -> int:
    """Build a release; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", default=".venv-supply-chain", help="environment that has cyclonedx-bom")
    parser.add_argument("--source", default="unknown", help="URL of the repository, for the images' labels")
    parser.add_argument(
        "--platform", action="append", default=[], metavar="linux/arm64", help="default: this machine's"
    )
    parser.add_argument("--key", type=Path, help="private key in PEM that signs SHA256SUMS")
    parser.add_argument("--out", help="default: build/release")
    parser.add_argument("--without-images", action="store_true", help="for a machine that cannot build images")
    parser.add_argument("--dirty", action="store_true", help="although there are uncommitted changes")
    flags = parser.parse_args()
    try:
        folder = build(flags)
    except ReleaseError as exc:
        print(f"release: {exc}", file=sys.stderr)
        return 1
    print((folder / "SHA256SUMS").read_text(), end="")
    print(f"  {folder}{'' if flags.key else ', not signed: no --key was given'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
