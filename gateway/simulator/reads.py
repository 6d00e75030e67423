"""A read of a simulated vendor's usage, and all that could answer it: what was sent, by the declared roles."""

from calendar import monthrange
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import cast
from urllib.parse import parse_qsl

import msgspec

from gateway.simulator.members import Unreadable
from gateway.simulator.reading import Properties
from gateway.simulator.world import StoredRow

__all__ = ["ReadRequest", "month_of", "queried"]

_DECODER = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """A read, and all that the vendor knows that could answer it."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    rows: Sequence[StoredRow]
    """In the order of their first copies."""
    meters: frozenset[str] | None
    """Those that the vendor has from the start; `None`: it makes them as they come."""
    known: frozenset[str] | None
    """The customers that it has; `None`: whom usage comes for."""
    properties: Mapping[str, Properties]
    """Where its metrics find the quantity, by meter."""
    billed: Mapping[tuple[str, str], Decimal]
    now: datetime
    period: tuple[datetime, datetime]
    """The current billing period."""

    def names(self) -> list[str]:
        """Return every meter that the vendor has heard of, in order."""
        seen = {charge.meter for row in self.rows for charge in row.charges}
        return sorted(seen | (self.meters or set()))

    def customers(self) -> list[str]:
        """Return every customer that the vendor has, in order: where it knows all, those that usage came for."""
        return sorted({row.customer for row in self.rows} if self.known is None else self.known)

    def json(self) -> Mapping[str, object]:
        """Return the body; no body has no members. Raises Unreadable for what is no JSON object."""
        try:
            body = _DECODER.decode(self.body or b"{}")
        except (msgspec.DecodeError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Unreadable("body", "must be a JSON object")
        return cast("Mapping[str, object]", body)


def queried(query: str) -> dict[str, str]:
    """Return a query string's members."""
    return dict(parse_qsl(query, keep_blank_values=True))


def month_of(now: datetime) -> tuple[datetime, datetime]:
    """Return the calendar month around an instant, UTC: a billing period as good as any."""
    start = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start, start + timedelta(days=monthrange(start.year, start.month)[1])
