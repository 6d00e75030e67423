"""Looks at night whether providers that only queue what they take have it by now: such a delivery is `confirmed`.

By the same reading as deliveries in doubt, where it is wanted: every such event is read back. What is not there stays
queued, as nothing is concluded from that; it is looked for a second night.
"""

import asyncio
from collections.abc import Mapping
from datetime import date, datetime, timedelta

import msgspec
import structlog

from adapters import Unread, Window
from gateway.intake import SLICE
from gateway.ledger import Code, Document, Snapshot
from gateway.reconciling.confirming import Confirming, Doubt, next_of, shows
from gateway.service import Gateway
from gateway.times import from_micros

__all__ = ["KIND", "Receipts"]

log = structlog.get_logger()

KIND = "receipts"
"""Of the documents that say up to which batch a destination's receipts have been looked at."""
CHUNK = 5_000
"""Deliveries that are looked for in one step, or those of one batch, where it has more."""
LAST = timedelta(days=1)
"""How old a batch is when it is looked at for the last time."""


class Receipts:
    """Confirms what was queued, a step at a time."""

    def __init__(self, gateway: Gateway, confirming: Confirming) -> None:
        self._gateway = gateway
        self._confirming = confirming
        every = gateway.configuration.delivery.read_back
        self._due = None if every is None else next_of(every, gateway.clock.now())
        self._going: dict[str, int] = {}
        """Destinations that this night's look has not ended at, and after which batch it goes on."""

    async def step(self) -> datetime | None:
        """Look at some; return when to go on."""
        delivery, now = self._gateway.configuration.delivery, self._gateway.clock.now()
        if self._due is None or delivery.read_back is None:
            return None
        if now >= self._due:
            self._due = next_of(delivery.read_back, now)
            if delivery.confirm_receipts and self._gateway.ledger.leads:
                self._going = {name: await self._looked(name) for name in self._gateway.lanes if self._queues(name)}
        for name, after in self._going.items():
            on = await self._look(name, after)
            if on is None:
                del self._going[name]
            else:
                self._going[name] = on
            return now
        return self._due

    def _queues(self, destination: str) -> bool:
        door = self._gateway.catalogue.destinations[destination].adapter.door
        return door.receipt == "queued" and door.read_back is not None and door.read_back.kind == "events"

    async def _looked(self, destination: str) -> int:
        body = await self._gateway.ledger.document(KIND, "", destination)
        return 0 if body is None else msgspec.json.decode(body, type=int)

    async def _look(self, destination: str, after: int) -> int | None:
        """Look for the next of what is queued; return after which batch to go on, `None` where that was all."""
        read_back = self._gateway.catalogue.destinations[destination].adapter.door.read_back
        assert read_back is not None
        now, ledger = self._gateway.clock.now(), self._gateway.ledger
        sought: dict[tuple[int, int], Doubt] = {}
        more, ended = True, 0
        while more and len(sought) < CHUNK:
            numbers = await ledger.batches_after(after, 1)  # one may be large
            snapshots = await ledger.snapshots(numbers)
            more = bool(numbers)
            for number, snapshot in snapshots.items():
                age = now - from_micros(snapshot.received)
                if age < read_back.settles:  # this one and what came later may not be shown yet
                    more = False
                    break
                after = number
                ended = number if age >= LAST else ended
                await self._seek(destination, snapshot, sought)
        if sought and not await self._confirm(destination, sought):
            return None
        if ended:
            await ledger.keep([Document(kind=KIND, tenant="", name=destination, body=msgspec.json.encode(ended))])
        return after if more else None

    async def _seek(self, destination: str, snapshot: Snapshot, sought: dict[tuple[int, int], Doubt]) -> None:
        """Add what of a batch is queued at a destination, and can be recognised there."""
        codes = next((one.codes for one in snapshot.tracks if one.destination == destination), b"")
        queued = [index for index in range(len(snapshot.events)) if codes[index] == Code.ACCEPTED_QUEUED]
        for first in range(0, len(queued), SLICE):
            some = queued[first : first + SLICE]
            customers = [snapshot.events[index].customer for index in some]
            await self._gateway.catalogue.learn([(snapshot.tenant, customers)])
            for index in some:
                received = from_micros(snapshot.received_at(index))
                one = self._confirming.sought(destination, snapshot.tenant, snapshot.events[index], received)
                if one is not None:
                    sought[snapshot.batch, index] = one
            await asyncio.sleep(0)

    async def _confirm(self, destination: str, sought: Mapping[tuple[int, int], Doubt]) -> bool:
        """Confirm what the provider lists; return whether it could be read."""
        resolution = self._gateway.catalogue.destinations[destination].adapter.door.time.resolution
        by_day: dict[date, list[tuple[int, int]]] = {}
        for place, one in sought.items():
            by_day.setdefault(one.at.date(), []).append(place)
        found: dict[int, list[int]] = {}
        for places in by_day.values():  # usage of one day and of another year is not all that lies between
            times = [sought[place].at for place in places]
            window = Window(start=min(times) - resolution, end=max(times) + resolution)
            listed = await self._confirming.listed(destination, [sought[place] for place in places], window)
            if isinstance(listed, Unread):
                log.warning("receipts.failed", destination=destination, kind=listed.kind, queued=len(sought))
                return False
            for batch, index in places:
                if shows(listed, sought[batch, index]):
                    found.setdefault(batch, []).append(index)
        confirmed = 0
        for batch, members in found.items():
            confirmed += await self._gateway.ledger.confirm(destination, batch, sorted(members))
        log.info("receipts.done", destination=destination, queued=len(sought), confirmed=confirmed)
        return True
