"""The gateway itself: what it keeps going, how it begins, goes on with another configuration, and ends."""

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import Any

import httpx
import structlog

from canonical_schema import Event, EventDetail
from gateway.answers import Alike
from gateway.catalogue import DEFAULT_TENANT, Catalogue
from gateway.chores import Chore, Step
from gateway.configuration import Configuration
from gateway.configuration.generation import Generation
from gateway.configuration.keys import Keyring
from gateway.errors import ConfigurationError, LedgerUnavailable
from gateway.explaining import explain
from gateway.generations import began, reloaded
from gateway.intake import Bad, admit
from gateway.lanes.adrift import Strays, shelve
from gateway.lanes.board import Board
from gateway.lanes.doubts import Doubts
from gateway.lanes.lane import Lane
from gateway.lanes.restored import Restored
from gateway.ledger import Ledger, snapshot_of, split_ref
from gateway.links.book import Book
from gateway.links.linking import Linking
from gateway.links.lookups import Lookups
from gateway.links.naming import Naming
from gateway.merge import View
from gateway.periods import Periods, closed
from gateway.retention import Keeper
from gateway.times import Clock, SystemClock
from gateway.transport import Transport
from gateway.turns import Turns

__all__ = ["Gateway"]

log = structlog.get_logger()

TAKE_OVER = timedelta(seconds=10)
"""How often it is looked for what processes that are gone were sending."""
QUICK = 0.25
"""Seconds in which lanes come to rest, but for those whose vendors are slow."""
LATER = timedelta(seconds=1)
"""How long to wait where the ledger does not take what the lanes left."""


class Gateway:
    """One process's gateway. Start it before use; stop it to lose nothing."""

    def __init__(
        self,
        configuration: Configuration,
        ledger: Ledger,
        *,
        clock: Clock | None = None,
        mounts: Mapping[str, httpx.AsyncBaseTransport] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`mounts` puts something else than the network under a destination: a simulator, a test's answers."""
        self.ledger = ledger
        self.clock = clock or SystemClock()
        self.board = Board()
        self.generation = Generation(configuration, 1, self.clock.now())
        self._mounts = mounts or {}
        self._rng = rng
        self._reloading = asyncio.Lock()
        self._leaving = asyncio.Event()
        self.periods = Periods(ledger)
        self.doubts = Doubts(self.clock)
        self.restored = Restored()
        self.turns = Turns(ledger)
        self._chores: dict[str, Chore] = {}
        self._use(configuration)
        self.linking = Linking(self)
        if ledger.shared:
            self.chore("take over", self._take_over)

    def _use(self, configuration: Configuration) -> None:
        """Take a configuration into use: its catalogue, its keys, a lane for each destination."""
        self.configuration = configuration
        self.lookups = Lookups(configuration, self.clock)
        self.book = Book(configuration, self.ledger, self.clock, self.lookups)
        self.catalogue = Catalogue(configuration, self.periods, self.book)
        self.keyring = Keyring(configuration.auth.keys)
        self._providers = {name: one.provider for name, one in configuration.destinations.items()}
        self.alike = Alike(self._providers)
        self._transports: dict[str, Transport] = {}
        self.lanes: dict[str, Lane] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        """The lanes' own, of these."""
        self.keeper = Keeper(self.ledger, configuration.retention, self.clock)
        self.chore("retention", self._keep_house)
        strays = self._strays = Strays(self.ledger, self.catalogue, self.clock, self.wake)
        self.chore("strays", self._strays.step)
        for name, destination in configuration.destinations.items():
            if destination.mode == "off":
                continue
            transport = self._transports[name] = Transport(
                destination.adapter,
                timeout=configuration.delivery.timeout,
                connections=configuration.delivery.max_in_flight,
                mount=self._mounts.get(name),
                clock=self.clock,
            )
            self.lanes[name] = Lane(
                name,
                catalogue=self.catalogue,
                ledger=self.ledger,
                transport=transport,
                board=self.board,
                clock=self.clock,
                delivery=configuration.delivery,
                rng=self._rng,
                restored=self.restored,
                doubts=self.doubts,
                routed=lambda: strays.done,
            )

    @property
    def tenants(self) -> AbstractSet[str]:
        """The tenants that have a key, and the default one."""
        return {DEFAULT_TENANT, *(key.tenant for key in self.configuration.auth.keys)}

    def key(self, destination: str) -> str | None:
        """Return which of two keys a destination's vendor takes; `None` where there is one, or nothing is sent."""
        transport = self._transports.get(destination)
        return None if transport is None else transport.key

    def reader(self, destination: str) -> Transport:
        """Return connections of their own to a destination, for reading; whoever asked closes them."""
        return Transport(
            self.catalogue.destinations[destination].adapter,
            timeout=self.configuration.delivery.timeout,
            connections=1,
            mount=self._mounts.get(destination),
        )

    def chore(self, name: str, step: Step) -> Chore:
        """Have something done in the background for as long as the gateway delivers."""
        chore = self._chores[name] = Chore(name, step, self.clock)
        if self._tasks:
            self._tasks.append(chore.start())
        return chore

    async def open(self) -> None:
        """Open the ledger and take up what the last process left; nothing is sent yet."""
        self._leaving.clear()
        await self.ledger.open()
        try:
            await self.book.naming.check()
        except BaseException:
            await self.ledger.close()
            raise
        await self.restored.read(self.ledger)
        await self.read_periods()
        await began(self.ledger, self.generation)
        await self._take_up()

    async def start(self) -> None:
        """Open, and begin to deliver."""
        await self.open()
        self._run()

    async def read_periods(self) -> None:
        """Take note of the billing periods that are closed."""
        for tenant in {*self.tenants, *self.periods.tenants}:
            self.periods.use(tenant, await closed(self.ledger, tenant))

    async def reload(self, configuration: Configuration, actor: str = "reload") -> None:
        """Go on with another configuration. Requests in flight finish first; events are accepted all the while.

        Raises ConfigurationError for a change that needs a restart; then nothing has changed.
        """
        for name in ("ledger", "listen"):
            if getattr(configuration, name) != getattr(self.configuration, name):
                raise ConfigurationError(f"{name} cannot change while the gateway runs: restart it for that")
        await Naming(configuration, self.ledger).check()
        async with self._reloading:
            if self._leaving.is_set():
                return
            before, earlier = self.generation, self.book.naming
            await self._end_what_is_slow(self.configuration.delivery.grace)
            await self._rest(self.configuration.delivery.grace)
            self._use(configuration)
            self.generation = Generation(configuration, before.number + 1, self.clock.now())
            try:
                while not self._leaving.is_set() and not await self._took_over(before, actor, earlier):
                    await self.clock.wait(self._leaving, self.clock.now() + LATER)
            finally:
                if not self._leaving.is_set():
                    self._run()
                    log.info("configuration.reloaded", generation=self.generation.number, digest=self.generation.digest)

    async def _took_over(self, before: Generation, actor: str, earlier: Naming) -> bool:
        """Take up what the lanes before left, and put it on record; return whether the ledger took that.

        Until then nothing may leave: nobody else would ever judge what was being sent.
        """
        try:
            await self._take_up(earlier)
            await reloaded(self.ledger, before, self.generation, actor)
        except LedgerUnavailable as error:
            log.error("configuration.waits", error=str(error), hint="it is in use, and nothing is sent before that")
            return False
        return True

    async def stop(self, grace: timedelta | None = None) -> None:
        """Let requests in flight finish within the grace, then close. Never cancels a send before that.

        Absent it is `delivery.grace`. What is in flight then is in doubt at the next start.
        """
        self._leaving.set()
        async with self._reloading:
            await self._rest(self.configuration.delivery.grace if grace is None else grace)
            await self.ledger.close()

    def _run(self) -> None:
        self._running = {name: asyncio.create_task(lane.run()) for name, lane in self.lanes.items()}
        self._tasks = [*self._running.values(), *(chore.start() for chore in self._chores.values())]

    async def _keep_house(self) -> datetime | None:
        """Keep house where this process does, of those that share the ledger: one archive is written by one."""
        if self.ledger.leads:
            return await self.keeper.step()
        await self.keeper.close()  # whoever leads by now takes the archive
        return self.clock.now() + timedelta(minutes=1)

    async def _take_over(self) -> datetime:
        """Take up what processes that are gone were sending, and take note of what others wrote."""
        for lane in tuple(self.lanes.values()):
            with contextlib.suppress(LedgerUnavailable):  # it is looked again, sooner than after a step that failed
                await lane.take_over()
            lane.wake()
        with contextlib.suppress(LedgerUnavailable):
            await self.read_periods()  # others close some, too
            if self.ledger.leads:
                await self.keeper.catch_up()
        return self.clock.now() + TAKE_OVER

    async def _take_up(self, earlier: Naming | None = None) -> None:
        await self.ledger.name(self._providers)
        await self.book.naming.take(self.clock.now(), earlier)
        for lane in self.lanes.values():
            await lane.recover()
        await shelve(self.ledger, self.lanes, self.clock.now())

    async def _end_what_is_slow(self, grace: timedelta) -> None:
        """Let what takes long come to rest, the other lanes going on meanwhile: a slow vendor is not their matter."""
        for chore in self._chores.values():
            chore.stop()
        stops = {name: asyncio.create_task(lane.stop(grace)) for name, lane in self.lanes.items()}
        chores = set(self._tasks) - set(self._running.values())
        if not (slow := {*stops.values(), *chores}):
            return
        _, slow = await asyncio.wait(slow, timeout=QUICK)
        if slow:
            for name in [name for name, stop in stops.items() if stop.done() and name in self._running]:
                self._running[name].cancel()  # it takes no step any more
                await asyncio.gather(self._running[name], return_exceptions=True)
                self.lanes[name].resume()
                self._running[name] = asyncio.create_task(self.lanes[name].run())
                self._tasks.append(self._running[name])
            _, late = await asyncio.wait(slow, timeout=grace.total_seconds())
            for task in late & chores:
                task.cancel()
        await asyncio.gather(*stops.values())

    async def _rest(self, grace: timedelta) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + grace.total_seconds()
        for chore in self._chores.values():
            chore.stop()
        await asyncio.gather(*(lane.stop(grace) for lane in self.lanes.values()))
        if self._tasks:  # all of them end by themselves; a chore first finishes its step
            await asyncio.wait(self._tasks, timeout=max(0.1, end - loop.time()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks, self._running = [], {}
        await self.keeper.close()
        for transport in self._transports.values():
            await transport.close()

    async def event(self, tenant: str, event_id: str) -> EventDetail | None:
        """Return everything that is known of an event, or `None`."""
        ref = await self.ledger.find(tenant, event_id)
        if ref is None:
            return None
        batch, index = split_ref(ref)
        snapshot = await snapshot_of(self.ledger, batch)
        return None if snapshot is None else View(snapshot).detail(index, event_id)

    async def overtaken(self) -> None:
        """Take up what was recorded by a configuration that was replaced meanwhile."""
        await shelve(self.ledger, self.lanes, self.clock.now())
        self._strays.again()
        self._chores["strays"].wake()

    def wake(self, destination: str) -> None:
        """Tell a lane that there may be work, if there is such a lane."""
        if destination in self.lanes:
            self.lanes[destination].wake()

    def explain(self, tenant: str, sent: Sequence[Event | Bad], first: int = 0) -> dict[str, Any]:
        """Return what would be sent, and every refusal that can be foreseen. `first` is the first one's index."""
        now = self.clock.now()
        configuration = self.configuration
        admitted = list(admit(sent, self.catalogue, configuration.intake, now, configuration.retention.events))
        return explain(self.catalogue, tenant, admitted, now, first)
