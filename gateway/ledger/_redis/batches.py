"""What batches brought: those just recorded are the next to be sent."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from canonical_schema import Event
from gateway.ledger._events import CACHED_BYTES, EACH, StoredEvents
from gateway.ledger._keeping import Content
from gateway.ledger._kept import Remains

__all__ = ["Batch", "Batches"]


class Batch(NamedTuple):
    """Events as they were recorded together."""

    tenant: str
    received: int
    events: Sequence[Event]
    """None where the batch is trimmed."""
    left: Remains | None = None
    receipts: Sequence[int] = ()
    """Where it is of several requests: when each of its events was received; `received` is the first."""

    @property
    def weight(self) -> int:
        """Bytes that it takes: its events as they are stored, what is left of them, and what each takes besides."""
        text = len(self.events.text) if isinstance(self.events, StoredEvents) else 0
        return EACH + text + (len(self.left.prints) if self.left else 0) + 8 * len(self.receipts)

    def received_at(self, index: int) -> int:
        """Return when an event was received."""
        return self.receipts[index] if self.receipts else self.received

    def differing(self, index: int, event: Event) -> tuple[str, ...] | None:
        """Return `None` for a repeat of an event, else the members that differ, as far as they are known."""
        return Content(self.events, self.left).differing(index, event)


class Batches:
    """The newest batches at hand, and a way to the others. Their content changes only where a customer is erased.

    A server that lost what was written down last, as one may that is started anew or takes another's place, gives the
    numbers of lost batches to others: nothing is known any more of what was heard over an earlier connection.
    """

    def __init__(self, load: Callable[[Sequence[int]], Awaitable[Mapping[int, Batch]]]) -> None:
        self._load = load
        self._held: OrderedDict[int, Batch] = OrderedDict()
        self._bytes = 0
        self.age = 0
        """How often it was all forgotten: what was asked for before comes too late."""

    def __contains__(self, number: int) -> bool:
        return number in self._held

    def __getitem__(self, number: int) -> Batch:
        return self._held[number]

    def drop(self, number: int) -> None:
        """Keep a batch at hand no longer: its content has changed."""
        if (dropped := self._held.pop(number, None)) is not None:
            self._bytes -= dropped.weight

    def forget(self) -> None:
        """Keep nothing at hand of what is there so far."""
        self._held.clear()
        self._bytes = 0
        self.age += 1

    def put(self, number: int, batch: Batch, age: int) -> None:
        """Keep a batch at hand that was asked for at an age."""
        if number in self._held or age != self.age:
            return
        self._held[number] = batch
        self._bytes += batch.weight
        while self._bytes > CACHED_BYTES and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= dropped.weight

    async def get(self, numbers: Iterable[int]) -> Mapping[int, Batch]:
        """Return batches by number; unknown ones are left out."""
        wanted = set(numbers)
        found = {number: self._held[number] for number in wanted if number in self._held}
        if missing := sorted(wanted - found.keys()):
            age = self.age
            for number, batch in (await self._load(missing)).items():
                found[number] = batch
                self.put(number, batch, age)
        return found
