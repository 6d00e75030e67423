"""What holds because the ledger is on a Redis server: honesty at the start, commands that come twice, trouble."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError, LedgerUnavailable
from gateway.ledger import Change, ClaimKind, Code, Moved, Plan, WorkState
from gateway.ledger._redis.address import Address
from gateway.ledger._redis.layout import pack_runs, unpack_runs
from gateway.ledger.redis import RedisLedger
from tests.gateway.ledger.conftest import TENANT, RedisStore, event, events, opened, places, recorded, rendered, totals
from tests.redis_servers import Server, settled

PLAN = Plan(live=("a",))


def address(server: Server) -> Address:
    return Address.read(f"redis://127.0.0.1:{server.port}/0")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path / "server")
    yield one
    one.kill()


async def refusal(server: Server) -> str:
    """Return why a server is not taken."""
    with pytest.raises((ConfigurationError, LedgerUnavailable)) as refused:
        await RedisLedger(address(server)).open()
    return str(refused.value)


async def durability(server: Server) -> str:
    ledger = RedisLedger(address(server))
    await ledger.open()
    await ledger.close()
    return ledger.durability


async def test_a_server_that_throws_things_away_when_it_is_full_is_refused(server: Server) -> None:
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    said = await refusal(server)
    assert "maxmemory-policy 'allkeys-lru'" in said
    assert "set it to noeviction" in said


async def test_what_the_server_survives_is_said_as_it_is(server: Server) -> None:
    assert "always" == await durability(server)
    server.command("CONFIG", "SET", "appendfsync", "everysec")
    assert "everysec" == await durability(server)
    server.command("CONFIG", "SET", "appendfsync", "no")
    assert "os" == await durability(server)
    server.command("CONFIG", "SET", "appendonly", "no")
    assert "memory" == await durability(server)
    server.command("CONFIG", "SET", "save", "3600 1")
    assert "snapshot" == await durability(server)


async def test_a_ledger_of_a_newer_version_is_refused(server: Server) -> None:
    server.command("HSET", "{ug}:m", "version", "99")
    assert "version 99" in await refusal(server)


async def test_a_process_stands_still_once_another_made_the_ledger_newer(server: Server) -> None:
    ledger = RedisLedger(address(server), lease=timedelta(milliseconds=600))
    await ledger.open()
    try:
        await recorded(ledger, "e1")
        (work,) = await ledger.take("a", 5000, 10)
        server.command("HSET", "{ug}:m", "version", "99")
        async with asyncio.timeout(20):
            while ledger._newer is None:  # noqa: ASYNC110  it is seen with a heartbeat
                await asyncio.sleep(0.01)
        for asked in (
            ledger.record(TENANT, 2000, events("e2"), [PLAN]),
            ledger.take("a", 5000, 10),
            ledger.intend([rendered(work)], 5000),
            ledger.ready(),
        ):
            with pytest.raises(LedgerUnavailable, match="has version 99 by now: stop this gateway, install a newer"):
                await asked
    finally:
        await ledger.close()


async def test_a_server_that_is_not_there_or_takes_no_password_is_said(server: Server) -> None:
    server.command("CONFIG", "SET", "requirepass", "s3cret")
    said = await refusal(server)
    assert "refuses the user or the password" in said
    assert "s3cret" not in said
    server.kill()
    assert "does not answer" in await refusal(server)


async def test_a_script_whose_answer_was_lost_does_nothing_a_second_time(server: Server) -> None:
    ledger = RedisLedger(address(server))
    await ledger.open()
    lost = _losing_answers(ledger)
    try:
        claims = await ledger.record(TENANT, 1000, events("e1", "e2"), [PLAN] * 2)
        assert [ClaimKind.NEW] * 2 == [claim.kind for claim in claims]
        (work,) = await ledger.take("a", 5000, 10)
        (number,) = await ledger.intend([rendered(work, [1])], 5000)
        change = Change(work=number, batch=work.batch, destination="a", members=[1], code=Code.ACCEPTED, group=None)
        await ledger.settle([change], [])
        with pytest.raises(Moved):
            await ledger.settle([change], [])
        assert {"a": {"accepted": 1, "pending": 1}} == await totals(ledger)
        assert {WorkState.READY: [0]} == await places(ledger, work.batch)
        assert 3 <= len(lost)
        assert [] == (await ledger.add_up())["problems"]
    finally:
        await ledger.close()


def _losing_answers(ledger: RedisLedger) -> list[str]:
    """Let every script that writes run, and lose its first answer."""
    (link,) = ledger._links
    sent, lost = link._sent, list[str]()

    async def losing(client: object, calls: list[object], *, writes: bool) -> list[object]:
        answers = await sent(client, calls, writes=writes)  # type: ignore[arg-type]
        names = [call.script.name for call in calls if call.script is not None]  # type: ignore[attr-defined]
        if (
            writes
            and any(name not in lost for name in names)
            and not any(isinstance(one, Exception) for one in answers)
        ):
            lost.extend(names)
            raise ConnectionResetError("the answer was lost")
        return answers

    link._sent = losing  # type: ignore[method-assign]
    return lost


async def test_a_restart_loses_nothing_that_was_promised_and_the_ledger_goes_on(server: Server) -> None:
    store = RedisStore(server.folder, server)
    async with opened(store) as ledger:
        batch = await recorded(ledger, "e1", "e2")
        server.kill()
        with pytest.raises(LedgerUnavailable) as refused:
            await ledger.record(TENANT, 2000, events("e3"), [PLAN])
        assert "cannot be reached" in str(refused.value)
        server.start()
        assert {WorkState.READY: [0, 1]} == await places(ledger, batch)
        claims = await ledger.record(TENANT, 3000, events("e1", "e3"), [PLAN] * 2)
        assert [ClaimKind.REPLAY, ClaimKind.NEW] == [claim.kind for claim in claims]
    assert [] == await store.problems()


async def test_what_is_asked_while_the_server_restarts_waits_for_it(server: Server) -> None:
    store = RedisStore(server.folder, server)
    async with opened(store) as ledger:
        await recorded(ledger, "e1")
        (work,) = await ledger.take("a", 5000, 10)
        (number,) = await ledger.intend([rendered(work)], 5000)
        server.kill()
        change = Change(work=number, batch=work.batch, destination="a", members=[0], code=Code.ACCEPTED, group=None)
        settling = asyncio.ensure_future(ledger.settle([change], []))
        await asyncio.to_thread(server.start)
        await settling
        assert {"a": {"accepted": 1}} == await totals(ledger)


async def test_a_server_that_loads_or_only_reads_promises_nothing_until_it_does(server: Server) -> None:
    master = server
    replica = Server(server.folder / "replica", {"replicaof": f"127.0.0.1 {master.port}"})
    try:
        store = RedisStore(server.folder, server)
        async with opened(store) as ledger:
            batch = await recorded(ledger, "e1")
            server.command("REPLICAOF", "127.0.0.1", replica.port)
            with pytest.raises(LedgerUnavailable) as refused:
                await ledger.record(TENANT, 2000, events("e2"), [PLAN])
            assert "cannot be reached" in str(refused.value)
            server.command("REPLICAOF", "NO", "ONE")
            assert batch < await recorded(ledger, "e2")
    finally:
        replica.kill()


async def test_a_server_that_stands_still_is_a_refusal_in_time(server: Server) -> None:
    ledger = RedisLedger(address(server), timeout=timedelta(milliseconds=300))
    await ledger.open()
    try:
        server.pause(on=True)
        with pytest.raises(LedgerUnavailable):
            await ledger.record(TENANT, 2000, events("e1"), [PLAN])
        server.pause(on=False)
        (claim,) = await ledger.record(TENANT, 3000, events("e1"), [PLAN])
        # It may have been stored when nobody heard of it: then it is a repeat, and stored once all the same.
        assert claim.kind in {ClaimKind.NEW, ClaimKind.REPLAY}
        assert {"a": {"pending": 1}} == await totals(ledger)
        assert [] == (await ledger.add_up())["problems"]
    finally:
        await ledger.close()


async def test_a_write_waits_for_its_replicas_or_is_not_acknowledged(server: Server) -> None:
    replica = Server(server.folder / "replica", {"replicaof": f"127.0.0.1 {server.port}"})
    await asyncio.to_thread(settled, lambda: b"master_link_status:up" in replica.said("replication"))
    ledger = RedisLedger(address(server), replicas=1)
    await ledger.open()
    try:
        assert "always+1 replica" == ledger.durability
        await recorded(ledger, "e1")
        assert 1 == replica.command("HLEN", "{ug}:n")
        replica.pause(on=True)
        with pytest.raises(LedgerUnavailable) as refused:
            await ledger.record(TENANT, 2000, events("e2"), [PLAN])
        assert "0 of 1 replicas have it" in str(refused.value)
        replica.pause(on=False)
        async with asyncio.timeout(20):
            while (trouble := await _trouble(ledger)) is not None:
                assert "0 of 1 replicas have it" in trouble
        (claim,) = await ledger.record(TENANT, 3000, events("e2"), [PLAN])
        assert ClaimKind.REPLAY is claim.kind
    finally:
        await ledger.close()
        replica.kill()


async def _trouble(ledger: RedisLedger) -> str | None:
    """Return what keeps a ledger from promising anything."""
    try:
        return await ledger.ready()
    except LedgerUnavailable as error:
        return str(error)


async def test_a_full_server_still_lets_work_go(server: Server) -> None:
    store = RedisStore(server.folder, server)
    async with opened(store) as ledger:
        await recorded(ledger, "e1")
        async with store.full(ledger):
            with pytest.raises(LedgerUnavailable) as refused:
                await ledger.record(TENANT, 2000, events("e2"), [PLAN])
            assert "has no room" in str(refused.value)
            (work,) = await ledger.take("a", 5000, 10)
            (number,) = await ledger.intend([rendered(work)], 5000)
            change = Change(work=number, batch=work.batch, destination="a", members=[0], code=Code.ACCEPTED, group=None)
            await ledger.settle([change], [])
        assert {"a": {"accepted": 1}} == await totals(ledger)


async def test_two_processes_never_hold_the_same_work(server: Server) -> None:
    one, other = RedisLedger(address(server)), RedisLedger(address(server))
    await one.open()
    await other.open()
    try:
        for number in range(8):
            await recorded(one, f"e{number}")
        await one.held("a", WorkState.SENDING)  # each hears of the other
        assert ([8, 0]) == [len(await ledger.take("a", 1500, 100)) for ledger in (one, other)], (
            "who brought it sends it"
        )
        now = 2_500_000
        works, others = await one.take("a", now, 100), await other.take("a", now, 100)
        assert 8 == len({work.id for work in (*works, *others)}) == len(works) + len(others), "later each a share"
        assert 4 == len(works)
        ids = await one.intend([rendered(work) for work in works], now)
        late = works
        with pytest.raises(Moved):
            await other.intend([rendered(work) for work in late if work.id == ids[0]], 1500)
        assert [] == list(await other.held("a", WorkState.SENDING)), "they are in good hands"
        assert [] == list(await other.abandoned("a"))
        server.command("ZREM", "{ug}:o", one._owners.name)  # not heard of for too long
        assert sorted(ids) == sorted(work.id for work in await other.abandoned("a"))
    finally:
        await one.close()
        await other.close()


async def test_a_process_looks_again_when_there_is_something_for_it_to_take_and_not_before(server: Server) -> None:
    one, other = RedisLedger(address(server)), RedisLedger(address(server))
    await one.open()
    await other.open()
    try:
        await one.held("a", WorkState.SENDING)  # each hears of the other
        now = time.time_ns() // 1000
        for number in range(8):
            await recorded(one, f"e{number}", received=now - 3_000_000)
        works = await one.take("a", now, 100)
        assert 4 == len(works), "a share of what waits for longer, whoever brought it"
        await one.intend([rendered(work) for work in works], now)
        assert [] == list(await one.take("a", now, 100))
        due = await one.next_due("a")
        assert due is not None
        assert due > now, "what it brought is the other's by now: there is nothing to be busy with"
        assert 4 == len(await other.take("a", now, 100))
        assert 4 == len(await one.take("a", now + 7_000_001, 100)), "nobody took it for long"
    finally:
        await one.close()
        await other.close()


async def test_a_process_that_was_not_heard_of_for_too_long_sends_nothing_more(server: Server) -> None:
    ledger = RedisLedger(address(server), lease=timedelta(milliseconds=200))
    await ledger.open()
    try:
        await recorded(ledger, "e1")
        (work,) = await ledger.take("a", 5000, 10)
        assert ledger._beating is not None
        ledger._beating.cancel()
        await asyncio.sleep(0.3)
        for asked in (ledger.take("a", 5000, 10), ledger.intend([rendered(work)], 5000)):
            with pytest.raises(LedgerUnavailable):
                await asked
    finally:
        await ledger.close()


async def test_ids_of_several_partitions_are_told_apart_and_add_up(server: Server) -> None:
    ledger = RedisLedger(address(server), partitions=3)
    await ledger.open()
    try:
        sent = [event(f"e{index}", quantity=Decimal(index)) for index in range(60)]
        claims = await ledger.record(TENANT, 1000, sent, [PLAN] * 60)
        assert [ClaimKind.NEW] * 60 == [claim.kind for claim in claims]
        again = await ledger.record(TENANT, 2000, sent[::-1], [PLAN] * 60)
        assert [(ClaimKind.REPLAY, claim.ref) for claim in claims][::-1] == [(one.kind, one.ref) for one in again]
        works = await ledger.take("a", 5000, 50)
        assert 50 == sum(len(work.members) for work in works)
        numbers = await ledger.intend([rendered(work) for work in works], 5000)
        changes = [
            Change(work=number, batch=one.batch, destination="a", members=one.members, code=Code.ACCEPTED, group=None)
            for number, one in zip(numbers, works, strict=True)
        ]
        assert 3 == len(changes)
        late = Change(work=1, batch=works[-1].batch, destination="a", members=[0], code=Code.DEAD, group=None)
        with pytest.raises(Moved):
            await ledger.settle([*changes[:1], late], [])
        assert {"a": {"pending": 60}} == await totals(ledger), "all of it or nothing"
        await ledger.settle(changes, [])
        assert {"a": {"accepted": 50, "pending": 10}} == await totals(ledger)
        assert [] == (await ledger.add_up())["problems"]
    finally:
        await ledger.close()


async def test_who_asks_the_same_at_the_same_time_hears_the_same(server: Server) -> None:
    ledger = RedisLedger(address(server), partitions=3)
    await ledger.open()
    try:
        await ledger.record(TENANT, 1000, events(*(f"e{index}" for index in range(30))), [PLAN] * 30)
        told = await asyncio.gather(*(ledger.depth() for _ in range(20)), *(ledger.depth() for _ in range(20)))
        assert {30} == {found["a"].ready for found in told}
    finally:
        await ledger.close()


@pytest.mark.parametrize("members", [[], [0], [0, 1, 2], [5], [1, 3, 5], [0, 1, 7, 8, 9, 65535]])
def test_runs_are_the_members_that_they_came_from(members: list[int]) -> None:
    assert members == unpack_runs(pack_runs(members))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("rediss://u:p%40ss@[::1]:7000/3", "rediss://[::1]:7000/3"),
        ("redis+sentinel://:s3cret@a,b:5/name/2", "redis+sentinel://a:26379,b:5/name/2"),
        ("rediss+cluster://a:1,b:2", "rediss+cluster://a:1,b:2"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    one = Address.read(url)
    assert shown == str(one)
    assert "s3cret" not in repr(one)


@pytest.mark.parametrize(
    "url", ["redis://", "redis://a,b", "redis://h:99999", "redis+sentinel://h", "redis://h/0/1", "redis://h/x", "redis"]
)
def test_an_address_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="redis"):
        Address.read(url)


async def test_what_was_to_be_sent_and_never_was_is_made_ready_again(server: Server) -> None:
    ledger = RedisLedger(address(server))
    await ledger.open()
    try:
        batch = await recorded(ledger, "e1", "e2")
        (work,) = await ledger.take("a", 5000, 10)
        (link,) = ledger._links
        sent = link._sent

        async def deaf(client: object, calls: object, *, writes: bool) -> list[object]:
            answers = await sent(client, calls, writes=writes)  # type: ignore[arg-type]
            if writes and not any(isinstance(one, Exception) for one in answers):
                raise ConnectionResetError("no answer comes any more")
            return answers

        link._sent = deaf  # type: ignore[method-assign]
        with pytest.raises(LedgerUnavailable):
            await ledger.intend([rendered(work, [1])], 5000)
        link._sent = sent  # type: ignore[method-assign]
        assert {WorkState.READY: [0], WorkState.SENDING: [1]} == await places(ledger, batch)
        await ledger._take_back()
        assert {WorkState.READY: [0, 1]} == await places(ledger, batch)
        assert [None, None] == [one.group.sent for one in await ledger.take("a", 5000, 10)]
        assert [] == (await ledger.add_up())["problems"]
    finally:
        await ledger.close()


async def test_one_process_leads_until_it_is_gone_and_alone_takes_what_keeps_an_order(server: Server) -> None:
    ledgers = [RedisLedger(address(server), lease=timedelta(seconds=2)) for _ in range(2)]
    first, second = ledgers
    await first.open()
    await second.open()
    try:
        assert [True, False] == [one.leads for one in ledgers]
        await recorded(second, "e1")
        assert [True, False] == [one.alone("a") for one in ledgers]
        assert [1, 0] == [len(await one.take("a", 5000, 10)) for one in ledgers], "whoever brought it"
        await first.close()
        await second._beat()
        assert second.leads
        assert 1 == len(await second.take("a", 5000, 10))
    finally:
        await second.close()


async def test_small_requests_of_one_moment_share_a_batch_and_keep_their_own_time(server: Server) -> None:
    ledger = RedisLedger(address(server))
    await ledger.open()
    try:
        answers = await asyncio.gather(
            *(ledger.record(TENANT, 1000 + number, events(f"e{number % 40}"), [PLAN]) for number in range(60))
        )
        assert Counter({ClaimKind.NEW: 40, ClaimKind.REPLAY: 20}) == Counter(claims[0].kind for claims in answers)
        batches = await ledger.batches_after(0, 100)
        assert len(batches) <= 2
        fresh = RedisLedger(address(server))  # nothing at hand
        await fresh.open()
        try:
            for shot in (await fresh.snapshots(batches)).values():
                for index, one in enumerate(shot.events):
                    assert 1000 + int(one.id[1:]) == shot.received_at(index)
            for work in await fresh.take("a", 10**8, 100):
                assert [1000 + int(one.id[1:]) for one in work.events] == [
                    work.received_at(place) for place in range(len(work.members))
                ]
        finally:
            await fresh.close()
    finally:
        await ledger.close()
