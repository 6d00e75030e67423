"""Parts of a cluster that move or go away under load: nothing is lost, nothing goes twice, the rest goes on."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from decimal import Decimal

import pytest
from redis.crc import key_slot

from canonical_schema import PLAIN, Correction, Event
from gateway.accepting import Accepting
from gateway.configuration.file import loads
from gateway.errors import LedgerUnavailable
from gateway.ledger import ClaimKind, Plan
from gateway.ledger._redis.address import Address
from gateway.ledger._redis.link import Link
from gateway.ledger._rows import digests
from gateway.ledger.redis import RedisLedger
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from tests.gateway.conftest import VENDORS, configured
from tests.gateway.ledger.conftest import TENANT, events
from tests.redis_servers import Cluster, settled
from tests.waiting import until

PLAN = Plan(live=("a",))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    one = Cluster(tmp_path_factory.mktemp("cluster"), replicas=False)
    yield one
    one.kill()


@pytest.fixture
def cluster(servers: Cluster) -> Cluster:
    """The cluster, empty."""
    for server in servers.masters:
        server.command("FLUSHALL")
    return servers


def ledger_on(cluster: Cluster, *, observer: bool = False) -> RedisLedger:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in cluster.masters)
    return RedisLedger(Address.read(f"redis+cluster://{hosts}"), timeout=timedelta(seconds=1), observer=observer)


class Traffic:
    """A whole gateway with four vendors, and senders that repeat a batch until it is acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        self.vendors = {name: SimulatedProvider(name) for name in VENDORS}
        mounts = {name: vendor.transport() for name, vendor in self.vendors.items()}
        self.ledger = ledger_on(cluster)
        self.gateway = Gateway(loads(configured(), {}), self.ledger, mounts=mounts)
        self.acknowledged: list[str] = []
        self.refused = 0
        self._stopping = False

    @contextlib.asynccontextmanager
    async def going(self) -> AsyncGenerator[None]:
        """Send for as long as this lasts; afterwards everything is acknowledged and delivered."""
        await self.gateway.start()
        try:
            senders = [asyncio.create_task(self._send(f"s{number}")) for number in range(4)]
            try:
                yield
            finally:
                self._stopping = True
                await asyncio.gather(*senders)

            async def empty() -> bool:
                return not await self.ledger.depth()

            await until(empty, "not all of it is delivered")
        finally:
            await self.gateway.stop()

    async def _send(self, name: str) -> None:
        number = 0
        while not self._stopping:
            number += 1
            # Some come alone and fall into one part, others are spread over all of them.
            ids = [f"{name}-{number}-{index}" for index in range(1 if number % 3 else 40)]
            await self.insist(ids)

    async def insist(self, ids: list[str]) -> None:
        """Send a batch until it is acknowledged."""
        while not await self._accepted(ids):  # noqa: ASYNC110  as a client does
            await asyncio.sleep(0.05)
        self.acknowledged += ids

    async def alone(self, number: int) -> list[str]:
        """Send events one by one, all at once; return those that were acknowledged at the first try."""
        ids = [f"alone{index}" for index in range(number)]
        taken = await asyncio.gather(*(self._accepted([one]) for one in ids))
        good = [one for one, fine in zip(ids, taken, strict=True) if fine]
        self.acknowledged += good
        return good

    async def _accepted(self, ids: list[str]) -> bool:
        sent = [Event(id=one, customer="acme", meter="api_calls", quantity=Decimal(1)) for one in ids]
        try:
            answer = await Accepting(self.gateway).accept(TENANT, sent, "stored", 0)
        except LedgerUnavailable:
            self.refused += 1
            return False
        assert answer.http_status in {200, 202}  # all of it is delivered where it comes again
        return True

    async def more(self, events: int) -> None:
        """Return when so many events more have been acknowledged."""
        goal = len(self.acknowledged) + events
        await until(lambda: len(self.acknowledged) >= goal, "intake did not go on")

    def sent(self) -> Counter[str]:
        """Return what one vendor was sent, by id."""
        return Counter(str(row["event_id"]) for call in self.vendors["flexprice"].calls for row in call.rows)

    def check(self) -> None:
        """Hold what was acknowledged against what the vendors have, event by event and by their sum."""
        assert len(self.acknowledged) == len(set(self.acknowledged))
        for name, vendor in self.vendors.items():
            assert len(self.acknowledged) == sum(row.copies for row in vendor.stored) == vendor.rows_taken, name
        assert Counter(self.acknowledged) == self.sent()


async def problems(cluster: Cluster) -> list[str]:
    ledger = ledger_on(cluster)
    await ledger.open()
    try:
        return (await ledger.add_up())["problems"]
    finally:
        await ledger.close()


async def test_a_slot_moves_under_load_and_nothing_is_lost_or_sent_twice(cluster: Cluster) -> None:
    traffic, idle = Traffic(cluster), ledger_on(cluster, observer=True)
    asked = cluster.redirected("ASK")
    async with traffic.going():
        await idle.open()
        await traffic.more(200)
        slot = key_slot(traffic.ledger._links[3].tag)
        source = cluster.master_of(slot)
        target = (source + 1) % 3
        cluster.open_slot(slot, source, target)
        half = cluster.masters[source].command("CLUSTER", "COUNTKEYSINSLOT", slot) // 2
        assert half == cluster.carry(slot, source, target, half) > 5
        refused = traffic.refused
        await until(lambda: traffic.refused != refused, "half of it here and half of it there is taken")
        assert asked < cluster.redirected("ASK")
        while cluster.carry(slot, source, target, 50):
            pass
        moved = cluster.redirected("MOVED")
        cluster.close_slot(slot, target)
        assert target == cluster.master_of(slot)
        # One that looked on meanwhile still thinks that the slot is where it was.
        await idle.record(TENANT, 1000, events(*(f"idle{index}" for index in range(40))), [Plan(live=())] * 40)
        assert moved < cluster.redirected("MOVED")
        await traffic.more(200)
        await idle.close()
    traffic.check()
    assert [] == await problems(cluster)


async def test_every_part_moves_at_once_where_the_server_can_and_is_followed(cluster: Cluster) -> None:
    traffic = Traffic(cluster)
    async with traffic.going():
        await traffic.more(100)
        for link in traffic.ledger._links:
            slot, moved = key_slot(link.tag), cluster.redirected("MOVED")
            source = cluster.master_of(slot)
            target = (source + 1) % 3
            words = ("MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", cluster.names[target])
            if not cluster.masters[source].accepts("CLUSTER", *words):
                pytest.skip("this server moves slots key by key alone")
            await asyncio.to_thread(settled, lambda slot=slot, target=target: cluster.master_of(slot) == target)
            await traffic.more(50)
            assert moved < cluster.redirected("MOVED")
    traffic.check()
    assert [] == await problems(cluster)


async def test_of_a_slot_that_is_half_moved_nothing_is_half_written(cluster: Cluster) -> None:
    ledger = ledger_on(cluster)
    await ledger.open()
    try:
        first = [f"e{index}" for index in range(60)]
        await ledger.record(TENANT, 1000, events(*first), [PLAN] * 60)
        link = ledger._links[2]
        slot = key_slot(link.tag)
        source = cluster.master_of(slot)
        target = (source + 2) % 3
        keys = cluster.masters[source].command("CLUSTER", "COUNTKEYSINSLOT", slot)
        cluster.open_slot(slot, source, target)
        for _ in range(keys - 1):  # one after another, so that every pair of its keys is apart once
            cluster.carry(slot, source, target, 1)
            for name in ("look", "depth", "trimmable"):
                with pytest.raises(LedgerUnavailable, match=r"cannot be reached: (AskError|TryAgainError)"):
                    await link.run(name, 1, 1, 1, 1, 1, patience=0)
            with pytest.raises(LedgerUnavailable):
                await link.run("keep", b"01234567", 1, "a\0b", "n", 1, "body", 0, patience=0)
        half = await ledger.depth()
        assert 0 < half["a"].ready < 60, "the other parts are reached"
        again = [f"f{index}" for index in range(60)]
        with pytest.raises(LedgerUnavailable):
            await ledger.record(TENANT, 2000, events(*again), [PLAN] * 60)
        works = await ledger.take("a", 5000, 100)
        assert works
        assert link not in {ledger._link(work.batch) for work in works}
        cluster.carry(slot, source, target, 10)
        cluster.close_slot(slot, target)
        assert keys == cluster.masters[target].command("CLUSTER", "COUNTKEYSINSLOT", slot)
        claims = await ledger.record(TENANT, 2000, events(*again), [PLAN] * 60)
        assert {ClaimKind.NEW, ClaimKind.REPLAY} == {claim.kind for claim in claims}, "what the others had is a repeat"
        known = await ledger.record(TENANT, 1000, events(*first), [PLAN] * 60)
        assert {ClaimKind.REPLAY} == {claim.kind for claim in known}
        assert {"a": {"pending": 120}} == {name: dict(found) for name, found in (await ledger.counts()).items()}
        assert [] == (await ledger.add_up())["problems"]
    finally:
        await ledger.close()


async def test_a_master_that_is_out_of_reach_holds_up_nothing_but_its_own_part(cluster: Cluster) -> None:
    traffic = Traffic(cluster)
    async with traffic.going():
        await traffic.more(100)
        stopped = cluster.masters[cluster.master_of(key_slot(traffic.ledger._links[4].tag))]
        stopped.pause(on=True)
        try:
            taken = await traffic.alone(60)
            assert 20 < len(taken) < 60
            await until(lambda: traffic.sent().keys() >= set(taken), "the others do not go on")
            trouble = await traffic.ledger.ready()
            assert trouble is not None
            assert " of 6 parts of it: the ledger cannot be reached" in trouble
        finally:
            stopped.pause(on=False)
        for one in {f"alone{number}" for number in range(60)}.difference(taken):
            await traffic.insist([one])
        await traffic.more(100)
    traffic.check()
    assert [] == await problems(cluster)


async def test_a_process_is_heard_of_while_the_master_that_knows_the_version_is_away(cluster: Cluster) -> None:
    ledger = ledger_on(cluster)
    await ledger.open()
    try:
        where = [cluster.master_of(key_slot(tag)) for tag in (ledger._first.tag, ledger._links[0].tag)]
        assert where[0] != where[1]
        heard = ledger._owners._heard
        cluster.masters[where[0]].pause(on=True)
        try:
            await ledger._beat()
        finally:
            cluster.masters[where[0]].pause(on=False)
        assert heard != ledger._owners._heard
    finally:
        await ledger.close()


async def test_a_cluster_that_tells_no_addresses_is_where_it_was_asked(cluster: Cluster) -> None:
    for server in cluster.masters:
        server.command("CONFIG", "SET", "cluster-preferred-endpoint-type", "unknown-endpoint")
    ledger = ledger_on(cluster)
    try:
        await ledger.open()
        await ledger.record(TENANT, 1000, events(*(f"e{index}" for index in range(40))), [PLAN] * 40)
        assert {"a": {"pending": 40}} == {name: dict(found) for name, found in (await ledger.counts()).items()}
    finally:
        await ledger.close()
        for server in cluster.masters:
            server.command("CONFIG", "SET", "cluster-preferred-endpoint-type", "ip")


async def test_what_replaces_a_refunded_event_is_not_there_before_its_refund(cluster: Cluster) -> None:
    ledger = ledger_on(cluster)
    await ledger.open()
    try:
        halves, links = corrections_apart(cluster, ledger)
        away = cluster.masters[cluster.master_of(key_slot(links[0].tag))]
        away.pause(on=True)
        try:
            with pytest.raises(LedgerUnavailable):
                await ledger.record(TENANT, 1000, halves, [PLAN] * 2)
            assert await ledger.find(TENANT, halves[1].id) is None
        finally:
            away.pause(on=False)
        claims = await ledger.record(TENANT, 1000, halves, [PLAN] * 2)
        assert ClaimKind.NEW is claims[1].kind
    finally:
        await ledger.close()


def corrections_apart(cluster: Cluster, ledger: RedisLedger) -> tuple[list[Event], list[Link]]:
    """Return a refund and a replacement whose ids fall into parts on different masters, with these parts."""
    for number in range(100):
        halves = [
            Event(
                id=f"e{number}~c{each}",
                customer="acme",
                meter="api_calls",
                quantity=Decimal(each),
                corrects=Correction(
                    of=f"e{number}",
                    number=each,
                    action="refund" if each == 1 else "replace",
                    before={PLAIN: Decimal(3)},
                    after={PLAIN: Decimal(7)} if each == 2 else {},
                    reason="a meter ran twice",
                    actor="ada",
                ),
            )
            for each in (1, 2)
        ]
        links = [ledger._links[ledger.partition_of(one)] for one in digests(TENANT, [half.id for half in halves])]
        if len({cluster.master_of(key_slot(link.tag)) for link in links}) == 2:
            return halves, links
    raise AssertionError("all fall together")
