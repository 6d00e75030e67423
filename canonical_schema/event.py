"""The canonical usage event: the contract that clients read, and the value that flows inside.

`UsageEvent` is the contract, with its JSON Schema. `Event` is the same thing as the gateway carries it, made for
millions. `read_event` turns JSON into an `Event` by a fast reader that says yes or "not sure"; the contract has
the last word on everything else, and words every refusal.

An optional member is absent, never null. A name that appears twice in one object is refused.
"""

import difflib
import json
import re
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

from canonical_schema.quantity import NUMBER, InvalidQuantity, plain, to_quantity

__all__ = [
    "Event",
    "InvalidEvent",
    "Kind",
    "Property",
    "UsageEvent",
    "decode_event",
    "differences",
    "encode_event",
    "event_json",
    "format_time",
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
    # https://jcristharif.com/msgspec/supported-types.html#union-optional
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
    """One usage event, checked. Equal events have equal members; `differences` says it by value.

    Its `repr` shows neither the customer nor the properties.
    """

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
    """Dimensions. A number keeps every digit that was sent: an int, or a Decimal where it has a point or an
    exponent."""

    def __repr__(self) -> str:
        return f"Event(id={self.id!r}, meter={self.meter!r})"


# Times ------------------------------------------------------------------------------------------------------
