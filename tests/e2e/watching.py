"""Every version of objects that a watch tells of, kept in the order in which the API server wrote them."""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

from e2e.kube import Kube, Object


@dataclass(frozen=True)
class Seen:
    """One event of a watch."""

    how: str
    """ADDED, MODIFIED or DELETED."""
    item: Object

    @property
    def version(self) -> int:
        """When it was written: one etcd counts for all kinds, so that kinds can be told apart in time."""
        return int(self.item["metadata"]["resourceVersion"])

    @property
    def uid(self) -> str:
        uid: str = self.item["metadata"]["uid"]
        return uid


class Record:
    """What watches have written to files so far."""

    def __init__(self, files: Sequence[IO[bytes]]) -> None:
        self._files = files

    def read(self) -> list[Seen]:
        """Return all events, the oldest first."""
        found = []
        for file in self._files:
            file.seek(0)
            for line in file.read().splitlines(keepends=True):
                if not line.endswith(b"\n"):  # still being written
                    continue
                event = json.loads(line)
                assert event["type"] in {"ADDED", "MODIFIED", "DELETED"}, event
                found.append(Seen(event["type"], event["object"]))
        return sorted(found, key=lambda seen: seen.version)


@contextmanager
def recorded(kube: Kube, *paths: str) -> Iterator[Record]:
    """Watch what the *paths* name, e.g. `apis/apps/v1/.../deployments?labelSelector=a=b`, until the block ends.

    `...` is the namespace. What was there before is not told.
    """
    with ExitStack() as stack:
        files = []
        for path in paths:
            where, _, selector = path.replace("...", f"namespaces/{kube.namespace}").partition("?")
            version = json.loads(kube.raw(f"/{where}?limit=1"))["metadata"]["resourceVersion"]
            file = stack.enter_context(tempfile.TemporaryFile())
            query = f"watch=true&resourceVersion={version}&timeoutSeconds=1200&{selector}"
            command = [kube.kubectl, "--kubeconfig", kube.kubeconfig, "get", "--raw", f"/{where}?{query}"]
            watch = subprocess.Popen(command, stdout=file)
            stack.callback(watch.wait)
            stack.callback(watch.kill)
            files.append(file)
        yield Record(files)


def until(log: list[Seen], version: int) -> list[Object]:
    """Return the objects that were there at *version*, as they were."""
    there: dict[str, Object] = {}
    for seen in log:
        if seen.version > version:
            break
        there[seen.uid] = seen.item
        if seen.how == "DELETED":
            del there[seen.uid]
    return list(there.values())
