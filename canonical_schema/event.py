"""The canonical usage event: the contract that clients read, and the value that flows inside.

`UsageEvent` is the contract, with its JSON Schema. `Event` is the same thing as the gateway carries it, made for
millions. `read_event` turns JSON into an `Event` by a fast reader that says yes or "not sure"; the contract has
the last word on everything else, and words every refusal.

An optional member is absent, never null. A name that appears twice in one object is refused.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow, Subnormal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from canonical_schema.quantity import NUMBER, plain, to_quantity

__all__ = [
    "MAX_PROPERTY_BYTES",
    "Event",
    "InvalidEvent",
    "Kind",
    "Property",
    "UsageEvent",
    "decode_event",
    "differences",
    "encode_event",
    "event_json",
    "explain",
    "format_time",
    "is_id",
    "is_writable",
    "load_object",
    "parse_time",
    "read_by_contract",
    "read_event",
    "to_event",
]

MAX_PROPERTY_BYTES = 16 * 1024
"""Bound on `properties`, written as compact JSON in UTF-8."""

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

    def __repr__(self) -> str:
        return f"Event(id={self.id!r}, meter={self.meter!r})"


_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
).fullmatch


def parse_time(text: str) -> datetime:
    """Return the instant of an RFC 3339 time in UTC, floored to the microsecond.

    A blank may stand for the `T`. Raises ValueError with a message that never shows the text.
    """
    if _TIME(text) is None and _TIME(text := text.upper()) is None:
        if _TIME(re.sub(r"(:\d\d):60", r"\1:59", text)):
            raise ValueError("must not be a leap second: send :59 in place of :60")
        raise ValueError("must be an RFC 3339 time with a zone and at most 9 decimals, like 2026-11-23T11:52:00.5Z")
    try:
        when = datetime.fromisoformat(text)
        return when if when.tzinfo is UTC else when.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a day that exists, within the years 1 to 9999 in UTC") from None


def format_time(when: datetime) -> str:
    """Return an aware time in RFC 3339, in UTC with `Z`, with no more decimals than it needs."""
    if when.tzinfo is None:
        raise ValueError("a time without zone names no instant: give it one")
    text = when.astimezone(UTC).replace(tzinfo=None).isoformat()
    return f"{text.rstrip('0')}Z" if when.microsecond else f"{text}Z"


def _time(value: object) -> datetime:
    if isinstance(value, str):
        return parse_time(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    raise ValueError("must be an RFC 3339 time with a zone, as a string")


# As wide as a double, so that any dimension a program can hold is taken; narrow enough that written out in
# full it stays small.
_PROPERTY_NUMBER = Context(
    prec=400, Emax=400, Emin=-400, clamp=0, traps=[Inexact, InvalidOperation, Overflow, Subnormal]
)
_SMALL = 2**63


_UNICODE = "must be Unicode: it holds half of a surrogate pair"


def is_writable(text: str) -> bool:
    """Say whether a string can be written as UTF-8, which half of a surrogate pair cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _property(value: object) -> Property:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if not is_writable(value):
            raise ValueError(_UNICODE)
        return value
    if isinstance(value, int | Decimal):
        try:
            if not _PROPERTY_NUMBER.create_decimal(value).is_finite():
                raise ValueError("must be a finite number")
        except DecimalException:
            raise ValueError("must be a number of at most 400 digits, with an exponent of -400 to 400") from None
        return value
    raise ValueError("must be a string, a number or a boolean")


def _bounded(properties: dict[str, Property]) -> dict[str, Property]:
    if len(_ENCODER.encode(properties)) > MAX_PROPERTY_BYTES:
        raise ValueError("must be at most 16 KiB of JSON: leave out what is not billed by")
    return properties


_Quantity = Annotated[
    Decimal,
    PlainValidator(to_quantity),
    PlainSerializer(plain, return_type=str, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{NUMBER}$"}]}),
]
_Time = Annotated[
    datetime,
    PlainValidator(_time),
    PlainSerializer(format_time, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
_Property = Annotated[Property, PlainValidator(_property), WithJsonSchema({"type": ["string", "number", "boolean"]})]
_Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
_Name = Annotated[str, Field(min_length=1, max_length=255)]


def _without_nulls(schema: dict[str, Any]) -> None:
    """Make the JSON Schema say that an optional member is absent, never null."""
    for member in schema["properties"].values():
        if member.get("default", ...) is None:
            del member["default"]
        choices = [choice for choice in member.pop("anyOf", ()) if choice != {"type": "null"}]
        member.update(choices[0] if len(choices) == 1 else {"anyOf": choices} if choices else {})
    schema["not"] = {"required": ["quantity", "quantities"]}


class UsageEvent(BaseModel):
    """One usage event, as a client sends it.

    `quantity` or `quantities` is required, unless the meter's aggregation is `count`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, json_schema_extra=_without_nulls
    )

    id: _Id = Field(
        description="The idempotency key, unique within a tenant: printable ASCII without blanks.", examples=["evt_1"]
    )
    customer: _Name = Field(repr=False, description="The sender's own customer id.", examples=["acme"])
    meter: _Name = Field(description="What is measured: a name in the catalogue.", examples=["api_calls"])
    quantity: _Quantity | None = Field(
        default=None,
        description="How much: exact, at most 38 significant digits, with an exponent of -38 to 38. "
        "A number keeps every digit that was sent.",
        examples=[1, "12.5"],
    )
    quantities: Annotated[dict[_Name, _Quantity], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description="Several measures of one happening, by name; in place of `quantity`.",
        examples=[{"input": 1200, "output": 300}],
    )
    timestamp: _Time | None = Field(
        default=None,
        description="When the usage happened: RFC 3339 with a zone. Absent: the time of receipt.",
        examples=["2026-11-23T11:52:00Z"],
    )
    kind: Annotated[Kind, Field(strict=False)] = Field(
        default=Kind.DELTA, description="`delta`: so much more. `absolute`: the running value."
    )
    subscription: _Name | None = Field(
        default=None,
        repr=False,
        description="The sender's own subscription id, where a customer has several.",
        examples=["sub_acme"],
    )
    source: Annotated[str, Field(max_length=2048)] | None = Field(
        default=None, repr=False, description="Which system sent it; informative.", examples=["billing-cron"]
    )
    properties: Annotated[dict[str, _Property], Field(max_length=64), AfterValidator(_bounded)] = Field(
        default={},
        repr=False,
        description="Dimensions; at most 64 of them, 16 KiB of JSON in all.",
        examples=[{"region": "eu", "cached": True}],
    )

    @field_validator("*", mode="before")
    @classmethod
    def _never_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("must not be null: leave it out instead")
        return value

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "UsageEvent":
        if self.quantity is not None and self.quantities is not None:
            raise ValueError("must not stand beside `quantity`: send one of the two")
        return self


_RULES = {
    "id": "must be a string of 1 to 128 printable ASCII characters without blanks",
    "customer": "must be a string of 1 to 255 characters",
    "meter": "must be a string of 1 to 255 characters",
    "quantities": "must be an object of 1 to 16 quantities, with names of 1 to 255 characters",
    "kind": "must be `delta` or `absolute`",
    "subscription": "must be a string of 1 to 255 characters",
    "source": "must be a string of at most 2048 characters",
    "properties": "must be an object of at most 64 members",
}


def explain(error: ValidationError) -> tuple[str, str]:
    """Return the member that `UsageEvent` refused first, as a path, and what it must be.

    A name that is not ours comes before all else, as it is often why another is missing.
    """
    faults = error.errors(include_url=False, include_input=False)
    fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    path = [_shorten(str(part)) for part in fault["loc"] if part != "[key]"] or ["quantities"]
    field = ".".join(path)
    match fault["type"]:
        case "missing":
            return field, "is required"
        case "extra_forbidden":
            near = difflib.get_close_matches(field, UsageEvent.model_fields, n=1)
            return field, f"unknown member, did you mean `{near[0]}`?" if near else "unknown member"
        case "string_unicode":
            return field, _UNICODE
        case "value_error":
            return field, str(fault.get("ctx", {})["error"])
        case _:
            return field, _RULES[path[0]]


def _shorten(name: str) -> str:
    """Make a sender's name fit to be shown and logged."""
    shown = "".join(each if each.isprintable() else "?" for each in name[:65])
    return (shown or '""') if len(name) <= 64 else f"{shown[:64]}..."


def _json_int(text: str) -> int | Decimal:
    return int(text) if len(text) < 4000 else Decimal(text)  # CPython converts no more than 4300 digits


def _json_decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond all bounds
        return Decimal("NaN")


def load_object(body: bytes, identify: Callable[[Mapping[str, object]], str | None]) -> dict[str, object]:
    """Return the members of one JSON object, with every digit of its numbers: int or Decimal.

    What is no number of JSON (`NaN`) becomes a NaN, for the member's own rule to refuse. Raises InvalidEvent,
    with the id that `identify` finds in the members, where a name appears twice or is not Unicode.
    """
    faults: list[tuple[str, str]] = []

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            faults.append((_shorten(twice), "appears more than once"))
        faults.extend((_shorten(name), _UNICODE) for name in found if not is_writable(name))
        return found

    try:
        loaded: object = json.loads(
            body.decode(),
            parse_int=_json_int,
            parse_float=_json_decimal,
            parse_constant=lambda _: Decimal("NaN"),
            object_pairs_hook=members,
        )
    except UnicodeDecodeError:
        raise InvalidEvent("the event must be JSON in UTF-8") from None
    except RecursionError:
        raise InvalidEvent("the event must be one JSON object: it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidEvent(f"the event must be JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(loaded, dict):
        raise InvalidEvent("the event must be one JSON object")
    found = cast("dict[str, object]", loaded)
    if faults:
        name, fault = faults[0]
        raise InvalidEvent(f"{name}: {fault}", name, identify(found))
    return found


def is_id(text: str) -> bool:
    """Say whether a string may be an event's id."""
    return 0 < len(text) <= 128 and text.isascii() and text.isprintable() and " " not in text


def _identify(members: Mapping[str, object]) -> str | None:
    sent = members.get("id")
    return sent if isinstance(sent, str) and is_id(sent) else None


def read_by_contract(body: bytes) -> Event:
    """Return the event in one JSON text as `UsageEvent` reads it, or raise InvalidEvent. Slow, and complete."""
    members = load_object(body, _identify)
    try:
        return to_event(UsageEvent.model_validate(members))
    except ValidationError as error:
        field, rule = explain(error)
        raise InvalidEvent(f"{field}: {rule}", field, _identify(members)) from None


def to_event(usage: UsageEvent) -> Event:
    """Return the same event as the gateway carries it."""
    return Event(
        id=usage.id,
        customer=usage.customer,
        meter=usage.meter,
        quantity=usage.quantity,
        quantities=usage.quantities,
        timestamp=usage.timestamp,
        kind=usage.kind,
        subscription=usage.subscription,
        source=usage.source,
        properties=usage.properties,
    )


_WireName = Annotated[str, Meta(min_length=1, max_length=255)]


class _Wire(msgspec.Struct, kw_only=True, gc=False, forbid_unknown_fields=True):
    """An event on the wire, as far as msgspec can judge it."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    customer: _WireName
    meter: _WireName
    quantity: Any = UNSET
    quantities: Annotated[dict[_WireName, Any], Meta(min_length=1, max_length=16)] | UnsetType = UNSET
    timestamp: str | UnsetType = UNSET
    kind: Kind | UnsetType = UNSET
    subscription: _WireName | UnsetType = UNSET
    source: Annotated[str, Meta(max_length=2048)] | UnsetType = UNSET
    properties: Annotated[dict[str, Any], Meta(max_length=64)] | UnsetType = UNSET


_decode_wire = msgspec.json.Decoder(_Wire, float_hook=Decimal).decode
_DELTA = Kind.DELTA  # a look-up in an enum costs as much as a decimal
_ENCODER = msgspec.json.Encoder(decimal_format="number")
_STORED = msgspec.json.Decoder(Event, float_hook=Decimal)


def read_event(raw: bytes | memoryview | msgspec.Raw) -> Event:
    """Return the event in one JSON text, with every digit of its numbers, or raise InvalidEvent."""
    body = raw if isinstance(raw, bytes) else bytes(raw)
    event = _read_fast(body)
    return read_by_contract(body) if event is None else event


def _read_fast(body: bytes) -> Event | None:
    """Return the event, or `None` where the contract has to look.

    msgspec keeps the last of two members with one name. It is caught by counting: every name and every string
    of the result stands in the text between two quotes, so a text with more of them than that holds a name
    twice, or an escaped quote.
    """
    try:
        wire = _decode_wire(body)
        if not is_id(wire.id):
            return None
        quotes = 12
        quantity = quantities = timestamp = None
        if (sent := wire.quantity) is not UNSET:
            quantity = to_quantity(sent)
            quotes += 4 if type(sent) is str else 2
        if (named := wire.quantities) is not UNSET:
            if quantity is not None:
                return None
            quantities = {name: to_quantity(each) for name, each in named.items()}
            quotes += 2 + _quotes(named)
        if (text := wire.timestamp) is not UNSET:
            timestamp = parse_time(text)
            quotes += 4
        if (kind := wire.kind) is not UNSET:
            quotes += 4
        if (subscription := wire.subscription) is not UNSET:
            quotes += 4
        if (source := wire.source) is not UNSET:
            quotes += 4
        if (properties := wire.properties) is not UNSET:
            quotes += 2 + _checked_quotes(properties)
            if len(body) > MAX_PROPERTY_BYTES // 2:
                _bounded(properties)
    except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError):
        return None
    if body.count(b'"') != quotes:
        return None
    return Event(
        id=wire.id,
        customer=wire.customer,
        meter=wire.meter,
        quantity=quantity,
        quantities=quantities,
        timestamp=timestamp,
        kind=_DELTA if kind is UNSET else kind,
        subscription=None if subscription is UNSET else subscription,
        source=None if source is UNSET else source,
        properties={} if properties is UNSET else properties,
    )


def _quotes(members: Mapping[str, object]) -> int:
    return 2 * (len(members) + [*map(type, members.values())].count(str))


def _checked_quotes(properties: Mapping[str, object]) -> int:
    """Return how many quotes the properties need, or raise ValueError where one breaks the rules."""
    strings = 0
    for value in properties.values():
        if isinstance(value, str):
            strings += 1
        elif not (isinstance(value, int) and -_SMALL < value < _SMALL):
            _property(value)
    return 2 * (len(properties) + strings)


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
    return shown
