"""How a simulated vendor understands a request: rows by the declared roles, without the adapter's `encode`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal, InvalidOperation, localcontext
from typing import cast

import msgspec

from adapters import Door, QuantityRule, Row
from adapters._values import JsonValue
from gateway.simulator.manners import Manners, Shape
from gateway.simulator.world import Charge

__all__ = ["EPOCH", "Flaw", "Incoming", "Properties", "label", "lacks_rows", "raw_rows", "understand"]

Properties = str | None | Sequence[str]
"""Where a meter's quantity stands in an open set of properties: one, several, or `None` to count rows."""

_DECODER = msgspec.json.Decoder(float_hook=Decimal)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?")


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something about a row that the vendor cannot read."""

    path: tuple[str | int, ...]
    """Where, from the row inwards; empty: the row itself."""
    message: str
    missing: bool = False
    """Whether it is not there at all, which some vendors notice later than a wrong type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One row, understood."""

    key: str
    customer: str
    charges: tuple[Charge, ...]
    timestamp: datetime
    row: Row
    absolute: bool


def raw_rows(door: Door, body: bytes) -> list[JsonValue] | None:
    """Return the rows of a body, or `None` where it has not the door's shape."""
    decoded = _decoded(body)
    match door.rows:
        case "one":
            return [decoded]
        case "list":
            found = decoded
        case (under,):
            found = decoded.get(under) if isinstance(decoded, Mapping) else None
    return found if isinstance(found, list) else None


def lacks_rows(door: Door, body: bytes) -> bool:
    """Return whether a body is an object in which the list of rows is not there."""
    decoded = _decoded(body)
    return isinstance(door.rows, tuple) and isinstance(decoded, Mapping) and decoded.get(door.rows[0]) is None


def _decoded(body: bytes) -> JsonValue:
    try:
        return cast("JsonValue", _DECODER.decode(body))
    except (msgspec.DecodeError, InvalidOperation, RecursionError):
        return None


def label(door: Door, row: JsonValue) -> str:
    """Return the name by which a script can call a row: its key, or the event id that our rows carry along."""
    path = door.roles.key or door.roles.event_id
    return "" if path is None else next((hit for _, hit in _at(row, path) if isinstance(hit, str)), "")


def understand(
    door: Door,
    profile: str,
    row: JsonValue,
    habits: Manners,
    properties: Mapping[str, Properties],
    now: datetime,
    fallback: str,
) -> Incoming | list[Flaw]:
    """Read one row by the door's roles. Returns every flaw where there is one."""
    if not isinstance(row, Mapping):
        return [Flaw((), "Invalid input: expected object")]
    optional = habits.optional.get(profile, frozenset())
    flaws = [Flaw((name,), "Required", missing=True) for name in habits.also.get(profile, ()) if row.get(name) is None]
    flaws += _shape_flaws(row, habits.shapes.get(profile, {}))
    key = label(door, row) or fallback
    if door.roles.key is not None:
        flaws += _text_flaws(row, (door.roles.key,), needed="key" not in optional)
    flaws += _text_flaws(row, door.roles.customer, needed=True)
    walks = "[]" in door.roles.meter[0]
    if not walks and sum(row.get(path) is not None for path in door.roles.meter) > 1:
        flaws.append(Flaw((habits.either or door.roles.meter[0],), "Exactly one of these must be given"))
    charges: list[Charge] = []
    if walks:
        charges = _walked(door, row, flaws)
    else:
        flaws += _text_flaws(row, door.roles.meter, needed=True, about=habits.either)
        meter = _first(row, door.roles.meter)
        if "{quantity}" in door.roles.quantity:
            charges = list(_open(door, row, meter, properties.get(meter, "quantity")))
        else:
            charges = [Charge(meter, meter, _strict(door.quantity, row, door.roles.quantity, flaws))]
    stamp = _timestamp(door, row, now, "timestamp" not in optional, habits, flaws)
    if flaws:
        return flaws
    absolute = habits.absolute is not None and row.get(habits.absolute) is True
    return Incoming(
        key=key,
        customer=_first(row, door.roles.customer),
        charges=tuple(charges),
        timestamp=stamp,
        row=row,
        absolute=absolute,
    )


def _shape_flaws(row: Row, shapes: Mapping[str, Shape]) -> Iterator[Flaw]:
    for name, shape in shapes.items():
        value = row.get(name)
        if value is None:
            continue
        if isinstance(shape, re.Pattern):
            if isinstance(value, str) and not shape.fullmatch(value):
                yield Flaw((name,), f"Invalid string: must match pattern /^{shape.pattern}$/")
        elif not isinstance(value, Mapping if shape == "object" else str):
            yield Flaw((name,), f"Invalid input: expected {shape}")


def _text_flaws(row: Row, paths: Sequence[str], *, needed: bool, about: str | None = None) -> Iterator[Flaw]:
    hits = [(where, hit) for path in paths for where, hit in _at(row, path) if hit is not None]
    if not hits or all(hit == "" for _, hit in hits):
        if needed:
            yield Flaw((about or paths[0],), "Required", missing=True)
    else:
        yield from (Flaw(where, "Invalid input: expected string") for where, hit in hits if not isinstance(hit, str))


def _walked(door: Door, row: Row, flaws: list[Flaw]) -> list[Charge]:
    """Read a list of measures inside one row."""
    outer, _, inner = door.roles.meter[0].partition("[].")
    quantity = door.roles.quantity.partition("[].")[2]
    listed = row.get(outer)
    if not isinstance(listed, list) or not listed:
        flaws.append(Flaw((outer,), "Required", missing=listed is None))
        return []
    charges: list[Charge] = []
    for index, measure in enumerate(listed):
        if not isinstance(measure, Mapping):
            flaws.append(Flaw((outer, index), "Invalid input: expected object"))
            continue
        found: list[Flaw] = list(_text_flaws(measure, (inner,), needed=True))
        name = _first(measure, (inner,))
        charges.append(Charge(name, name, _strict(door.quantity, measure, quantity, found)))
        flaws += [Flaw((outer, index, *flaw.path), flaw.message, flaw.missing) for flaw in found]
    return charges


def _open(door: Door, row: Row, meter: str, where: Properties) -> Iterator[Charge]:
    """Read the properties that the vendor's own metric names. What it cannot read it bills as 0, without a word."""
    if where is None:
        yield Charge(meter, meter, Decimal(1))
        return
    names = (where,) if isinstance(where, str) else where
    outer = door.roles.quantity.removesuffix(".{quantity}")
    held = next((hit for _, hit in _at(row, outer)), None)
    for name in names:
        value = held.get(name) if isinstance(held, Mapping) else None
        billed = meter if len(names) == 1 else f"{meter}.{name}"
        yield Charge(meter, billed, _lenient(door.quantity, value))


def _strict(rule: QuantityRule, row: Row, path: str, flaws: list[Flaw]) -> Decimal:
    value = row.get(path)
    if value is None:
        flaws.append(Flaw((path,), "Required", missing=True))
        return Decimal(0)
    number = _number(value, texts=rule.as_string)
    if number is None or (rule.places == 0 and number != number.to_integral_value()):
        flaws.append(Flaw((path,), f"Invalid input: expected {'number' if rule.places else 'int'}"))
        return Decimal(0)
    lowest = -rule.maximum if rule.negative is not None and rule.maximum is not None else rule.minimum
    if lowest is not None and number < lowest:
        flaws.append(Flaw((path,), f"Too small: expected number to be >={lowest}"))
        return Decimal(0)
    if rule.maximum is not None and number > rule.maximum:
        flaws.append(Flaw((path,), f"Too big: expected number to be <={rule.maximum}"))
        return Decimal(0)
    return _fixed(number, rule.places)


def _lenient(rule: QuantityRule, value: JsonValue | None) -> Decimal:
    """Return what a vendor makes of a property: numbers through a double, numeric strings exactly, else 0."""
    number = _number(value, texts=rule.as_string)
    if number is None:
        return Decimal(0)
    if not isinstance(value, str):
        number = Decimal(repr(float(number)))
    low, high = rule.minimum, rule.maximum
    if not number.is_finite() or (low is not None and number < low) or (high is not None and number > high):
        return Decimal(0)
    return _fixed(number, rule.places)


def _number(value: JsonValue | None, *, texts: bool) -> Decimal | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Decimal):
        return Decimal(value)
    if texts and isinstance(value, str) and _NUMBER.fullmatch(value):
        return Decimal(value)
    return None


def _fixed(number: Decimal, places: int) -> Decimal:
    """Cut what lies below the vendor's resolution; a number with fewer places stays as it is."""
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or exponent >= -places:
        return number
    with localcontext(prec=len(number.as_tuple().digits) + places):
        return number.quantize(Decimal(1).scaleb(-places), rounding=ROUND_DOWN)


def _timestamp(door: Door, row: Row, now: datetime, needed: bool, habits: Manners, flaws: list[Flaw]) -> datetime:
    path = door.roles.timestamp
    value = row.get(path)
    if value is None and habits.coerced and path in row:
        return EPOCH
    if value is None:
        if needed:
            flaws.append(Flaw((path,), "Required", missing=True))
        return _floored(now, door.time.resolution)
    try:
        if door.time.style == "epoch_ms" and isinstance(value, int) and not isinstance(value, bool):
            return EPOCH + timedelta(milliseconds=value)
        textual = door.time.style == "rfc3339" or habits.coerced
        if textual and isinstance(value, str) and _RFC3339.fullmatch(value):
            return _floored(datetime.fromisoformat(value.upper()).astimezone(UTC), door.time.resolution)
    except (ValueError, OverflowError):
        pass
    flaws.append(Flaw((path,), "Invalid input: expected date"))
    return now


def _floored(instant: datetime, resolution: timedelta) -> datetime:
    return instant - (instant - EPOCH) % resolution


def _first(row: Row, paths: Sequence[str]) -> str:
    return next((hit for path in paths for _, hit in _at(row, path) if isinstance(hit, str) and hit), "")


def _at(value: JsonValue | None, path: str) -> Iterator[tuple[tuple[str, ...], JsonValue]]:
    """Yield what stands at a plain dotted path, with where that is."""
    where: list[str] = []
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return
        where.append(name)
        value = value[name]
    yield tuple(where), value
