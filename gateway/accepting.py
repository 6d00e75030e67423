"""The door: stores what is good of a request, waits for what its sender wants to know, and tells what became of it."""

import asyncio
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from operator import is_
from typing import Literal

import structlog

from canonical_schema import Event
from gateway.answering import answered
from gateway.answers import Answer
from gateway.fullness import Fullness
from gateway.intake import SLICE, Bad, admit, slices
from gateway.lanes.board import Wait
from gateway.ledger import Claim, ClaimKind, Plan, Run, split_ref
from gateway.merge import View
from gateway.routing import apart
from gateway.service import Gateway
from gateway.times import to_micros

__all__ = ["Accepting", "Ack"]

log = structlog.get_logger()

LOOK_AGAIN = 1.0
"""Seconds after which a request looks whether another process delivered what it waits for."""

Ack = Literal["stored", "required", "all"]


class Accepting:
    """Takes events in for one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._queue = Fullness(gateway.ledger)

    async def accept(self, tenant: str, sent: Sequence[Event | Bad], ack: Ack, wait: float) -> Answer:
        """Store what is good, wait for what `ack` says, at most `wait` seconds, and tell what became of each.

        Raises LedgerUnavailable where nothing can be promised; then nothing is stored.
        """
        now = self._gateway.clock.now()
        received = to_micros(now)
        await self._queue.check(now, self._gateway.configuration.intake.max_queue)
        catalogue, alike = self._gateway.catalogue, self._gateway.alike
        admitted, excused = await self._admitted(tenant, sent, now)
        events = [event for event in admitted if isinstance(event, Event)]
        plans = catalogue.plans(tenant, events, now)
        with nullcontext() if ack == "stored" else self._gateway.board.watch() as watch:
            claims = await self._recorded(tenant, received, events, plans)
            if catalogue is not self._gateway.catalogue:  # a reload came in between, and did not see these
                await self._gateway.overtaken()
            self._wake(claims, plans)
            views: dict[int, View] = {}
            if not isinstance(claims, Run):
                again = {split_ref(claim.ref)[0] for claim in claims if claim.kind is ClaimKind.REPLAY}
                views = await self._views(again)
                if views:
                    views |= await self._views(await self._routed(events, claims, plans, views, excused, received))
            if watch is not None and wait > 0:
                awaited = await self._awaited(claims, plans, views, ack)
                if awaited:
                    await self._until_ended(watch, awaited, wait)
        if ack != "stored":
            views = await self._views({split_ref(claim.ref)[0] for claim in claims})
        return await answered(admitted, claims, plans, views, alike, received)

    async def _until_ended(self, watch: Wait, awaited: set[tuple[int, int, str]], wait: float) -> None:
        """Wait for deliveries to end. Where other processes may send them, nobody tells: look now and then."""
        if not self._gateway.ledger.shared:
            await watch.until_ended(awaited, wait)
            return
        end = asyncio.get_running_loop().time() + wait
        while awaited and (left := end - asyncio.get_running_loop().time()) > 0:
            if await watch.until_ended(awaited, min(left, LOOK_AGAIN)):
                return
            views = await self._views({batch for batch, _, _ in awaited})
            awaited = {
                (batch, index, name)
                for batch, index, name in awaited
                if batch in views and name in views[batch].open(index)
            }

    async def _recorded(self, tenant: str, now: int, events: Sequence[Event], plans: Sequence[Plan]) -> Sequence[Claim]:
        """Record events, in one step unless they differ in whether a destination counts.

        Where a later step fails nothing is promised, and what an earlier one stored is a replay when it comes again.
        """
        if not events:
            return ()
        parts = () if plans.count(plans[0]) == len(plans) else apart(plans)
        if len(parts) <= 1:
            return await self._gateway.ledger.record(tenant, now, events, plans)
        claims: dict[int, Claim] = {}
        for places in parts:
            some = [events[place] for place in places], [plans[place] for place in places]
            claims |= zip(places, await self._gateway.ledger.record(tenant, now, *some), strict=True)
        return [claims[place] for place in range(len(events))]

    async def _routed(
        self,
        events: Sequence[Event],
        claims: Sequence[Claim],
        plans: Sequence[Plan],
        views: Mapping[int, View],
        excused: Container[str],
        now: int,
    ) -> set[int]:
        """Give repeats that count nowhere their way, as of history that was filled in before its sender sent it.

        What would be refused if it was new is not: it is not said to be usage that was billed by nobody. Returns the
        batches that look different now.
        """
        found: dict[int, dict[int, Plan]] = {}
        async for part in slices(len(claims)):
            for place in part:
                claim, plan = claims[place], plans[place]
                batch, index = split_ref(claim.ref)
                if claim.kind is ClaimKind.REPLAY and plan.live and batch in views:
                    view = views[batch]
                    if not view.trimmed and not view.live(index) and events[place].id not in excused:
                        found.setdefault(batch, {})[index] = plan
        for batch, ways in found.items():
            await self._gateway.ledger.extend(batch, [*ways], [*ways.values()], now)
            for name in {name for plan in ways.values() for name in (*plan.live, *plan.shadow)}:
                self._gateway.wake(name)
        return {*found}

    async def _admitted(
        self, tenant: str, sent: Sequence[Event | Bad], now: datetime
    ) -> tuple[list[Event | Bad], set[str]]:
        """Refuse what cannot be taken. A repeat is not refused for what has changed since it was stored.

        Returns the ids of repeats that would be refused if they were new, too.
        """
        configuration = self._gateway.configuration
        made: list[Event | Bad] = []
        excused = set[str]()
        for first in range(0, len(sent), SLICE):
            if first:
                await asyncio.sleep(0)
            given = sent[first : first + SLICE]
            judged = [*admit(given, self._gateway.catalogue, configuration.intake, now, configuration.retention.events)]
            if not all(map(is_, given, judged)):
                excused |= await self._excuse(tenant, given, judged)
            made += judged
        return made, excused

    async def _excuse(self, tenant: str, given: Sequence[Event | Bad], judged: list[Event | Bad]) -> set[str]:
        """Let repeats of what is stored be taken, whatever speaks against them; return their ids."""
        excused = set[str]()
        for place, (event, verdict) in enumerate(zip(given, judged, strict=True)):
            if verdict is event or isinstance(event, Bad):
                continue
            if await self._gateway.ledger.find(tenant, event.id) is not None:
                judged[place] = event
                excused.add(event.id)
        return excused

    def _wake(self, claims: Sequence[Claim], plans: Sequence[Plan]) -> None:
        if isinstance(claims, Run):
            going = plans[:1] if plans.count(plans[0]) == len(plans) else [*set(plans)]
        else:
            going = [*{plan for claim, plan in zip(claims, plans, strict=True) if claim.kind is ClaimKind.NEW}]
        if len(going) == 1:  # nearly always
            names: Iterable[str] = going[0].live + going[0].shadow
        else:
            names = {name for plan in going for name in (*plan.live, *plan.shadow)}
        for name in names:
            if (lane := self._gateway.lanes.get(name)) is not None:
                lane.wake()
        if any(not plan.live for plan in going):
            log.warning("events.unrouted", hint="stored; add a meter or a binding, and say SIGHUP: they go on")

    async def _awaited(
        self, claims: Sequence[Claim], plans: Sequence[Plan], views: Mapping[int, View], ack: Ack
    ) -> set[tuple[int, int, str]]:
        """Return the deliveries whose end the answer waits for."""
        counted = {
            name
            for name, destination in self._gateway.catalogue.destinations.items()
            if destination.mode == "live" and (ack == "all" or destination.required)
        }
        awaited: set[tuple[int, int, str]] = set()
        async for part in slices(len(claims)):
            for claim, plan in zip(claims[part.start : part.stop], plans[part.start : part.stop], strict=True):
                batch, index = split_ref(claim.ref)
                if claim.kind is ClaimKind.NEW:
                    open_at: Sequence[str] = plan.live
                elif claim.kind is ClaimKind.REPLAY and batch in views:
                    open_at = views[batch].open(index)
                else:
                    continue
                awaited.update((batch, index, name) for name in open_at if name in counted)
        return awaited

    async def _views(self, batches: set[int]) -> dict[int, View]:
        views: dict[int, View] = {}
        if batches:
            found = list((await self._gateway.ledger.snapshots(sorted(batches))).items())
            async for part in slices(len(found)):
                views.update((batch, View(snapshot)) for batch, snapshot in found[part.start : part.stop])
        return views
