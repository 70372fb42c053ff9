"""Headers of callers at the model server: trace context and request id, an allow-list, and nothing else."""

import socket
from collections.abc import Iterator

import pytest

from integration.gateway.conftest import Gateway, deployment, document, gateway, read_request, scripted

TRACE = {
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "vendor=a",
    "x-request-id": "r-1",
}
OTHERS = {
    "x-data-parallel-rank": "3",
    "x-other": "b",
    "cookie": "session=c",
    "authorization": "Bearer caller-1",
    "x-api-key": "caller-2",
    "user-agent": "caller",
    "accept-encoding": "br",
}
BODY = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}'
KEY = "sk-of-the-deployment"

Headers = list[tuple[str, str]]


class Upstream:
    """Model server that keeps the heads of its requests."""

    def __init__(self) -> None:
        self.heads: list[Headers] = []
        self.failures = 0
        """Requests that it answers with 503 from now on."""

    def serve(self, connection: socket.socket, request: bytes) -> None:
        while request:
            head = request.partition(b"\r\n\r\n")[0].decode()
            lines = [line.split(": ", 1) for line in head.split("\r\n")[1:]]
            self.heads.append([(name.lower(), value) for name, value in lines])
            status = b"200 OK"
            if self.failures:
                self.failures -= 1
                status = b"503 Service Unavailable"
            connection.sendall(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(BODY), BODY))
            request = read_request(connection)


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture(scope="module")
def proxy(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with scripted(upstream.serve) as port:
        config = document(
            deployment(port, api_key_env="KEY"), forward_headers=["x-data-parallel-rank", "authorization"]
        )
        config["models"].append(
            {"name": "claude", "deployments": [deployment(port, "claude/0", model="anthropic/claude")]}
        )
        with gateway(tmp_path_factory.mktemp("forwarded"), config, env={"KEY": KEY}) as here:
            yield here


def ask(
    proxy: Gateway, headers: dict[str, str] | Headers, path: str = "/v1/chat/completions", model: str = "echo"
) -> int:
    body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    return proxy.post(body, path, headers=headers).status_code


def names(head: Headers) -> list[str]:
    return sorted(name for name, _ in head)


def test_trace_context_request_id_and_listed_headers_are_forwarded(proxy: Gateway, upstream: Upstream) -> None:
    upstream.heads.clear()
    assert ask(proxy, TRACE | OTHERS) == 200

    (head,) = upstream.heads
    assert dict(head).items() >= (TRACE | {"x-data-parallel-rank": "3"}).items()
    own = ["accept", "accept-encoding", "authorization", "content-length", "content-type", "host", "user-agent"]
    assert dict(head)["accept-encoding"] == "identity"
    assert names(head) == sorted([*own, *TRACE, "x-data-parallel-rank"])


def test_a_header_of_the_deployment_wins_over_the_callers(proxy: Gateway, upstream: Upstream) -> None:
    upstream.heads.clear()
    assert ask(proxy, OTHERS) == 200

    (head,) = upstream.heads
    assert [value for name, value in head if name == "authorization"] == [f"Bearer {KEY}"]
    assert "caller" not in str(head)


def test_each_attempt_has_the_headers(proxy: Gateway, upstream: Upstream) -> None:
    upstream.heads.clear()
    upstream.failures = 1
    assert ask(proxy, TRACE) == 200

    first, second = upstream.heads
    assert dict(first).items() >= TRACE.items()
    assert dict(second).items() >= TRACE.items()


def test_lines_of_one_name_stay_apart_and_in_order(proxy: Gateway, upstream: Upstream) -> None:
    upstream.heads.clear()
    assert ask(proxy, [("tracestate", "a=1"), ("TraceState", "b=2")]) == 200

    (head,) = upstream.heads
    assert [value for name, value in head if name == "tracestate"] == ["a=1", "b=2"]


def test_an_anthropic_client_keeps_its_version_beside_them(proxy: Gateway, upstream: Upstream) -> None:
    upstream.heads.clear()
    ask(proxy, {**TRACE, "anthropic-version": "2023-06-01"}, "/v1/messages", "claude")

    (head,) = upstream.heads
    assert dict(head).items() >= {**TRACE, "anthropic-version": "2023-06-01"}.items()
    assert len(names(head)) == len(set(names(head)))


def test_a_percent_sign_is_forwarded(proxy: Gateway, upstream: Upstream) -> None:
    upstream.heads.clear()
    assert ask(proxy, {"x-request-id": "100%d%s"}) == 200

    assert dict(upstream.heads[0])["x-request-id"] == "100%d%s"


def test_a_value_cannot_begin_another_header(proxy: Gateway, upstream: Upstream) -> None:
    upstream.heads.clear()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-request-id: r%bx-evil: 1\r\ncontent-length: 2\r\n\r\n{}"
    )
    for end in (b"\r", b"\n", b"\x00"):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
            connection.sendall(request % (end,))
            answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 400"), end

    assert not upstream.heads
