"""What is compared, and what a comparison finds. Quantities are the provider's unit until they are shown."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from enum import StrEnum
from functools import reduce
from typing import NamedTuple

import msgspec

from adapters import Link, Read, Unread, UnreadKind, Window

__all__ = [
    "EXACT",
    "FORMER",
    "IDS",
    "OPEN",
    "RENAMED",
    "RESCALED",
    "UNLINKED",
    "Cell",
    "Difference",
    "Ours",
    "Place",
    "Scope",
    "Side",
    "Standing",
    "Theirs",
    "Why",
    "in_unit",
    "total",
]

EXACT = Context(prec=400)
IDS = 100
"""Events that are named for each reason in a cell; more are counted."""


class Why(StrEnum):
    """Why ledger and provider, or two providers, do not say the same."""

    MATCH = "match"
    ROUNDING = "rounding"
    IN_FLIGHT = "in_flight"
    """On its way, in doubt, or taken so lately that it need not show yet."""
    LATE = "late"
    """It came after its window had ended, or too late for the provider."""
    REJECTED = "rejected"
    UNMAPPED = "unmapped"
    """No link names the customer there, or no binding the meter."""
    DUPLICATE = "duplicate"
    """It counts more than once there."""
    ONLY_HERE = "only_here"
    """The ledger has it delivered, and it is not there."""
    ONLY_THERE = "only_there"
    BOUNDARY = "boundary"
    """Both have it, on different sides of the window's edge."""
    CAPABILITY = "capability"
    """The provider cannot express it, or cannot tell it."""
    TRIMMED = "trimmed"
    """The ledger has only ids left of some of the window, and what the provider has may be of those."""
    UNEXPLAINED = "unexplained"


OPEN = frozenset({Why.DUPLICATE, Why.ONLY_HERE, Why.ONLY_THERE, Why.UNEXPLAINED})
"""What nothing that is known explains: a cut-over stops at it."""


UNLINKED = Unread(kind=UnreadKind.UNSUPPORTED, why="no link names the customer there")

RENAMED = Unread(
    kind=UnreadKind.UNSUPPORTED,
    why="the customer had another name there when some of it was sent: what is under that one was not read",
)

REMETERED = Unread(
    kind=UnreadKind.UNSUPPORTED,
    why="some of it was sent under another name of its meter, or to another account: what is there was not read",
)

FORMER = Unread(
    kind=UnreadKind.UNSUPPORTED,
    why="usage of somebody who is erased, or had this name there before, may be counted with it",
)

RESCALED = Unread(
    kind=UnreadKind.UNSUPPORTED,
    why="some of it was sent before its meter's binding was changed, and says what it came to by the one before",
)


class Standing(StrEnum):
    """Where one event's delivery stands, as far as figures go."""

    DELIVERED = "delivered"
    PENDING = "pending"
    UNKNOWN = "unknown"
    REJECTED = "rejected"
    UNMAPPED = "unmapped"
    CAPABILITY = "capability"
    LATE = "late"


class Place(NamedTuple):
    """One figure: what a customer used of a meter; of one of its quantities, where there are several."""

    customer: str
    meter: str
    part: str = ""


class Ours(msgspec.Struct, array_like=True):
    """One measure of one event, as the ledger has it."""

    key: str
    """As the provider was given it; empty where nothing was ever rendered."""
    customer: str
    meter: str
    part: str
    at: int
    """Floored as the provider keeps it."""
    quantity: Decimal
    standing: Standing
    received: int
    theirs: str
    """The provider's name of the customer; empty where there is none."""
    id: str
    absolute: bool = False
    replaces: bool = False
    """A correction of the row of this key: its quantity is what the row says now, or will."""
    sent: int = 0
    """When it was last sent, or received where it was not."""
    renamed: bool = False
    """It may have been sent under another name of the customer than `theirs`, or nobody knows any: its key tells."""
    remetered: bool = False
    """It may have been sent under another name of its meter than the one that is read."""
    alone: bool = False
    """The other one of a pair of destinations was never meant to have it."""
    foreign: bool = False
    """Of another tenant, of a meter that is not compared, or of somebody who was erased, and listed with what is.

    Its key is looked at; its quantity, where it is `renamed`, may be counted with what others used.
    """


class Theirs(msgspec.Struct, array_like=True):
    """One measure of one row, as the provider has it."""

    key: str
    label: str
    measure: str
    customer: str
    at: int
    quantity: Decimal
    evidence: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What to compare."""

    tenant: str
    window: Window
    destinations: tuple[str, ...]
    customer: str | None = None
    meter: str | None = None
    against: str | None = None
    """The destination that the first one is held against, as well as the ledger."""
    accept: frozenset[Why] = frozenset()
    """Reasons that somebody has looked at and takes for explained."""


@dataclass(slots=True)
class Difference:
    """What one reason comes to in one cell."""

    events: int = 0
    quantity: Decimal = Decimal(0)
    """Provider less ledger."""
    ids: list[str] = field(default_factory=list[str])
    """Of the first events, ours or, where we have none, the provider's keys."""

    def add(self, quantity: Decimal, event_id: str) -> None:
        """Count one event."""
        self.events += 1
        self.quantity = EXACT.add(self.quantity, quantity)
        if len(self.ids) < IDS:
            self.ids.append(event_id)


@dataclass(slots=True)
class Cell:
    """One figure at one destination, beside the ledger's."""

    scale: Decimal
    recorded: Decimal = Decimal(0)
    """Everything that the ledger has for this destination, however it stands."""
    delivered: Decimal = Decimal(0)
    pending: Decimal = Decimal(0)
    unknown: Decimal = Decimal(0)
    provider: Decimal | None = Decimal(0)
    """`None`: it could not be read."""
    events: int = 0
    window: Window | None = None
    """What was read, where that is not what was asked for."""
    unread: Unread | None = None
    reasons: dict[Why, Difference] = field(default_factory=dict[Why, Difference])
    alone: Difference = field(default_factory=Difference)
    """What of it the other one of a pair was never meant to have."""

    def put(self, why: Why, quantity: Decimal, event_id: str) -> None:
        """Count one event that differs, for a reason."""
        self.reasons.setdefault(why, Difference()).add(quantity, event_id)

    def record(self, ours: Ours) -> None:
        """Count one event of the ledger."""
        self.events += 1
        self.recorded = EXACT.add(self.recorded, ours.quantity)
        if ours.standing is Standing.DELIVERED:
            self.delivered = EXACT.add(self.delivered, ours.quantity)
        elif ours.standing is Standing.PENDING:
            self.pending = EXACT.add(self.pending, ours.quantity)
        elif ours.standing is Standing.UNKNOWN:
            self.unknown = EXACT.add(self.unknown, ours.quantity)
        if ours.alone:
            self.alone.add(ours.quantity, ours.id)

    @property
    def difference(self) -> Decimal | None:
        """Provider less ledger."""
        return None if self.provider is None else EXACT.subtract(self.provider, self.recorded)


@dataclass(slots=True, kw_only=True)
class Side:
    """Everything that was found at one destination."""

    cells: dict[Place, Cell] = field(default_factory=dict[Place, Cell])
    exact: bool = True
    kind: str = "events"
    unread: Unread | None = None
    """Why nothing at all could be read."""
    missing: Mapping[str, Unread] = field(default_factory=dict[str, Unread])
    """Meters that could not be read."""
    requests: int = 0
    rows: int = 0
    window: Window | None = None
    """What was read, where that is not what was asked for."""
    outside: int = 0
    """Measures of the ledger's events in the window that was asked for, of a time that the counters leave out."""
    trimmed: bool = False
    """Whether the ledger has only ids left of something that may be of the window."""
    asked: Mapping[str, Read | Unread] | None = None
    """By customer, what was said of its counters; `None`: everybody's usage is listed."""
    links: list[Link] = field(default_factory=list[Link], repr=False)
    """Of the one customer that was asked about."""


def total(quantities: Iterable[Decimal]) -> Decimal:
    """Return a sum with every digit; Python's own rounds each step to 28 of them."""
    return reduce(EXACT.add, quantities, Decimal(0))


def in_unit(quantity: Decimal, scale: Decimal) -> Decimal:
    """Return a provider's quantity in the meter's own unit."""
    return quantity if scale == 1 else Context(prec=60).divide(quantity, scale)
