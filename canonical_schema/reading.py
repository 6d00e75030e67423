"""The fast reader of events: it says yes, or "not sure", and then the contract has the last word."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from canonical_schema.contract import MAX_PROPERTY_BYTES, bounded, checked_property, is_id, read_by_contract
from canonical_schema.event import Event, Kind
from canonical_schema.quantity import to_quantity
from canonical_schema.times import parse_time

__all__ = ["read_event"]

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
_SMALL = 2**63
_DELTA = Kind.DELTA  # a look-up in an enum costs as much as a decimal


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
                bounded(properties)
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
            checked_property(value)
    return 2 * (len(properties) + strings)
