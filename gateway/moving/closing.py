"""The close of a period: is everything that was used in it where it has to be, and has nobody billed it twice?

Reads the ledger from its first event to its last. What is settled is added up by meter, what is not is told by
customer and meter, so that memory grows with the trouble and not with the usage.
"""

from array import array
from collections.abc import AsyncIterator, Collection, Container, Mapping
from datetime import datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import msgspec

from canonical_schema import DeliveryStatus, ErrorCode, Event, format_time, plain
from gateway.chain import LedgerReader, quantities_of
from gateway.errors import RequestRefused
from gateway.intake import slices
from gateway.lanes.correcting import Situation, difference, saying, situation
from gateway.ledger import BILLS, NO_WAY, AuditRow, Document, snapshot_of, split_ref
from gateway.merge import View
from gateway.periods import KIND, Period
from gateway.repair import Actor
from gateway.service import Gateway
from gateway.stored import stored
from gateway.times import from_micros, to_micros

__all__ = ["Closing"]

TRIES = 10
"""Reports that are made before one is final, where usage of the period comes in meanwhile."""
MINUTE = 60_000 * 16
"""In numbers of batches, where they are by the millisecond and partition."""
NAMED = 1000
"""Customers, meters and events that are named; more are counted."""
LOOK = timedelta(minutes=1)
"""Between two looks at what other processes have closed."""
_SUM = Context(prec=400)


class _Sum(msgspec.Struct):
    events: int = 0
    quantities: dict[str, Decimal] = msgspec.field(default_factory=dict[str, Decimal])

    def add(self, event: Event) -> None:
        self.events += 1
        for name, quantity in ({"": event.quantity} if event.quantities is None else event.quantities).items():
            given = Decimal(1) if quantity is None else quantity
            self.quantities[name] = _SUM.add(self.quantities.get(name, Decimal(0)), given)

    def shown(self) -> dict[str, Any]:
        return {
            "events": self.events,
            "quantities": {name or "quantity": plain(q) for name, q in self.quantities.items()},
        }


class _Tally:
    """What a period came to."""

    def __init__(self, groups: Mapping[str, str]) -> None:
        """`groups`: by destination, of those that have one."""
        self._groups = groups
        self.settled: dict[tuple[str, str, str], _Sum] = {}
        """By destination, meter and status."""
        self.open: dict[tuple[str, str, str, str], _Sum] = {}
        """By destination, customer, meter and status."""
        self.unrouted: dict[tuple[str, str], _Sum] = {}
        self.late: dict[tuple[str, str, str], _Sum] = {}
        self.twice: list[dict[str, Any]] = []
        self.twice_count = 0
        self.since: datetime | None = None
        """When the oldest full record was received; what was trimmed before was settled."""

    def add(self, view: View, index: int, before: "_Before", *, late: bool, waits: bool) -> None:
        """Count one event of the period; `before` tells of what it corrects, `waits` whether it waits for a way.

        What waits for none and counts nowhere is history that only a shadow is to have.
        """
        event = view.snapshot.events[index]
        live = view.live(index)
        if (live or waits) and not any(code not in NO_WAY for code in live.values()):
            self.unrouted.setdefault((event.customer, event.meter), _Sum()).add(event)
        for name, code in live.items():
            if code in NO_WAY:
                continue
            status, brings = code.status, before.brings.get(name, event)
            if status in _OPEN:
                self.open.setdefault((name, event.customer, event.meter, status), _Sum()).add(brings)
            else:
                self.settled.setdefault((name, event.meter, status), _Sum()).add(brings)
            if late:
                self.late.setdefault((name, event.customer, event.meter), _Sum()).add(event)
        bills = {name for name, code in live.items() if code in BILLS}
        self._once(event, bills | before.bills if bills else bills)

    def _once(self, event: Event, bills: Collection[str]) -> None:
        """Note an event that two of a group bill, or may; it together with what it corrects."""
        billing: dict[str, list[str]] = {}
        for name in bills:
            if name in self._groups:
                billing.setdefault(self._groups[name], []).append(name)
        for group, names in billing.items():
            if len(names) > 1:
                self.twice_count += 1
                if len(self.twice) < NAMED:
                    self.twice.append({"id": event.id, "group": group, "destinations": sorted(names)})


class _Before(msgspec.Struct):
    """What came before a correction."""

    bills: set[str] = msgspec.field(default_factory=set[str])
    """Where an event that it corrects is billed, or may be."""
    brings: dict[str, Event] = msgspec.field(default_factory=dict[str, Event])
    """What it adds, by destination: all that it says now where nothing of the event is there, or waits to be."""


class Closing:
    """The periods of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._turn = gateway.turns.closing
        gateway.chore("periods", self._look)

    async def _look(self) -> datetime:
        """Notice what another process has closed."""
        await self._gateway.read_periods()
        return self._gateway.clock.now() + LOOK

    async def report(self, tenant: str, period: Period) -> dict[str, Any]:
        """Add a period up, as it stands."""
        destinations = self._gateway.catalogue.destinations
        tally = _Tally({name: one.group for name, one in destinations.items() if one.group is not None})
        now = self._gateway.clock.now()
        # Two bytes an event: there may be any number.
        waiting = {one.batch: array("H", one.members) async for one in self._gateway.ledger.unrouted()}
        async for view in stored(self._gateway.ledger, tenant):
            tally.since = tally.since or from_micros(view.snapshot.received)
            here = frozenset(waiting.get(view.snapshot.batch, ()))
            async for part in slices(len(view.snapshot.events)):
                for index in part:
                    received = from_micros(view.snapshot.received_at(index))
                    when = view.snapshot.events[index].timestamp or received
                    if period.holds(when):
                        before = await self._before(view, index)
                        tally.add(view, index, before, late=received >= period.end, waits=index in here)
        trimmed = await self._gateway.ledger.trimmed(tenant, to_micros(period.start))
        problems = len(tally.open) + len(tally.unrouted) + tally.twice_count
        return {
            "object": "period",
            "period": period.month,
            "timezone": period.zone,
            "from": format_time(period.start),
            "to": format_time(period.end),
            "at": format_time(now),
            **({} if tally.since is None else {"records_since": format_time(tally.since)}),
            "trimmed_batches": trimmed,
            "ended": now >= period.end,
            "complete": now >= period.end and not problems,
            "settled": _listed(tally.settled, ("destination", "meter", "status"), len(tally.settled)),
            "open": _listed(tally.open, ("destination", "customer", "meter", "status")),
            "open_count": len(tally.open),
            "unrouted": _listed(tally.unrouted, ("customer", "meter")),
            "unrouted_count": len(tally.unrouted),
            "late": _listed(tally.late, ("destination", "customer", "meter")),
            "late_count": len(tally.late),
            "billed_twice": tally.twice,
            "billed_twice_count": tally.twice_count,
        }

    async def _before(self, view: View, index: int) -> _Before:
        """Return what is known of the event that a correction corrects; nothing for other events."""
        event, made = view.snapshot.events[index], _Before()
        if event.corrects is None:
            return made
        reader = LedgerReader(self._gateway.ledger)
        chain = await reader.chain(view.snapshot.tenant, event.corrects.of, event.corrects.number)
        if chain is None:
            return made
        for ref in chain.refs:
            batch, place = split_ref(ref)
            if (snapshot := await reader.snapshot(batch)) is not None:
                made.bills |= {name for name, code in View(snapshot).live(place).items() if code in BILLS}
        for name, code in view.live(index).items():
            if code.status is not DeliveryStatus.FILTERED:
                found = situation(await reader.stands(chain, name), event, self._gateway.clock.now())
                if isinstance(found, Situation) and (code.status.success or not found.unsent):
                    adds = difference(found.have, event.corrects.after)
                    made.brings[name] = saying(event, event.id, adds or dict.fromkeys(quantities_of(event), Decimal(0)))
        return made

    async def close(self, actor: Actor, period: Period, *, accept_open: bool) -> dict[str, Any]:
        """Close a period that is complete, or that is closed as it stands; return its report, which stays for ever.

        Where it is not complete the report says so, and nothing is closed. Raises RequestRefused for a period that
        has not ended.
        """
        async with self._turn:
            return await self._close(actor, period, accept_open=accept_open)

    async def _close(self, actor: Actor, period: Period, *, accept_open: bool) -> dict[str, Any]:
        kept = await self.kept(actor.tenant, period.name)
        if kept is not None:
            return kept
        report = await self._settled_report(actor.tenant, period)
        if not report["ended"]:
            detail = f"period {period.month} ends at {report['to']} ({period.zone}): close it then"
            raise RequestRefused(409, ErrorCode.CONFLICT, detail)
        if not report["complete"] and (not accept_open or report["billed_twice_count"]):
            return {**report, "closed": False}
        report = {**report, "closed": True, "by": actor.name, "reason": actor.reason}
        body = msgspec.json.encode(report)
        audit = AuditRow(
            at=to_micros(self._gateway.clock.now()),
            tenant=actor.tenant,
            actor=actor.name,
            action="close",
            target=f"period {period.name}",
            reason=actor.reason,
            after="complete" if report["complete"] else "closed with open usage",
        )
        await self._gateway.ledger.keep(
            [Document(kind=KIND, tenant=actor.tenant, name=period.name, body=body)], [audit]
        )
        await self._gateway.read_periods()
        return report

    async def _settled_report(self, tenant: str, period: Period) -> dict[str, Any]:
        """Return a report that lacks nothing that came while it was made, as far as it ever ends."""
        for _ in range(TRIES):
            last = next(iter(await self._gateway.ledger.batches_before(None, 1)), 0)
            # Where several processes record, numbers are by the millisecond: some may still come below the last.
            since = last - MINUTE if self._gateway.ledger.shared else last
            before = {batch async for batch in self._numbers(since)}
            report = await self.report(tenant, period)
            if not await self._came(tenant, period, since, before):
                return report
        raise RequestRefused(409, ErrorCode.CONFLICT, f"usage of {period.month} keeps coming in: close it when it ends")

    async def _came(self, tenant: str, period: Period, since: int, before: Container[int]) -> bool:
        """Return whether usage of a period was recorded in a batch that was not there before."""
        async for batch in self._numbers(since):
            snapshot = None if batch in before else await snapshot_of(self._gateway.ledger, batch)
            if snapshot is None or snapshot.tenant != tenant:
                continue
            for index, event in enumerate(snapshot.events):
                if period.holds(event.timestamp or from_micros(snapshot.received_at(index))):
                    return True
        return False

    async def _numbers(self, since: int) -> AsyncIterator[int]:
        while page := await self._gateway.ledger.batches_after(since, 1000):
            for since in page:
                yield since

    async def kept(self, tenant: str, name: str) -> dict[str, Any] | None:
        """Return the report of a period that was closed."""
        body = await self._gateway.ledger.document(KIND, tenant, name)
        return None if body is None else msgspec.json.decode(body)


def _listed(sums: Mapping[Any, _Sum], names: tuple[str, ...], most: int = NAMED) -> list[dict[str, Any]]:
    """Return sums under their names, the largest trouble first, as many as are named."""
    largest = sorted(sums.items(), key=lambda item: (-item[1].events, item[0]))
    return [dict(zip(names, key, strict=True)) | one.shown() for key, one in largest[:most]]


_OPEN = frozenset(DeliveryStatus) - {DeliveryStatus.ACCEPTED, DeliveryStatus.DUPLICATE, DeliveryStatus.FILTERED}
