"""The canonical usage event as the gateway carries it, made for millions: compared, stored and shown exactly."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec

from canonical_schema.correction import Correction, quantities_json
from canonical_schema.quantity import plain
from canonical_schema.times import format_time

__all__ = [
    "Event",
    "InvalidEvent",
    "Kind",
    "Property",
    "correction_json",
    "decode_event",
    "decode_events",
    "differences",
    "encode_event",
    "encode_events",
    "event_json",
]

if TYPE_CHECKING:
    Property: TypeAlias = str | bool | int | Decimal
else:
    # msgspec refuses a union of `str` and `Decimal`, as both could be a JSON string. Read untyped, a string
    # stays a string, and a number becomes an int or, by `float_hook`, a Decimal.
    # https://jcristharif.com/msgspec/supported-types.html
    Property = Any


class InvalidEvent(ValueError):
    """Raised when the event itself is wrong; sending it again as it is will not help.

    The message may be shown and logged: it names members and rules, never a value.
    """

    def __init__(self, message: str, field: str | None = None, event_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        """The member that is wrong, as a path: `quantities.input`. `None`: the event as a whole."""
        self.event_id = event_id
        """The event's id. `None`: it could not be read, or is itself wrong."""


class Kind(StrEnum):
    """What a quantity says."""

    DELTA = "delta"
    """So much was used, on top of what was before."""
    ABSOLUTE = "absolute"
    """So much has been used in all: the running value."""


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One usage event that keeps every rule. Its `repr` shows neither customer nor properties."""

    id: str
    customer: str
    meter: str
    quantity: Decimal | None = None
    """`None`: not sent, which is right where the meter counts, or where `quantities` is given."""
    quantities: dict[str, Decimal] | None = None
    timestamp: datetime | None = None
    """When the usage happened, in UTC. `None`: not sent, so the time of receipt."""
    kind: Kind = Kind.DELTA
    subscription: str | None = None
    source: str | None = None
    properties: dict[str, Property] = {}
    """Dimensions. A number keeps every digit that was sent: an int, or a Decimal where it was written with a
    point or an exponent."""
    corrects: Correction | None = None
    """Set where the gateway made this event to correct another; `quantity` is then the difference. Never sent."""

    def __repr__(self) -> str:
        return f"Event(id={self.id!r}, meter={self.meter!r})"


_ENCODER = msgspec.json.Encoder(decimal_format="number")
_STORED = msgspec.json.Decoder(Event, float_hook=Decimal)
_MEMBERS = Event.__struct_fields__


def differences(a: Event, b: Event) -> list[str]:
    """Return the names of the members that differ, in the event's order.

    Judged by value: 1.0 is 1.00 and 1e0, a time is its instant, an absent `kind` is `delta`. A number, a
    string and a boolean are never the same.
    """
    return [
        name
        for name in _MEMBERS
        if (one := getattr(a, name)) is not (other := getattr(b, name)) and not _same(one, other)
    ]


def _same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        one, other = cast("dict[str, object]", a), cast("dict[str, object]", b)
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return isinstance(a, bool) is isinstance(b, bool) and a == b


def encode_event(event: Event) -> bytes:
    """Return the event as one line of JSON that `decode_event` and `read_event` read back exactly."""
    return _ENCODER.encode(event)


def decode_event(stored: bytes | memoryview | msgspec.Raw) -> Event:
    """Return what `encode_event` was given. Checks shapes only: meant for what was checked before it was stored.

    Raises msgspec.MsgspecError where that is not what was stored.
    """
    return _STORED.decode(stored)


def encode_events(events: Sequence[Event]) -> bytes:
    """Return events as lines of JSON, each as `encode_event` writes it."""
    return _ENCODER.encode_lines(events)


def decode_events(stored: bytes) -> list[Event]:
    """Return what `encode_events` was given, as `decode_event` reads it."""
    return _STORED.decode_lines(stored)


def event_json(event: Event) -> dict[str, Any]:
    """Return the event as it is shown: quantities as exact decimal strings, absent members left out.

    A property may be a Decimal; an encoder has to write it as a JSON number.
    """
    shown: dict[str, Any] = {"id": event.id, "customer": event.customer, "meter": event.meter}
    if event.quantity is not None:
        shown["quantity"] = plain(event.quantity)
    if event.quantities is not None:
        shown["quantities"] = {name: plain(each) for name, each in event.quantities.items()}
    if event.timestamp is not None:
        shown["timestamp"] = format_time(event.timestamp)
    shown["kind"] = event.kind.value
    for name in ("subscription", "source"):
        if (value := getattr(event, name)) is not None:
            shown[name] = value
    if event.properties:
        shown["properties"] = dict(event.properties)
    if event.corrects is not None:
        shown["corrects"] = correction_json(event.corrects)
    return shown


def correction_json(correction: Correction) -> dict[str, Any]:
    """Return what a correction says, as it is shown."""
    return {
        "id": correction.of,
        "action": correction.action,
        "reason": correction.reason,
        "actor": correction.actor,
        "before": quantities_json(correction.before),
        "after": quantities_json(correction.after),
    }
