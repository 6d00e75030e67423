"""What can be said about a provider: frozen facts, and the values that pass between it and the core. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, runtime_checkable

import msgspec

from adapters._corrections import Corrections
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
    "Fault",
    "FaultKind",
    "HeaderKey",
    "JsonValue",
    "KeyRule",
    "Measure",
    "Outcome",
    "ProviderSpec",
    "QuantityRule",
    "Rate",
    "ReadBack",
    "Refusal",
    "Reply",
    "Request",
    "Roles",
    "Row",
    "Rule",
    "Scalar",
    "Sent",
    "Source",
    "State",
    "TimeRule",
    "Truth",
    "Usage",
]

JsonValue = None | bool | int | float | Decimal | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"]
Row = Mapping[str, JsonValue]
"""One row of a request's body. Decimals leave as exact JSON numbers, never as doubles."""
Scalar = str | bool | int | Decimal

B = TypeVar("B", bound="Binding")
L = TypeVar("L", bound="Link")


# What goes in: one event, bound to a provider.


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure(Generic[B]):
    """One number of an event and how the provider names it."""

    name: str
    """Its name in the event's `quantities`; empty for the plain `quantity`."""
    quantity: Decimal = field(repr=False)
    """In the provider's unit: the binding's `scale` is applied, exactly."""
    binding: B = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Generic[B, L]):
    """One row's worth of usage, checked against the door's facts, ready to be encoded."""

    key: str
    """The idempotency key that the provider sees."""
    event_id: str
    customer: str = field(repr=False)
    meter: str
    timestamp: datetime
    """Aware, UTC, floored to the door's resolution."""
    measures: tuple[Measure[B], ...]
    """At least one; more only where the binding or the door takes several in a row."""
    link: L = field(repr=False)
    absolute: bool = False
    source: str | None = field(default=None, repr=False)
    properties: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar], repr=False)

    @property
    def binding(self) -> B:
        """The binding of the first measure; rows with several measures of one binding share it."""
        return self.measures[0].binding

    @property
    def quantity(self) -> Decimal:
        """The only measure's quantity. Raises ValueError where there are several."""
        (measure,) = self.measures
        return measure.quantity


# What comes out: requests, replies, outcomes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request, complete but for the connection. Its headers hold the credentials: never log it."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a provider answered. Header names are lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes = field(default=b"", repr=False)
    json: JsonValue | None = field(default=None, repr=False)
    """The decoded body; `None` where it is empty or no JSON, which `body` tells apart."""


class FaultKind(StrEnum):
    """Whether the request can have reached the provider: the difference between failed and unknown."""

    NEVER_LEFT = "never_left"
    """No byte of it was sent: connect refused, no such host, TLS, pool full."""
    NO_ANSWER = "no_answer"
    """It may have arrived: time-out, reset, half an answer, garbage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A request without a reply."""

    kind: FaultKind
    name: str
    """What happened, as the transport names it: `ReadTimeout`."""
    timeout: bool = False


class Sent(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A row of a request, with the key that joins it to its outcome."""

    key: str
    row: Row

    def __repr__(self) -> str:
        return f"Sent(key={self.key!r})"


class State(StrEnum):
    """What one answer says about one row."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    """Refused for good, by name; not stored by this request."""
    REFUSED = "refused"
    """Refused along with its batch, which does not say who is to blame."""
    NOT_STORED = "not_stored"
    """Certainly not stored by this request, and nothing is wrong with the row: send it again."""
    UNKNOWN = "unknown"
    """May be stored."""
    BLOCKED = "blocked"
    """Not stored, and an operator must act: credentials, permissions, a wrong address."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of one row in one request."""

    state: State
    code: ErrorCode | None = None
    """Set for every state but `accepted` and `duplicate`."""
    message: str = ""
    """A sentence for people; never a secret or a customer's data."""
    status: int | None = None
    """The row's own status where the provider gives one, else the HTTP status."""
    provider_code: str | None = None
    provider_event_id: str | None = None
    may_be_stored: bool = False
    """For `refused` and `not_stored` peers of a refusal that may have let some rows in."""
    retry_after: timedelta | None = None
    """The server's own word on when to come back."""
    reduce: bool = False
    """The request was too large as a whole: a smaller one may pass.

    Nobody looked at its rows, so a single row `rejected` for this does not settle an earlier doubt about it.
    """


Truth = Mapping[str, Outcome]
"""What the simulator decided about each row, by key: accepted, duplicate or rejected with a code."""


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
