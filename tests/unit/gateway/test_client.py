"""The HTTP client: framing at every border, what is odd ends the connection, and nothing crosses between calls."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.gateway.http.client import HIGH_WATER, MAX_HEAD, STALE_S, ClientConnection, UpstreamFailure
from llmproxy.gateway.http.pool import Address, Pool

Write = Callable[[bytes], None]
SIZED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\n\r\n"
TRAILERS = CHUNKED[:-2] + b"X-Sum: 1\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SIZED
TO_THE_END = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello world"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


class Wire(asyncio.Transport):
    """A connection's other side, played by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.aborted = False
        self.paused = False

    def write(self, data: object) -> None:
        self.sent += cast("bytes", data)

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default


class Talk:
    """A pool of one connection, and its wire."""

    def __init__(self) -> None:
        self.pool = Pool(Address("there", 80))
        self.wire = Wire()
        self.connection = ClientConnection(self.pool.loop, self.pool._on_release)
        self.connection.connection_made(self.wire)
        self.pool._all.add(self.connection)
        self.pool._start_sweep()

    def begin(self, timeout_s: float = 30) -> None:
        self.connection.send(b"POST / HTTP/1.1\r\n\r\n", b"{}", timeout_s)

    def hear(self, *parts: bytes) -> None:
        for part in parts:
            self.connection.data_received(part)

    def lose(self, exc: Exception | None = None) -> None:
        self.connection.connection_lost(exc)

    @property
    def is_kept(self) -> bool:
        return self.connection in self.pool._idle


def run(test: Callable[[Talk], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Talk())

    asyncio.run(main())


async def whole(talk: Talk) -> tuple[int, bytes]:
    status, _ = await talk.connection.head()
    body = await talk.connection.read_all(1 << 20)
    talk.connection.release()
    return status, body


async def acquire(pool: Pool, timeout_s: float) -> ClientConnection:
    """Return a connection as a try takes one."""
    return pool.idle() or await pool.connect(timeout_s)


def halves(data: bytes) -> list[tuple[bytes, ...]]:
    return [(data[:i], data[i:]) for i in range(1, len(data))]


@pytest.mark.parametrize("answer", [SIZED, CHUNKED, TRAILERS, INTERIM], ids=["sized", "chunked", "trailers", "interim"])
def test_an_answer_is_the_same_whatever_parts_it_comes_in(answer: bytes) -> None:
    async def test(talk: Talk) -> None:
        for parts in [(answer,), *halves(answer), tuple(answer[i : i + 1] for i in range(len(answer)))]:
            talk.begin()
            talk.hear(*parts)
            assert await whole(talk) == (200, b"hello world")
            assert talk.is_kept
            assert await acquire(talk.pool, 1) is talk.connection

    run(test)


def test_names_of_headers_are_in_lower_case_and_interim_ones_are_gone() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(INTERIM)
        assert (await talk.connection.head())[1] == {b"content-type": b"application/json", b"content-length": b"11"}

    run(test)


def test_trailers_are_no_headers() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(CHUNKED[:-2] + b"X-Sum: 1\r\nContent-Type: text/html\r\n\r\n")
        _, headers = await talk.connection.head()
        assert headers == {b"transfer-encoding": b"chunked"}
        assert await talk.connection.read_all(1000) == b"hello world"

    run(test)


@pytest.mark.parametrize("line", [b"a" * 1000, b"X-A: b\r\n" * 100])
def test_trailers_have_a_bound(line: bytes) -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(CHUNKED[:-2])
        for _ in range(MAX_HEAD // 1000 + 100):
            talk.hear(b"X: " * line.startswith(b"a") + line)
        with pytest.raises(UpstreamFailure, match="trailers, of more than"):
            await talk.connection.read_all(1000)
        assert talk.wire.aborted

    run(test)


def test_many_small_chunks_are_no_trailers() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(CHUNKED[: CHUNKED.index(b"6\r\n")])
        for _ in range(MAX_HEAD // 3):
            talk.hear(b"1\r\n", b"x\r\n")
        talk.hear(b"0\r\n\r\n")
        assert await talk.connection.read_all(MAX_HEAD) == b"x" * (MAX_HEAD // 3)

    run(test)


def test_an_answer_without_a_body_is_whole_at_once() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(EMPTY)
        assert await whole(talk) == (204, b"")
        assert talk.is_kept

    run(test)


def test_a_body_may_end_with_the_connection() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(TO_THE_END)
        talk.lose()
        assert await whole(talk) == (200, b"hello world")
        assert not talk.is_kept

    run(test)


@pytest.mark.parametrize("answer", [SIZED, CHUNKED], ids=["sized", "chunked"])
def test_an_answer_that_breaks_off_is_never_whole(answer: bytes) -> None:
    async def test(broken: bytes) -> None:
        talk = Talk()
        talk.begin()
        talk.hear(broken)
        talk.lose()
        with pytest.raises(UpstreamFailure, match="closed"):
            await whole(talk)
        talk.connection.release()
        assert not talk.is_kept
        assert talk.pool._all == set()

    async def all_of_them() -> None:
        for end in range(1, len(answer)):
            await test(answer[:end])

    asyncio.run(all_of_them())


def test_a_reset_breaks_a_body_that_would_end_with_the_connection() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(TO_THE_END)
        talk.lose(ConnectionResetError("reset"))
        with pytest.raises(UpstreamFailure, match="closed"):
            await whole(talk)

    run(test)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"nonsense\r\n\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", id="no number"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", id="two framings"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="broken chunk"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", id="upgrade"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (MAX_HEAD // 3) + b"\r\n", id="a huge head"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"y" * MAX_HEAD, id="a head without an end"),
    ],
)
def test_broken_framing_ends_the_connection(answer: bytes) -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(*(answer[i : i + 4096] for i in range(0, len(answer), 4096)))
        with pytest.raises(UpstreamFailure, match="protocol"):
            await whole(talk)
        assert talk.wire.aborted
        talk.connection.release()
        assert not talk.is_kept

    run(test)


@pytest.mark.parametrize(
    "rest", [b"x", SIZED, b"\r\nHTTP/1.1 500 No\r\n\r\n"], ids=["a byte", "another answer", "lines"]
)
def test_bytes_after_the_end_are_nobodys_answer(rest: bytes) -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(SIZED + rest)
        assert await whole(talk) == (200, b"hello world")
        assert not talk.is_kept
        assert talk.wire.aborted

    run(test)


def test_bytes_that_nobody_asked_for_end_a_kept_connection() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(SIZED)
        await whole(talk)
        talk.hear(SIZED)
        assert talk.wire.aborted
        talk.lose()
        assert not talk.is_kept

    run(test)


def test_an_answer_that_asks_to_close_is_not_kept() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(SIZED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert await whole(talk) == (200, b"hello world")
        assert not talk.is_kept

    run(test)


def test_a_call_that_is_not_read_to_its_end_closes_its_connection() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(CHUNKED[:60])
        await talk.connection.head()
        talk.connection.release()
        assert talk.wire.aborted
        assert not talk.is_kept

    run(test)


def test_a_call_is_cancelled_by_its_task_and_by_hand() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        waiting = asyncio.ensure_future(talk.connection.head())
        await asyncio.sleep(0)
        talk.connection.cancel()
        with pytest.raises(UpstreamFailure, match="cancelled"):
            await waiting
        assert talk.wire.aborted

    run(test)


def test_time_runs_from_the_request_to_the_last_byte() -> None:
    async def test(talk: Talk) -> None:
        talk.begin(timeout_s=0.02)
        talk.hear(CHUNKED[:60])
        assert (await talk.connection.head())[0] == 200
        with pytest.raises(UpstreamFailure, match="timeout"):
            await talk.connection.read_all(1000)
        assert talk.wire.aborted

    run(test)


def test_a_stream_is_read_part_by_part() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\none\r\n")
        await talk.connection.head()
        assert await talk.connection.read() == b"one"
        talk.hear(b"3\r\ntwo\r\n")
        assert await talk.connection.read() == b"two"
        talk.hear(b"0\r\n\r\n")
        assert await talk.connection.read() == b""

    run(test)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def framed(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


class Cup:
    """Takes parts; full, it says what to wait for."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.full: asyncio.Future[None] | None = None
        self.refuses: Exception | None = None

    def take(self, data: bytes) -> Awaitable[None] | None:
        if self.refuses is not None:
            raise self.refuses
        self.parts.append(data)
        return self.full


async def poured(talk: Talk, cup: Cup, *parts: bytes) -> asyncio.Task[None]:
    talk.begin()
    talk.hear(STREAM_HEAD, *parts)
    pouring = asyncio.ensure_future(talk.connection.pipe(cup.take))
    await asyncio.sleep(0)
    return pouring


def test_a_part_is_poured_the_moment_it_comes_and_what_came_before_it_first() -> None:
    async def test(talk: Talk) -> None:
        cup = Cup()
        pouring = await poured(talk, cup, framed(b"before"))
        talk.hear(framed(b"one"))
        assert cup.parts == [b"before", b"one"]
        talk.hear(framed(b"two") + b"0\r\n\r\n")
        await pouring
        assert cup.parts == [b"before", b"one", b"two"]
        talk.connection.release()
        assert talk.is_kept

    run(test)


@pytest.mark.parametrize("full_at_once", [True, False])
def test_nothing_is_poured_into_what_is_full_and_its_upstream_is_slowed(*, full_at_once: bool) -> None:
    async def test(talk: Talk) -> None:
        cup = Cup()
        if full_at_once:
            cup.full = asyncio.get_running_loop().create_future()
        pouring = await poured(talk, cup, *[framed(b"first")] * full_at_once)
        if not full_at_once:
            cup.full = asyncio.get_running_loop().create_future()
            talk.hear(framed(b"first"))
        large = b"x" * (HIGH_WATER + 1)
        talk.hear(framed(large))
        assert cup.parts == [b"first"]
        assert talk.wire.paused
        full, cup.full = cast("asyncio.Future[None]", cup.full), None
        full.set_result(None)
        for _ in range(3):
            await asyncio.sleep(0)
        assert cup.parts == [b"first", large]
        assert not talk.wire.paused
        talk.hear(framed(b"last") + b"0\r\n\r\n")
        await pouring
        assert cup.parts == [b"first", large, b"last"]

    run(test)


def test_what_cannot_be_poured_raises_there_and_ends_the_connection() -> None:
    async def test(talk: Talk) -> None:
        cup = Cup()
        pouring = await poured(talk, cup)
        cup.refuses = ValueError("no more")
        talk.hear(framed(b"one"), framed(b"two"))
        with pytest.raises(ValueError, match="no more"):
            await pouring
        talk.connection.release()
        assert talk.wire.aborted

    run(test)


@pytest.mark.parametrize("end", ["lost", "broken", "cancelled"])
def test_parts_before_a_failure_are_poured_before_it_is_raised(end: str) -> None:
    async def test(talk: Talk) -> None:
        cup = Cup()
        pouring = await poured(talk, cup)
        talk.hear(framed(b"one") + (b"no chunk\r\n" if end == "broken" else b""))
        if end == "lost":
            talk.lose()
        elif end == "cancelled":
            talk.connection.cancel()
        with pytest.raises(UpstreamFailure, match={"lost": "closed", "broken": "protocol"}.get(end, end)):
            await pouring
        assert cup.parts == [b"one"]

    run(test)


@pytest.mark.parametrize("head", [STREAM_HEAD, TO_THE_END[:-11], SIZED[:-11]], ids=["chunked", "to the end", "sized"])
def test_a_head_is_told_with_the_first_byte_of_its_body(head: bytes) -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(head)
        waiting = asyncio.ensure_future(talk.connection.head())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        talk.hear(framed(b"hello world") if head == STREAM_HEAD else b"hello world")
        assert (await waiting)[0] == 200

        lost = Talk()
        lost.begin()
        lost.hear(head)
        lost.lose()
        with pytest.raises(UpstreamFailure, match="closed"):
            await lost.connection.head()

    run(test)


def test_the_head_of_an_error_is_told_at_once() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(STREAM_HEAD.replace(b"200 OK", b"503 No"))
        assert (await talk.connection.head())[0] == 503

    run(test)


def test_a_slow_reader_slows_its_upstream() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        part = b"x" * (HIGH_WATER // 2 + 1)
        framed = b"%x\r\n%b\r\n" % (len(part), part)
        talk.hear(framed)
        assert not talk.wire.paused
        talk.hear(framed)
        assert talk.wire.paused
        assert await talk.connection.read() == part + part
        assert not talk.wire.paused

    run(test)


def test_a_large_answer_that_came_at_once_leaves_its_connection_readable() -> None:
    async def test(talk: Talk) -> None:
        body = b"x" * (HIGH_WATER + 1)
        talk.begin()
        assert talk.connection.whole() is None
        talk.hear(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert talk.wire.paused
        await talk.connection.head()
        assert talk.connection.whole() == body
        assert not talk.wire.paused
        talk.connection.release()
        assert talk.is_kept

    run(test)


def test_an_answer_larger_than_its_bound_is_given_up() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(SIZED)
        await talk.connection.head()
        with pytest.raises(UpstreamFailure, match="more than 5 bytes"):
            await talk.connection.read_all(5)

    run(test)


def test_a_kept_connection_that_the_server_closes_is_stale_and_a_new_one_is_not() -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.lose()
        with pytest.raises(UpstreamFailure) as fresh:
            await talk.connection.head()
        assert not talk.connection.is_stale(fresh.value)

        again = Talk()
        again.begin()
        again.hear(SIZED)
        await whole(again)
        again.begin()
        again.lose()
        with pytest.raises(UpstreamFailure) as stale:
            await again.connection.head()
        assert again.connection.is_stale(stale.value)

        late = Talk()
        late.begin()
        late.hear(SIZED)
        await whole(late)
        late.begin()
        late.connection._sent_at -= 2 * STALE_S
        late.lose()
        with pytest.raises(UpstreamFailure) as worked_on:
            await late.connection.head()
        assert not late.connection.is_stale(worked_on.value)

        far = Talk()
        far.connection.connect_rtt_s = 2 * STALE_S
        far.begin()
        far.hear(SIZED)
        await whole(far)
        far.begin()
        far.connection._sent_at -= 2 * STALE_S
        far.lose()
        with pytest.raises(UpstreamFailure) as from_afar:
            await far.connection.head()
        assert far.connection.is_stale(from_afar.value)

        spoken = Talk()
        spoken.begin()
        spoken.hear(SIZED)
        await whole(spoken)
        spoken.begin()
        spoken.hear(b"HTTP/1.1")
        spoken.lose()
        with pytest.raises(UpstreamFailure) as told:
            await spoken.connection.head()
        assert not spoken.connection.is_stale(told.value)

    run(test)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([SIZED, CHUNKED, b"x", b"\r\n", b"HTTP/1.1 200 OK\r\n", b"0\r\n\r\n", b"\xff"]), max_size=6
    )
)
def test_whatever_comes_ends_in_an_answer_or_a_failure_and_leaves_nothing(parts: list[bytes]) -> None:
    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(*parts)
        talk.lose()
        try:
            await asyncio.wait_for(whole(talk), 5)
        except UpstreamFailure:
            talk.connection.release()
        assert talk.pool._all == set()
        assert not talk.pool._idle

    run(test)


def answered(body: bytes, sizes: list[int], interim: int, trailer: bytes) -> bytes:
    """Return a chunked answer with *body*, in chunks of *sizes* and the rest; without sizes one of a known length."""
    start = b"HTTP/1.1 100 Continue\r\n\r\n" * interim + b"HTTP/1.1 200 OK\r\n"
    if not sizes:
        return start + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks, at = b"", 0
    for size in [*sizes, len(body)]:
        chunk = body[at : at + size]
        at += len(chunk)
        chunks += b"%x;q=1\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""
    return start + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


ANSWERS = st.binary(max_size=60).flatmap(
    lambda body: st.tuples(
        st.just(body),
        st.builds(
            answered,
            st.just(body),
            st.lists(st.integers(1, 9), max_size=5),
            st.integers(0, 2),
            st.sampled_from([b"", b"X-Sum: 1\r\n"]),
        ),
    )
)
"""Bodies, each with an answer that has it."""


@settings(deadline=None)
@given(
    st.lists(ANSWERS, min_size=1, max_size=3),
    st.lists(st.integers(0, 400), max_size=8),
    st.none() | st.integers(0, 400),
)
def test_answers_on_one_connection_are_whole_and_their_own_or_a_failure(
    answers: list[tuple[bytes, bytes]], borders: list[int], early: int | None
) -> None:
    """Any chunks, any borders of what is read; the last answer may break off after *early* bytes."""

    async def test(talk: Talk) -> None:
        for number, (body, answer) in enumerate(answers, 1):
            cut = early if number == len(answers) and early is not None and early < len(answer) else len(answer)
            at = [0, *sorted(border for border in borders if border < cut), cut]
            talk.begin()
            talk.hear(*(answer[a:b] for a, b in pairwise(at) if a < b))
            if cut < len(answer):
                talk.lose()
                with pytest.raises(UpstreamFailure):
                    await asyncio.wait_for(whole(talk), 5)
                talk.connection.release()
                assert talk.pool._all == set()
            else:
                assert await asyncio.wait_for(whole(talk), 5) == (200, body)
                assert await acquire(talk.pool, 1) is talk.connection

    run(test)


FAULTS = st.one_of(
    st.tuples(st.just("after it"), st.binary(min_size=1, max_size=300)),
    st.tuples(
        st.just("in its head"), st.integers(MAX_HEAD - 2000, MAX_HEAD + 2000).map(lambda n: b"X: %b\r\n" % (b"a" * n))
    ),
    st.tuples(
        st.just("in its head"), st.sampled_from([b"no header\r\n", b"Content-Length: 1\r\nContent-Length: 2\r\n"])
    ),
    st.tuples(st.just("for its length"), st.sampled_from([b"zz", b"-1", b"", b"f" * 17, b"1 1"])),
)
"""Where something is wrong with an answer, and what."""


def spoilt(answer: bytes, where: str, what: bytes) -> bytes:
    if where == "after it":
        return answer + what
    if where == "in its head":
        return answer.replace(b" 200 OK\r\n", b" 200 OK\r\n" + what)
    return re.sub(rb"(?<=\n)[0-9a-f]+(?=;)|(?<=Content-Length: )\d+", lambda _: what, answer, count=1)


@settings(deadline=None)
@given(ANSWERS, FAULTS, ANSWERS, st.lists(st.integers(0, 1000), max_size=8))
def test_an_answer_that_is_spoilt_is_its_own_or_a_failure_and_spoils_no_other(
    first: tuple[bytes, bytes], fault: tuple[str, bytes], second: tuple[bytes, bytes], borders: list[int]
) -> None:
    (body, answer), (where, what) = first, fault
    sent = spoilt(answer, where, what)
    at = [0, *sorted(border for border in borders if border < len(sent)), len(sent)]

    async def test(talk: Talk) -> None:
        talk.begin()
        talk.hear(*(sent[a:b] for a, b in pairwise(at) if a < b))
        try:
            found = await asyncio.wait_for(whole(talk), 0.05)
        except (UpstreamFailure, TimeoutError):  # what is not whole may still come
            talk.connection.release()
            assert not talk.is_kept
            return
        assert found == (200, body)
        if talk.is_kept:
            assert await acquire(talk.pool, 1) is talk.connection
            talk.begin()
            talk.hear(second[1])
            assert await asyncio.wait_for(whole(talk), 5) == (200, second[0])

    run(test)


async def serving(answers: list[bytes]) -> tuple[asyncio.Server, int]:
    """Serve *answers*, one a connection, each after its request; an empty one closes without an answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answers and await reader.read(1 << 16):
            answer = answers.pop(0)
            if not answer:
                break
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def test_a_pool_connects_keeps_and_says_what_it_cannot() -> None:
    server, port = await serving([SIZED, CHUNKED])
    pool = Pool(Address("127.0.0.1", port))
    first = await acquire(pool, 5)
    first.send(b"POST / HTTP/1.1\r\n\r\n", b"", 5)
    await first.head()
    assert await first.read_all(100) == b"hello world"
    first.release()
    assert await acquire(pool, 5) is first
    first.send(b"POST / HTTP/1.1\r\n\r\n", b"", 5)
    await first.head()
    assert await first.read_all(100) == b"hello world"
    first.release()
    pool.close()
    server.close()
    await server.wait_closed()
    with pytest.raises(UpstreamFailure, match="connect"):
        await acquire(Pool(Address("127.0.0.1", port)), 5)


async def test_a_pool_has_a_bound() -> None:
    server, port = await serving([])
    pool = Pool(Address("127.0.0.1", port), max_connections=1)
    only = await acquire(pool, 5)
    with pytest.raises(UpstreamFailure, match="connect"):
        await acquire(pool, 5)
    only.close()
    pool.close()
    server.close()


async def test_a_unix_socket_that_is_not_there_is_said() -> None:
    with pytest.raises(UpstreamFailure, match="No such file"):
        await acquire(Pool(Address("", 0, unix_path="/no/such.sock")), 5)
