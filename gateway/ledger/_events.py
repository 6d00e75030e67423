"""The events of the newest batches, decoded: those just recorded are the next to be sent."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from canonical_schema import Event

__all__ = ["EventCache"]

CACHED_EVENTS = 50_000
"""How many decoded events are kept at hand."""


class EventCache:
    """The events of the newest batches, decoded. Asked from several threads."""

    def __init__(self) -> None:
        self._batches: OrderedDict[int, Sequence[Event]] = OrderedDict()
        self._events = 0
        self._barred: set[int] = set()
        self._lock = threading.Lock()

    def bar(self, batch: int) -> None:
        """Keep a batch at hand no longer, nor again: its events are about to change."""
        with self._lock:
            self._barred.add(batch)
            if (dropped := self._batches.pop(batch, None)) is not None:
                self._events -= len(dropped)

    def get(self, batch: int) -> Sequence[Event] | None:
        with self._lock:
            return self._batches.get(batch)

    def put(self, batch: int, events: Sequence[Event]) -> None:
        with self._lock:
            if batch in self._batches or batch in self._barred:
                return
            self._batches[batch] = events
            self._events += len(events)
            while self._events > CACHED_EVENTS and len(self._batches) > 1:
                _, dropped = self._batches.popitem(last=False)
                self._events -= len(dropped)
