"""What is left of an event when the event itself is gone: eight bytes that tell a repeat from other content."""

from datetime import UTC, datetime, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from hashlib import blake2b
from operator import attrgetter
from typing import cast

import msgspec

from canonical_schema.correction import Correction
from canonical_schema.event import Event, Kind

__all__ = ["FINGERPRINT", "fingerprint"]

FINGERPRINT = 8
"""Bytes of a fingerprint."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, capitals=1)
# By name, and only what is there: a member that joins the event later changes no fingerprint of before.
_MEMBERS = sorted(Event.__struct_fields__)
_values = attrgetter(*_MEMBERS)
_pack = msgspec.msgpack.Encoder().encode


def fingerprint(event: Event) -> bytes:
    """Return the fingerprint of an event: the same where `differences` finds nothing, else another one.

    It never changes, whatever version or process makes it: ledgers and archives keep it for years. Two events that
    differ have the same one with a chance of 1 in 2**64.
    """
    told: list[object] = []
    for name, value in zip(_MEMBERS, _values(event), strict=True):
        if value is None or value is Kind.DELTA or (not value and name == "properties"):
            continue
        told += (name, value if type(value) is str else _plain(value))
    return blake2b(_pack(told), digest_size=FINGERPRINT, person=b"usage event").digest()


def _plain(value: object) -> object:
    """Return a value in the one form that it shares with all that equal it: a number as bytes, never like a string."""
    kind = type(value)
    if kind is str or kind is bool:
        return value
    if kind is Decimal or kind is int:
        return _number(cast("Decimal | int", value))
    if kind is datetime:
        return (cast("datetime", value) - _EPOCH) // _MICRO
    if kind is dict:
        members = cast("dict[str, object]", value)
        return [(name, _plain(members[name])) for name in sorted(members)]
    if kind is Correction:
        return _plain(msgspec.structs.asdict(cast("Correction", value)))
    assert kind is Kind
    return str(value)


def _number(value: Decimal | int) -> bytes:
    if value.__class__ is int and value % 10:
        return b"%d" % value
    if not value:
        return b"0"
    return _EXACT.to_sci_string(_EXACT.normalize(Decimal(value))).encode()
