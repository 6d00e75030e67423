"""What a destination would do with a history, without sending it: refusals by count and quantity, and how long."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Context, Decimal
from hashlib import blake2b
from math import ceil
from typing import Any

from adapters import Rate
from adapters._models import format_duration
from canonical_schema import ErrorCode, ErrorItem, Event, format_time, plain
from gateway.catalogue import Catalogue
from gateway.lanes.rendering import Turned, render
from gateway.ledger import Code

__all__ = ["Preflight", "duration"]

NAMED = 1000
"""Customers without a link that are named; more are counted."""
_SUM = Context(prec=400)
"""Room for any number of quantities: nothing is rounded."""


class _Sum:
    """Events and their quantities, exactly."""

    def __init__(self) -> None:
        self.events = 0
        self.quantities: dict[str, Decimal] = {}

    def add(self, event: Event) -> None:
        self.events += 1
        named = {"": event.quantity} if event.quantities is None else event.quantities
        for name, quantity in named.items():
            given = Decimal(1) if quantity is None else quantity
            self.quantities[name] = _SUM.add(self.quantities.get(name, Decimal(0)), given)

    def shown(self) -> dict[str, Any]:
        if set(self.quantities) == {""}:
            return {"events": self.events, "quantity": plain(self.quantities[""])}
        named = {name: plain(quantity) for name, quantity in sorted(self.quantities.items())}
        return {"events": self.events, "quantities": named}


class Preflight:
    """Takes events one by one, and tells at the end what would become of them at one destination.

    Memory grows with the kinds of refusals, the meters and the customers without a link, not with the events.
    """

    def __init__(self, catalogue: Catalogue, destination: str, now: datetime) -> None:
        self._catalogue = catalogue
        self._destination = destination
        self._adapter = catalogue.destinations[destination].adapter
        self._now = now
        self._ready, self._zero = _Sum(), _Sum()
        self._rows = self._routed_elsewhere = 0
        self._refused: dict[tuple[ErrorCode, str, str], _Sum] = {}
        self._unmapped_meters: Counter[str] = Counter()
        self._without_link: set[bytes] = set()
        self._named: list[str] = []
        self._first: datetime | None = None
        self._last: datetime | None = None

    def add(self, tenant: str, event: Event, received: datetime) -> ErrorItem | None:
        """Count one event, and return why it would be refused, where it would be."""
        self._note_time(event.timestamp or received)
        if not self._catalogue.rows(self._destination, event.meter):
            self._unmapped_meters[event.meter] += 1
        (plan,) = self._catalogue.plans(tenant, [event], received)
        self._routed_elsewhere += (self._destination, Code.NO_ROUTE) in plan.filtered
        made = render(self._catalogue, self._destination, tenant, event, received, self._now)
        if not isinstance(made, Turned):
            self._ready.add(event)
            self._rows += sum(row is not None for _, _, row in made)
            return None
        if made.error is None:
            self._zero.add(event)
            return None
        if made.error["code"] is ErrorCode.UNMAPPED_CUSTOMER:
            self._note_customer(tenant, event.customer)
        return self._refuse(event, made.error)

    def impossible(self, event: Event, received: datetime, error: ErrorItem) -> None:
        """Count one event that is none, whatever the destination takes."""
        self._note_time(event.timestamp or received)
        self._refuse(event, error)

    def _refuse(self, event: Event, error: ErrorItem) -> ErrorItem:
        self._refused.setdefault((error["code"], error["message"], event.meter), _Sum()).add(event)
        return error

    def _note_time(self, when: datetime) -> None:
        self._first = when if self._first is None else min(self._first, when)
        self._last = when if self._last is None else max(self._last, when)

    def _note_customer(self, tenant: str, customer: str) -> None:
        # A few bytes each: there may be as many as there are customers.
        mark = blake2b(f"{tenant}\0{customer}".encode(), digest_size=8).digest()
        if mark not in self._without_link:
            self._without_link.add(mark)
            if len(self._named) < NAMED:
                self._named.append(customer)

    @property
    def clear(self) -> bool:
        """Whether nothing would be refused."""
        return not self._refused

    def report(self, rate: float | None = None) -> dict[str, Any]:
        """Return everything that was counted. `rate`: rows a second that the operator allows, at most."""
        door = self._adapter.door
        requests = ceil(self._rows / door.max_rows)
        refused = sorted(self._refused.items(), key=lambda item: -item[1].events)
        meters = {name: meter for name in self._meters() if (meter := self._catalogue.meter(name)) is not None}
        made: dict[str, Any] = {
            "object": "preflight",
            "destination": self._destination,
            "provider": self._adapter.spec.name,
            "events": self._ready.events + self._zero.events + sum(one.events for _, one in refused),
            "ready": {**self._ready.shown(), "rows": self._rows, "requests": requests},
            "zero": self._zero.events,
            "routed_elsewhere": self._routed_elsewhere,
            "refused": [
                {"code": code, "message": message, "meter": meter, **one.shown()}
                for (code, message, meter), one in refused
            ],
            "unmapped_meters": dict(sorted(self._unmapped_meters.items())),
            "unmapped_customers": {"count": len(self._without_link), "named": sorted(self._named)},
            "aggregations": {
                name: {"aggregation": meter.aggregation, "takes": sorted(door.aggregations)}
                for name, meter in meters.items()
                if meter.aggregation not in door.aggregations
            },
            "accepts_past": None if door.time.past is None else format_duration(door.time.past),
            "duration": duration(self._rows, requests, door.rates if self._kept() else (), rate),
        }
        if self._first is not None and self._last is not None:
            made |= {"first": format_time(self._first), "last": format_time(self._last)}
        return made

    def _meters(self) -> set[str]:
        return {meter for _, _, meter in self._refused} | set(self._unmapped_meters)

    def _kept(self) -> bool:
        return self._catalogue.destinations[self._destination].rate == "vendor"


def duration(rows: int, requests: int, rates: tuple[Rate, ...], rate: float | None) -> Mapping[str, Any]:
    """Return how long sending takes at least, by the limit that is the narrowest; none where no limit is known."""
    limits: list[tuple[timedelta, str]] = []
    for each in rates:
        limits.append(
            (each.per * (requests / each.requests), f"{each.requests} requests in {format_duration(each.per)}")
        )
        if each.rows is not None:
            limits.append((each.per * (rows / each.rows), f"{each.rows} rows in {format_duration(each.per)}"))
    if rate is not None:
        limits.append((timedelta(seconds=rows / rate), f"{rate:g} rows a second, as asked for"))
    if not limits:
        return {"seconds": None, "limited_by": "no limit is stated: as fast as the vendor answers"}
    longest, what = max(limits)
    return {"seconds": round(longest.total_seconds(), 1), "limited_by": what}
