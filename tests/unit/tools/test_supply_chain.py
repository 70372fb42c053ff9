"""`make audit` and `make release`: what was not looked up is no pass, and what is published can be checked."""

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools import audit, release

CLEAN = {"name": "aiohttp", "version": "3.14.5", "vulns": []}
VULNERABLE = {"name": "idna", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.7"], "aliases": []}]}
UNKNOWN = {"name": "litellm", "skip_reason": "Dependency not found on PyPI and could not be audited: litellm (1.0)"}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([CLEAN], 0, "1 packages looked up, 0 vulnerable"),
        ([CLEAN, VULNERABLE], audit.VULNERABLE, "idna 1.0: PYSEC-1, fixed in 3.7"),
        ([CLEAN, UNKNOWN], audit.UNKNOWN, "NOT AUDITED: 1, for the data cannot be reached here. litellm: "),
        ([VULNERABLE, UNKNOWN], audit.VULNERABLE, "NOT AUDITED"),
        ([], audit.UNKNOWN, "0 packages looked up"),
    ],
    ids=["clean", "vulnerable", "unknown", "both", "nothing"],
)
def test_an_audit_passes_only_if_each_package_was_looked_up(packages: list[Any], code: int, words: str) -> None:
    result = audit.Audit()
    result.add({"dependencies": packages})

    assert result.code == code
    assert words in "\n".join(result.lines())


def test_an_audit_without_a_report_says_why(tmp_path: Path) -> None:
    program = tmp_path / "pip-audit"
    program.write_text("#!/bin/sh\necho 'Failed to resolve the name' >&2\nexit 1\n")
    program.chmod(0o755)

    assert audit.report(program, tmp_path / "lock.txt", "pypi") == "Failed to resolve the name"


def test_every_set_that_is_audited_is_locked() -> None:
    assert [name for name in audit.SETS if not (audit.ROOT / f"requirements/{name}.txt").exists()] == []


def test_a_release_needs_a_section_of_the_changelog() -> None:
    release.check_changelog("1.2.3", "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-01-02\n")
    with pytest.raises(release.ReleaseError, match=r"CHANGELOG.md has no section \[1.2.3\]"):
        release.check_changelog("1.2.3", "# Changelog\n\n## [Unreleased]\n")


def test_sums_are_those_of_sha256sum_and_the_signature_holds(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    key, public = tmp_path / "key.pem", tmp_path / "key.pub"
    make_key = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)]
    subprocess.run(make_key, check=True)
    subprocess.run(["openssl", "ec", "-in", str(key), "-pubout", "-out", str(public)], capture_output=True, check=True)
    folder = tmp_path / "0.1.0"
    folder.mkdir()
    (folder / "chart.tgz").write_bytes(b"chart")

    sums = release.write_sums(folder)
    release.sign(sums, key)

    assert sums.read_text() == f"{hashlib.sha256(b'chart').hexdigest()}  chart.tgz\n"
    raw = tmp_path / "raw.sig"
    raw.write_bytes(base64.b64decode((folder / "SHA256SUMS.sig").read_bytes()))
    check = ["openssl", "dgst", "-sha256", "-verify", str(public), "-signature", str(raw), str(sums)]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    sums.write_text(sums.read_text().replace("chart", "other"))
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1


def test_a_key_that_cannot_sign_is_named(tmp_path: Path) -> None:
    sums = tmp_path / "SHA256SUMS"
    sums.write_text("")
    with pytest.raises(release.ReleaseError, match=r"none\.pem cannot sign"):
        release.sign(sums, tmp_path / "none.pem")
