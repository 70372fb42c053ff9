"""The folder that the image of the store of shared limits is built from: this machine's redis-server and its libraries.

A cluster made here may reach no registry, so Valkey's own image cannot be had; the program takes the same options.
"""

import re
import shutil
from pathlib import Path

from . import packages
from .errors import UnavailableError
from .places import SOURCES, Places
from .progress import output

PROGRAM = {"redis-server": "redis-server"}


def folder(places: Places) -> Path:
    """Make the folder anew and return it. Raises UnavailableError if there is no redis-server."""
    packages.ensure(PROGRAM)
    found = packages.find("redis-server")
    linked = output(["ldd", found]) if found else None
    if not found or linked is None:
        raise UnavailableError("redis-server cannot be run here: apt-get install redis-server")
    made = places.cache / "store"
    shutil.rmtree(made, ignore_errors=True)
    for path in (Path(found), *libraries(linked)):
        target = made / "root" / path.relative_to("/") if path != Path(found) else made / "root/usr/bin/redis-server"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)  # what a link stands for
    shutil.copy(SOURCES / "images" / "store.Dockerfile", made)
    return made


def libraries(linked: str) -> list[Path]:
    """Return the files that `ldd` names, the loader among them."""
    found: list[str] = re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", linked, re.MULTILINE)
    return [Path(name) for name in found]
