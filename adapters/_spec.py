"""What can be said about a provider: frozen facts, and the protocols of what reads its answers. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from adapters._corrections import Corrections
from adapters._values import Outcome, Reply, Sent, State, Truth
from canonical_schema import ErrorCode, Receipt

if TYPE_CHECKING:
    from adapters._models import Binding, Link

__all__ = [
    "Aggregation",
    "Auth",
    "Bearer",
    "CanTakeAll",
    "Dedupe",
    "Dialect",
    "Door",
    "Envelope",
    "HeaderKey",
    "KeyRule",
    "ProviderSpec",
    "QuantityRule",
    "Rate",
    "ReadBack",
    "Refusal",
    "Roles",
    "Rule",
    "Source",
    "TimeRule",
]


# How providers report.


class Dialect(Protocol):
    """How a provider reports on the rows of one request."""

    def read(self, door: "Door", reply: Reply, sent: Sequence[Sent]) -> Mapping[str, Outcome] | None:
        """Return outcomes by key for the rows this reply speaks of, or `None` if it is not understood."""
        ...

    def render(self, door: "Door", sent: Sequence[Sent], truth: Truth) -> Reply:
        """Answer as the vendor would."""
        ...


@runtime_checkable
class CanTakeAll(Protocol):
    """A dialect that can tell, without looking row by row, that every row was taken and is new: what is usual."""

    def took_all(self, reply: Reply, keys: Sequence[str]) -> Sequence[str | None] | None:
        """Return the provider's ids of the rows, none where it gives none; `None` where `read` has to look.

        Asked about successes only. Never says more than `read` would.
        """
        ...


# The facts.

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


Auth = Bearer | HeaderKey


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
    proves_absence: bool = False
    """Whether a row that is not listed after that time was never stored."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One endpoint that takes usage."""

    path: str
    """Appended to the base URL."""
    binding: "type[Binding]"
    link: "type[Link]"
    dialect: Dialect
    roles: Roles
    quantity: QuantityRule
    time: TimeRule
    method: str = "POST"
    rows: Literal["list", "one"] | tuple[str] = "list"
    """The body: a bare list, one row, or a list under the key in the tuple."""
    max_rows: int = 1
    max_bytes: int = 4_000_000
    several_measures: bool = False
    """Whether the rows that a binding makes of one event travel as one row."""
    zero: Literal["sent", "refused"] = "sent"
    """Whether an additive zero can be told to the provider; where not, it is filtered."""
    absolute: str | None = None
    """The setting that allows `kind: absolute`; `None`: the provider cannot express it."""
    dedupe: Dedupe | None = None
    """`None`: a repeat is billed again, so a lost answer is never resent."""
    key: KeyRule = KeyRule()
    refusal: Refusal = Refusal.SOME
    receipt: Receipt | None = None
    """`queued` where an acceptance promises only that the row was taken."""
    envelope: Envelope = Envelope(text=("message", "error.message", "error"), code=("code",))
    rules: tuple[Rule, ...] = ()
    rates: tuple[Rate, ...] = ()
    aggregations: frozenset[Aggregation] = frozenset({"sum", "count"})
    """Those that the vendor's meters can express."""
    corrections: Corrections | None = None
    """What the vendor lets us do about usage that it has. `None`: nothing that is known."""
    probe: Source | None = None
    """Where the harmless read was seen that tells whether the provider answers; `None`: none is known."""
    read_back: ReadBack | None = None
    """What usage can be read back; `None`: none."""
    inventory: Source | None = None
    """Where it was seen how the vendor lists its meters, and customers by our ids; `None`: it lists no meters."""
    customers: Source | None = None
    """Where looking a customer up by our own id was seen; `None`: it cannot be, or need not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSpec:
    """Everything that is known about one provider."""

    name: str
    title: str
    base_url: str
    auth: Auth
    doors: Mapping[str, Door]
    """By profile; the first is the default."""
    sources: tuple[Source, ...]
    cautions: tuple[str, ...] = ()
    """What an operator should know before trusting this vendor, a sentence each."""

    @property
    def weakest(self) -> Grade:
        """The grade of the least certain fact."""
        order: tuple[Grade, ...] = ("unverified", "docs", "code", "observed")
        return order[min(order.index(source.grade) for source in self.sources)]
