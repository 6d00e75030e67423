"""Processes that share a ledger on a Redis server: each piece of work is held by one, and one leads."""

import asyncio
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from gateway.errors import LedgerUnavailable
from gateway.ledger import Moved, Plan, WorkState, split_ref
from gateway.ledger._redis import owners
from gateway.ledger._redis.address import Address
from gateway.ledger._redis.layout import PARTITIONS
from gateway.ledger._redis.working import REMEMBERED
from gateway.ledger.redis import RedisLedger
from tests.gateway.ledger.conftest import TENANT, events, places, processes, recorded, rendered
from tests.redis_servers import Server
from tests.waiting import until

PLAN = Plan(live=("a",))


def address(server: Server) -> Address:
    return Address.read(f"redis://127.0.0.1:{server.port}/0")


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


async def test_a_process_that_is_heard_of_again_knows_that_it_was_not_for_too_long(server: Server) -> None:
    async with processes(server, 1) as (ledger,):
        await ledger._beat()
        assert (False, 0) == (ledger.fenced, ledger.lapses)
        assert ledger._owners._heard is not None
        ledger._owners._heard -= ledger._owners.lease
        assert (True, 0) == (ledger.fenced, ledger.lapses)
        await ledger._beat()
        assert (False, 1) == (ledger.fenced, ledger.lapses)


async def test_a_process_that_stood_still_before_it_heard_was_not_heard_of_later_than_it_said(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(server, 1) as (ledger,):
        assert ledger._beating is not None
        ledger._beating.cancel()
        loop, (link,) = asyncio.get_running_loop(), ledger._links
        run, time_of, still = link.run, loop.time, 0.0

        async def answered(*words: Any) -> Any:
            nonlocal still
            answer = await run(*words)
            still = ledger._owners.lease * 0.9
            return answer

        monkeypatch.setattr(loop, "time", lambda: time_of() + still)
        with monkeypatch.context() as patch:
            patch.setattr(link, "run", answered)
            await ledger._beat()
        assert (True, False) == (ledger.fenced, ledger.leads), "others may take it for gone, and lead"
        with pytest.raises(LedgerUnavailable):
            await ledger.take("a", 5000, 10)
        await ledger._beat()
        assert (False, True) == (ledger.fenced, ledger.leads)
        assert ledger.lapses


async def test_a_process_that_this_machine_does_not_show_is_there_until_it_ends(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(server, 2) as (one, other):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as elsewhere:  # noqa: ASYNC220
            await recorded(one, "e1")
            (work,) = await one.take("a", 5000, 10)
            await one.intend([rendered(work)], 5000)
            monkeypatch.setattr(owners, "_began", lambda _: "")  # as /proc with `hidepid` does with another user's
            server.command("HSET", "{ug}:oi", one._owners.name, f"{owners._machine()}|{elsewhere.pid}|4711")
            assert [] == list(await other.abandoned("a"))
        assert [work.id] == [found.id for found in await other.abandoned("a")]


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


async def test_what_was_to_be_sent_beside_what_another_process_took_is_made_ready_again(server: Server) -> None:
    async with processes(server, 2, partitions=4) as (one, other):
        refs = [(await one.record(TENANT, 1000, events(f"e{number}"), [PLAN]))[0].ref for number in range(12)]
        batches = [split_ref(ref)[0] for ref in refs]
        works = sorted(await one.take("a", 5000, 100), key=lambda work: work.batch % PARTITIONS)
        await other.intend([rendered(works[-1])], 5000)
        with pytest.raises(Moved):
            await one.intend([rendered(work) for work in works], 5000)
        await one._take_back()
        states = [await places(one, batch) for batch in batches]
        assert {WorkState.SENDING: 1, WorkState.READY: 11} == Counter(state for found in states for state in found)
        assert [] == (await one.add_up())["problems"]


async def test_however_long_the_server_was_away_what_was_never_sent_is_made_ready_again(server: Server) -> None:
    async with processes(server, 1) as (ledger,):
        batch = await recorded(ledger, "e1")
        (work,) = await ledger.take("a", 5000, 10)
        intent = ledger._owners.name + (ledger._owners._intents + 1).to_bytes(3, "big")
        await ledger.intend([rendered(work)], 5000)
        ledger._owners.lose(intent)  # the answer never came, and then nothing did for a quarter of an hour
        ledger._owners.lost[intent] -= 1.5 * REMEMBERED
        await ledger._take_back()
        assert {WorkState.READY: [0]} == await places(ledger, batch)
        assert {} == ledger._owners.lost, "by now it is nowhere on its way any more"


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


async def test_who_asks_the_same_at_the_same_time_hears_the_same(server: Server) -> None:
    ledger = RedisLedger(address(server), partitions=3)
    await ledger.open()
    try:
        await ledger.record(TENANT, 1000, events(*(f"e{index}" for index in range(30))), [PLAN] * 30)
        told = await asyncio.gather(*(ledger.depth() for _ in range(20)), *(ledger.depth() for _ in range(20)))
        assert {30} == {found["a"].ready for found in told}
    finally:
        await ledger.close()


async def test_a_process_stands_still_once_another_made_the_ledger_newer(server: Server) -> None:
    ledger = RedisLedger(address(server), lease=timedelta(milliseconds=600))
    await ledger.open()
    try:
        await recorded(ledger, "e1")
        (work,) = await ledger.take("a", 5000, 10)
        server.command("HSET", "{ug}:m", "version", "99")
        await until(lambda: ledger._newer is not None, "no heartbeat sees it")
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
