"""What a simulated vendor remembers: rows told apart as its declaration says, and what it would bill for them."""

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Context, Decimal
from typing import NamedTuple

from adapters import Dedupe, Row

__all__ = ["Charge", "Stock", "StoredRow"]


class Charge(NamedTuple):
    """One number that a row adds to a bill."""

    meter: str
    name: str
    """How `billed` calls it: the meter, with its property behind a dot where the vendor reads several of one row."""
    quantity: Decimal
    """As the vendor stores it, which is not always as it was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """A row that the vendor took."""

    key: str
    """The row's idempotency key. Without one at this door: our own id of the event, or a running number."""
    customer: str
    charges: tuple[Charge, ...]
    timestamp: datetime
    """When it counts, at the vendor's resolution: the time of receipt where the row has none."""
    row: Row = field(repr=False)
    """As it was sent; the newest copy where the last one wins."""
    door: str
    """The profile of the door that took it."""
    received: datetime
    """When the first copy came."""
    absolute: bool = False
    """Whether it states the running value."""
    withdrawn: bool = False
    """Whether it was taken back as a whole: refunded, say. It is not billed then."""
    copies: int = 1
    """How often it was taken. Repeats that the vendor tells are billed once."""
    serial: int = 0
    """Its number in the order of arrival."""
    older: tuple[Row, ...] = field(default=(), repr=False)
    """Where the last one wins: the copies before it, oldest first, which some vendors list until they merge."""

    @property
    def listed(self) -> tuple[Row, ...]:
        """Every copy, oldest first."""
        return (*self.older, self.row)

    @property
    def meter(self) -> str:
        """The vendor's name of what is measured; of the first measure where there are several."""
        return self.charges[0].meter

    @property
    def quantity(self) -> Decimal:
        """The only measure's quantity. Raises ValueError where there are several."""
        (charge,) = self.charges
        return charge.quantity


@dataclass(slots=True)
class Stock:
    """Every row that one vendor took, in the order of their first copies."""

    _rows: dict[int, StoredRow] = field(default_factory=dict[int, StoredRow])
    _newest: dict[tuple[object, ...], int] = field(default_factory=dict[tuple[object, ...], int])
    _serial: int = 0

    def __iter__(self) -> Iterator[StoredRow]:
        return iter(self._rows.values())

    def take(self, new: StoredRow, dedupe: Dedupe | None) -> StoredRow | None:
        """Remember a row. Returns the one that stands in its place where the vendor takes it for a repeat."""
        number = self._serial
        if dedupe is None:
            self._remember(number, new)
            return None
        identity = (new.door, *(getattr(new, role) for role in dedupe.by))
        known = self._newest.get(identity)
        before = None if known is None else self._rows[known]
        if known is None or before is None or not _remembered(dedupe.window, before.received, new.received):
            self._newest[identity] = number
            self._remember(number, new)
            return None
        last = dedupe.different == "last_wins"
        self._rows[known] = stands = replace(
            new if last else before,
            copies=before.copies + 1,
            received=before.received,
            serial=before.serial,
            older=before.listed if last else (),
        )
        return stands

    def withdraw(self, door: str, key: str) -> bool:
        """Take a row back as a whole; return whether it is there. Once it is, again changes nothing."""
        found = next((number for number, row in self._rows.items() if (row.door, row.key) == (door, key)), None)
        if found is None:
            return False
        self._rows[found] = replace(self._rows[found], withdrawn=True)
        return True

    def billed(
        self,
        customers: AbstractSet[str] | None,
        meters: AbstractSet[str] | None,
        within: tuple[datetime, datetime] | None = None,
    ) -> dict[tuple[str, str], Decimal]:
        """Return what would be billed, by customer and meter: known ones only, every remembered row once.

        `within` is a half-open span of event time. Where a row states the running value, only what came after
        it counts on top.
        """
        totals: dict[tuple[str, str], Decimal] = {}
        since: dict[tuple[str, str], datetime] = {}
        ordered = sorted(self, key=lambda row: row.timestamp) if any(row.absolute for row in self) else self
        for row in ordered:
            if within is not None and not within[0] <= row.timestamp < within[1]:
                continue
            if row.withdrawn or (customers is not None and row.customer not in customers):
                continue
            for charge in row.charges:
                if meters is not None and charge.meter not in meters:
                    continue
                where = (row.customer, charge.name)
                if row.absolute:
                    totals[where], since[where] = charge.quantity, row.timestamp
                elif where not in since or row.timestamp > since[where]:
                    totals[where] = _SUM.add(totals.get(where, Decimal(0)), charge.quantity)
        return totals

    def forget(self, drop: Callable[[StoredRow], bool]) -> int:
        """Lose rows, as a vendor should not; return how many."""
        lost = [number for number, row in self._rows.items() if drop(row)]
        for number in lost:
            del self._rows[number]
        self._newest = {identity: number for identity, number in self._newest.items() if number in self._rows}
        return len(lost)

    def put(self, row: StoredRow) -> None:
        """Hold a row that nobody sent through a door."""
        self._remember(self._serial, row)

    def change(self, how: Callable[[StoredRow], StoredRow]) -> None:
        """Hold every row as `how` makes it."""
        self._rows = {number: how(row) for number, row in self._rows.items()}

    def _remember(self, number: int, row: StoredRow) -> None:
        self._rows[number] = replace(row, serial=number)
        self._serial = number + 1


_SUM = Context(prec=400)


def _remembered(window: timedelta | None, first: datetime, then: datetime) -> bool:
    return window is None or then - first < window
