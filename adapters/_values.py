"""The values that pass between an adapter and the core: one event going in, requests and replies, outcomes. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

from adapters._models import Binding, Link
from canonical_schema import ErrorCode

__all__ = [
    "Fault",
    "FaultKind",
    "JsonValue",
    "Measure",
    "Outcome",
    "Reply",
    "Request",
    "Row",
    "Scalar",
    "Sent",
    "State",
    "Truth",
    "Usage",
]

JsonValue = None | bool | int | float | Decimal | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"]
Row = Mapping[str, JsonValue]
"""One row of a request's body. Decimals leave as exact JSON numbers, never as doubles."""
Scalar = str | bool | int | Decimal

B = TypeVar("B", bound=Binding)
L = TypeVar("L", bound=Link)


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
    _json: list[JsonValue] = field(default_factory=list[JsonValue], init=False, repr=False, compare=False)
    """Decoded once, when somebody asks: of most answers nobody does."""

    @property
    def json(self) -> JsonValue | None:
        """The decoded body; `None` where it is empty or no JSON, which `body` tells apart."""
        if not self._json:
            try:
                self._json.append(msgspec.json.decode(self.body) if self.body else None)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._json.append(None)
        return self._json[0]


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
