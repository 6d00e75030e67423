"""Usage read back from a provider: rows where it lists events, sums where it only counts. Generators, no I/O.

What is read is handed over row by row while the pages come, so that nobody holds a whole listing. A fault is
never a zero: what cannot be read is `Unread`, with the reason.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import NamedTuple, Protocol, cast, runtime_checkable

import msgspec

from adapters._asks import Ask
from adapters._models import Binding, Link
from adapters._values import Fault, JsonValue, Reply
from canonical_schema import format_time, parse_time

__all__ = [
    "Billed",
    "CanReadCharges",
    "CanReadUsage",
    "Charged",
    "Read",
    "Take",
    "Unread",
    "UnreadKind",
    "UsageRow",
    "Wanted",
    "Window",
    "digits",
    "epoch_ms",
    "goes_on",
    "listed",
    "next_cursor",
    "rfc3339",
    "said",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A span of event time, half open. Aware, UTC."""

    start: datetime
    end: datetime

    def __contains__(self, when: datetime) -> bool:
        return self.start <= when < self.end

    def widened(self, by: timedelta) -> "Window":
        """Return the window with so much more on both sides."""
        return Window(start=self.start - by, end=self.end + by)


class UsageRow(NamedTuple):
    """One measure of one row that the provider holds, in the provider's unit."""

    meter: str
    """The name in `Wanted.bindings` that it was found for."""
    measure: str
    """Which of the binding's quantities; empty: the plain one."""
    key: str
    """The idempotency key that it was sent under."""
    customer: str
    """As the provider names it: what the link gives."""
    instant: datetime
    quantity: Decimal
    """As the provider counts it, which is not always as it was sent."""
    evidence: str
    """The provider's own id of the row, or what else points at it."""
    version: str = ""
    """Orders the copies of one row: the greatest counts. Empty: the listing does not tell."""


Take = Callable[[UsageRow], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to read: some meters over a window, of one customer or of all."""

    window: Window
    bindings: Mapping[str, Binding] = field(repr=False)
    """By a name of the asker's. A field that comes from an event's property is missing here."""
    link: Link | None = field(default=None, repr=False)
    """`None`: of all customers, where the door's declaration says that it can."""
    key: str | None = field(default=None, repr=False)
    """A hint: of all these rows, only the one under this key is looked for. More may be handed over."""
    now: datetime
    """The present, for providers that count a current period only."""


class UnreadKind(StrEnum):
    """Why something could not be read."""

    TROUBLE = "trouble"
    """A fault, a refusal, an answer that makes no sense: it may work another time."""
    WINDOW = "window"
    """The provider cannot tell this window."""
    UNSUPPORTED = "unsupported"
    """The provider, or what is configured, cannot tell this at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """Nothing was learnt, which is not the same as nothing being there."""

    kind: UnreadKind
    why: str
    """For people; never a customer's data or a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """It was read to the end."""

    window: Window
    """What was read, which a provider that counts by period decides."""
    exact: bool = True
    """Whether every number was decimal all the way; `False`: some went through a double."""
    counted: Mapping[tuple[str, str], Decimal] | None = field(default=None, repr=False)
    """By meter and measure, where the provider only counts; `None`: rows were handed over."""
    evidence: str = ""
    """For a counter: where it was read."""
    unread: Mapping[str, Unread] = field(default_factory=dict[str, Unread])
    """Those of the bindings that could not be read, by name."""


@runtime_checkable
class CanReadUsage(Protocol):
    """Can read usage back; what it is worth stands in `Door.read_back`."""

    def read_usage(self, wanted: Wanted, take: Take) -> Ask[Read | Unread]:
        """Read to the end, handing over what is found inside the window. Rows may come in any order."""
        ...


class Charged(NamedTuple):
    """What one meter costs, as the provider counts it: money, never usage."""

    name: str
    amount: Decimal
    currency: str
    quantity: Decimal
    """As the provider says it beside the money: a double."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """A provider's bill in the making. Its numbers are doubles where `exact` is false."""

    window: Window
    amount: Decimal
    currency: str
    charges: tuple[Charged, ...]
    lifetime: bool
    """Whether it is everything since the subscription began."""
    exact: bool = False


@runtime_checkable
class CanReadCharges(Protocol):
    """Can read what a customer will be charged."""

    def read_charges(self, wanted: Wanted, *, lifetime: bool) -> Ask[Billed | Unread]:
        """Read the bill in the making of one customer, who is `wanted.link`."""
        ...


_DECODER = msgspec.json.Decoder(float_hook=Decimal)


def said(answer: Reply | Fault, what: str) -> Mapping[str, JsonValue] | list[JsonValue] | Unread:
    """Return the JSON of a good answer, numbers with every digit; else why there is none."""
    if isinstance(answer, Fault):
        return Unread(kind=UnreadKind.TROUBLE, why=f"{what}: no answer ({answer.name})")
    if not 200 <= answer.status < 300:
        return Unread(kind=UnreadKind.TROUBLE, why=f"{what}: HTTP {answer.status}")
    try:
        body = _DECODER.decode(answer.body)
    except (msgspec.DecodeError, InvalidOperation):
        body = None
    if not isinstance(body, Mapping | list):
        return Unread(kind=UnreadKind.TROUBLE, why=f"{what}: an answer that is no JSON object")
    return cast("Mapping[str, JsonValue] | list[JsonValue]", body)


def listed(
    answer: Reply | Fault, what: str, *under: str
) -> tuple[list[Mapping[str, JsonValue]], Mapping[str, JsonValue]] | Unread:
    """Return the rows of one page, under the first member that is there, and the page around them."""
    page = said(answer, what)
    if isinstance(page, Unread):
        return page
    if isinstance(page, Mapping):
        rows = next((page[name] for name in under if name in page), None)
        if isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows):
            return cast("list[Mapping[str, JsonValue]]", rows), page
    return Unread(kind=UnreadKind.TROUBLE, why=f"{what}: a page without {' or '.join(under)}")


def goes_on(rows: int, limit: int, seen: int, around: Mapping[str, JsonValue], what: str) -> bool | Unread:
    """Return whether a listing by offset has more after a page of `rows`, with `seen` so far.

    A page that is not full is the last one, unless the listing counts more than was seen.
    """
    pagination = around.get("pagination")
    total = digits(pagination.get("total")) if isinstance(pagination, Mapping) else None
    if rows >= limit or total is None or total <= seen:
        return rows >= limit
    why = f"{what}: {total.to_integral_value()} are promised, and after {seen} there are no more"
    return True if rows else Unread(kind=UnreadKind.TROUBLE, why=why)


def next_cursor(around: Mapping[str, JsonValue], before: str | None, what: str) -> str | Unread | None:
    """Return the cursor to the page after one that has `hasMore` and `nextCursor`; `None`: it was the last."""
    following, more = around.get("nextCursor"), around.get("hasMore")
    if not (more if more is not None else isinstance(following, str)):
        return None
    if not isinstance(following, str) or following == before:
        return Unread(kind=UnreadKind.TROUBLE, why=f"{what}: more is promised, and no cursor to it given")
    return following


def digits(value: JsonValue | None) -> Decimal | None:
    """Return a number, or a text that is one, exactly as it was written; `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def rfc3339(value: JsonValue | None) -> datetime | None:
    """Return an instant that was written as text; `None` where it was not."""
    if not isinstance(value, str):
        return None
    try:
        return parse_time(value)
    except ValueError:
        return None


def epoch_ms(value: JsonValue | None) -> datetime | None:
    """Return an instant that was written as milliseconds or as text; `None` where it was not."""
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return EPOCH + timedelta(milliseconds=value)
        except OverflowError:
            return None
    return rfc3339(value)


def shown(window: Window) -> str:
    """Return a window as people read it."""
    return f"{format_time(window.start)} to {format_time(window.end)}"
