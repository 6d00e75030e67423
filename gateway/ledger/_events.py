"""The events of a batch, as they are stored: decoded where one is looked at. The newest batches are kept at hand."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import overload

from canonical_schema import Event, decode_event, decode_events, encode_events

__all__ = ["EventCache", "StoredEvents", "apart", "some_events"]

CACHED_BYTES = 16 * 2**20
"""Of text: how much is kept at hand. Decoded it takes several times as much."""
EACH = 1_500
"""Bytes that a batch takes besides its text, with the one event that is looked at. Of single events there would be so
many that whoever looks for garbage stops everything for a twentieth of a second."""


class StoredEvents(Sequence[Event]):
    """Events as `encode_events` wrote them, none decoded before somebody asks for it. Asked from several threads."""

    __slots__ = ("_all", "_lacks", "_lines", "_one", "_size", "part_of", "text")

    def __init__(self, text: bytes, size: int | None = None, part_of: "tuple[StoredEvents, int] | None" = None) -> None:
        """`size`: how many there are, where that is known."""
        self.text = text
        self.part_of = part_of
        """Where these follow one another among others: those, and the place of the first."""
        self._size = text.count(b"\n") if size is None else size
        self._lines: list[bytes] | None = None
        self._one: dict[int, Event] = {}
        self._all: list[Event] | None = None
        self._lacks: dict[str, bool] = {}

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Event]:
        return iter(self._decoded())

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> "StoredEvents": ...

    def __getitem__(self, index: int | slice) -> "Event | StoredEvents":
        if isinstance(index, slice):
            return self.some(range(*index.indices(self._size)))
        if self._all is not None:
            return self._all[index]
        place = range(self._size)[index]
        event = self._one.get(place)
        if event is None:
            event = self._one[place] = decode_event(self._line(place))
        return event

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._decoded() == [*other]  # type: ignore[reportUnknownArgumentType]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"StoredEvents(of {self._size})"

    @classmethod
    def of(cls, events: Sequence[Event]) -> "StoredEvents":
        """Return events as they would be stored; those that are, as they are."""
        return events if isinstance(events, StoredEvents) else cls(encode_events(events), len(events))

    def some(self, places: Sequence[int]) -> "StoredEvents":
        """Return those at some places, in the order of these."""
        lines = self._split()
        run = len(places) > 0 and [*places] == [*range(places[0], places[0] + len(places))]
        return StoredEvents(
            b"".join([lines[place] for place in places]), len(places), (self, places[0]) if run else None
        )

    def lacks(self, member: str) -> bool:
        """Return whether no event has this member; only `True` is certain. Each lane asks."""
        if self.part_of is not None and self.part_of[0].lacks(member):
            return True
        if member not in self._lacks:
            self._lacks[member] = b'"%b":' % member.encode() not in self.text
        return self._lacks[member]

    def _line(self, place: int) -> bytes:
        if place == 0 and self._lines is None:  # as whoever wants to know what the others look like asks for
            return self.text[: self.text.index(b"\n")]
        return self._split()[place]

    def _split(self) -> list[bytes]:
        if self._lines is None:
            self._lines = self.text.splitlines(keepends=True)
        return self._lines

    def _decoded(self) -> list[Event]:
        if self._all is None:
            self._all = decode_events(self.text)
            self._one = {}
        return self._all


def some_events(events: Sequence[Event], places: Sequence[int]) -> Sequence[Event]:
    """Return those at some places, in the order of these; all of them, in order, stay the ones that every lane has."""
    if len(places) == len(events) and [*places] == [*range(len(events))]:
        return events
    return events.some(places) if isinstance(events, StoredEvents) else [events[place] for place in places]


def apart(events: Sequence[Event]) -> Sequence[Event]:
    """Return the same events for a reader: what it decodes goes with it, and does not stay at hand."""
    return StoredEvents(events.text, len(events)) if isinstance(events, StoredEvents) else events


class EventCache:
    """The events of the newest batches: those just recorded are the next to be sent. Asked from several threads."""

    def __init__(self) -> None:
        self._batches: OrderedDict[int, StoredEvents] = OrderedDict()
        self._bytes = 0
        self._barred: set[int] = set()
        self._lock = threading.Lock()

    def bar(self, batch: int) -> None:
        """Keep a batch at hand no longer, nor again: its events are about to change."""
        with self._lock:
            self._barred.add(batch)
            if (dropped := self._batches.pop(batch, None)) is not None:
                self._bytes -= len(dropped.text) + EACH

    def get(self, batch: int) -> StoredEvents | None:
        """Return a batch, where it is at hand."""
        with self._lock:
            return self._batches.get(batch)

    def put(self, batch: int, events: StoredEvents) -> None:
        """Have a batch at hand, and let go of the oldest where that is too much."""
        with self._lock:
            if batch in self._batches or batch in self._barred:
                return
            self._batches[batch] = events
            self._bytes += len(events.text) + EACH
            while self._bytes > CACHED_BYTES and len(self._batches) > 1:
                _, dropped = self._batches.popitem(last=False)
                self._bytes -= len(dropped.text) + EACH
