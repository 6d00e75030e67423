"""A whole gateway while its server is in trouble: the door says so, and everything goes on by itself afterwards."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from redis import Redis
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as Unconnected

from gateway.configuration.file import loads
from gateway.ledger import Plan
from gateway.ledger._redis.address import Address
from gateway.ledger.redis import RedisLedger
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from tests.gateway.conftest import VENDORS, Asking, asked, configured, event
from tests.gateway.lanes.world import Gate, World
from tests.gateway.ledger.conftest import event as stored
from tests.redis_servers import Server, Watched, settled
from tests.waiting import until

SOON = timedelta(milliseconds=400)


class Wire:
    """What lies between the gateway and its server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.delay = 0.0
        self.silent = False
        """Everything that comes is lost, and nobody is told."""

    async def begin(self) -> None:
        """Let connections through; again where they were before."""
        self._listener = await asyncio.start_server(self._between, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Break every connection, and let none come."""
        assert self._listener is not None
        self._listener.close()
        for writer in tuple(self._open):
            writer.transport.abort()

    async def end(self) -> None:
        """Cut it for good."""
        await self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            inner = await asyncio.open_connection("127.0.0.1", self.server.port)
        except OSError:
            writer.close()
            return
        self._open |= {writer, inner[1]}
        await asyncio.gather(self._pipe(reader, inner[1]), self._pipe(inner[0], writer))
        self._open -= {writer, inner[1]}

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if not self.silent:
                    writer.write(piece)
                    await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def opened(address: str, *, replicas: int = 0) -> AsyncGenerator[Asking]:
    vendors = {name: SimulatedProvider(name) for name in VENDORS}
    mounts = {name: vendor.transport() for name, vendor in vendors.items()}
    ledger = RedisLedger(Address.read(address), timeout=SOON, patience=SOON, replicas=replicas)
    gateway = Gateway(loads(configured(), {}), ledger, mounts=mounts)
    await gateway.start()
    async with asked(gateway, vendors) as asking:
        yield asking


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("server"), {"key-load-delay": "200"})
    with Redis(port=one.port) as client, client.pipeline(transaction=False) as pipe:
        for number in range(4000):  # enough that it takes a while to be loaded, and answers meanwhile
            pipe.set(f"filler{number}", b"")
        pipe.execute()
    yield one
    one.kill()


@pytest.fixture
async def wire(shared: Server) -> AsyncGenerator[Wire]:
    one = Wire(shared)
    await one.begin()
    yield one
    await one.end()


async def refused(asking: Asking, *, lasting: bool = True) -> str:
    """Return why the door refuses; it is a 503 that says when to come again, and so is `/readyz` while it lasts."""

    async def turned_away() -> httpx.Response | None:
        answer = await asking.post([event("late")])
        return None if answer.status_code in {200, 202} else answer

    answer = await until(turned_away, "the door does not refuse")
    assert (503, "ledger_unavailable") == (answer.status_code, answer.json()["code"])
    assert 1 <= int(answer.headers["retry-after"])
    assert "nothing of this request is promised" in answer.json()["detail"]
    if lasting:
        ready = await asking.client.get("/readyz")
        assert 503 == ready.status_code
        assert "nothing of this request is promised" in ready.json()["detail"]
    return str(answer.json()["detail"])


async def all_is_well(asking: Asking, *ids: str) -> None:
    """Return when everything acknowledged is delivered, once, and the door is open again."""

    async def ready() -> bool:
        return (await asking.client.get("/readyz")).status_code == 200

    await until(ready, "it is not ready again", seconds=45)
    for one in ids:
        await asking.settled(one)
    for one in ids:
        found = (await asking.get(f"/v1/events/{one}"))["deliveries"]
        assert {"accepted"} == {delivery["status"] for delivery in found.values()}, one
    taken = await asking.post([event(one) for one in ("late", *ids)])
    assert 200 == taken.status_code
    for name, vendor in asking.vendors.items():
        assert len(ids) + 1 == vendor.rows_taken == len(vendor.stored), name
    assert isinstance(asking.gateway.ledger, RedisLedger)
    assert [] == (await asking.gateway.ledger.add_up())["problems"]


async def halfway(asking: Asking) -> None:
    """Have an event on its way to the vendors, whose answers will come in the middle of the trouble."""
    for vendor in asking.vendors.values():
        vendor.fail("latency", seconds=0.3)

    async def taken() -> bool:
        return (await asking.post([event("early")], query="?ack=stored")).status_code == 202

    await until(taken, "it is not taken")
    await until(lambda: all(vendor.requests for vendor in asking.vendors.values()), "it is not sent")


Trouble = Callable[[Server, Wire], AbstractContextManager[None]]


@contextlib.contextmanager
def only_reading(server: Server, _: Wire) -> Generator[None]:
    server.command("REPLICAOF", "127.0.0.1", 1)
    yield
    server.command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def full(server: Server, _: Wire) -> Generator[None]:
    server.command("CONFIG", "SET", "maxmemory", 1)
    yield
    server.command("CONFIG", "SET", "maxmemory", 0)


@contextlib.contextmanager
def lonely(server: Server, _: Wire) -> Generator[None]:
    server.command("CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    server.command("CONFIG", "SET", "min-replicas-to-write", 0)


@contextlib.contextmanager
def not_saving(server: Server, _: Wire) -> Generator[None]:
    """Have it fail to write its snapshot, after which it takes no write (MISCONF)."""
    in_the_way = server.folder / "dump.rdb"
    in_the_way.unlink(missing_ok=True)
    in_the_way.mkdir()
    server.command("CONFIG", "SET", "save", "3600 1")
    _save(server, b"err")
    yield
    in_the_way.rmdir()
    _save(server, b"ok")
    server.command("CONFIG", "SET", "save", "")


def _save(server: Server, ends: bytes) -> None:
    server.command("BGSAVE")
    until = time.monotonic() + 30
    while b"rdb_last_bgsave_status:" + ends not in server.said("persistence"):
        assert time.monotonic() < until, server.log()
        time.sleep(0.01)


@contextlib.contextmanager
def standing_still(server: Server, _: Wire) -> Generator[None]:
    server.pause(on=True)
    yield
    server.pause(on=False)


@contextlib.contextmanager
def pausing_writes(server: Server, _: Wire) -> Generator[None]:
    server.command("CLIENT", "PAUSE", 60_000, "WRITE")
    yield
    server.command("CLIENT", "UNPAUSE")


@contextlib.contextmanager
def silent(_: Server, wire: Wire) -> Generator[None]:
    wire.silent = True
    yield
    wire.silent = False


@pytest.mark.parametrize("trouble", [only_reading, full, lonely, not_saving, standing_still, pausing_writes, silent])
async def test_the_door_refuses_while_nothing_can_be_promised_and_lanes_go_on_afterwards(
    shared: Server, wire: Wire, trouble: Trouble
) -> None:
    shared.command("FLUSHDB")
    async with opened(f"redis://127.0.0.1:{wire.port}/0") as asking:
        await halfway(asking)
        with trouble(shared, wire):
            await refused(asking)
        await all_is_well(asking, "early")


async def test_a_gateway_that_was_there_before_starts_on_a_full_server_and_empties_it(
    shared: Server, wire: Wire
) -> None:
    shared.command("FLUSHDB")
    address = f"redis://127.0.0.1:{wire.port}/0"
    async with opened(address) as asking:
        ledger = asking.gateway.ledger
        secret = await ledger.secret("pseudonym")
    ledger = RedisLedger(Address.read(address))
    await ledger.open()
    await ledger.record(
        "default", time.time_ns() // 1000, [stored("early", meter="api_calls")], [Plan(live=tuple(VENDORS))]
    )
    await ledger.close()
    with full(shared, wire):
        async with opened(address) as asking:
            async with asyncio.timeout(20):
                await asking.settled("early")
            assert secret == await asking.gateway.ledger.secret("pseudonym")
            found = (await asking.get("/v1/events/early"))["deliveries"]
            assert {"accepted"} == {delivery["status"] for delivery in found.values()}
            await refused(asking)


async def test_a_network_that_is_cut_is_waited_for(shared: Server, wire: Wire) -> None:
    shared.command("FLUSHDB")
    async with opened(f"redis://127.0.0.1:{wire.port}/0") as asking:
        await halfway(asking)
        await wire.cut()
        assert "cannot be reached" in await refused(asking)
        await wire.begin()
        await all_is_well(asking, "early")


async def test_a_server_that_loads_is_waited_for(shared: Server, wire: Wire) -> None:
    shared.command("FLUSHDB")
    with Redis(port=shared.port) as client, client.pipeline(transaction=False) as pipe:
        for number in range(20_000):  # seconds more than the door waits, whatever else the machine does
            pipe.set(f"filler{number}", b"")
        pipe.execute()
    async with opened(f"redis://127.0.0.1:{wire.port}/0") as asking:
        await halfway(asking)
        shared.kill()
        shared.start(wait=False)

        def loading() -> bool:
            try:
                shared.command("GET", "filler1")
            except BusyLoadingError:
                return True
            except Unconnected:
                return False
            raise AssertionError("it was loaded before anybody saw it load")

        await asyncio.to_thread(settled, loading)

        async def says_so() -> bool:  # on a busy machine it may be too slow for that at first
            return "LOADING" in (await refused(asking, lasting=False)).upper()

        await until(says_so, "it does not say that it loads")
        await asyncio.to_thread(settled, lambda: shared.accepts("CONFIG", "SET", "key-load-delay", 0))
        await all_is_well(asking, "early")


async def test_scripts_that_the_server_forgot_are_brought_again_and_nobody_notices(shared: Server, wire: Wire) -> None:
    shared.command("FLUSHDB")
    async with opened(f"redis://127.0.0.1:{wire.port}/0") as asking:
        await halfway(asking)
        shared.command("SCRIPT", "FLUSH")
        assert 202 == (await asking.post([event("late")], query="?ack=stored")).status_code
        await all_is_well(asking, "early")


async def test_a_slow_network_slows_the_door_and_nothing_else(shared: Server, wire: Wire) -> None:
    shared.command("FLUSHDB")
    async with opened(f"redis://127.0.0.1:{wire.port}/0") as asking:
        wire.delay = 0.05
        assert 202 == (await asking.post([event("early")], query="?ack=stored")).status_code
        await all_is_well(asking, "early")


async def test_after_a_failover_the_only_replica_is_missed_and_the_door_says_so_until_it_is_back(
    tmp_path: Path,
) -> None:
    watched = Watched(tmp_path)
    try:
        address = f"redis+sentinel://127.0.0.1:{watched.sentinel.port}/{watched.name}/0"
        async with opened(address, replicas=1) as asking:
            ledger = asking.gateway.ledger
            assert isinstance(ledger, RedisLedger)
            (link,) = ledger._links
            assert link.replicas is not None
            link.replicas = link.replicas._replace(milliseconds=300)
            await halfway(asking)
            watched.master.kill()
            await asyncio.to_thread(settled, lambda: b"role:master" in watched.replica.said("replication"))

            async def waits() -> bool:
                said = await refused(asking)
                return "0 of 1 replicas have it" in said and "ledger.replicas waits for 1" in said

            await until(waits, "it does not wait for the other", seconds=45)
            # The one that was the master comes back as what it is by now.
            watched.master.settings["replicaof"] = f"127.0.0.1 {watched.replica.port}"
            await asyncio.to_thread(watched.master.start)
            await all_is_well(asking, "early")
    finally:
        watched.kill()


async def test_what_a_server_that_lost_its_last_writes_has_as_being_sent_is_in_doubt(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", {"appendonly": "no"})
    ledger = RedisLedger(Address.read(f"redis://127.0.0.1:{server.port}/0"), timeout=SOON, patience=SOON)
    gate = Gate()
    async with World(tmp_path / "world", "wingback", mount=gate, ledger=ledger) as world:
        gate.inner = world.vendor.transport()
        await world.record("e1")
        await world.lane.step()
        await until(lambda: gate.waiting == 1)
        server.command("SAVE")
        for _ in range(3):
            await world.lane.take_over()
        assert {"e1": "pending"} == await world.statuses(), "it is on its way"
        gate.open.set()
        await world.lane.idle()
        assert {"e1": "accepted"} == await world.statuses()
        await asyncio.to_thread(server.restart)
        assert {"e1": "pending"} == await world.statuses(), "nobody wrote down that it was answered"
        for _ in range(2):  # an intent may just have been written down
            await world.lane.take_over()
        assert {"e1": "unknown"} == await world.statuses()
    server.kill()


async def test_a_name_that_leads_to_another_master_by_now_is_followed(tmp_path: Path) -> None:
    before = Server(tmp_path / "before")
    after = Server(tmp_path / "after", {"replicaof": f"127.0.0.1 {before.port}"})
    wire, plans = Wire(before), [Plan(live=("a",))]
    await wire.begin()
    ledger = RedisLedger(Address.read(f"redis://127.0.0.1:{wire.port}/0"), patience=SOON)
    await ledger.open()
    try:
        await ledger.record("default", 1000, [stored("e1")], plans)
        assert 1 == len(await ledger.take("a", 5000, 10))
        settled(lambda: after.accepts("REPLICAOF", "NO", "ONE") if after.command("DBSIZE") else False)
        before.command("REPLICAOF", "127.0.0.1", 1)
        wire.server = after
        await ledger.record("default", 2000, [stored("e2")], plans)
        assert 2 == len(await ledger.take("a", 5000, 10)), "what only reads has gone there, too"
    finally:
        await ledger.close()
        await wire.end()
        before.kill()
        after.kill()
