"""Model servers of a company's network: a certificate of its own CA, another server name, headers from Secrets."""

import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from cluster.pki import Keys
from integration.gateway.conftest import deployment, document, gateway

ANSWER = b'{"id":"1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"yes"}}]}'
NAME = "vllm.corp.example"


class Server(ThreadingHTTPServer):
    """A model server with TLS, and the headers that it got."""

    def __init__(self, keys: Keys) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(keys.crt("server"), keys.key("server"))
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.seen: list[dict[str, str]] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that refuses the certificate."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, Server)
        self.server.seen.append(dict(self.headers.items()))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("keys"))
    keys.authority("ca")
    keys.authority("stranger")
    keys.leaf("server", f"/CN={NAME}", names=f"DNS:{NAME}")
    return keys


@pytest.fixture
def server(keys: Keys) -> Iterator[Server]:
    with Server(keys) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def upstream(server: Server, **more: Any) -> dict[str, Any]:
    port = server.server_address[1]
    return deployment(port, api_base=f"https://127.0.0.1:{port}/v1", **more)


def call(folder: Path, server: Server, *, env: dict[str, str], **more: Any) -> tuple[int, str]:
    with gateway(folder, document(upstream(server, **more), retries={"max": 0}), env=env) as here:
        answer = here.chat()
        return answer.status_code, answer.text


def test_a_server_with_a_certificate_of_an_own_ca_is_reached_by_its_name(
    tmp_path: Path, keys: Keys, server: Server
) -> None:
    env = {"CA": Path(keys.crt("ca")).read_text(), "ORG": "team-a"}

    status, _ = call(
        tmp_path, server, env=env, ca_env="CA", server_name=NAME, headers=[{"name": "x-org", "value_env": "ORG"}]
    )

    assert status == 200
    assert {name.lower(): value for name, value in server.seen[0].items()}["x-org"] == "team-a"


@pytest.mark.parametrize(
    ("ca", "name", "reason"),
    [
        pytest.param("stranger", NAME, "unable to get local issuer certificate", id="another CA"),
        pytest.param("ca", "other.corp.example", "Hostname mismatch", id="another name"),
        pytest.param(None, NAME, "unable to get local issuer certificate", id="the system's CAs"),
    ],
)
def test_a_certificate_that_is_not_trusted_is_said_with_the_field(
    tmp_path: Path, keys: Keys, server: Server, ca: str | None, name: str, reason: str
) -> None:
    env = {} if ca is None else {"CA": Path(keys.crt(ca)).read_text()}

    status, text = call(tmp_path, server, env=env, ca_env="CA" if ca else None, server_name=name)

    assert status == 502
    assert "its certificate is not trusted" in text
    assert reason in text
    assert "tls.ca of the deployment" in text
    assert server.seen == []
