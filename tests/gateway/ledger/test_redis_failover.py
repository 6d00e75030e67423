"""A master that dies: nothing acknowledged is lost where replicas are awaited, and everything goes on by itself."""

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

import pytest

from gateway.errors import LedgerUnavailable
from gateway.ledger import ClaimKind, Code, Ledger, Moved, Plan
from gateway.ledger._redis.address import Address
from gateway.ledger.redis import RedisLedger
from tests.gateway.ledger.conftest import TENANT, change, codes, events, processes, recorded, rendered, taken
from tests.redis_servers import Cluster, Server, Watched, settled
from tests.waiting import until

PLAN = Plan(live=("a",))
KILLS = int(os.environ.get("USAGE_GATEWAY_KILLS", "5"))
"""How often a server is killed: few where time is short, 50 to be sure."""


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    one = Watched(tmp_path)
    yield one
    one.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    one = Cluster(tmp_path_factory.mktemp("cluster"))
    yield one
    one.kill()


class Sender:
    """Sends batches one after another as long as it is let, and knows what was acknowledged."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger = ledger
        self.name = name
        self.acknowledged: list[str] = []
        self.refused = 0
        self.number = 0

    async def send(self, number: int) -> bool:
        """Send one batch until it is acknowledged; return whether it was at the first try."""
        ids = [f"{self.name}-{number}-{index}" for index in range(20)]
        try:
            await self.ledger.record(TENANT, 1000 + number, events(*ids), [PLAN] * 20)
        except LedgerUnavailable:
            self.refused += 1
            return False
        self.acknowledged += ids
        return True


@contextlib.asynccontextmanager
async def sending(senders: Sequence[Sender]) -> AsyncGenerator[None]:
    """Have all of them send, again and again."""
    stopping = asyncio.Event()

    async def go(sender: Sender) -> None:
        while not stopping.is_set():
            sender.number += 1
            if not await sender.send(sender.number):
                await asyncio.sleep(0.05)

    going = [asyncio.create_task(go(sender)) for sender in senders]
    try:
        yield
    finally:
        stopping.set()
        await asyncio.gather(*going)


async def more(senders: Sequence[Sender], number: int) -> None:
    """Return when each sender has had so many batches acknowledged from now on."""
    goals = [len(sender.acknowledged) + 20 * number for sender in senders]

    def acknowledged() -> bool:
        return all(len(sender.acknowledged) >= goal for sender, goal in zip(senders, goals, strict=True))

    await until(acknowledged, "intake did not go on")


async def kept(ledger: Ledger, ids: list[str]) -> Counter[bool]:
    found = await asyncio.gather(*(ledger.find(TENANT, one) for one in ids))
    assert len({ref for ref in found if ref is not None}) == sum(ref is not None for ref in found)
    return Counter(ref is not None for ref in found)


async def test_a_master_dies_under_a_sentinel_and_nothing_acknowledged_is_lost(watched: Watched) -> None:
    url = f"redis+sentinel://127.0.0.1:{watched.sentinel.port}/{watched.name}/0"
    ledger = RedisLedger(Address.read(url), replicas=1)
    await ledger.open()
    try:
        first = await recorded(ledger, "e1")
        for link in ledger._links:
            # There is one replica: once it is the master nobody is left to wait for.
            assert link.replicas is not None
            assert link.replicas.synced
        sender = Sender(ledger, "before")
        for number in range(20):
            assert await sender.send(number)
        watched.master.kill()
        refused = await asyncio.gather(sender.send(100), return_exceptions=True)
        assert [False] == refused, "without a replica nothing is promised"
        ledger._links[0].replicas = None
        for number in range(300):
            if await sender.send(200 + number):
                break
            await asyncio.sleep(0.1)
        assert {True: len(sender.acknowledged)} == await kept(ledger, sender.acknowledged)
        assert first < max(await ledger.batches_before(None, 10))
        assert [] == (await ledger.add_up())["problems"]
    finally:
        await ledger.close()


async def test_however_often_the_server_is_killed_what_was_acknowledged_is_there_once(tmp_path: Path) -> None:
    server = Server(tmp_path / "server")
    ledger = RedisLedger(Address.read(f"redis://127.0.0.1:{server.port}/0"))
    await ledger.open()
    senders = [Sender(ledger, f"s{number}") for number in range(4)]
    dice = random.Random(4)
    try:
        async with sending(senders):
            for _ in range(KILLS):
                await more(senders, 2)
                await asyncio.sleep(dice.uniform(0, 0.05))
                await asyncio.to_thread(server.restart)
            await more(senders, 2)
        every = [one for sender in senders for one in sender.acknowledged]
        assert {True: len(every)} == await kept(ledger, every)
        assert [] == (await ledger.add_up())["problems"]
    finally:
        await ledger.close()
        server.kill()


async def test_a_batch_that_is_given_the_number_of_a_lost_one_is_not_taken_for_it(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", {"appendonly": "no"})
    async with processes(server, 2) as ledgers:
        one, _ = ledgers
        await recorded(one, "e1", received=5_000_000)  # by a clock that is ahead of the one that follows
        server.command("SAVE")
        lost = await recorded(one, "e2")
        for ledger in ledgers:
            assert [lost] == [*await ledger.snapshots([lost])]
        await asyncio.to_thread(server.restart)
        assert lost == await recorded(one, "e3")
        for ledger in ledgers:
            assert ["e3"] == [event.id for event in (await ledger.snapshots([lost]))[lost].events]
        sent = [event.id for work in await taken(one, now=20_000_000) for event in work.events]
        assert ["e1", "e3"] == sorted(sent)
    server.kill()


async def test_the_answer_to_what_was_lost_is_nobody_else_s(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", {"appendonly": "no"})
    async with processes(server, 1) as (one,):
        now = time.time_ns() // 1000
        await recorded(one, "e1", received=now + 3600 * 1_000_000)  # by a machine whose clock is fast
        server.command("SAVE")
        lost = await recorded(one, "e2", received=now)
        (work,) = await taken(one, now=now)
        (number,) = await one.intend([rendered(work)], now)
        await asyncio.to_thread(server.restart)
        batch = await recorded(one, "e3", received=now)
        assert lost < batch
        with pytest.raises(Moved):
            await one.settle([change(work, number, [0], Code.ACCEPTED)], [])
        assert [Code.PENDING] == await codes(one, batch)
    server.kill()


@pytest.fixture
async def clustered(cluster: Cluster) -> AsyncGenerator[RedisLedger]:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in cluster.servers)
    ledger = RedisLedger(Address.read(f"redis+cluster://{hosts}"), replicas=1)
    await ledger.open()
    yield ledger
    await ledger.close()


async def test_a_cluster_shares_the_ledger_over_its_masters(cluster: Cluster, clustered: RedisLedger) -> None:
    sent = events(*(f"e{index}" for index in range(300)))
    claims = await clustered.record(TENANT, 1000, sent, [PLAN] * 300)
    again = await clustered.record(TENANT, 1000, sent, [PLAN] * 300)
    assert {(ClaimKind.NEW, ClaimKind.REPLAY)} == {
        (one.kind, other.kind) for one, other in zip(claims, again, strict=True)
    }
    assert 6 == len({claim.ref >> 16 for claim in claims})
    assert all(server.command("DBSIZE") > 10 for server in cluster.masters)
    assert [] == (await clustered.add_up())["problems"]


async def test_one_master_of_a_cluster_is_killed_under_load(cluster: Cluster, clustered: RedisLedger) -> None:
    master, replica = cluster.masters[1], cluster.replicas[1]
    senders = [Sender(clustered, f"s{number}") for number in range(4)]
    async with sending(senders):
        await more(senders, 5)
        master.kill()
        await asyncio.to_thread(settled, lambda: b"role:master" in replica.said("replication"))
        # A write waits for a replica, which this part of the cluster has again once the one that died comes back.
        await asyncio.to_thread(master.start)
        await more(senders, 5)
    every = [one for sender in senders for one in sender.acknowledged]
    assert {True: len(every)} == await kept(clustered, every)
    assert [] == (await clustered.add_up())["problems"]
