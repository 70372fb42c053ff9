"""Speaks to a Kubernetes API server over HTTPS, as the pod that this is or by a kubeconfig. Standard library only.

Every call is a connection of its own and nothing is kept: safe across forks, threads and pickles.
"""

import base64
import contextlib
import http.client
import json
import os
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from llmproxy_agl.errors import ProxyError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 20.0
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class KubeError(ProxyError):
    """The API server refuses a request, or cannot be reached (status 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def in_pod() -> bool:
    """Return whether this process is in a pod with a service account token."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (ACCOUNT / "token").exists()


def pod_namespace() -> str:
    """Return the namespace of this pod, `default` outside of one."""
    if os.environ.get("POD_NAMESPACE"):
        return os.environ["POD_NAMESPACE"]
    try:
        return (ACCOUNT / "namespace").read_text().strip() or "default"
    except OSError:
        return "default"


@dataclass(frozen=True)
class ApiServerAccess:
    """Address and credentials of an API server."""

    server: str
    tls: ssl.SSLContext | None
    token: str | None
    namespace: str


def access_of_pod() -> ApiServerAccess:
    """Return the access of the pod's service account; its token rotates."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubeError(0, "this is not a pod of a cluster: set kubeconfig= and endpoint=, or mode='local'")
    try:
        tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        token = (ACCOUNT / "token").read_text().strip()
    except OSError as exc:
        raise KubeError(0, f"{exc.filename}: {exc.strerror}: the pod has no service account token mounted") from exc
    return ApiServerAccess(f"https://{f'[{host}]' if ':' in host else host}:{port}", tls, token, pod_namespace())


def access_of_kubeconfig(path: str, context: str | None) -> ApiServerAccess:
    """Return the access of a kubeconfig; raise KubeError naming what is wrong in it."""
    try:
        raw = yaml.safe_load(Path(path).expanduser().read_text())
        chosen = context or raw["current-context"]
        there = _named(raw, "contexts", chosen)["context"]
        cluster = _named(raw, "clusters", there["cluster"])["cluster"]
        user = _named(raw, "users", there["user"])["user"] or {}
        base = Path(path).expanduser().parent
        user = _with_exec_credential(user)
        tls = _tls(cluster, user, base) if cluster["server"].startswith("https") else None
        return ApiServerAccess(
            cluster["server"].rstrip("/"), tls, _token(user, base), there.get("namespace", "default")
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, LookupError) as exc:
        raise KubeError(0, f"kubeconfig {path}: {type(exc).__name__}: {exc}") from exc


def _named(raw: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    for item in raw.get(kind) or ():
        if item.get("name") == name:
            entry: Mapping[str, Any] = item
            return entry
    raise LookupError(f"no {name!r} in {kind}")


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], base: Path) -> ssl.SSLContext:
    tls = ssl.create_default_context()
    authority = _content(cluster, "certificate-authority", base)
    if authority is not None:
        tls.load_verify_locations(cadata=authority.decode())
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate, key = _content(user, "client-certificate", base), _content(user, "client-key", base)
    if certificate is not None and key is not None:
        with _file(certificate) as cert_file, _file(key) as key_file:
            tls.load_cert_chain(cert_file, key_file)
    return tls


def _content(raw: Mapping[str, Any], name: str, base: Path) -> bytes | None:
    if raw.get(f"{name}-data"):
        return base64.b64decode(raw[f"{name}-data"])
    return (base / raw[name]).read_bytes() if raw.get(name) else None


@contextlib.contextmanager
def _file(content: bytes) -> Iterator[str]:
    """Yield a private file with *content*: the ssl module loads client certificates from files only."""
    with tempfile.NamedTemporaryFile() as out:
        out.write(content)
        out.flush()
        yield out.name


def _with_exec_credential(user: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return *user* with the token or client certificate of its exec plugin, if it has one.

    Kubernetes' ExecCredential: `status` has `token`, or `clientCertificateData` and `clientKeyData` in PEM, or both.
    """
    if user.get("token") or user.get("tokenFile") or not user.get("exec"):
        return user
    plugin = user["exec"]
    own = {item["name"]: item["value"] for item in plugin.get("env") or ()}
    request = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": {"interactive": False}}
    own["KUBERNETES_EXEC_INFO"] = json.dumps(request)  # plugins of clouds refuse to run without it
    command = [plugin["command"], *(plugin.get("args") or ())]
    try:
        run = subprocess.run(command, env={**os.environ, **own}, capture_output=True, check=True, timeout=60)  # noqa: S603 - the user's own kubeconfig says it
    except subprocess.SubprocessError as exc:
        raise ValueError(f"{plugin['command']} returns no credential: {exc}") from exc
    status = json.loads(run.stdout)["status"]
    pems = {"client-certificate-data": "clientCertificateData", "client-key-data": "clientKeyData"}
    certificate = {key: base64.b64encode(status[name].encode()) for key, name in pems.items() if status.get(name)}
    if not status.get("token") and len(certificate) < len(pems):
        raise ValueError(f"{plugin['command']} returns neither a token nor a client certificate with its key")
    return {**user, **certificate, "token": status.get("token")}


def _token(user: Mapping[str, Any], base: Path) -> str | None:
    if user.get("token"):
        return str(user["token"])
    return (base / str(user["tokenFile"])).read_text().strip() if user.get("tokenFile") else None


def call(
    access: ApiServerAccess,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    kind: str = "application/json",
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Return the response of the API server; raise KubeError."""
    parts = urlsplit(access.server)
    headers = {"Accept": "application/json", "Content-Type": kind, "User-Agent": "llmproxy-agl"}
    if access.token:
        headers["Authorization"] = f"Bearer {access.token}"
    host = parts.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=access.tls)
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    )
    with contextlib.closing(connection):
        try:
            connection.request(method, parts.path + path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as exc:
            raise KubeError(0, f"the API server at {access.server} cannot be reached: {exc}") from exc
    try:
        result = json.loads(raw) if raw else {}
    except ValueError:
        result = {"message": raw[:500].decode(errors="replace")}
    if answer.status >= http.HTTPStatus.BAD_REQUEST:
        raise KubeError(answer.status, str(result.get("message") or answer.reason))
    return result if isinstance(result, dict) else {}
