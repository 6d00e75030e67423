"""What the ledger keeps of events on their way, whatever it is kept in.

Work is stored and moved by batch: what one flush recorded is a *batch*, an event is its place there (a *ref*).
A *track* holds one status byte for each event of a batch at one destination. *Work* is a group of deliveries of
one batch to one destination that share a fate: all that is unsettled, and all that ended without being delivered.
Delivered events leave nothing but their byte and the attempts. Times are microseconds since 1970, UTC.
"""

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import overload

import msgspec

from canonical_schema import DeliveryStatus, ErrorItem, Event, FilterReason, Receipt
from gateway.errors import GatewayError
from gateway.ledger._kept import Remains

__all__ = [
    "BILLS",
    "LOST_ANSWER",
    "NO_DOUBT",
    "NO_WAY",
    "REFUSED_BATCH",
    "AttemptRow",
    "Change",
    "Code",
    "Group",
    "Moved",
    "Part",
    "Plan",
    "Portion",
    "QueueDepth",
    "Rendered",
    "Sheet",
    "Snapshot",
    "Track",
    "Work",
    "WorkState",
    "some_of",
]


class Code(IntEnum):
    """A delivery's status as one byte, with what distinguishes deliveries of the same status."""

    NONE = 0
    """No delivery to this destination."""
    PENDING = 1
    RETRYING = 2
    BLOCKED = 3
    ACCEPTED = 4
    ACCEPTED_QUEUED = 5
    DUPLICATE = 6
    DUPLICATE_UNEXPECTED = 7
    REJECTED = 8
    UNKNOWN = 9
    DEAD = 10
    NO_BINDING = 11
    NO_ROUTE = 12
    ZERO = 13
    VOIDED = 14
    """Taken back before it was sent, or corrected before anything of it was there."""
    ACCEPTED_CONFIRMED = 15
    """Queued by the provider, and seen among what it holds since."""

    @property
    def status(self) -> DeliveryStatus:
        """The status that clients see. Raises KeyError for `NONE`."""
        return _STATUS[self]

    @property
    def reason(self) -> FilterReason | None:
        """Why the delivery is filtered, if it is."""
        return _REASON.get(self)

    @property
    def receipt(self) -> Receipt | None:
        """`queued` where the provider only queues what it takes, `confirmed` once it was seen there."""
        return _RECEIPT.get(self)


_STATUS = {
    Code.PENDING: DeliveryStatus.PENDING,
    Code.RETRYING: DeliveryStatus.RETRYING,
    Code.BLOCKED: DeliveryStatus.BLOCKED,
    Code.ACCEPTED: DeliveryStatus.ACCEPTED,
    Code.ACCEPTED_QUEUED: DeliveryStatus.ACCEPTED,
    Code.ACCEPTED_CONFIRMED: DeliveryStatus.ACCEPTED,
    Code.DUPLICATE: DeliveryStatus.DUPLICATE,
    Code.DUPLICATE_UNEXPECTED: DeliveryStatus.DUPLICATE,
    Code.REJECTED: DeliveryStatus.REJECTED,
    Code.UNKNOWN: DeliveryStatus.UNKNOWN,
    Code.DEAD: DeliveryStatus.DEAD,
    Code.NO_BINDING: DeliveryStatus.FILTERED,
    Code.NO_ROUTE: DeliveryStatus.FILTERED,
    Code.ZERO: DeliveryStatus.FILTERED,
    Code.VOIDED: DeliveryStatus.FILTERED,
}
_RECEIPT: dict[Code, Receipt] = {Code.ACCEPTED_QUEUED: "queued", Code.ACCEPTED_CONFIRMED: "confirmed"}
_REASON: dict[Code, FilterReason] = {
    Code.NO_BINDING: "no_binding",
    Code.NO_ROUTE: "route",
    Code.ZERO: "zero",
    Code.VOIDED: "voided",
}


NO_WAY = frozenset({Code.NONE, Code.NO_BINDING, Code.NO_ROUTE})
"""No delivery, or none for want of a way: one may be given yet, and none of these counts."""
BILLS = frozenset(Code) - NO_WAY - {Code.ZERO, Code.VOIDED, Code.REJECTED, Code.DEAD}
"""The provider bills the event, or may, or will once it has it."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Where an event goes, decided when it is stored. Shared by all events of a meter."""

    live: tuple[str, ...] = ()
    shadow: tuple[str, ...] = ()
    filtered: tuple[tuple[str, Code], ...] = ()
    """Live destinations that are not for this event, with why."""
    windows: tuple[tuple[str, int], ...] = ()
    """How old usage may be when it arrives, where a destination has such a window: microseconds, frozen here."""
    whole: bool = False
    """Whether that is all: history goes where it is filled in, and nowhere else, whatever the routes come to say."""

    @property
    def routed(self) -> bool:
        """Whether the event waits for no way: it counts somewhere, would if it said anything there, or is not to."""
        return self.whole or bool(self.live) or any(code is Code.ZERO for _, code in self.filtered)


class Part(msgspec.Struct, array_like=True, gc=False):
    """One row of a delivery, as it was rendered and as it stands."""

    name: str
    """Empty where the delivery is one row."""
    key: str
    row: bytes
    code: Code = Code.PENDING
    provider_event_id: str | None = None
    error: ErrorItem | None = None


class Sheet(Sequence[list[Part]]):
    """The rows of deliveries of one row each, none of which has ended: what is usual, as two columns.

    Rows are most often one text, and are cut apart where somebody asks for one.
    """

    def __init__(self, keys: Sequence[str], rows: Sequence[bytes] | None = None, *, lines: bytes | None = None) -> None:
        """`rows`, or `lines`: all of them, a line each."""
        self.keys = keys
        self._rows = rows
        self._lines = lines

    @property
    def rows(self) -> Sequence[bytes]:
        """Each row by itself."""
        if self._rows is None:
            self._rows = (self._lines or b"").split(b"\n") if self.keys else []
        return self._rows

    @property
    def lines(self) -> bytes | None:
        """All rows, a line each; `None` where one has several."""
        if self._lines is None:
            lines = b"\n".join(self._rows or ())
            self._lines = lines if lines.count(b"\n") == max(0, len(self.keys) - 1) else None
        return self._lines

    @property
    def size(self) -> int:
        """Bytes of the rows, each with what parts it from the next."""
        return len(self._lines) + 1 if self._lines is not None else sum(map(len, self.rows)) + len(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> list[Part]: ...

    @overload
    def __getitem__(self, index: slice) -> "Sheet": ...

    def __getitem__(self, index: int | slice) -> "list[Part] | Sheet":
        if isinstance(index, slice):
            return Sheet(self.keys[index], self.rows[index])
        return [Part("", self.keys[index], self.rows[index])]

    def __repr__(self) -> str:
        return f"Sheet(of {len(self)})"


Rendered = Sequence[list[Part]]
"""The rows of deliveries, in the order of the members that they belong to; a `Sheet` where each is one row."""


def some_of(parts: Rendered, places: Sequence[int]) -> Rendered:
    """Return the rows at some places, in the order of these."""
    if isinstance(parts, Sheet):
        return Sheet([parts.keys[place] for place in places], [parts.rows[place] for place in places])
    return [parts[place] for place in places]


class WorkState(StrEnum):
    """Where a group of deliveries stands."""

    READY = "ready"
    SENDING = "sending"
    """The intent to send is durable; after a crash it may or may not have arrived."""
    BLOCKED = "blocked"
    """An operator must act for this delivery: no link, say."""
    HELD = "held"
    """An operator must act for the destination as a whole: credentials, say. Shown as blocked."""
    WAITING = "waiting"
    """An earlier absolute value of the same customer and meter is not settled. Shown as pending."""
    UNKNOWN = "unknown"
    REJECTED = "rejected"
    DEAD = "dead"


NO_DOUBT = 0
"""Certainly not stored."""
REFUSED_BATCH = 1
"""A refused batch may have stored it, had it been good. Its own refusal, alone, settles that."""
LOST_ANSWER = 2
"""A request without an answer may have stored it. Only the provider's dedupe, or reading back, settles that."""


class Group(msgspec.Struct, kw_only=True):
    """What a group of deliveries shares."""

    state: WorkState
    due: int
    attempts: int = 0
    doubt: int = NO_DOUBT
    """Whether the provider may have it: `NO_DOUBT`, `REFUSED_BATCH` or `LOST_ANSWER`. The greater outweighs."""
    since: int
    """When the oldest of them was recorded."""
    sent: int | None = None
    """When the first request that may have stored them began."""
    error: ErrorItem | None = None
    window: int | None = None
    """How old usage may be when it arrives there, as it was frozen at the door. `None`: as old as it likes."""
    deadline: int | None = None
    """When that window closes for the first of them; sometimes for one that was among them."""


class Work(msgspec.Struct, kw_only=True):
    """A group of deliveries of one batch to one destination, with the events themselves."""

    id: int
    destination: str
    batch: int
    tenant: str
    received: int
    """When the batch was; the first of it, where it is of several requests."""
    group: Group
    members: list[int]
    """Indexes in the batch."""
    events: Sequence[Event]
    """In the order of `members`."""
    parts: Rendered | None
    """In the order of `members`: what was rendered for sending, once it was."""
    receipts: Sequence[int] = ()
    """In the order of `members`, where the batch is of several requests: when each was received."""

    def received_at(self, place: int) -> int:
        """Return when the event at this place of `members` was received."""
        return self.receipts[place] if self.receipts else self.received

    def some(self, places: Sequence[int]) -> "Work":
        """Return those at some places of `members` alone, with their rows."""
        return msgspec.structs.replace(
            self,
            members=[self.members[place] for place in places],
            events=[self.events[place] for place in places],
            parts=None if self.parts is None else some_of(self.parts, places),
            receipts=[self.receipts[place] for place in places] if self.receipts else (),
        )


class Portion(msgspec.Struct, kw_only=True):
    """Members of one work that are about to be sent, as rendered."""

    work: Work
    members: list[int]
    parts: Rendered


class Change(msgspec.Struct, kw_only=True):
    """What becomes of some members of one work."""

    work: int
    batch: int
    destination: str
    members: list[int]
    code: Code
    group: Group | None
    """`None`: settled for good; nothing but the status stays."""
    parts: Rendered | None = None
    """Kept with the group, where it was rendered. In the order of `members`."""
    waiting: bool = False
    """Decided while it waited: where it is being sent by then, that is for its answer to decide."""
    anew: bool = False
    """Whether it is to be rendered anew: the rows that it had are forgotten."""


class AttemptRow(msgspec.Struct, kw_only=True):
    """One request, as far as it concerned one batch."""

    batch: int
    destination: str
    members: list[int]
    at: int
    duration_ms: int
    http_status: int | None
    outcome: str
    """What became of most members; the others stand in `others`."""
    error: ErrorItem | None = None
    others: dict[int, tuple[str, ErrorItem | None]] = {}
    provider_event_ids: dict[int, str] = {}


class Track(msgspec.Struct, kw_only=True):
    """One destination's view of a batch."""

    destination: str
    provider: str
    shadow: bool
    """Whether its deliveries look on, but for those that are `counting`."""
    codes: bytes
    """One `Code` for each event of the batch."""
    work: list[tuple[Group, list[int]]]
    attempts: list[AttemptRow]
    parts: dict[int, list[Part]]
    """For deliveries of several rows, by index."""
    counting: frozenset[int] = frozenset()

    def looks_on(self, index: int) -> bool:
        """Return whether a delivery is part of nobody's outcome."""
        return self.shadow and index not in self.counting


class Snapshot(msgspec.Struct, kw_only=True):
    """A batch as it stands."""

    batch: int
    tenant: str
    received: int
    events: Sequence[Event]
    """None where the batch is trimmed."""
    tracks: list[Track]
    remains: Remains | None = None
    receipts: Sequence[int] = ()
    """Where the batch is of several requests: when each of its events was received; `received` is the first."""

    def received_at(self, index: int) -> int:
        """Return when an event was received."""
        return self.receipts[index] if self.receipts else self.received


class Unrouted(msgspec.Struct, kw_only=True):
    """Events of one batch that have no live delivery."""

    batch: int
    tenant: str
    members: Sequence[int]
    """Indexes in the batch."""
    events: Sequence[Event]
    """In the order of `members`."""
    receipts: Sequence[int]
    """In the order of `members`: when each was received."""


class QueueDepth(msgspec.Struct, kw_only=True):
    """What waits for one destination."""

    ready: int = 0
    sending: int = 0
    blocked: int = 0
    oldest: int | None = None
    """When the oldest of them was recorded."""
    deadline: int | None = None
    """When the acceptance window closes for the first of them, where there is one."""


class Moved(GatewayError):
    """Raised when work changed hands between looking and deciding: look again."""
