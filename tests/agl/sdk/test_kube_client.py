"""Credentials of a kubeconfig against an API server over TLS that asks for a client certificate."""

import json
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.pki import Keys
from llmproxy_agl import kube_client
from llmproxy_agl.kube_client import KubeError

pytestmark = [pytest.mark.agl, pytest.mark.timeout(60)]
PLUGIN = """import json, os, sys
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert info["kind"] == "ExecCredential" and info["spec"] == {"interactive": False}, info
kind = {"apiVersion": info["apiVersion"], "kind": info["kind"]}
print(json.dumps({**kind, "status": json.load(open(os.environ["STATUS"]))}))
"""


class WhoAmI(BaseHTTPRequestHandler):
    """Responds with the caller's certificate and token."""

    def do_GET(self) -> None:
        connection: Any = self.connection
        subject = dict(item[0] for item in (connection.getpeercert() or {}).get("subject", ()))
        body = json.dumps({"certificate": subject.get("commonName"), "token": self.headers.get("Authorization")})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        """Print nothing."""


@dataclass
class Server:
    """A server, its certificates, and a kubeconfig whose user has an exec plugin."""

    url: str
    keys: Keys
    folder: Path

    def whoami(self, status: dict[str, Any]) -> dict[str, Any]:
        """Return the server's response to a caller whose plugin returns *status*."""
        (self.folder / "status").write_text(json.dumps(status))
        (self.folder / "plugin.py").write_text(PLUGIN)
        plugin = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(self.folder / "plugin.py")],
            "env": [{"name": "STATUS", "value": str(self.folder / "status")}],
        }
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": self.url, "certificate-authority": self.keys.crt("ca")}}],
            "users": [{"name": "u", "user": {"exec": plugin}}],
        }
        path = self.folder / "kubeconfig"
        path.write_text(json.dumps(config))
        return kube_client.call(kube_client.access_of_kubeconfig(str(path), None), "GET", "/whoami")

    def pem(self) -> dict[str, str]:
        """Return the client certificate as a plugin returns it."""
        crt, key = Path(self.keys.crt("admin")).read_text(), Path(self.keys.key("admin")).read_text()
        return {"clientCertificateData": crt, "clientKeyData": key}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    keys = Keys(tmp_path)
    keys.authority("ca")
    keys.leaf("server", "/CN=server", names="IP:127.0.0.1")
    keys.leaf("admin", "/CN=admin")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=keys.crt("ca"))
    tls.load_cert_chain(keys.crt("server"), keys.key("server"))
    tls.verify_mode = ssl.CERT_OPTIONAL
    http = ThreadingHTTPServer(("127.0.0.1", 0), WhoAmI)
    http.socket = tls.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield Server(f"https://127.0.0.1:{http.server_address[1]}", keys, tmp_path)
    http.shutdown()
    http.server_close()


def test_an_exec_plugin_that_returns_a_client_certificate_authenticates_by_it(server: Server) -> None:
    assert server.whoami(server.pem()) == {"certificate": "admin", "token": None}


def test_an_exec_plugin_that_returns_a_token_authenticates_by_it(server: Server) -> None:
    assert server.whoami({"token": "t"}) == {"certificate": None, "token": "Bearer t"}


def test_an_exec_plugin_that_returns_both_authenticates_by_both(server: Server) -> None:
    assert server.whoami({**server.pem(), "token": "t"}) == {"certificate": "admin", "token": "Bearer t"}


@pytest.mark.parametrize("status", [{}, {"token": ""}, {"clientCertificateData": "half"}])
def test_an_exec_plugin_without_a_credential_is_an_error(server: Server, status: dict[str, str]) -> None:
    with pytest.raises(KubeError, match="returns neither a token nor a client certificate with its key"):
        server.whoami(status)
