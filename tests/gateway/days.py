"""A whole gateway that runs by itself through virtual time, with vendors that take a while to answer."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import httpx

from gateway.app import create_app
from gateway.configuration.file import loads
from gateway.ledger import QueueDepth, SqliteLedger
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from tests.gateway.clocks import ManualClock
from tests.gateway.conftest import Asking, Changes, configured

__all__ = ["Day", "Slow", "living"]


class Asked(NamedTuple):
    """A request as a vendor met it."""

    at: datetime
    path: str
    rows: int
    before: int
    """Requests of the same destination that were answered before."""
    beside: int
    """Requests of the same destination that were in flight, with this one."""


class Slow(httpx.AsyncBaseTransport):
    """One destination's way to its vendor, which takes some time of the test's clock for every answer."""

    def __init__(self, vendor: SimulatedProvider, clock: ManualClock, takes: timedelta) -> None:
        self._inner = vendor.transport()
        self._vendor = vendor
        self._clock = clock
        self._takes = takes
        self._in_flight: list[asyncio.Event] = []
        self.answered = 0
        self.asked: list[Asked] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        taken = self._vendor.rows_taken
        response = await self._inner.handle_async_request(request)  # what fails, fails at once
        rows = self._vendor.rows_taken - taken
        self._in_flight.append(coming := asyncio.Event())
        if response.is_success:
            self.asked.append(Asked(self._clock.now(), request.url.path, rows, self.answered, len(self._in_flight)))
        try:
            await self._clock.wait(coming, self._clock.now() + self._takes)
        finally:
            self._in_flight.remove(coming)
            self.answered += 1
        return response

    @property
    def takes_time(self) -> bool:
        """Whether answers are on their way that come when time moves."""
        return any(map(self._clock.waits, self._in_flight))


class Day:
    """A running gateway, whoever asks it, and the time that passes."""

    def __init__(self, asking: Asking, clock: ManualClock, ways: Mapping[str, Slow]) -> None:
        self.asking = asking
        self.clock = clock
        self.ways = ways
        self._gateway = asking.gateway

    async def passes(self, span: timedelta) -> None:
        """Let time pass, and everybody do at each instant what is due then."""
        end = self.clock.now() + span
        while self.clock.now() < end:
            await self.still()
            due = self._due()
            self.clock.advance_to(end if due is None else min(due, end))
        await self.still()

    async def ends(self, *destinations: str, most: timedelta) -> None:
        """Let time pass until nothing waits for these destinations."""
        end = self.clock.now() + most
        await self.still()
        while await self._depths(destinations):
            assert self.clock.now() < end, f"something still waits after {most}"
            due = self._due()
            assert due is not None, f"nothing is due, and {await self._depths(destinations)} wait"
            self.clock.advance_to(due)
            await self.still()

    def _waits_for_time(self, name: str) -> bool:
        """Return whether a lane waits for something, and its vendor takes its time where requests are under way."""
        lane = self._gateway.lanes[name]
        answering = name in self.ways and self.ways[name].takes_time
        return self.clock.waits(lane._wake) and (answering or not lane._sending)

    def _chores_wait(self) -> bool:
        asking = any(way.takes_time for way in self.ways.values())
        return asking or all(self.clock.waits(chore._wake) for chore in self._gateway._chores.values())

    def _due(self) -> datetime | None:
        """Return when there is next something to send or to hear. Chores look around when time moves for that."""
        return self.clock.due({chore._wake for chore in self._gateway._chores.values()})

    async def _depths(self, destinations: tuple[str, ...]) -> dict[str, QueueDepth]:
        depths = await self._gateway.ledger.depth()
        return {name: depths[name] for name in destinations if name in depths}

    async def still(self) -> None:
        """Return when nobody has anything to do until time moves."""
        for _ in range(20_000):
            if all(map(self._waits_for_time, self._gateway.lanes)) and self._chores_wait():
                return
            await asyncio.sleep(0.0005)  # for the ledger's threads
        raise AssertionError("it never comes to rest")


@contextlib.asynccontextmanager
async def living(
    folder: Path,
    vendors: Mapping[str, SimulatedProvider],
    clock: ManualClock,
    changes: Changes | None = None,
    *,
    slow: Mapping[str, timedelta] | None = None,
) -> AsyncGenerator[Day]:
    """Run a gateway on a ledger on disk. `slow`: how long answers take, by destination; the others' take no time."""
    configuration = loads(configured(changes), {})
    providers = {name: vendors[one.provider] for name, one in configuration.destinations.items()}
    ways = {name: Slow(providers[name], clock, takes) for name, takes in (slow or {}).items()}
    mounts: dict[str, Any] = {name: vendor.transport() for name, vendor in providers.items()}
    ledger = SqliteLedger(folder / "ledger.db")
    gateway = Gateway(configuration, ledger, clock=clock, mounts=mounts | ways, rng=Random(7))
    await gateway.start()
    transport = httpx.ASGITransport(create_app(gateway), raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield Day(Asking(gateway, client, vendors), clock, ways)
    finally:
        await gateway.stop(timedelta(0))
