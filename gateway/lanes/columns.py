"""A batch's events as columns: events alike are read and written together, as the texts that they are stored as.

A lane looks at a thousand events at a time, and four lanes at the same thousand. Where all of them look alike, as from
one place in a program they do, one look at the stored text gives every value, as it stands in JSON; no event becomes an
object of its own. What holds of all of them is asked of a column as a whole; only where that fails is a value looked at
by itself.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property, lru_cache
from itertools import compress
from typing import NamedTuple

import msgspec

from canonical_schema import Event, Kind
from gateway.lanes.instants import Writer, time_of
from gateway.ledger import StoredEvents

__all__ = ["Columns", "Look", "Shape", "columns_of", "escaped", "picked", "shared"]

BYTES = 8 * 2**20
"""Of events as they are stored: how many have their columns remembered, until the last lane had them."""

EACH = 3_000
"""Bytes that a batch's columns take besides its events: of single events they would be most of it."""

SHARED = 8
"""Events that are less than an eighth of their batch are read by themselves, as of few that are sent once more."""

FEW = 3
"""Events of a look that are looked at singly before it is worth an expression of its own: some never come again."""

_encoded = msgspec.json.encode
_plain = re.compile(rb"[ !#-\[\]-~]*+").fullmatch
"""Text that stands in JSON as it is, and has no character beyond ASCII."""
_quantities, _whole, _broken = (
    re.compile(rb"%b(?:\n%b)*+" % (number, number)).fullmatch
    for number in (
        rb"(?:[1-9]\d*+|\d++\.\d*[1-9]0*+)",  # above zero, and a whole one without a point
        rb"-?(?:0|[1-9]\d{0,16}+)",
        rb"-?\d++\.\d++",
    )
)
_KINDS = {str: "s", bool: "b", int: "i", Decimal: "d"}
_FORMS = {"s": rb'"([^"]*+)"', "b": rb"(true|false)", "i": rb"([^,}]*+)", "d": rb"([^,}]*+)"}
_ESCAPES = rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'


def escaped(text: str) -> bytes:
    """Return a text as it stands between the quotes of JSON."""
    return _encoded(text)[1:-1]


def _unescaped(text: bytes) -> str:
    """Return the text that stands so between the quotes of JSON."""
    return text.decode() if b"\\" not in text else msgspec.json.decode(b'"%b"' % text, type=str)


def picked(column: Sequence[bytes], places: Sequence[int]) -> Sequence[bytes]:
    """Return some of a column; all of it where the places are as many."""
    return column if len(places) == len(column) else [column[place] for place in places]


class Look(NamedTuple):
    """What events that look alike have in common: all but values."""

    meter: str
    source: str | None
    counted: bool
    """Whether there is a quantity."""
    timed: bool
    """Whether there is a time."""
    subscribed: bool
    names: tuple[str, ...]
    """Of the properties."""
    kinds: str
    """Of the properties, a letter each: `s`tring, `i`nteger, `d`ecimal; `b`oolean, or once it is told, `t` or `f`."""


def _look_of(event: Event) -> Look | None:
    """Return what an event looks like; `None` for absolute values, several quantities, corrections, odd properties."""
    if event.kind is not Kind.DELTA or event.quantities is not None or event.corrects is not None:
        return None
    kinds = [_KINDS.get(type(value)) for value in event.properties.values()]
    if None in kinds:
        return None
    return Look(
        event.meter,
        event.source,
        event.quantity is not None,
        event.timestamp is not None,
        event.subscription is not None,
        tuple(event.properties),
        "".join(filter(None, kinds)),
    )


class Shape:
    """Events of a batch that look alike: their values, a column each, as they stand in JSON.

    Ids are free of odd characters, quantities are above zero and have a point only where they need one, no number has
    an exponent: what is not so is not here.
    """

    def __init__(self, look: Look, places: Sequence[int], columns: Sequence[Sequence[bytes]]) -> None:
        self.look = look
        self.places = places
        """In the batch."""
        self.ids, self.customers, *rest = columns
        self.numbers = rest.pop(0) if look.counted else [b"1"] * len(places)
        self.times = rest.pop(0) if look.timed else ()
        """Empty where events have none of their own."""
        self.values = rest
        """Of the properties, but for booleans that the look tells."""
        self._written: dict[Writer, Sequence[bytes]] = {}
        self._part_of: tuple[Shape, slice] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def part(self, first: int, count: int) -> "Shape":
        """Return some of these that follow one another, as a batch of their own."""
        those = slice(first, first + count)
        counted = [self.numbers] if self.look.counted else []
        timed = [self.times] if self.look.timed else []
        columns = [self.ids, self.customers, *counted, *timed, *self.values]
        made = Shape(self.look, range(count), [column[those] for column in columns])
        made._part_of = self, those
        return made

    @cached_property
    def keys(self) -> Sequence[str]:
        """The ids as text."""
        return self.all_ids.decode().split("\n")

    @cached_property
    def names(self) -> Mapping[bytes, str]:
        """What each customer's text says."""
        return {text: _unescaped(text) for text in self.someplace}

    @cached_property
    def someplace(self) -> Mapping[bytes, int]:
        """A place of each customer's text."""
        return dict(zip(self.customers, range(len(self)), strict=True))

    @cached_property
    def all_ids(self) -> bytes:
        """Every id, a line each: what must not be in one of them is looked for once."""
        return b"\n".join(self.ids)

    @cached_property
    def longest_id(self) -> int:
        """Characters of the longest id."""
        return max(map(len, self.ids))

    @cached_property
    def span(self) -> tuple[datetime, datetime] | None:
        """The first and the last time; `None` where events have none of their own."""
        return (time_of(min(self.times)), time_of(max(self.times))) if self.times else None

    @cached_property
    def digits(self) -> int:
        """Characters of the longest quantity."""
        return max(map(len, self.numbers))

    @cached_property
    def decimals(self) -> int:
        """The most decimal places of a quantity."""
        if b"." not in b"".join(self.numbers):
            return 0
        return max(len(text) - text.index(b".") - 1 for text in self.numbers if b"." in text)

    @cached_property
    def bounds(self) -> tuple[Decimal, Decimal]:
        """The smallest and the largest quantity."""
        known = [Decimal(text.decode()) for text in set(self.numbers)]
        return min(known), max(known)

    def written(self, writer: Writer) -> Sequence[bytes]:
        """Return the times, where events have their own, as a provider takes them."""
        if writer not in self._written:
            if self._part_of is None:
                self._written[writer] = writer(self.times)
            else:  # what one lane had written, the others have too
                whole, those = self._part_of
                self._written[writer] = whole.written(writer)[those]
        return self._written[writer]


class Columns:
    """What the lanes need of a batch's events. `shapes` holds those that are plain; the others are looked at singly."""

    def __init__(self, events: Sequence[Event], shapes: Sequence[Shape] | None = None) -> None:
        """`shapes`: where the events were read before."""
        self.events = events
        stored = StoredEvents.of(events)
        self.shapes = [*_shapes(stored)] if shapes is None else shapes
        self.weight = len(stored.text) + EACH
        """Bytes of the events, as they are stored, and what there is of each batch."""

    def part(self, events: Sequence[Event], first: int) -> "Columns | None":
        """Return the columns of events that are some of these, from a place on; `None` where not all look alike."""
        if len(self.shapes) != 1 or len(self.shapes[0]) < len(self.events):
            return None
        return Columns(events, [self.shapes[0].part(first, len(events))])

    @cached_property
    def keys(self) -> Sequence[str]:
        """The id of every event."""
        if len(self.shapes) == 1 and len(self.shapes[0]) == len(self.events):
            return self.shapes[0].keys
        return [event.id for event in self.events]

    @cached_property
    def customers(self) -> Sequence[str]:
        """Whose events these are, each once."""
        if sum(map(len, self.shapes)) < len(self.events):
            return list({event.customer: None for event in self.events})
        return list({name: None for shape in self.shapes for name in shape.names.values()})


def _shapes(events: StoredEvents) -> Iterable[Shape]:
    """Put plain events together by all that is not a value."""
    look = _look_of(events[0]) if events else None
    columns = None if look is None else _read(look, events)
    if look is not None and columns is not None and _fitting(look, columns) is None:  # as it mostly is
        yield from _told(look, range(len(events)), columns)
        return
    alike: dict[Look, list[int]] = {}
    for place, event in enumerate(events):
        if (look := _look_of(event)) is not None:
            alike.setdefault(look, []).append(place)
    for look, places in alike.items():
        columns = _read(look, events.some(places))
        if columns is None:
            continue
        if (fitting := _fitting(look, columns)) is not None:
            places, columns = list(compress(places, fitting)), [list(compress(column, fitting)) for column in columns]
        if places:
            yield from _told(look, places, columns)


def _read(look: Look, events: StoredEvents) -> list[Sequence[bytes]] | None:
    """Return the values of events, a column each; `None` where not all of them have this look, or few ever had."""
    seen = _seen(look)
    if seen.events <= FEW:
        seen.events += len(events)
    if seen.events <= FEW:
        return None
    found = _finder(look, odd=b"\\" in events.text)(events.text)
    return list(zip(*found, strict=True)) if len(found) == len(events) else None


@dataclass(slots=True)
class _Seen:
    events: int = 0


@lru_cache(4096)
def _seen(_: Look) -> _Seen:
    """Return how many events of a look there were, until these are more than few."""
    return _Seen()


@lru_cache(512)
def _finder(look: Look, *, odd: bool) -> Callable[[bytes], list[tuple[bytes, ...]]]:
    """Return what finds the values in events of one look, as `encode_events` writes them. `odd`: texts have escapes."""
    text = _ESCAPES if odd else _FORMS["s"]
    properties = [
        re.escape(_encoded(name)) + b":" + (text if kind == "s" else _FORMS[kind])
        for name, kind in zip(look.names, look.kinds, strict=True)
    ]
    members = [
        rb'\{"id":' + text,
        b'"customer":' + text,
        b'"meter":' + re.escape(_encoded(look.meter)),
        b'"quantity":([^,}]*+)' if look.counted else b"",
        b'"timestamp":"([^Z"]*+)Z"' if look.timed else b"",
        b'"subscription":' + text.replace(b"(", b"(?:", 1) if look.subscribed else b"",
        b'"source":' + re.escape(_encoded(look.source)) if look.source is not None else b"",
        rb'"properties":\{' + b",".join(properties) + rb"\}" if properties else b"",
    ]
    return re.compile(b",".join(filter(None, members)) + rb"\}\n").findall


def _told(look: Look, places: Sequence[int], columns: Sequence[Sequence[bytes]]) -> Iterable[Shape]:
    """Return events of one look by what their booleans are."""
    first = len(columns) - len(look.kinds)
    if "b" not in look.kinds:
        yield Shape(look, places, columns)
        return
    truths = [column for column, kind in zip(columns[first:], look.kinds, strict=True) if kind == "b"]
    others = [*columns[:first], *(c for c, kind in zip(columns[first:], look.kinds, strict=True) if kind != "b")]
    if all(column.count(column[0]) == len(column) for column in truths):  # as it mostly is
        yield Shape(_having(look, [column[0] for column in truths]), places, others)
        return
    told = list(zip(*truths, strict=True))
    for truth in set(told):
        here = [one == truth for one in told]
        yield Shape(
            _having(look, truth), list(compress(places, here)), [list(compress(column, here)) for column in others]
        )


def _having(look: Look, truth: Sequence[bytes]) -> Look:
    """Return a look that tells what its booleans are."""
    letters = iter(truth)
    return look._replace(kinds="".join(chr(next(letters)[0]) if kind == "b" else kind for kind in look.kinds))


def _fitting(look: Look, columns: Sequence[Sequence[bytes]]) -> list[bool] | None:
    """Return which events are plain; `None`: all of them."""
    checks = [(columns[0], _plain, b"")]
    if look.counted:
        checks.append((columns[2], _quantities, b"\n"))
    for column, kind in zip(columns[len(columns) - len(look.kinds) :], look.kinds, strict=True):
        if kind in "id":
            checks.append((column, _whole if kind == "i" else _broken, b"\n"))
    if all(check(between.join(column)) for column, check, between in checks):
        return None
    return [all(row) for row in zip(*([check(one) is not None for one in c] for c, check, _ in checks), strict=True)]


class _Known:
    """By identity: the ledger hands the same events to every lane, one soon after the other."""

    def __init__(self) -> None:
        self._columns: dict[int, Columns] = {}
        self._bytes = 0

    def of(self, events: Sequence[Event]) -> Columns:
        known = self._columns.get(id(events))
        if known is not None and known.events is events:
            return known
        whole = shared(events)
        made = (whole and self.of(whole[0]).part(events, whole[1])) or Columns(events)
        self._bytes += made.weight
        while self._columns and self._bytes > BYTES:
            self._bytes -= self._columns.pop(next(iter(self._columns))).weight
        self._columns[id(events)] = made
        return made


_known = _Known()


def columns_of(events: Sequence[Event]) -> Columns:
    """Return the columns of a batch, the same for every lane that asks soon."""
    return _known.of(events)


def shared(events: Sequence[Event]) -> tuple[StoredEvents, int] | None:
    """Return the batch that events are a good part of, and where they begin in it, where they follow one another.

    Each lane takes other parts of a batch, as its requests have room: what is seen of the whole they all share.
    """
    if not isinstance(events, StoredEvents) or events.part_of is None:
        return None
    return events.part_of if len(events) * SHARED >= len(events.part_of[0]) else None
