"""Trouble that processes share: one that hears of it has all of them wait, and one of them tries when it is over."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

from gateway.configuration.sections import Retry
from gateway.lanes.pace import OPENS_AFTER, Breaker, Heard, Pace
from gateway.ledger import Health
from gateway.ledger.redis import RedisLedger
from tests.gateway.ledger.conftest import processes
from tests.redis_servers import Server

SOON = timedelta(milliseconds=150)
LONG = timedelta(minutes=7)
NONE = timedelta(0)
WELL = Health(0, NONE)
RETRY = Retry(first=SOON, max=SOON)


class Process:
    """One process's pace, by a clock of its own that may be wrong."""

    def __init__(self, ledger: RedisLedger, *, fast: timedelta = NONE, probes: bool = False, jitter: float = 1) -> None:
        self._fast = fast
        limits = ledger.limits
        self.pace = Pace((), 8, RETRY, lambda top: top * jitter, destination="it", limits=limits, probes=probes)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._fast

    async def hears(self, what: Heard, retry_after: timedelta | None = None) -> None:
        """Hear the answer to a request that left now, and look again as a lane does."""
        self.pace.heard(what, self.now(), self.now(), busy=False, retry_after=retry_after)
        await self.looks()

    async def looks(self) -> None:
        """Look again, however fresh what is known may be."""
        self.pace._fresh = None
        await self.pace.agree(self.now())

    async def room(self) -> bool:
        """Return whether this process may try now, and take the turn where it may."""
        await self.looks()
        return bool(self.pace.room(0, self.now())) and not await self.pace.take(1, self.now())

    def pause(self) -> timedelta:
        return NONE if self.pace.not_before is None else self.pace.not_before - self.now()


async def until_it_is_over(*those: Process) -> None:
    await asyncio.sleep(max(one.pause() for one in those).total_seconds() + 0.02)


async def test_what_one_is_told_to_wait_all_wait_whatever_their_clocks_say(server: Server) -> None:
    async with processes(server, 3, lease=LONG) as (a, b, c):
        one, fast, slow = Process(a), Process(b, fast=timedelta(hours=3)), Process(c, fast=-timedelta(hours=3))
        assert all([await process.room() for process in (one, fast, slow)])
        await one.hears(Heard.THROTTLED, retry_after=LONG)
        for process in (fast, slow):
            assert not await process.room()
            assert LONG - timedelta(seconds=20) < process.pause() <= LONG
            assert 1 == process.pace.faults


async def test_the_breaker_of_one_is_the_breaker_of_all(server: Server) -> None:
    async with processes(server, 2, lease=LONG) as (a, b):
        one, other = Process(a, probes=True, jitter=0), Process(b, probes=True)
        for _ in range(OPENS_AFTER):
            await one.hears(Heard.FAULT)
        await other.looks()
        assert (Breaker.OPEN, True, OPENS_AFTER) == (other.pace.breaker, other.pace.shut, other.pace.faults)


async def test_when_the_pause_is_over_one_of_them_tries_and_the_others_wait_for_it(server: Server) -> None:
    async with processes(server, 3, lease=LONG) as ledgers:
        all_of_them = [Process(ledger) for ledger in ledgers]
        await all_of_them[0].hears(Heard.THROTTLED)
        for process in all_of_them:
            assert not await process.room()
        await until_it_is_over(*all_of_them)
        tries = all_of_them[1]
        assert await tries.room()
        for process in (all_of_them[0], all_of_them[2]):
            assert not await process.room()
            assert process.pause() <= timedelta(seconds=1)
        await tries.hears(Heard.FINE)
        for process in all_of_them:
            await process.looks()
            assert (Breaker.CLOSED, 0, None) == (process.pace.breaker, process.pace.faults, process.pace.not_before)
            assert await process.room()


async def test_one_that_tries_in_vain_has_all_wait_again_and_any_may_try_next(server: Server) -> None:
    async with processes(server, 2, lease=LONG) as (a, b):
        one, other = Process(a), Process(b)
        await one.hears(Heard.THROTTLED)
        for process in (other, one, other):
            await other.looks()
            await until_it_is_over(one, other)
            assert await process.room()
            await process.hears(Heard.THROTTLED)
            assert not await one.room()
            assert not await other.room()
        assert 4 == max(one.pace.faults, other.pace.faults)


async def test_the_turn_of_one_that_died_is_taken_when_its_lease_is_over(server: Server) -> None:
    async with processes(server, 2, lease=timedelta(seconds=1)) as (a, b):
        one, other = Process(a), Process(b)
        await one.hears(Heard.THROTTLED)
        await other.looks()
        await until_it_is_over(one, other)
        began = time.monotonic()
        assert await one.room()
        for _ in range(40):
            if await other.room():
                break
            await asyncio.sleep(0.05)
        assert 0.9 < time.monotonic() - began < 5


async def test_an_answer_to_what_began_before_the_pause_was_over_says_nothing(server: Server) -> None:
    async with processes(server, 2, lease=LONG) as (a, b):
        assert WELL == await a.limits.agree("it")
        assert Health(3, LONG) == await a.limits.agree("it", (3, LONG))
        told = await b.limits.agree("it", (0, timedelta(seconds=2)))
        assert told is not None
        assert (3, True) == (told.faults, LONG - timedelta(seconds=20) < told.wait <= LONG)
        assert WELL == await b.limits.agree("another")


async def test_a_shorter_pause_takes_nothing_from_a_longer_one(server: Server) -> None:
    async with processes(server, 2, lease=LONG) as (a, b):
        await a.limits.agree("it", (1, LONG))
        told = await b.limits.agree("it", (2, SOON))
        assert told is not None
        assert (2, True) == (told.faults, told.wait > LONG - timedelta(seconds=20))


async def test_one_fault_among_answers_is_each_process_s_own(server: Server) -> None:
    """Where one request in a hundred fails, it must not hold up those that all the others send."""
    async with processes(server, 2, lease=LONG) as (a, b):
        one, other = Process(a, jitter=0), Process(b)
        for _ in range(OPENS_AFTER - 1):
            await one.hears(Heard.FAULT)
            assert await other.room()
        await one.hears(Heard.FAULT, retry_after=LONG)
        assert not await other.room()


async def test_refused_credentials_are_each_process_s_own(server: Server) -> None:
    """An operator mends them in one process first: that one must not wait for the others' pauses."""
    async with processes(server, 2, lease=LONG) as (a, b):
        one, other = Process(a), Process(b)
        await one.hears(Heard.REFUSED)
        assert one.pace.refused
        assert await other.room()
        await one.looks()
        assert one.pace.refused, "nor does what another does not know of mend them"


async def test_where_all_is_well_it_is_asked_for_once_a_second(server: Server) -> None:
    async with processes(server, 1, lease=LONG) as (a,):
        one = Process(a)
        script = "cmdstat_evalsha"

        def calls() -> int:
            said = server.said("commandstats").decode()
            return int(said.partition(f"{script}:calls=")[2].partition(",")[0] or 0)

        await one.pace.agree(one.now())
        before = calls()
        for _ in range(200):
            await one.pace.agree(one.now())
            assert not await one.pace.take(100, one.now())
        assert calls() - before <= 2


async def test_without_its_server_a_pace_is_its_own(server: Server) -> None:
    async with processes(server, 1, lease=LONG) as (a,):
        one = Process(a)
        server.kill()
        await one.hears(Heard.THROTTLED)
        assert 1 == one.pace.faults
        server.restart()
        await one.looks()
        assert Health(1, NONE)[0] == (await a.limits.agree("it") or WELL).faults, "it is told when somebody hears"
