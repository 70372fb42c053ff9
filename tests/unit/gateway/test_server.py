"""The HTTP server: requests whole whatever their pieces, answers one after the other, and a bound on everything."""

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.gateway.errors import BadRequestError, CallError, Header, UnauthorizedError, error_body
from llmproxy.gateway.http import server as http1
from llmproxy.gateway.http.exchange import JSON, ByteBudget, HttpExchange

Handle = Callable[[HttpExchange], Coroutine[Any, Any, None]]
HELLO = b"POST /v1/x?key=1 HTTP/1.1\r\nHost: h\r\nX-A: b\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /v1/y HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwor\r\n2;a=b\r\nld\r\n0\r\n\r\n"
EMPTY = b"GET /v1/z%20z HTTP/1.1\r\nHost: h\r\n\r\n"
CLOSING = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


async def echo(caller: HttpExchange) -> None:
    """Answer with what was asked."""
    request = caller.request
    found = {"method": request.method, "path": request.path, "body": request.body.decode("latin-1")}
    caller.respond(200, json.dumps(found).encode(), [JSON])


def echo_after(go_on: asyncio.Event) -> Handle:
    """Return what answers so once it may."""

    async def wait(caller: HttpExchange) -> None:
        await go_on.wait()
        await echo(caller)

    return wait


class Wire:
    """A client on a real socket that sends and reads bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, *, no_body: bool = False) -> tuple[int, dict[str, str], bytes]:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 30)).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        elif not no_body:
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, body

    async def closed(self) -> bytes:
        """Return what comes until the server hangs up."""
        try:
            return await asyncio.wait_for(self.reader.read(-1), 30)
        except ConnectionResetError:
            return b"reset"


class Rig:
    """A server on loopback."""

    def __init__(
        self, handle: Handle, listener: socket.socket, max_connections: int, budget: ByteBudget, **more: Any
    ) -> None:
        self.server = http1.HttpServer(handle, self._refused, max_connections=max_connections, budget=budget, **more)
        self.port: int = listener.getsockname()[1]
        self.refused: list[tuple[int, str, list[Header]]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return Wire(reader, writer)

    def _refused(self, error: CallError, path: str, headers: list[Header]) -> bytes:
        self.refused.append((error.status, path, headers))
        return error_body(error)

    def close_all(self, but: Wire | None = None) -> None:
        for writer in self._writers:
            if but is None or writer is not but.writer:
                writer.close()

    async def close(self) -> None:
        self.close_all()
        await self.server.drain(0.02, 0.02)


@asynccontextmanager
async def serving(
    handle: Handle = echo, *, max_connections: int = 100, budget: ByteBudget | None = None, check_head: Any = None
) -> AsyncIterator[Rig]:
    listener = socket.create_server(("127.0.0.1", 0))
    rig = Rig(handle, listener, max_connections, budget or ByteBudget(1 << 30), check_head=check_head)
    await rig.server.start(listener, 16)
    try:
        yield rig
    finally:
        await rig.close()


async def settled(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - a test
            await asyncio.sleep(0.005)


def asked(body: bytes) -> tuple[str, str, str]:
    found = json.loads(body)
    return found["method"], found["path"], found["body"]


async def test_a_request_is_read_and_its_answer_is_plain_http() -> None:
    async with serving() as rig:
        wire = await rig.connect()
        await wire.send(HELLO)
        status, headers, body = await wire.answer()
        assert (status, asked(body)) == (200, ("POST", "/v1/x", "hello"))
        assert headers["content-type"] == "application/json"
        assert headers["date"].endswith("GMT")
        assert "connection" not in headers
        await wire.send(CHUNKED)
        assert asked((await wire.answer())[2]) == ("POST", "/v1/y", "world")
        await wire.send(EMPTY)
        assert asked((await wire.answer())[2]) == ("GET", "/v1/z z", "")


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, len(HELLO + CHUNKED + EMPTY) - 1), max_size=12))
def test_borders_of_pieces_make_no_difference(cuts: list[int]) -> None:
    whole = HELLO + CHUNKED + EMPTY + CLOSING
    edges = sorted({0, *cuts, len(whole)})

    async def run() -> list[tuple[str, str, str]]:
        async with serving() as rig:
            wire = await rig.connect()
            found = []
            for begin, end in itertools.pairwise(edges):
                await wire.send(whole[begin:end])
                await asyncio.sleep(0)
            for _ in range(4):
                _, headers, body = await wire.answer()
                found.append(asked(body))
            assert headers["connection"] == "close"
            assert await wire.closed() == b""
            return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == [
            ("POST", "/v1/x", "hello"),
            ("POST", "/v1/y", "world"),
            ("GET", "/v1/z z", ""),
            ("GET", "/last", ""),
        ]


async def test_answers_come_in_the_order_of_requests_though_the_first_takes_longest() -> None:
    at_once = []

    async def slow_first(caller: HttpExchange) -> None:
        at_once.append(caller.request.path)
        await asyncio.sleep(0.05 if caller.request.path == "/v1/x" else 0)
        await echo(caller)

    async with serving(slow_first) as rig:
        wire = await rig.connect()
        await wire.send(HELLO + CHUNKED)
        await wire.send(EMPTY)
        await settled(lambda: bool(at_once))
        assert at_once == ["/v1/x"]
        paths = [asked((await wire.answer())[2])[1] for _ in range(3)]
        assert paths == ["/v1/x", "/v1/y", "/v1/z z"]


async def test_an_old_client_gets_no_chunks_and_is_hung_up_on() -> None:
    async def stream(caller: HttpExchange) -> None:
        caller.start(200, [JSON])
        caller.part(b"one ")
        caller.end(b"two")

    async with serving(stream) as rig:
        wire = await rig.connect()
        await wire.send(b"GET /s HTTP/1.0\r\nHost: h\r\n\r\n")
        head, _, body = (await wire.closed()).partition(b"\r\n\r\n")
        assert body == b"one two"
        assert b"chunked" not in head
        assert b"connection: close" in head
        wire = await rig.connect()
        await wire.send(b"GET /s HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await wire.answer())[2] == b"one two"


async def test_head_has_no_body_and_a_body_is_invited() -> None:
    async with serving() as rig:
        wire = await rig.connect()
        await wire.send(b"HEAD /health HTTP/1.1\r\nHost: h\r\n\r\n")
        status, headers, _ = await wire.answer(no_body=True)
        assert (status, int(headers["content-length"]) > 0) == (200, True)
        await wire.send(b"POST /p HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"ok")
        assert asked((await wire.answer())[2]) == ("POST", "/p", "ok")


EXPECTS = b"POST /p HTTP/1.%d\r\nHost: h\r\nExpect: 100-%bontinue\r\nContent-Length: 2\r\n\r\n"
INVITED = b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_a_body_is_invited_when_its_turn_comes() -> None:
    go_on = asyncio.Event()
    async with serving(echo_after(go_on)) as rig:
        wire = await rig.connect()
        await wire.send(HELLO + EXPECTS % (1, b"C"))  # names and values are the same in capitals
        await settled(lambda: any(not c.is_idle for c in rig.server.connections))
        go_on.set()
        assert asked((await wire.answer())[2]) == ("POST", "/v1/x", "hello")
        assert await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 30) == INVITED
        await wire.send(b"ok")
        assert asked((await wire.answer())[2]) == ("POST", "/p", "ok")


async def test_a_body_that_came_or_is_of_an_old_client_is_not_invited() -> None:
    go_on = asyncio.Event()
    async with serving(echo_after(go_on)) as rig:
        wire = await rig.connect()
        await wire.send(HELLO + EXPECTS % (1, b"c") + b"ok" + EXPECTS % (0, b"c") + b"ok")
        await settled(lambda: any(not c.is_idle for c in rig.server.connections))
        go_on.set()
        assert [asked((await wire.answer())[2])[1] for _ in range(3)] == ["/v1/x", "/p", "/p"]
        assert await wire.closed() == b""


async def test_trailers_are_no_headers() -> None:
    seen: list[list[Header]] = []

    async def look(caller: HttpExchange) -> None:
        seen.append(caller.request.headers)
        await echo(caller)

    async with serving(look) as rig:
        wire = await rig.connect()
        await wire.send(CHUNKED[:-2] + b"X-Rollout-Id: r\r\nAuthorization: Bearer k\r\n\r\n" + HELLO)
        assert asked((await wire.answer())[2]) == ("POST", "/v1/y", "world")
        assert asked((await wire.answer())[2]) == ("POST", "/v1/x", "hello")
    assert [[name for name, _ in headers] for headers in seen] == [
        [b"host", b"transfer-encoding"],
        [b"host", b"x-a", b"content-length"],
    ]


@pytest.mark.parametrize("line", [b"a" * 1000, b"X-A: b\r\n" * 100])
async def test_trailers_have_a_bound_and_small_chunks_are_none(line: bytes) -> None:
    head, end = CHUNKED.index(b"3\r\n"), CHUNKED[:-2]
    async with serving() as rig:
        wire = await rig.connect()
        await wire.send(end)
        for _ in range(http1.MAX_HEAD // 1000 + 100):
            await wire.send(b"X: " * line.startswith(b"a") + line)
            await asyncio.sleep(0)
            if rig.refused:
                break
        status, _, body = await wire.answer()
        assert (status, json.loads(body)["error"]["code"]) == (431, "headers_too_large")
        assert [refused[:2] for refused in rig.refused] == [(431, "/v1/y")]

        connection = http1.ServerConnection(rig.server)
        connection.connection_made(asyncio.Transport())
        connection.data_received(CHUNKED[:head])
        for _ in range(http1.MAX_HEAD // 3):
            connection.data_received(b"1\r\n")
            connection.data_received(b"x\r\n")
        assert len(rig.refused) == 1
        rig.server.connections.pop(connection)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "invalid_request"),
        (b"GET / HTTP/1.1\r\nbroken header\r\n\r\n", 400, "invalid_request"),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "invalid_request",
        ),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, "invalid_request"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * (http1.MAX_HEAD + 1), 431, "headers_too_large"),
        (b"GET /" + b"a" * (http1.MAX_HEAD + 1), 431, "headers_too_large"),
    ],
)
async def test_what_cannot_be_read_is_answered_with_what_is_wrong(sent: bytes, status: int, code: str) -> None:
    async with serving() as rig:
        wire = await rig.connect()
        await wire.send(sent)
        found, headers, body = await wire.answer()
        assert (found, json.loads(body)["error"]["code"], headers["connection"]) == (status, code, "close")
        assert [refused[0] for refused in rig.refused] == [status]
        assert await wire.closed() in {b"", b"reset"}


def list_of(head: bytes) -> list[Header]:
    name, _, value = head.partition(b"\r\n")[0].partition(b": ")
    return [(name.lower(), value)]


async def test_a_body_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "MAX_BODY", 1000)
    async with serving() as rig:
        for head in (
            b"Content-Length: 1001\r\n\r\n" + b"x" * 1001,
            b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1001,
        ):
            wire = await rig.connect()
            await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\n" + head)
            status, _, body = await wire.answer()
            assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
            assert rig.refused.pop()[1:] == ("/", [(b"host", b"h"), *list_of(head)])
        wire = await rig.connect()
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        assert (await wire.answer())[0] == 200


async def test_what_is_read_before_nonsense_is_answered_then_the_connection_ends() -> None:
    async with serving() as rig:
        wire = await rig.connect()
        await wire.send(HELLO + b"nonsense\r\n\r\n")
        assert (await wire.answer())[0] == 200
        assert await wire.closed() in {b"", b"reset"}


async def test_connections_have_a_bound_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(max_connections=2) as rig:
        wires = [await rig.connect() for _ in range(2)]
        for wire in wires:
            await wire.send(HELLO)
            assert (await wire.answer())[0] == 200
        late = await rig.connect()
        status, _, body = await late.answer()
        assert (status, json.loads(body)["error"]["code"]) == (503, "too_many_connections")
        assert (await (await rig.connect()).answer())[0] == 503
        assert [record.message for record in caplog.records] == ["connection_limit_reached"], "once, not for each"
        assert [refused[0] for refused in rig.refused] == [503, 503]
        late.writer.close()
        await wires[0].send(HELLO)
        assert (await wires[0].answer())[0] == 200
        wires[1].writer.close()
        rig.close_all(but=wires[0])
        await settled(lambda: len(rig.server.connections) == 1)
        again = await rig.connect()
        await again.send(HELLO)
        assert (await again.answer())[0] == 200


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"POST / HTTP/1.1\r\nHost", b"HTTP/1.1 408 "),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf", b"HTTP/1.1 408 "),
        (b"", b""),  # it was only connected: nothing is owed
    ],
)
async def test_a_client_that_takes_too_long_is_told_and_let_go(
    sent: bytes, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEAD_S", "BODY_S", "TICK_S", "LINGER_S"):
        monkeypatch.setattr(http1, name, 0.05)
    async with serving() as rig:
        wire = await rig.connect()
        await wire.send(sent)
        assert (await wire.closed()).startswith(said)
        await settled(lambda: not rig.server.connections)


async def test_a_kept_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "TICK_S", 0.05)
    monkeypatch.setattr(http1, "IDLE_S", 0.1)
    async with serving() as rig:
        wire = await rig.connect()
        await wire.send(HELLO)
        assert (await wire.answer())[0] == 200
        assert await wire.closed() == b""


async def test_a_client_that_does_not_read_slows_its_answer_and_is_let_go_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "TICK_S", 0.05)
    monkeypatch.setattr(http1, "WRITE_S", 0.3)
    waited = asyncio.Event()
    gone = asyncio.Event()

    async def flood(caller: HttpExchange) -> None:
        caller.cancel_on_disconnect()
        caller.start(200, [JSON])
        try:
            while True:
                waiting = caller.part(b"x" * 65536)
                if waiting is not None:
                    waited.set()
                    await waiting
        except asyncio.CancelledError:
            gone.set()

    async with serving(flood) as rig:
        wire = await rig.connect()
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send(EMPTY)
        await asyncio.wait_for(waited.wait(), 30)
        await asyncio.wait_for(gone.wait(), 30)
        await settled(lambda: not rig.server.connections)


async def test_a_caller_that_leaves_ends_its_call_only() -> None:
    ended = asyncio.Event()

    async def wait(caller: HttpExchange) -> None:
        if caller.request.path != "/wait":
            await echo(caller)
            return
        caller.cancel_on_disconnect()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            assert caller.disconnected
            ended.set()

    async with serving(wait) as rig:
        leaver, other = await rig.connect(), await rig.connect()
        await leaver.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
        await settled(lambda: any(not c.is_idle for c in rig.server.connections))
        leaver.writer.close()
        await asyncio.wait_for(ended.wait(), 30)
        await other.send(HELLO)
        assert (await other.answer())[0] == 200


async def test_at_the_end_calls_finish_and_say_that_the_connection_closes() -> None:
    go_on = asyncio.Event()
    async with serving(echo_after(go_on)) as rig:
        busy, idle = await rig.connect(), await rig.connect()
        await busy.send(HELLO)
        await settled(lambda: any(not c.is_idle for c in rig.server.connections) and len(rig.server.connections) == 2)
        drain = asyncio.create_task(rig.server.drain(0.1, 30))
        assert await idle.closed() == b""
        go_on.set()
        status, headers, _ = await busy.answer()
        assert (status, headers["connection"]) == (200, "close")
        await asyncio.wait_for(drain, 30)
        with pytest.raises(ConnectionError):
            await rig.connect()


async def test_an_error_before_the_answer_is_one_and_after_it_hangs_up() -> None:
    async def fail(caller: HttpExchange) -> None:
        if caller.request.path == "/late":
            caller.start(200, [JSON])
            caller.part(b"half")
            caller.abort()
        else:
            caller.respond(400, error_body(BadRequestError("no")), [JSON])

    async with serving(fail) as rig:
        wire = await rig.connect()
        await wire.send(HELLO)
        assert (await wire.answer())[0] == 400
        await wire.send(b"GET /late HTTP/1.1\r\nHost: h\r\n\r\n")
        assert not (await wire.closed()).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (b"/v1/models?x=/y", "/v1/models"),
        (b"http://proxy:4000/v1/models?x", "/v1/models"),
        (b"http://proxy:4000", "/"),
        (b"/a%2Fb", "/a/b"),
        (b"/caf%C3%A9", "/café"),
        (b"*", "*"),
    ],
)
def test_paths_are_read_in_every_form_of_an_address(url: bytes, path: str) -> None:
    assert http1.read_path(url) == path


def head(*lines: str, first: str = "POST /v1/x HTTP/1.1") -> bytes:
    return "\r\n".join((first, *lines, "", "")).encode()


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0"])
async def test_an_upgrade_is_ignored_and_the_body_is_read(upgrade: str, *, chunked: bool, piece: int) -> None:
    """As java.net.http.HttpClient sends its first request, and the next one on the same connection."""
    settings_ = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
    length, body = (
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n") if chunked else ("Content-Length: 5", b"hello")
    )
    request = head("Host: h", *settings_, length) + body
    sent = request + request + HELLO
    async with serving() as rig:
        wire = await rig.connect()
        await wire.send(*(sent[at : at + piece] for at in range(0, len(sent), piece)))
        for _ in range(3):
            status, _, answer = await wire.answer()
            assert (status, json.loads(answer)["body"]) == (200, "hello")


async def test_an_upgrade_does_not_hide_that_the_client_closes() -> None:
    async with serving() as rig:
        wire = await rig.connect()
        await wire.send(head("Host: h", "Connection: close, Upgrade", "Upgrade: h2c", "Content-Length: 2") + b"hi")
        status, headers, _ = await wire.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await wire.closed() == b""


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((), 400),
        (("Host:",), 400),
        (("Host: a", "Host: a"), 400),
        (("Host: a b",), 400),
        (("Host: a/b",), 400),
        (("Host: a.b-c_d:80 ",), 200),
        (("Host: [::1]:80",), 200),
    ],
)
async def test_a_request_has_one_host(lines: tuple[str, ...], status: int) -> None:
    async with serving() as rig:
        for _ in range(2):  # the second time a valid one is remembered
            wire = await rig.connect()
            await wire.send(head(*lines, first="GET /x HTTP/1.1"))
            assert (await wire.answer())[0] == status


async def test_the_version_is_one_that_is_spoken_here() -> None:
    async with serving() as rig:
        for version, status in (("1.0", 200), ("2.0", 505), ("0.9", 505)):
            wire = await rig.connect()
            await wire.send(head("Host: h", first=f"GET /x HTTP/{version}"))
            assert (await wire.answer())[0] == status


async def test_white_space_around_a_value_is_no_part_of_it() -> None:
    async def values(exchange: HttpExchange) -> None:
        exchange.respond(200, json.dumps([v.decode() for _, v in exchange.request.headers]).encode(), [JSON])

    async with serving(values) as rig:
        wire = await rig.connect()
        await wire.send(head("Host: h", "X-Api-Key: \tkey \t ", "X-Empty:  ", first="GET /x HTTP/1.1"))
        assert json.loads((await wire.answer())[2]) == ["h", "key", ""]


async def test_a_head_has_a_bound_of_lines_and_of_bytes_also_when_it_comes_at_once() -> None:
    async with serving() as rig:
        for lines in (["a: b"] * (http1.MAX_LINES + 1), ["a: " + "b" * 1000] * 70):
            wire = await rig.connect()
            await wire.send(head("Host: h", *lines))
            assert (await wire.answer())[0] == 431


def refuse_without_key(_method: str, _path: str, headers: list[Header]) -> None:
    if (b"x-api-key", b"k") not in headers:
        raise UnauthorizedError("no key")


async def test_a_head_is_judged_before_its_body_comes() -> None:
    async with serving(check_head=refuse_without_key) as rig:
        without = await rig.connect()
        await without.send(head("Host: h", "Content-Length: 1000", "Expect: 100-continue"))
        assert (await without.answer())[0] == 401
        large = await rig.connect()
        await large.send(head("Host: h", "X-Api-Key: k", "Content-Length: 99999999999", "Expect: 100-continue"))
        assert (await large.answer())[0] == 413
        known = await rig.connect()
        await known.send(head("Host: h", "X-Api-Key: k", "Content-Length: 5", "Expect: 100-continue"))
        assert (await known.answer(no_body=True))[0] == 100
        await known.send(b"hello")
        assert (await known.answer())[0] == 200


async def test_bodies_have_one_budget_and_give_it_back() -> None:
    budget = ByteBudget(10_000)
    begun = head("Host: h", "Content-Length: 8000")
    async with serving(budget=budget) as rig:
        first, second = await rig.connect(), await rig.connect()
        await first.send(begun + b"x" * 5000)
        await settled(lambda: budget.used > 5000)
        await second.send(begun + b"x" * 5000)
        status, headers, answer = await second.answer()
        assert (status, json.loads(answer)["error"]["code"]) == (503, "out_of_memory")
        assert int(headers["retry-after"]) == 1
        await first.send(b"x" * 3000)
        assert (await first.answer())[0] == 200
        rig.close_all()
        await settled(lambda: budget.used == 0)


async def test_a_client_that_sent_two_requests_and_left_is_noticed() -> None:
    go_on = asyncio.Event()
    exchanges: list[HttpExchange] = []

    async def wait(exchange: HttpExchange) -> None:
        exchanges.append(exchange)
        exchange.cancel_on_disconnect()
        await go_on.wait()

    async with serving(wait) as rig:
        wire = await rig.connect()
        await wire.send(HELLO + HELLO)
        await settled(lambda: bool(exchanges))
        wire.writer.close()
        await settled(lambda: exchanges[0].disconnected)
        assert len(exchanges) == 1


async def test_a_port_that_evicts_answers_a_new_connection_while_silent_ones_hold_all_others() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    rig = Rig(echo, listener, 4, ByteBudget(1 << 20), evicts=True)
    await rig.server.start(listener, 16)
    silent = [await rig.connect() for _ in range(9)]
    wire = await rig.connect()
    await wire.send(HELLO)
    assert (await wire.answer())[0] == 200
    assert len(rig.server.connections) <= 4
    assert await silent[0].closed() in {b"", b"reset"}
    await rig.close()


async def test_connections_that_are_refused_are_bounded_too() -> None:
    async with serving(max_connections=2) as rig:
        for _ in range(2 + http1.MAX_REFUSED):
            await rig.connect()
        await settled(lambda: len(rig.server.connections) == 2 + http1.MAX_REFUSED)
        wire = await rig.connect()
        assert await wire.closed() in {b"", b"reset"}
        assert len(rig.server.connections) == 2 + http1.MAX_REFUSED
