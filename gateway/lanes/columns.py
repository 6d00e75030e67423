"""A batch's events as columns: what is the same of them at every destination is looked at and written once.

A lane looks at a thousand events at a time, and four lanes at the same thousand. What holds of all of them is asked
of a column as a whole; only where that fails is an event looked at by itself.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property

import msgspec

from adapters._values import Scalar
from canonical_schema import Event, Kind

__all__ = ["Columns", "Shape", "columns_of", "escaped", "kinds_of", "picked"]

EVENTS = 8_192
"""Events whose columns are remembered, until the last lane had them."""

_PLAIN = re.compile(r"[ !#-\[\]-~]*").fullmatch
"""Text that stands in JSON as it is."""
_NUMBER = r"(?:[1-9]\d*|\d+\.\d*[1-9])"
"""A number above zero that is spelled in one way only."""
_NUMBERS = re.compile(rf"{_NUMBER}(?:\n{_NUMBER})*", re.ASCII).fullmatch
_LONG = 10**17
_encoded = msgspec.json.encode


def escaped(text: str) -> str:
    """Return a text as it stands between the quotes of JSON."""
    return text if _PLAIN(text) is not None else _encoded(text)[1:-1].decode()


def picked(column: Sequence[str], places: Sequence[int], size: int) -> Sequence[str]:
    """Return some of a column; all of it where the places are all there are."""
    return column if len(places) == size else [column[place] for place in places]


@dataclass(frozen=True, slots=True)
class Shape:
    """Events of a batch that differ in nothing but values, and the values of their properties, a column each."""

    meter: str
    about: tuple[object, ...]
    """Meter, source, names and kinds of the properties."""
    places: Sequence[int]
    values: Sequence[Sequence[str]]


class Columns:
    """What the lanes need of a batch's events. `shapes` holds those that are plain; the others are looked at singly.

    Not plain: absolute values, several quantities, corrections, ids with odd characters, numbers that can be
    spelled in several ways.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.ids = [event.id for event in events]
        self.customers = [event.customer for event in events]
        self.times = [event.timestamp for event in events]
        self.quantities = [event.quantity for event in events]
        self.numbers = ["1" if quantity is None else str(quantity) for quantity in self.quantities]
        self.shapes = self._shaped(self._plain())

    @cached_property
    def all_ids(self) -> str:
        """Every id, a line each: what must not be in one of them is looked for once."""
        return "\n".join(self.ids)

    @cached_property
    def longest_id(self) -> int:
        """Characters of the longest id."""
        return max(map(len, self.ids), default=0)

    @cached_property
    def customer_texts(self) -> Sequence[str]:
        """The customers, as they stand in JSON."""
        texts = {customer: escaped(customer) for customer in set(self.customers)}
        return [texts[customer] for customer in self.customers]

    @cached_property
    def written(self) -> Sequence[str]:
        """The times in ISO 8601; empty where an event has none of its own."""
        return ["" if when is None else when.isoformat() for when in self.times]

    @cached_property
    def fine(self) -> Sequence[str]:
        """The times as `Adapter.wire_time` writes them to the microsecond."""
        texts = "\n".join(self.written) + "\n"
        return texts.replace("000+00:00\n", "Z\n").replace("+00:00\n", "Z\n").split("\n")[:-1]

    @cached_property
    def epoch_ms(self) -> Sequence[str]:
        """The times in milliseconds since 1970; for times that are not finer, which a double holds exactly."""
        return [str(round(when.timestamp() * 1000)) for when in self.times if when is not None]

    @cached_property
    def in_ms(self) -> bool:
        """Whether no time is finer than a millisecond."""
        return all(len(text) < 26 or text[23:26] == "000" for text in self.written)

    @cached_property
    def span(self) -> tuple[datetime, datetime] | None:
        """The first and the last time; `None` where not every event has one."""
        times = [when for when in self.times if when is not None]
        return (min(times), max(times)) if len(times) == len(self.times) and times else None

    @cached_property
    def digits(self) -> int:
        """Characters of the longest quantity."""
        return max(map(len, self.numbers), default=0)

    @cached_property
    def decimals(self) -> int:
        """The most decimal places of a quantity."""
        if "." not in "".join(self.numbers):
            return 0
        return max(len(text) - text.index(".") - 1 for text in self.numbers if "." in text)

    @cached_property
    def bounds(self) -> tuple[Decimal, Decimal]:
        """The smallest and the largest quantity."""
        known = [Decimal(1) if quantity is None else quantity for quantity in self.quantities]
        return min(known), max(known)

    def _plain(self) -> Sequence[int]:
        """Return the places of the events that a stencil may be for."""
        events, size = self.events, len(self.events)
        if (
            [event.kind for event in events].count(Kind.DELTA) == size
            and [event.quantities for event in events].count(None) == size
            and [event.corrects for event in events].count(None) == size
            and [UTC if when is None else when.tzinfo for when in self.times].count(UTC) == size
            and _PLAIN("".join(self.ids)) is not None
            and _NUMBERS("\n".join(self.numbers)) is not None
        ):
            return range(size)
        return [place for place in range(size) if self._is_plain(place)]

    def _is_plain(self, place: int) -> bool:
        event = self.events[place]
        return (
            event.kind is Kind.DELTA
            and event.quantities is None
            and event.corrects is None
            and (event.timestamp is None or event.timestamp.tzinfo is UTC)
            and _PLAIN(event.id) is not None
            and _NUMBERS(self.numbers[place]) is not None
        )

    def _shaped(self, places: Sequence[int]) -> list[Shape]:
        """Put plain events together by all that is not a value."""
        events = self.events
        if len(places) == len(events) and self._one_shape():
            return [*self._shapes(places)]
        alike: dict[tuple[object, ...], list[int]] = {}
        for place in places:
            event = events[place]
            properties = event.properties
            key = (event.meter, event.source, *properties, *map(type, properties.values()))
            if key in alike:
                alike[key].append(place)
            else:
                alike[key] = [place]
        return [shape for some in alike.values() for shape in self._shapes(some)]

    def _one_shape(self) -> bool:
        """Return whether there is nothing to put apart: most of a batch comes from one place in a program."""
        events = self.events
        return (
            len({event.meter for event in events}) == 1
            and len({event.source for event in events}) == 1
            and len({tuple(event.properties) for event in events}) == 1
            and all(
                len(set(map(type, column))) == 1
                for column in zip(*[event.properties.values() for event in events], strict=True)
            )
        )

    def _shapes(self, places: Sequence[int]) -> Iterable[Shape]:
        """Return the shapes of events whose properties have the same names and types; booleans tell them apart."""
        first = self.events[places[0]]
        columns = self._values(places)
        if bool in map(type, first.properties.values()):
            truths = [column for column in columns if type(column[0]) is bool]
            if any(len(set(column)) > 1 for column in truths):
                alike: dict[tuple[Scalar, ...], list[int]] = {}
                for place, key in zip(places, zip(*truths, strict=True), strict=True):
                    alike.setdefault(key, []).append(place)
                for some in alike.values():
                    yield from self._shapes(some)
                return
        if not all(map(_spelled, columns)):
            places = [place for place in places if all(map(_spelled, self._values([place])))]
            columns = self._values(places)
        if places:
            kinds, values = kinds_of(columns)
            yield Shape(first.meter, (first.meter, first.source, kinds, *first.properties), places, values)

    def _values(self, places: Sequence[int]) -> Sequence[Sequence[Scalar]]:
        """Return the values of the properties of some events, a column each."""
        events = self.events
        return list(zip(*[events[place].properties.values() for place in places], strict=True))


def _spelled(column: Sequence[Scalar]) -> bool:
    """Return whether every value of a column of one type is spelled in one way only."""
    match column[0]:
        case bool() | str():
            return True
        case int():
            return -_LONG < min(column) and max(column) < _LONG  # type: ignore[type-var,operator]
        case _:
            return "E" not in "".join(map(str, column))


def kinds_of(columns: Sequence[Sequence[Scalar]]) -> tuple[str, list[Sequence[str]]]:
    """Return the kinds of columns of properties, a letter each, and the texts of those that are put in places.

    A boolean is told by its letter.
    """
    kinds, texts = "", list[Sequence[str]]()
    for column in columns:
        match column[0]:
            case bool():
                kinds += "t" if column[0] else "f"
            case str():
                kinds += "s"
                written: Sequence[str] = column  # type: ignore[assignment]
                texts.append(written if _PLAIN("".join(written)) is not None else [*map(escaped, written)])
            case int():
                kinds += "i"
                texts.append([*map(str, column)])
            case _:
                kinds += "d"
                texts.append([*map(str, column)])
    return kinds, texts


class _Known:
    """By identity: the ledger hands the same events to every lane, one soon after the other."""

    def __init__(self) -> None:
        self._columns: dict[int, Columns] = {}
        self._events = 0

    def of(self, events: Sequence[Event]) -> Columns:
        known = self._columns.get(id(events))
        if known is not None and known.events is events:
            return known
        made = Columns(events)
        self._events += len(events)
        while self._columns and self._events > EVENTS:
            self._events -= len(self._columns.pop(next(iter(self._columns))).events)
        self._columns[id(events)] = made
        return made


_known = _Known()


def columns_of(events: Sequence[Event]) -> Columns:
    """Return the columns of a batch, the same for every lane that asks soon."""
    return _known.of(events)
