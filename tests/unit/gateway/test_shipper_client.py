"""Calls on their way to the shipper: kept until they are on disk, sent again, bounded, and nobody waits for long."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from llmproxy import shipping_protocol
from llmproxy.gateway.http.exchange import ByteBudget
from llmproxy.gateway.shipping import shipper_client
from llmproxy.gateway.shipping.shipper_client import ShipperClient


class Shipper:
    """The other end of the socket; it confirms what a test says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[shipping_protocol.ToShipper] = []
        self.frames = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        await self._server.wait_closed()

    def say(self, *messages: shipping_protocol.ToGateway) -> None:
        self.write(shipping_protocol.frame(messages))

    def write(self, data: bytes) -> None:
        self._writers[-1].write(data)

    def calls(self) -> list[int]:
        return [m.call_id for m in self.heard if isinstance(m, shipping_protocol.CallRecord)]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                (length,) = shipping_protocol.HEADER.unpack(await reader.readexactly(shipping_protocol.HEADER.size))
                assert length <= shipping_protocol.MAX_FRAME
                self.heard += shipping_protocol.decode_to_shipper(await reader.readexactly(length))
                self.frames += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def a_call(ident: int, response: bytes = b"{}") -> shipping_protocol.CallRecord:
    return shipping_protocol.CallRecord(
        call_id=ident, rollout_id="ro", attempt_id="at", sequence_id=0, route="chat.completions", model="m",
        provider="p", upstream_model="u", started_ns=1, first_byte_ns=2, ended_ns=3, status=200, error="",
        streamed=False, request=b"{}", response=response, tries=[],
    )  # fmt: skip


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "shipper.sock"


@pytest.fixture
async def shipper(socket_path: Path) -> AsyncIterator[Shipper]:
    there = Shipper(socket_path)
    await there.start()
    yield there
    await there.stop()


@pytest.fixture
async def ours(shipper: Shipper, socket_path: Path) -> AsyncIterator[ShipperClient]:
    made = ShipperClient(socket_path, ByteBudget(1 << 30))
    await until(lambda: made.connected)
    yield made
    await made.close(0)


async def test_it_says_who_it_is_and_tells_of_both_ends_of_a_call(shipper: Shipper, ours: ShipperClient) -> None:
    ident = ours.new_id()
    ours.send_arrival(shipping_protocol.Arrival(ident, "ro", "at", 1))
    ours.send_record(a_call(ident))
    await until(lambda: len(shipper.heard) == 3)
    hello, arrival, call = shipper.heard
    assert isinstance(hello, shipping_protocol.GatewayHello)
    assert hello.protocol == shipping_protocol.PROTOCOL
    assert arrival == shipping_protocol.Arrival(ident, "ro", "at", 1)
    assert call == a_call(ident)


async def test_a_call_is_forgotten_when_it_is_durable(shipper: Shipper, ours: ShipperClient) -> None:
    ours.send_record(a_call(7))
    assert ours.backlog == 1
    await until(lambda: shipper.calls() == [7])
    shipper.say(shipping_protocol.DurableAck([7]))
    await until(lambda: ours.backlog == 0)
    assert (ours.durable, ours._pending_bytes) == (1, 0)


async def test_a_refused_call_is_forgotten_and_counted(shipper: Shipper, ours: ShipperClient) -> None:
    ours.send_record(a_call(7))
    await until(lambda: shipper.calls() == [7])
    shipper.say(shipping_protocol.Nack([7], "full"))
    await until(lambda: ours.backlog == 0)
    assert (ours.rejected, ours.durable) == (1, 0)


async def test_what_is_not_confirmed_is_told_again_on_a_new_connection(shipper: Shipper, ours: ShipperClient) -> None:
    for ident in (1, 2, 3):
        ours.send_record(a_call(ident))
    await until(lambda: len(shipper.calls()) == 3)
    shipper.say(shipping_protocol.DurableAck([2]))
    await until(lambda: ours.backlog == 2)
    await shipper.stop()
    await until(lambda: not ours.connected)
    ours.send_record(a_call(4))
    shipper.heard.clear()
    await shipper.start()
    await until(lambda: shipper.calls() == [1, 3, 4])
    assert len([m for m in shipper.heard if isinstance(m, shipping_protocol.GatewayHello)]) == 1


async def test_a_new_connection_is_told_of_calls_in_flight_and_of_no_other(
    shipper: Shipper, ours: ShipperClient
) -> None:
    """So that a call which arrived while the shipper was away has its sequence id before it ends."""
    ours.send_arrival(shipping_protocol.Arrival(1, "ro", "at", 1))
    ours.send_arrival(shipping_protocol.Arrival(2, "ro", "at", 2))
    await until(lambda: len(shipper.heard) == 3)
    await shipper.stop()
    await until(lambda: not ours.connected)
    ours.send_arrival(shipping_protocol.Arrival(3, "ro", "at", 3))
    ours.send_arrival(shipping_protocol.Arrival(4, "ro", "at", 4))
    for ident in (1, 4):
        ours.send_record(a_call(ident))
    shipper.heard.clear()
    await shipper.start()
    await until(lambda: shipper.calls() == [1, 4])
    assert [m.call_id for m in shipper.heard if isinstance(m, shipping_protocol.Arrival)] == [2, 3]
    for ident in (2, 3):
        ours.send_record(a_call(ident))
    assert ours._arrivals == {}


async def test_what_finds_no_room_is_dropped_and_counted(ours: ShipperClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper_client, "MAX_PENDING_BYTES", 3000)
    for ident in range(5):
        ours.send_record(a_call(ident, b"x" * 1000))
    assert (ours.sent, ours.dropped, ours.backlog) == (2, 3, 2)


async def test_a_caller_waits_until_its_call_is_stored(shipper: Shipper, ours: ShipperClient) -> None:
    ours.send_record(a_call(7))
    waiting = asyncio.ensure_future(ours.stored(7, 30))
    await until(lambda: shipper.calls() == [7])
    shipper.say(shipping_protocol.DurableAck([7]))
    await until(lambda: ours.backlog == 0)
    assert not waiting.done()
    shipper.say(shipping_protocol.StoredAck([7]))
    await asyncio.wait_for(waiting, 10)
    assert ours.released_unstored == 0


async def test_messages_go_together_and_at_once_when_a_caller_waits(
    shipper: Shipper, ours: ShipperClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: shipper.frames == 1)  # hello
    monkeypatch.setattr(shipper_client, "FLUSH_S", 60)
    ours.send_arrival(shipping_protocol.Arrival(7, "ro", "at", 1))
    ours.send_record(a_call(7))
    ours.send_record(a_call(8))
    waiting = asyncio.ensure_future(ours.stored(8, 30))
    await until(lambda: shipper.calls() == [7, 8])
    assert shipper.frames == 2
    shipper.say(shipping_protocol.StoredAck([8]))
    await asyncio.wait_for(waiting, 10)


async def test_a_backlog_of_the_size_of_a_batch_goes_at_once(
    shipper: Shipper, ours: ShipperClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipper_client, "FLUSH_S", 60)
    ours.send_record(a_call(7, b"x" * shipping_protocol.BATCH_BYTES))
    ours.send_record(a_call(8))
    await until(lambda: shipper.calls() == [7, 8])


async def test_the_end_tells_what_was_not_told_yet(
    shipper: Shipper, ours: ShipperClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipper_client, "FLUSH_S", 60)
    ours.send_record(a_call(7))
    await ours.close(0)
    await until(lambda: shipper.calls() == [7])


async def test_memory_of_a_large_backlog_is_given_back_once_it_is_durable(
    shipper: Shipper, ours: ShipperClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int] = []
    monkeypatch.setattr(shipper_client, "_malloc_trim", lambda _: trims.append(ours.backlog))
    monkeypatch.setattr(shipper_client, "TRIM_BYTES", 3000)
    for ident in range(3):
        ours.send_record(a_call(ident, b"x" * 1000))
    await until(lambda: len(shipper.calls()) == 3)
    shipper.say(shipping_protocol.DurableAck([0, 1]))
    shipper.say(shipping_protocol.DurableAck([2]))
    await until(lambda: ours.backlog == 0)
    ours.send_record(a_call(4))
    await until(lambda: 4 in shipper.calls())
    shipper.say(shipping_protocol.DurableAck([4]))
    await until(lambda: ours.backlog == 0)
    assert trims == [0]


@pytest.mark.parametrize("why", ["time", "refused", "connection"])
async def test_nobody_waits_longer_than_that(shipper: Shipper, ours: ShipperClient, why: str) -> None:
    ours.send_record(a_call(7))
    waiting = asyncio.ensure_future(ours.stored(7, 0.05 if why == "time" else 30))
    await until(lambda: shipper.calls() == [7])
    if why == "refused":
        shipper.say(shipping_protocol.Nack([7], "full"))
    elif why == "connection":
        await shipper.stop()
    await asyncio.wait_for(waiting, 10)
    assert ours.released_unstored == 1
    assert ours._stored == {}
    if why == "connection":
        await shipper.start()


async def test_without_a_shipper_nobody_waits_at_all(socket_path: Path) -> None:
    alone = ShipperClient(socket_path, ByteBudget(1 << 30))
    alone.send_record(a_call(7))
    await asyncio.wait_for(alone.stored(7, 30), 5)
    assert (alone.connected, alone.backlog) == (False, 1)
    await alone.close(0)


async def test_its_end_waits_until_everything_is_durable(shipper: Shipper, ours: ShipperClient) -> None:
    ours.send_record(a_call(7))
    ending = asyncio.ensure_future(ours.close(30))
    await until(lambda: shipper.calls() == [7])
    assert not ending.done()
    shipper.say(shipping_protocol.DurableAck([7]))
    await asyncio.wait_for(ending, 10)


async def test_a_large_backlog_goes_in_batches(shipper: Shipper, ours: ShipperClient) -> None:
    for ident in range(40):
        ours.send_record(a_call(ident, b"x" * (100 << 10)))
    await until(lambda: len(shipper.calls()) == 40)
    assert shipper.calls() == list(range(40))


@pytest.mark.parametrize(
    "nonsense",
    [
        shipping_protocol.HEADER.pack(shipping_protocol.MAX_FRAME + 1),
        shipping_protocol.HEADER.pack(3) + b"abc",
        shipping_protocol.HEADER.pack(1) + b"\x01",
    ],
    ids=["too long", "no msgpack", "no list"],
)
async def test_a_shipper_that_speaks_nonsense_is_left_and_met_again(
    shipper: Shipper, ours: ShipperClient, nonsense: bytes
) -> None:
    ours.send_record(a_call(7))
    await until(lambda: shipper.calls() == [7])
    shipper.write(nonsense)
    await until(lambda: shipper.calls() == [7, 7])
    assert ours.backlog == 1


async def test_confirmations_in_parts_are_understood(shipper: Shipper, ours: ShipperClient) -> None:
    ours.send_record(a_call(7))
    await until(lambda: shipper.calls() == [7])
    for byte in shipping_protocol.frame([shipping_protocol.DurableAck([7])]) + shipping_protocol.frame(
        [shipping_protocol.StoredAck([7])]
    ):
        shipper.write(bytes([byte]))
        await asyncio.sleep(0)
    await until(lambda: ours.backlog == 0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper_client, "ROOM_BYTES", 2000)


@pytest.mark.usefixtures("small")
async def test_who_ends_faster_than_the_shipper_takes_waits_for_room(shipper: Shipper, ours: ShipperClient) -> None:
    await until(lambda: ours.connected)
    ours.send_record(a_call(1))
    assert not ours.is_full
    ours.send_record(a_call(2, b"x" * 3000))
    assert ours.is_full
    waiting = [asyncio.ensure_future(ours.room()) for _ in range(3)]
    await until(lambda: shipper.calls() == [1, 2])
    shipper.say(shipping_protocol.DurableAck([1]))
    await until(lambda: ours.durable == 1)
    assert not any(waiter.done() for waiter in waiting)
    shipper.say(shipping_protocol.DurableAck([2]))
    await asyncio.wait_for(asyncio.gather(*waiting), 0.5)
    assert ours.waited == 3


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("why", ["it says nothing more", "it is gone", "it was silent before"])
async def test_a_shipper_that_takes_nothing_is_not_waited_for_long(
    shipper: Shipper, ours: ShipperClient, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: ours.connected)
    ours.send_record(a_call(1, b"x" * 3000))
    if why != "it is gone":
        monkeypatch.setattr(shipper_client, "ROOM_S", 0.05)
    if why == "it was silent before":
        await asyncio.sleep(0.1)
    waiting = asyncio.ensure_future(ours.room())
    await asyncio.sleep(0)
    assert waiting.done() == (why == "it was silent before")
    if why == "it is gone":
        await shipper.stop()
    await asyncio.wait_for(waiting, 0.5)


@pytest.mark.usefixtures("small")
async def test_a_caller_that_leaves_waits_for_room_no_longer(shipper: Shipper, ours: ShipperClient) -> None:
    await until(lambda: ours.connected)
    ours.send_record(a_call(1, b"x" * 3000))
    waiting = asyncio.ensure_future(ours.room())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: shipper.calls() == [1])
    shipper.say(shipping_protocol.DurableAck([1]))
    await until(lambda: ours.durable == 1)
