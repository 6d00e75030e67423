"""Rate limits that processes share: what all of them send together is never more than the vendor allows."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from adapters import Rate
from gateway.configuration.sections import Retry
from gateway.lanes.pace import BURST, Pace
from gateway.ledger import Flow
from gateway.ledger._redis.limiting import LATE, UNSURE
from gateway.ledger.redis import RedisLedger
from tests.gateway.ledger.conftest import processes
from tests.redis_servers import Server

LIMIT, SECONDS = 50, 1.0
WANTED = 120
RATE = Rate(requests=LIMIT, per=timedelta(seconds=SECONDS), rows=100 * LIMIT)


def pace(ledger: RedisLedger, *rates: Rate) -> Pace:
    return Pace(rates, 8, Retry(), lambda ceiling: ceiling, destination="one", limits=ledger.limits)


async def test_three_processes_together_keep_the_limit_in_every_window_and_use_it(server: Server) -> None:
    left: list[tuple[float, float]] = []
    waits: list[float] = []

    async def send(one: Pace) -> None:
        while len(left) < WANTED:
            before = time.monotonic()
            if wait := await one.take(1, datetime.now(UTC)):
                waits.append(wait.total_seconds())
                await asyncio.sleep(waits[-1])
            else:
                left.append((before, time.monotonic()))

    async with processes(server, 3) as ledgers:
        began = time.monotonic()
        await asyncio.gather(*(send(pace(ledger, RATE)) for ledger in ledgers for _ in range(2)))
    for start, _ in left:  # each was counted between two instants: those that surely fall into the window
        assert sum(start <= before and after < start + SECONDS for before, after in left) <= LIMIT
    capacity = LIMIT // BURST
    flow = (LIMIT - capacity + 1) / SECONDS
    assert len(left) <= capacity + flow * (left[-1][1] - began) + 1e-3 * flow
    # Nobody is told to wait for longer than a request of each of the six takes to flow in: none of the limit lies idle.
    assert waits
    assert max(waits) <= 6 / flow + 1e-3


async def test_what_one_process_spent_another_lacks(server: Server) -> None:
    slow = Rate(requests=1000, per=timedelta(days=1), rows=200)
    now = datetime.now(UTC)
    async with processes(server, 2) as (one, other):
        assert not await pace(one, slow).take(20, now)
        second = pace(other, slow)
        wait = await second.take(10, now)
        assert timedelta(hours=1) < wait < timedelta(hours=1.4)  # 10 rows of the 181 that flow in within a day
        assert wait == second.wait(1, now)
        assert not await pace(other).take(10_000, now), "where no limit is declared, none is asked for"


async def test_a_request_that_is_turned_away_takes_nothing(server: Server) -> None:
    async with processes(server, 1) as (ledger,):
        rows, requests = Flow("rows", 10, 1e-3, 10), Flow("requests", 5, 1e-3, 1)
        assert not await ledger.limits.spend("a", [requests, rows])
        for _ in range(20):
            assert await ledger.limits.spend("a", [requests, rows])
        for _ in range(4):
            assert not await ledger.limits.spend("a", [requests])
        assert await ledger.limits.spend("a", [requests])
        assert not await ledger.limits.spend("b", [requests]), "another destination has limits of its own"


async def test_a_debt_is_paid_before_the_next_one_leaves(server: Server) -> None:
    async with processes(server, 1) as (ledger,):
        assert not await ledger.limits.spend("a", [Flow("rows", 10, 1.0, 100)])
        waits = [await ledger.limits.spend("a", [Flow("rows", 10, 1.0, amount)]) for amount in (1, 5, 100)]
        assert all(earlier < later for earlier, later in pairwise(waits))
        assert timedelta(seconds=80) < waits[0] <= timedelta(seconds=91)


async def test_what_is_counted_is_bounded_and_lives_as_long_as_the_ledger(server: Server) -> None:
    async with processes(server, 1) as (ledger,):
        for amount in range(50):
            await ledger.limits.spend("a", [Flow("rows/1", 10, 1e-3, amount), Flow("requests/1", 5, 1e-3, 1)])
    assert 2 == server.command("HLEN", "{ug}:rl")
    assert -1 == server.command("TTL", "{ug}:rl")
    server.restart()
    async with processes(server, 1) as (ledger,):
        assert await ledger.limits.spend("a", [Flow("requests/1", 5, 1e-3, 6)])


async def test_where_nobody_can_say_nothing_leaves(server: Server) -> None:
    async with processes(server, 1) as (ledger,):
        server.kill()
        assert UNSURE == await ledger.limits.spend("a", [Flow("requests", 5, 1.0, 1)])


async def test_a_large_request_gets_its_turn_among_small_ones_without_end(server: Server) -> None:
    rate = Rate(requests=10_000, per=timedelta(seconds=1), rows=100)
    done, small = asyncio.Event(), 0

    async def send(one: Pace) -> None:
        nonlocal small
        while not done.is_set():
            if wait := await one.take(1, datetime.now(UTC)):
                await asyncio.sleep(wait.total_seconds())
            else:
                small += 1

    async with processes(server, 3) as (a, b, c):
        senders = [asyncio.create_task(send(pace(ledger, rate))) for ledger in (a, b)]
        large = pace(c, rate)
        began = time.monotonic()
        for _ in range(5):
            while wait := await large.take(10, datetime.now(UTC)):  # as much as can ever be there at once
                assert time.monotonic() - began < 20, f"it waits still, and {small} small ones have left"
                await asyncio.sleep(wait.total_seconds())
        done.set()
        await asyncio.gather(*senders)
    assert small >= 4, "nor do the small ones wait for ever"


async def test_the_first_that_was_turned_away_goes_first(server: Server) -> None:
    async with processes(server, 3) as ledgers:
        flows = [Flow("rows", 10, 100, 10)]
        assert not await ledgers[0].limits.spend("a", flows)
        waits = [await ledger.limits.spend("a", flows) for ledger in (ledgers[2], ledgers[0], ledgers[1])]
        assert sorted(waits) == waits
        await asyncio.sleep(0.35)  # there would be room for the last as well
        assert await ledgers[1].limits.spend("a", [Flow("rows", 10, 100, 1)])
        assert await ledgers[0].limits.spend("a", flows)
        assert not await ledgers[2].limits.spend("a", flows)
        assert await ledgers[1].limits.spend("a", [Flow("rows", 10, 100, 1)])
        assert not await ledgers[1].limits.spend("a", [Flow("rows", 10, 100, 0)], queues=False)
        assert not await ledgers[1].limits.spend("b", flows), "each destination has a queue of its own"


async def test_one_whose_turn_it_is_and_who_does_not_come_holds_up_nobody_for_long(server: Server) -> None:
    async with processes(server, 2) as (gone, other):
        flows = [Flow("rows", 10, 100, 10)]
        assert not await gone.limits.spend("a", flows)
        due = await gone.limits.spend("a", flows)
        assert due
        began = time.monotonic()
        for _ in range(1000):
            if not (wait := await other.limits.spend("a", [Flow("rows", 10, 100, 1)])):
                break
            await asyncio.sleep(wait.total_seconds())
        took = time.monotonic() - began
        assert due.total_seconds() < took < (due + LATE).total_seconds() + 2
        assert 0 == server.command("HLEN", "{ug}:rt"), "and nothing is kept of who waited"
