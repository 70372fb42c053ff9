"""An API server over HTTP that knows LLMProxies, Secrets and Pods as the trainer's side uses them, and an operator.

Server-side apply by one manager, merge patches, generations, resourceVersions, uids, the CRD's verdict, owner
references that take children along, bearer tokens and refusals. The operator is played by what a test says: `phases`
are the states that an object goes through, one a step, after each change of its spec.
"""

import base64
import contextlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from llmproxy_api import SpecError, parse

Json = dict[str, Any]
PATH = re.compile(
    r"(/api/v1|/apis/llmproxy\.dev/v1alpha1)/namespaces/([^/]+)/(llmproxies|secrets|pods)(?:/([^/?]+))?(?:\?(.*))?"
)
PENDING: Json = {"Ready": ("False", "RollingOut", "0 of 1 pods run this configuration"), "Stalled": ("False", "", "")}
READY: Json = {"Ready": ("True", "AllReplicasReady", "1 of 1 pods are ready"), "Stalled": ("False", "NotStalled", "")}
STEP_S = 0.2


def stalled(reason: str, message: str) -> Json:
    return {"Ready": ("False", reason, message), "Stalled": ("True", reason, message)}


class Refused(Exception):  # noqa: N818 - it is an answer
    """An answer that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ApiServer:
    """The cluster. `phases` may be changed by a test at any time."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Json] = {}
        self.phases: list[Json] = [*[PENDING] * 4, READY]
        self.token = "the-token"
        self.forbidden: set[str] = set()
        """Methods and kinds that the account may not: `PATCH secrets`."""
        self.known = True
        """Whether the CRD is there."""
        self.down = 0
        """So many requests are answered with 503."""
        self.requests: list[str] = []
        self.on_drain: Callable[[], None] = lambda: None
        """Called when the pods of an object that is scaled to 0 end."""
        self._lock = threading.RLock()
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)
        self._operator = threading.Event()

    def get(self, kind: str, name: str, namespace: str = "train") -> Json | None:
        with self._lock:
            return self.objects.get((kind, namespace, name))

    def put(self, kind: str, name: str, fields: Json, namespace: str = "train") -> Json:
        """Have an object as somebody else's."""
        with self._lock:
            return self._store(kind, namespace, name, fields)

    # Requests.

    def answer(self, method: str, path: str, content_type: str, raw: bytes, token: str) -> Json:
        with self._lock:
            return self._answer(method, path, content_type, raw, token)

    def _answer(self, method: str, path: str, content_type: str, raw: bytes, token: str) -> Json:
        found = PATH.fullmatch(path)
        self.requests.append(f"{method} {path.partition('?')[0]}")
        if token != f"Bearer {self.token}":
            raise Refused(401, "Unauthorized")
        if self.down > 0:
            self.down -= 1
            raise Refused(503, "apiserver not ready")
        if found is None or (found[3] == "llmproxies" and not self.known):
            raise Refused(404, "the server could not find the requested resource")
        _, namespace, kind, name, query = found.groups()
        body: Json = json.loads(raw) if raw else {}
        if f"{method} {kind}" in self.forbidden:
            raise Refused(403, f'{kind} is forbidden: cannot {method} resource "{kind}" in namespace "{namespace}"')
        if name is None:
            key, _, value = unquote((query or "").removeprefix("labelSelector=")).partition("=")
            there = [o for (k, ns, _), o in self.objects.items() if (k, ns) == (kind, namespace)]
            return {"items": [o for o in there if (o["metadata"].get("labels") or {}).get(key) == value]}
        if method == "PATCH" and content_type == "application/apply-patch+yaml":
            if "fieldManager=" not in (query or ""):
                raise Refused(400, "fieldManager is required for apply patch")
            return self._apply(kind, namespace, name, body)
        return self._change(method, kind, namespace, name, body)

    def _change(self, method: str, kind: str, namespace: str, name: str, body: Json) -> Json:
        there = self.objects.get((kind, namespace, name))
        if there is None:
            raise Refused(404, f'{kind} "{name}" not found')
        if method == "GET":
            return there
        if method == "PATCH":
            meta = {**there["metadata"], **body.get("metadata", {})}
            return self._store(kind, namespace, name, {"metadata": meta, "spec": {**there["spec"], **body["spec"]}})
        uid = (body.get("preconditions") or {}).get("uid")
        if uid is not None and uid != there["metadata"]["uid"]:
            raise Refused(409, "the UID in the precondition does not match")
        self._remove(there)
        return there

    def _apply(self, kind: str, namespace: str, name: str, body: Json) -> Json:
        if body["metadata"]["name"] != name or body["metadata"].get("namespace", namespace) != namespace:
            raise Refused(400, "the name or namespace of the object does not match the URL")
        if kind == "llmproxies":
            try:
                parse({**body, "metadata": {k: v for k, v in body["metadata"].items() if k != "managedFields"}})
            except SpecError as exc:
                raise Refused(422, f'LLMProxy.llmproxy.dev "{name}" is invalid: {exc}') from exc
        fields = {k: v for k, v in body.items() if k != "stringData"}
        fields["metadata"] = {"ownerReferences": [], **body["metadata"]}  # what an apply leaves out, it takes away
        if "stringData" in body:
            fields["data"] = {k: base64.b64encode(v.encode()).decode() for k, v in body["stringData"].items()}
        return self._store(kind, namespace, name, fields)

    def _store(self, kind: str, namespace: str, name: str, fields: Json) -> Json:
        before = self.objects.get((kind, namespace, name))
        meta: Json = before["metadata"] if before else {"uid": f"uid-{next(self._uids)}", "generation": 0}
        given = {**fields.get("metadata", {}), "name": name, "namespace": namespace}
        same_spec = before is not None and before.get("spec") == fields.get("spec")
        made = {**(before or {}), **fields, "metadata": {**meta, **given, "uid": meta["uid"]}}
        made["metadata"]["generation"] = meta["generation"] + (0 if same_spec else 1)
        if before is None or {**made, "metadata": None} != {**before, "metadata": None}:
            made["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[kind, namespace, name] = made
        return made

    def _remove(self, there: Json) -> None:
        uid = there["metadata"]["uid"]
        for key, item in list(self.objects.items()):
            if item is there:
                del self.objects[key]
            elif any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences") or ()):
                self._remove(item)

    # The operator.

    def operate(self, stop: threading.Event) -> None:
        """Play the operator until *stop*."""
        at: dict[str, tuple[object, int]] = {}
        while not stop.wait(STEP_S):
            with self._lock:
                for (kind, namespace, name), item in list(self.objects.items()):
                    if kind == "llmproxies":
                        self._pass(namespace, name, item, at)

    def _pass(self, namespace: str, name: str, item: Json, at: dict[str, tuple[object, int]]) -> None:
        secret = (self.get("secrets", f"{name}-keys", namespace) or {}).get("data")
        wanted = json.dumps([item["spec"], secret], sort_keys=True)
        seen, step = at.get(item["metadata"]["uid"], (None, -1))
        step = step + 1 if seen == wanted else 0
        at[item["metadata"]["uid"]] = wanted, step
        if not self.phases:
            return
        phase = self.phases[min(step, len(self.phases) - 1)]
        pod = ("pods", namespace, f"{name}-pod")
        if item["spec"].get("replicas", 1) == 0:
            if pod in self.objects and step > 1:
                self.on_drain()
                del self.objects[pod]
        elif phase is READY and pod not in self.objects:
            self._store("pods", namespace, f"{name}-pod", {"metadata": {"labels": {"llmproxy.dev/name": name}}})
        item["status"] = {
            "observedGeneration": item["metadata"]["generation"],
            "configHash": str(hash(wanted)),
            "selector": f"llmproxy.dev/name={name}",
            "conditions": [
                {"type": kind, "status": status, "reason": reason, "message": message}
                for kind, (status, reason, message) in {**phase, "Available": phase["Ready"]}.items()
            ],
        }


@contextlib.contextmanager
def serving(cluster: ApiServer) -> Iterator[str]:
    """Serve *cluster* on loopback; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            kind, token = self.headers.get("content-type") or "", self.headers.get("authorization") or ""
            try:
                status, body = 200, cluster.answer(self.command, self.path, kind, raw, token)
            except Refused as exc:
                status, body = exc.status, {"kind": "Status", "code": exc.status, "message": str(exc)}
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PATCH = do_DELETE = do_POST = _any  # noqa: N815 - names of the standard library

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stop = threading.Event()
    threads = [
        threading.Thread(target=server.serve_forever, args=(0.05,)),
        threading.Thread(target=cluster.operate, args=(stop,)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stop.set()
        server.shutdown()
        for thread in threads:
            thread.join()
        server.server_close()
        time.sleep(0)
