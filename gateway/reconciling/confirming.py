"""Settles deliveries in doubt by reading usage back: what a provider lists under our own key did arrive.

Nothing is concluded from what is not listed, nor from a row that says something else than was sent.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import structlog

from adapters import Link, Unread, UsageRow, Window
from canonical_schema import Event
from gateway.errors import RequestRefused
from gateway.lanes.rendering import Turned, usages
from gateway.ledger import Code, Work, WorkState, split_ref
from gateway.reconciling.labels import labels_of
from gateway.reconciling.ledger_side import EDGE
from gateway.reconciling.readback import Reader
from gateway.repair import Actor, resolve
from gateway.service import Gateway
from gateway.times import from_micros, to_micros

__all__ = ["Confirming", "Doubt", "next_of", "shows"]

log = structlog.get_logger()

PAGE = 100
DOUBTS = 10_000
"""Deliveries of one destination that are looked for at a time; the others wait for the next."""
Listed = dict[str, dict[tuple[str, str], dict[str, Decimal]]]
"""By key, and by meter and measure: what each copy says."""
_START = datetime(1970, 1, 1, tzinfo=UTC)
_IN_DOUBT = frozenset({Code.UNKNOWN, Code.PENDING})


class Doubt(msgspec.Struct):
    """One delivery of which nobody knows whether it arrived."""

    tenant: str
    event: Event
    said: dict[str, dict[tuple[str, str], Decimal]]
    """By key, what each row says: by meter and measure."""
    at: datetime
    places: dict[str, tuple[Link, datetime]] = {}
    """By key, whose each row is and when it counts."""


class Confirming:
    """Reads back from every destination that lists events and has deliveries in doubt, night after night."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._every: timedelta | None = None
        self._due: datetime | None = None

    async def step(self) -> datetime | None:
        """Read back where it is time to; between two times nothing is done."""
        if (every := self._gateway.configuration.delivery.read_back) is None:
            return None
        if self._due is None or every != self._every:
            self._every, self._due = every, self._next(every)
        if self._gateway.clock.now() >= self._due:
            self._due = self._next(every)
            for name in self._gateway.lanes if self._gateway.ledger.leads else ():
                await self.confirm(name)
        return self._due

    async def confirm(self, destination: str) -> int:
        """Settle what can be proven to have arrived at one destination; return how many."""
        read_back = self._gateway.catalogue.destinations[destination].adapter.door.read_back
        if read_back is None or read_back.kind != "events":
            return 0
        doubts = await self._doubts(destination)
        if not doubts:
            return 0
        times = [doubt.at for doubt in doubts]
        window = Window(start=min(times), end=max(times)).widened(EDGE)
        listed = await self.listed(destination, doubts, window)
        if isinstance(listed, Unread):
            log.warning("readback.failed", destination=destination, kind=listed.kind, doubts=len(doubts))
            return 0
        settled = 0
        for doubt in doubts:
            if shows(listed, doubt):
                settled += await self.settle(destination, doubt)
        log.info("readback.done", destination=destination, doubts=len(doubts), settled=settled)
        return settled

    async def find(self, destination: str, doubt: Doubt) -> Unread | bool:
        """Look for the rows of one delivery, one by one; return whether that settled it."""
        resolution = self._gateway.catalogue.destinations[destination].adapter.door.time.resolution
        for key, said in doubt.said.items():
            link, instant = doubt.places[key]
            window = Window(start=instant, end=instant + resolution)
            listed = await self.listed(destination, [doubt], window, link, key)
            if isinstance(listed, Unread):
                return listed
            if not _agrees(said, listed.get(key, {})):
                return False
        return await self.settle(destination, doubt)

    async def listed(
        self,
        destination: str,
        doubts: Sequence[Doubt],
        window: Window,
        link: Link | None = None,
        key: str | None = None,
    ) -> Listed | Unread:
        """Return what the provider has under the keys in doubt: by meter and measure, each copy's number."""
        wanted = {doubt.event.meter for doubt in doubts}
        meters = {name: meter.bindings for name, meter in self._gateway.configuration.meters.items() if name in wanted}
        labels = labels_of(meters, destination)
        keys = {one for doubt in doubts for one in doubt.said}
        listed: Listed = {}

        def take(row: UsageRow) -> None:
            if row.key in keys:
                meter, _, _ = labels.places[row.meter, row.measure]
                listed.setdefault(row.key, {}).setdefault((meter, row.measure), {})[row.version] = row.quantity

        reader = Reader(self._gateway, destination)
        try:
            told = await reader.usage(window, labels.bindings, link, take, key)
        finally:
            await reader.close()
        return told if isinstance(told, Unread) else listed

    async def settle(self, destination: str, doubt: Doubt) -> bool:
        """Take a delivery for arrived; return whether it was still in doubt."""
        actor = Actor(doubt.tenant, "read-back", "the provider lists it under its key, with what was sent")
        now = to_micros(self._gateway.clock.now())
        with contextlib.suppress(RequestRefused):  # somebody else has decided it meanwhile
            ref, _ = await resolve(self._gateway.ledger, actor, doubt.event.id, destination, "accepted", now)
            batch, index = split_ref(ref)
            if (lane := self._gateway.lanes.get(destination)) is not None:
                await lane.settled(batch, [index])
            return True
        return False

    async def _doubts(self, destination: str) -> list[Doubt]:
        found: list[Doubt] = []
        after = 0
        while len(found) < DOUBTS:
            page = await self._gateway.ledger.walk(destination, WorkState.UNKNOWN, after, PAGE)
            if not page:
                break
            after = page[-1].id
            for work in page:
                found += [doubt for _, doubt in await self.doubts_of(work, work.members)]
        return found

    async def doubts_of(self, work: Work, indexes: Collection[int]) -> list[tuple[int, Doubt]]:
        """Return those of a piece of work that can be recognised, by their indexes in the batch."""
        await self._gateway.catalogue.learn([(work.tenant, (event.customer for event in work.events))])
        doubts = (
            (index, self._doubt(work.destination, work, place))
            for place, index in enumerate(work.members)
            if index in indexes
        )
        return [(index, doubt) for index, doubt in doubts if doubt is not None]

    def _doubt(self, destination: str, work: Work, place: int) -> Doubt | None:
        doubt = self.sought(destination, work.tenant, work.events[place], from_micros(work.received_at(place)))
        if doubt is None:
            return None
        # By what was sent, and not by what would be sent today: every row in doubt has to be found.
        # What the ledger was restored over may have gone by rows that nobody remembers: then by those of today.
        rows = None if work.parts is None else work.parts[place]
        sent = list(doubt.said) if rows is None else [part.key for part in rows if part.code in _IN_DOUBT]
        if not sent or not doubt.said.keys() >= set(sent):
            return None
        doubt.said = {key: doubt.said[key] for key in sent}
        return doubt

    def sought(self, destination: str, tenant: str, event: Event, received: datetime) -> Doubt | None:
        """Return what a provider would show of an event; `None`: nothing by which it could be recognised."""
        if event.corrects is not None:  # an amended row has the key of what it corrects: its being there proves nothing
            return None
        made = usages(self._gateway.catalogue, destination, tenant, event, received, nameless=True)
        if isinstance(made, Turned):
            return None
        said: dict[str, dict[tuple[str, str], Decimal]] = {}
        places: dict[str, tuple[Link, datetime]] = {}
        for _, key, usage in made:
            if usage is not None:
                places[key] = usage.link, usage.timestamp
                said[key] = {(event.meter, measure.name): measure.quantity for measure in usage.measures}
        return Doubt(tenant, event, said, event.timestamp or received, places) if said else None

    def _next(self, every: timedelta) -> datetime:
        return next_of(every, self._gateway.clock.now())


def shows(listed: Listed, sought: Doubt) -> bool:
    """Return whether all rows of a delivery are there, with what was sent."""
    return all(_agrees(said, listed.get(key, {})) for key, said in sought.said.items())


def next_of(every: timedelta, now: datetime) -> datetime:
    """Return the next time, the same ones whenever the process was started."""
    return now + (every - (now - _START) % every)


def _agrees(said: Mapping[tuple[str, str], Decimal], listed: Mapping[tuple[str, str], Mapping[str, Decimal]]) -> bool:
    """Return whether every number that was sent stands there, in all of its copies."""
    return all(set(listed.get(name, {}).values()) == {quantity} for name, quantity in said.items())
