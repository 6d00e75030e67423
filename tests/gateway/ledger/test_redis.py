"""What holds because the ledger is on a Redis server: honesty at the start, commands that come twice, trouble."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from canonical_schema import DeliveryStatus
from gateway.errors import ConfigurationError, LedgerUnavailable
from gateway.ledger import Change, ClaimKind, Code, Moved, Plan, WorkState
from gateway.ledger._redis import recording
from gateway.ledger._redis.address import Address
from gateway.ledger._redis.layout import PARTITIONS
from gateway.ledger._redis.line import Command, Line
from gateway.ledger.redis import RedisLedger
from tests.gateway.ledger.conftest import TENANT, RedisStore, event, events, opened, places, recorded, rendered, totals
from tests.redis_servers import Server, settled

PLAN = Plan(live=("a",))


def address(server: Server) -> Address:
    return Address.read(f"redis://127.0.0.1:{server.port}/0")


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


async def test_a_server_that_forgets_the_scripts_again_is_asked_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, times = Line.ask, [2]

    async def forgetful(self: Line, commands: Sequence[Command], first: Sequence[Command] = ()) -> list[Any]:
        if commands[0][0] == "EVALSHA" and times[0]:
            times[0] -= 1
            server.command("SCRIPT", "FLUSH")
        return await ask(self, commands, first)

    async with opened(RedisStore(server.folder, server)) as ledger:
        monkeypatch.setattr(Line, "ask", forgetful)
        await recorded(ledger, "e1")
        assert [0] == times
        assert {"a": {"pending": 1}} == await totals(ledger)


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


@pytest.mark.parametrize("waiting", [False, True])
async def test_an_answer_is_written_down_where_it_can_be_and_a_decision_as_a_whole(
    server: Server, monkeypatch: pytest.MonkeyPatch, waiting: bool
) -> None:
    ledger = RedisLedger(address(server), partitions=3)
    await ledger.open()
    try:
        sent = events(*(f"e{number}" for number in range(30)))
        await ledger.record(TENANT, 1000, sent, [PLAN] * 30)
        works = await ledger.take("a", 20_000_000, 100)
        assert 3 == len(works)
        places = [work.id for work in works]
        if not waiting:
            places = list(await ledger.intend([rendered(work) for work in works], 5000))
        changes = [
            Change(work=place, batch=work.batch, destination="a", members=work.members, code=Code.ACCEPTED, group=None)
            for place, work in zip(places, works, strict=True)
        ]
        for one in changes:
            one.waiting = waiting

        async def away(*_: Any, **__: Any) -> Any:
            raise LedgerUnavailable("away")

        (there,) = [len(work.members) for work in works if work.batch % PARTITIONS == 1]
        with monkeypatch.context() as patch:
            patch.setattr(ledger._links[1], "run", away)
            with pytest.raises(LedgerUnavailable):
                await ledger.settle(changes, [])
        counted = (await totals(ledger))["a"]
        assert (0 if waiting else 30 - there) == counted.get(DeliveryStatus.ACCEPTED, 0)
        assert [] == (await ledger.add_up())["problems"]
    finally:
        await ledger.close()


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


async def test_a_batch_waits_for_as_many_requests_as_the_last_had_while_more_come(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Senders that are answered together come again one after the other: as long as they do they share a batch."""
    monkeypatch.setattr(recording, "LINGER", 60.0)  # a machine that stands still in between changes nothing
    async with opened(RedisStore(server.folder, server)) as ledger:
        total, senders = 80, 8
        numbers = iter(range(total))

        async def sender(place: int) -> None:
            for number in numbers:
                for _ in range(place):
                    await asyncio.sleep(0)
                await ledger.record(TENANT, 1000, [event(f"e{number}")], [Plan(live=("a",))])

        await asyncio.gather(*map(sender, range(senders)))
        batches = await ledger.batches_after(0, total)
        sizes = [len(shot.events) for shot in (await ledger.snapshots(batches)).values()]
        assert total == sum(sizes)
        assert len(sizes) < 1.5 * total / senders, sizes
