"""Billing periods: months of a time zone, and which of them are closed."""

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from gateway.ledger import Ledger

__all__ = ["KIND", "Period", "Periods", "closed", "period_of"]

KIND = "period"
"""Of the documents in which the reports of closed periods are kept, by the period's name."""


class Period(msgspec.Struct, frozen=True):
    """A month of a time zone, as half-open instants."""

    month: str
    """`2026-11`."""
    zone: str
    start: datetime
    end: datetime

    @property
    def name(self) -> str:
        """By which it is kept: two zones' Novembers are two periods."""
        return f"{self.month}@{self.zone}"

    def holds(self, when: datetime) -> bool:
        """Return whether an instant falls in it."""
        return self.start <= when < self.end


def period_of(month: str, zone: str) -> Period:
    """Return a month in a time zone. Raises ValueError for what is no month, and for a zone that nobody knows."""
    match = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", month, re.ASCII)
    if match is None or match[1] in {"0000", "0001", "9999"}:
        raise ValueError(f"period: {month[:16]!r} is no month: write it like 2026-11")
    try:
        there = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"timezone: {zone[:64]!r} is not known: write it like Europe/Berlin, or UTC") from None
    year, number = int(match[1]), int(match[2])
    after = (year + 1, 1) if number == 12 else (year, number + 1)
    return Period(month, zone, datetime(year, number, 1, tzinfo=there), datetime(*after, 1, tzinfo=there))


class Periods:
    """The closed periods of every tenant, as this process knows them."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        """`ledger`: where it stands what tenants have closed that nobody told of; absent: nothing."""
        self._ledger = ledger
        self._closed: dict[str, tuple[Period, ...]] = {}

    @property
    def tenants(self) -> Collection[str]:
        """Of whom it is known what they have closed."""
        return self._closed.keys()

    async def learn(self, tenant: str) -> None:
        """Know what a tenant has closed, also one that has no key any more: what it sent may still wait."""
        if tenant not in self._closed and self._ledger is not None:
            self.use(tenant, await closed(self._ledger, tenant))

    def use(self, tenant: str, closed: Sequence[Period]) -> None:
        """Take note of all that a tenant has closed."""
        self._closed[tenant] = tuple(closed)

    def closed(self, tenant: str, when: datetime) -> Period | None:
        """Return the closed period that an instant falls in, if it does."""
        return next((period for period in self._closed.get(tenant, ()) if period.holds(when)), None)


async def closed(ledger: Ledger, tenant: str) -> list[Period]:
    """Return every period that a tenant has closed."""
    found: list[Period] = []
    after: str | None = None
    while page := await ledger.documents(KIND, tenant, after, 100):
        found += [period_of(*one.name.split("@", 1)) for one in page]
        after = page[-1].name
    return found
