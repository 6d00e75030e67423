"""What can be said about a vendor's endpoint, fact by fact: frozen, and with its source where it may be doubted."""

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Literal, Protocol

from adapters._values import State
from canonical_schema import ErrorCode

__all__ = [
    "Aggregation",
    "Auth",
    "Bearer",
    "Dedupe",
    "Envelope",
    "Grade",
    "HeaderKey",
    "KeyRule",
    "QuantityRule",
    "Rate",
    "ReadBack",
    "Refusal",
    "Roles",
    "Rule",
    "Source",
    "TimeRule",
]

Aggregation = Literal["sum", "count", "max", "latest", "unique"]
Grade = Literal["code", "docs", "observed", "unverified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a fact was seen, when, and how sure that is."""

    url: str
    seen: date
    grade: Grade
    fact: str
    """What was learnt there."""


class Auth(Protocol):
    """How a request says who asks, by the key alone. A provider with a way of its own keeps it in its own file."""

    def headers(self, secret: str) -> dict[str, str]:
        """Return the one header that carries the key."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """`Authorization: Bearer <key>`."""

    def headers(self, secret: str) -> dict[str, str]:
        """Return the header that carries the key."""
        return {"authorization": f"Bearer {secret}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderKey:
    """The bare key in a header of its own."""

    name: str

    def headers(self, secret: str) -> dict[str, str]:
        """Return the header that carries the key."""
        return {self.name: secret}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dedupe:
    """How the provider tells a repeat from a new row."""

    window: timedelta | None
    """How long it remembers a row, counted from the first request that may have stored it. `None`: for ever."""
    setting: str | None = None
    """The setting that overrides `window`, where the vendor names no figure."""
    repeat: Literal["silent", "absent", "same"] = "silent"
    """What a repeat answers: accepted like a first, left out of the answer, or the stored row again."""
    different: Literal["first_wins", "last_wins", "unverified"] = "first_wins"
    """What a repeat with other content does."""
    by: tuple[Literal["key", "meter", "timestamp"], ...] = ("key",)
    """The roles that together tell two rows apart."""


class Refusal(StrEnum):
    """What a refused batch (4xx) did with its rows."""

    WHOLE = "whole"
    """Nothing was stored."""
    SOME = "some"
    """Rows that were good may be stored; the culprit is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most `requests` (and `rows`, where given) in each `per`."""

    requests: int
    per: timedelta
    rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRule:
    """Which of our ids the provider takes as they are; others are replaced by a derived key."""

    max_length: int = 128
    forbidden: tuple[str, ...] = ()
    pattern: str | None = None
    """A regular expression that the whole key must match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantityRule:
    """The quantities that the provider bills as they are. Anything else is refused before sending."""

    places: int
    """Decimal places; 0 means whole numbers."""
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    digits: int | None = None
    """Significant digits, where the provider reads a double."""
    as_string: bool = False
    """How it stands on the wire."""
    negative: str | None = None
    """The setting that allows negatives, where `minimum` holds only until an operator vouches for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRule:
    """How instants stand on the wire, and which the provider accepts."""

    style: Literal["rfc3339", "epoch_ms"]
    resolution: timedelta
    past: timedelta | None = None
    """How old an event may be when it arrives. `None`: no bound."""
    future: timedelta | None = None
    """How far ahead. `None`: as far as the gateway itself allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Where the canonical fields stand in a row, as dotted paths; `[]` walks a list, `*` any member.

    Read by the simulator and the laws, which must understand a row without calling `encode`.
    """

    key: str | None
    event_id: str | None = None
    """Where our own id of the event stands, at a door that takes no key."""
    customer: tuple[str, ...]
    meter: tuple[str, ...]
    quantity: str
    """May hold `{quantity}`: the property that the vendor's own metric configuration names."""
    timestamp: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Where an error body keeps its words, as dotted paths, first hit first; `*` is any member.

    The first path is where the simulator puts them.
    """

    text: tuple[str, ...]
    code: tuple[str, ...] = ()
    issues: tuple[str, ...] = ()
    """Lists of faults that name their rows."""
    at: str = "path"
    """The member of an issue that says where: a list of keys and indexes, or a text such as `events[3].amount`.

    The index counts only where it follows the name of the list that holds the rows, or stands first.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A refusal that we know by its words. Rules are tried in order, before the dialect reads."""

    statuses: tuple[int, ...]
    """Where it was seen; the simulator answers with the first."""
    text: str | None = None
    """A regular expression searched in the words. A group `index` names the row to blame."""
    code: str | None = None
    """The provider's code, compared whole."""
    state: State
    error: ErrorCode
    says: str | None = None
    """The vendor's own sentence, for the simulator: may hold `{customer}`, `{meter}`, `{index}`, `{key}`."""
    row: bool = False
    """About one row inside an answer, where the dialect reads it; not about the answer as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """What reading usage back is worth."""

    kind: Literal["events", "counters"]
    """Whether the provider lists what it holds, or only says how much that is."""
    settles: timedelta
    """How long after it was taken a row can still be missing from what is read."""
    copies: bool = False
    """Whether the listing may hold copies of a row of which only the newest counts."""
    by_customer: bool = False
    """Whether it can only be asked for one customer at a time."""
    exact: bool = True
    """Whether numbers are decimal all the way; where not, some go through a double."""
    window: str = "any"
    """Which windows it can tell, in words."""
    finds: Source | None = None
    """Where it was seen that one row can be asked for, by its key or else by its customer and instant; `None`: not."""
    source: Source
