"""The contract of a usage event: every rule, the JSON Schema, and the words of every refusal. Slow, and complete.

An optional member is absent, never null. A name that appears twice in one object is refused.
"""

import difflib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow, Subnormal
from typing import Annotated, Any, cast

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from canonical_schema.event import Event, InvalidEvent, Kind, Property
from canonical_schema.quantity import NUMBER, plain, to_quantity
from canonical_schema.times import format_time, parse_time

__all__ = [
    "MAX_PROPERTY_BYTES",
    "UsageEvent",
    "bounded",
    "checked_property",
    "explain",
    "is_id",
    "is_writable",
    "load_object",
    "read_by_contract",
    "to_event",
]

MAX_PROPERTY_BYTES = 16 * 1024
"""Bound on `properties`, written as compact JSON in UTF-8."""

_ENCODER = msgspec.json.Encoder(decimal_format="number")


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


_UNICODE = "must be Unicode: it holds half of a surrogate pair"


def is_writable(text: str) -> bool:
    """Say whether a string can be written as UTF-8, which half of a surrogate pair cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def checked_property(value: object) -> Property:
    """Return a property, or raise ValueError with the rule that it breaks."""
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


def bounded(properties: dict[str, Property]) -> dict[str, Property]:
    """Return properties that are small enough, or raise ValueError."""
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
_Property = Annotated[
    Property, PlainValidator(checked_property), WithJsonSchema({"type": ["string", "number", "boolean"]})
]
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
    properties: Annotated[dict[str, _Property], Field(max_length=64), AfterValidator(bounded)] = Field(
        default={},
        repr=False,
        description="Dimensions; at most 64 of them, 16 KiB of JSON in all.",
        examples=[{"region": "eu", "cached": True}],
    )

    @field_validator("*", mode="before")
    @classmethod
    def _never_null(cls, value: object, info: ValidationInfo) -> object:
        if value is None and not cls.model_fields[str(info.field_name)].is_required():
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
    faults: list[tuple[dict[str, object], str, str]] = []

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            faults.append((found, _shorten(twice), "appears more than once"))
        faults.extend((found, _shorten(name), _UNICODE) for name in found if not is_writable(name))
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
        holder, name, fault = faults[0]
        outer = next((_shorten(member) for member, value in found.items() if value is holder), None)
        name = name if outer is None else f"{outer}.{name}"
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
