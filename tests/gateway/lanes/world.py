"""One lane between a ledger on disk and a simulated vendor, on a clock that a test moves."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, Self, cast

import httpx
import yaml

from canonical_schema import DeliveryStatus, Event
from gateway.catalogue import Catalogue
from gateway.configuration.file import loads
from gateway.errors import LedgerUnavailable
from gateway.lanes.board import Board
from gateway.lanes.lane import Lane
from gateway.ledger import Claim, Code, Ledger, SqliteLedger, split_ref
from gateway.ledger.check import add_up
from gateway.merge import View
from gateway.simulator import SimulatedProvider
from gateway.times import to_micros
from gateway.transport import Transport
from tests.gateway.clocks import ManualClock
from tests.gateway.ledger.conftest import SqliteStore

__all__ = ["CONTRACT", "Gate", "World", "faulty", "gated", "names", "passes", "stepped", "used", "worked_off"]

CONTRACT = "Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670"
LINKS: dict[str, Any] = {
    "flowglad": {"subscription_id": "sub_acme"},
    "paygentic": {"customer_id": "cus_acme"},
    "flexprice": None,
    "wingback": {"customer_id": CONTRACT},
}
BINDINGS: dict[str, Any] = {
    "flowglad": {"price_slug": "calls"},
    "paygentic": {"event_type": "calls"},
    "flexprice": {"event_name": "calls"},
    "wingback": {"feature_slug": "calls"},
    "usage-v0": {"billable_metric_id": "bm_calls"},
}
HALVES = [{"quantity": "in"}, {"quantity": "out"}]


def used(event_id: str, **members: Any) -> Event:
    """Return an event that every vendor takes, or as it is said."""
    usual: dict[str, Any] = {"customer": "acme", "meter": "calls", "quantity": Decimal(2)}
    return Event(id=event_id, **usual | members)


async def stepped(lane: Lane) -> tuple[datetime | None, bool]:
    """Let a lane do a step, and hear every answer; return when it goes on, and whether there was anything to do."""
    due = await lane.step()
    busy = bool(lane._sending) or lane._wake.is_set()
    await lane.idle()
    return due, busy


async def worked_off(lane: Lane, clock: ManualClock, most: int) -> None:
    """Move time from due to due until nothing is, or all that is waits for a person."""
    for _ in range(most):
        due, busy = await stepped(lane)
        if busy:
            continue
        if due is None:
            return
        clock.advance_to(due)


class World:
    """One destination, called `it`, of one provider. `calls` is metered plainly, `halves` in two rows."""

    def __init__(
        self,
        folder: Path,
        provider: str = "flexprice",
        *,
        settings: Mapping[str, Any] | None = None,
        delivery: Mapping[str, Any] | None = None,
        mount: httpx.AsyncBaseTransport | None = None,
        ledger: Ledger | None = None,
        rate: str = "none",
        **changes: Any,
    ) -> None:
        self.clock = ManualClock()
        self.vendor = SimulatedProvider(provider, clock=self.clock.now)
        self.board = Board()
        self._store = SqliteStore(folder)
        self._mount = mount or self.vendor.transport()
        self._settings = {"api_key": "k", **(settings or {})}
        binding = BINDINGS[self._settings.get("profile", provider)]
        self._configured: dict[str, Any] = {
            "destinations": {"it": {"provider": provider, "settings": self._settings, "rate": rate}},
            "meters": {
                "calls": {"bindings": {"it": binding}},
                "halves": {"bindings": {"it": [binding | half for half in HALVES]}},
            },
            "customers": {"acme": {"it": LINKS[provider]}} if LINKS[provider] else {},
            "delivery": {"max_in_flight": 4, **(delivery or {})},
            **changes,
        }
        self.ledger: Ledger = ledger or self._store.ledger()
        self._fresh()

    def _fresh(self) -> None:
        """Make a lane that knows nothing but the ledger."""
        self.configuration = loads(yaml.safe_dump(self._configured), {})
        self.catalogue = Catalogue(self.configuration)
        delivery = self.configuration.delivery
        adapter = self.catalogue.destinations["it"].adapter
        self.transport = Transport(adapter, timeout=delivery.timeout, connections=4, mount=self._mount)
        self.lane = Lane(
            "it",
            catalogue=self.catalogue,
            ledger=self.ledger,
            transport=self.transport,
            board=self.board,
            clock=self.clock,
            delivery=delivery,
            rng=Random(7),
        )

    async def __aenter__(self) -> Self:
        await self.ledger.open()
        await self.lane.recover()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.lane.stop(timedelta(seconds=1))
        await self.transport.close()
        await self.ledger.close()

    async def restart(self, **changes: Any) -> None:
        """Stop as one should, and start again, with changes to the configuration."""
        await self.__aexit__()
        self._configured |= changes
        self.ledger = self._store.ledger()
        self._fresh()
        await self.__aenter__()

    async def crash(self) -> None:
        """Go on with what a loss of power would leave now; whatever else happens to the old process is not seen."""
        self._store = self._store.cut()
        old = self.lane, self.transport, self.ledger
        self.ledger = self._store.ledger()
        self._fresh()
        await self.ledger.open()
        await old[0].stop(timedelta(0))
        await old[1].close()
        await old[2].close()
        await self.lane.recover()

    async def record(self, *sent: Event | str) -> Sequence[Claim]:
        """Store events as the door does."""
        events = [used(one) if isinstance(one, str) else one for one in sent]
        plans = self.catalogue.plans("default", events, self.clock.now())
        return await self.ledger.record("default", to_micros(self.clock.now()), events, plans)

    async def now(self) -> datetime | None:
        """Let the lane do everything that there is to do at this instant; return when there is more."""
        while True:
            due, busy = await stepped(self.lane)
            if not busy and (due is None or due > self.clock.now()):
                return due

    async def later(self, most: int = 200) -> None:
        """Move time from due to due until nothing is due any more."""
        for _ in range(most):
            due = await self.now()
            if due is None:
                return
            self.clock.advance_to(due)
        raise AssertionError(f"still going after {most} pauses")

    async def views(self) -> dict[str, Any]:
        """Return every event's delivery with its history, as clients see it."""
        found: dict[str, Any] = {}
        for snapshot in (await self.ledger.snapshots(await self.ledger.batches_before(None, 1000))).values():
            view = View(snapshot)
            for index, event in enumerate(snapshot.events):
                found[event.id] = dict(view.detail(index)["deliveries"])["it"]
        return found

    async def statuses(self) -> dict[str, str]:
        """Return what became of every event."""
        return {event_id: str(view["status"]) for event_id, view in (await self.views()).items()}

    async def code(self, ref: int) -> Code:
        """Return one delivery's status byte."""
        batch, index = split_ref(ref)
        (track,) = (await self.ledger.snapshots([batch]))[batch].tracks
        return Code(track.codes[index])

    async def counted(self) -> dict[DeliveryStatus, int]:
        return dict((await self.ledger.counts()).get("it", {}))

    def copies(self) -> Counter[str]:
        """Return how often the vendor took each key."""
        taken = Counter[str]()
        for row in self.vendor.stored:
            taken[row.key] += row.copies
        return taken

    def sound(self) -> None:
        """Hold the ledger against what must always add up."""
        if isinstance(self.ledger, SqliteLedger):
            assert [] == add_up(self.ledger.path)["problems"]


def names(count: int, start: int = 0) -> Iterable[str]:
    """Return ids of events."""
    return [f"e{index}" for index in range(start, start + count)]


class Gate(httpx.AsyncBaseTransport):
    """Lets requests through to a vendor when it is opened, and not before."""

    def __init__(self) -> None:
        self.inner: httpx.AsyncBaseTransport | None = None
        self.open = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert self.inner is not None
        self.waiting += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return await self.inner.handle_async_request(request)


class Faulty:
    """A ledger of which single calls fail, as on a full disk."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.failing: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        if self.failing.get(name):
            self.failing[name] -= 1
            return self._refuse
        return getattr(self._ledger, name)

    async def _refuse(self, *_: object, **__: object) -> None:
        raise LedgerUnavailable("disk full")


def gated(folder: Path, kind: str = "flexprice", **members: Any) -> tuple[World, Gate]:
    gate = Gate()
    world = World(folder, kind, mount=gate, **members)
    gate.inner = world.vendor.transport()
    return world, gate


def faulty(
    folder: Path, kind: str = "flexprice", *, inner: Ledger | None = None, **members: Any
) -> tuple[World, dict[str, int]]:
    ledger = Faulty(inner or SqliteLedger(folder / "ledger.db"))
    return World(folder, kind, ledger=cast("Ledger", ledger), **members), ledger.failing


async def passes(world: World, span: timedelta) -> None:
    """Let time pass, and the lane do what is due at each instant."""
    end = world.clock.now() + span
    while world.clock.now() < end:
        due = await world.now()
        world.clock.advance_to(end if due is None else min(due, end))
