#!/usr/bin/env python3
"""`make audit`: known vulnerabilities of the locked packages, by pip-audit.

Exit code 0: each package was looked up and none is known to be vulnerable. 1: a package is. 3: some could not be looked
up, for the data cannot be reached here. pip-audit itself reports success for packages that its source does not have, as
behind a mirror of the index, so each answer is read.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SETS = ("operator", "proxy", "translator", "testkit")
"""Locked sets that end in an image or at a trainer's."""
VULNERABLE, UNKNOWN = 1, 3
TIMEOUT_S = 600


@dataclass
class Audit:
    """Result of one or more sets."""

    checked: set[str] = field(default_factory=set)
    vulnerable: dict[str, list[str]] = field(default_factory=dict)
    """Ids and fixed versions, by package and version."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Reason, by package or set."""

    def add(self, report: Mapping[str, Any]) -> None:
        """Add the JSON report of pip-audit."""
        for package in report["dependencies"]:
            if reason := package.get("skip_reason"):
                self.unknown[package["name"]] = reason
                continue
            name = f"{package['name']} {package['version']}"
            self.checked.add(name)
            if package["vulns"]:
                self.vulnerable[name] = [
                    f"{v['id']}, fixed in {' or '.join(v['fix_versions']) or 'no version yet'}"
                    for v in package["vulns"]
                ]

    @property
    def code(self) -> int:
        """Return the exit code."""
        return VULNERABLE if self.vulnerable else UNKNOWN if self.unknown or not self.checked else 0

    def lines(self) -> Iterable[str]:
        """Yield the result for people."""
        for name, ids in sorted(self.vulnerable.items()):
            yield f"  {name}: {'; '.join(ids)}"
        yield f"  {len(self.checked)} packages looked up, {len(self.vulnerable)} vulnerable"
        if self.unknown:
            name, reason = next(iter(sorted(self.unknown.items())))
            yield f"  NOT AUDITED: {len(self.unknown)}, for the data cannot be reached here. {name}: {reason}"


def report(program: Path, lock: Path, service: str) -> Mapping[str, Any] | str:
    """Return pip-audit's report on *lock*, or the reason why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "report.json")
        flags = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--vulnerability-service", service]
        line = [str(program), *flags, "--requirement", str(lock), "--format", "json", "--output", str(output)]
        run = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if not output.exists():
            return (run.stderr.strip() or "pip-audit printed no report").splitlines()[-1]
        value: Mapping[str, Any] = json.loads(output.read_text())
        return value


def main() -> int:
    """Audit every set; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--service", default="pypi", choices=["pypi", "osv"], help="source of the data")
    service = parser.parse_args().service
    audit = Audit()
    for name in SETS:
        answer = report(Path(sys.executable).with_name("pip-audit"), ROOT / f"requirements/{name}.txt", service)
        if isinstance(answer, str):
            audit.unknown[name] = answer
        else:
            audit.add(answer)
    print(*audit.lines(), sep="\n")
    return audit.code


if __name__ == "__main__":
    sys.exit(main())
