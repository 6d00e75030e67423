"""The answer to a request as it goes out: put together entry by entry, and what looks alike is written once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain

import msgspec

from canonical_schema import DeliveryResult, EventResult, EventStatus, Summary
from gateway.ledger import Plan
from gateway.merge import fresh, summed
from gateway.tokens import token

__all__ = ["Alike", "Answer", "Look"]

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Look:
    """How events of one plan look that were stored just now: they differ in their place and their id alone."""

    def __init__(self, plan: Plan, providers: Mapping[str, str]) -> None:
        self.status: EventStatus
        self.deliveries: dict[str, DeliveryResult]
        self.status, self.deliveries = fresh(plan, providers)
        self.is_whole = not plan.windows
        """Whether nothing is missing: a deadline is the event's own."""
        written = _encode(self.result(0, ""))
        self.rest = written.decode().removeprefix('{"index":0,"id":"')
        """What follows the id in an entry."""

    def result(self, position: int, event_id: str) -> EventResult:
        """Return the entry of one event."""
        return EventResult(
            index=position, id=event_id, status=self.status, stored=True, replayed=False, deliveries=self.deliveries
        )


class Alike:
    """The looks of all plans."""

    def __init__(self, providers: Mapping[str, str]) -> None:
        """`providers`: by destination."""

        @lru_cache(4096)  # there are few plans; the bound is for whoever has a route for each customer
        def look(plan: Plan) -> Look:
            return Look(plan, providers)

        self._look = look

    def looks(self, plans: Sequence[Plan]) -> Sequence[Look]:
        """Return how events look, in the order of their plans."""
        if plans and plans.count(plans[0]) == len(plans):
            return [self._look(plans[0])] * len(plans)
        return [self._look(plan) for plan in plans]


class Answer:
    """What is told about the events of a request, in the order in which they were sent."""

    def __init__(self) -> None:
        self._counts: Counter[EventStatus] = Counter()
        self._entries: list[bytes] = []

    def count(self, status: EventStatus, events: int) -> None:
        """Count events without telling more of them."""
        self._counts[status] += events

    def add(self, result: EventResult) -> None:
        """Put an entry behind those that are there."""
        self._counts[result["status"]] += 1
        self._entries.append(_encode(result))

    def add_new(self, first: int, ids: Sequence[str], looks: Sequence[Look]) -> None:
        """Put entries of events that were stored just now behind those that are there, from a place on."""
        for look in set(looks):
            self._counts[look.status] += looks.count(look)
        text = "".join(ids)
        if '"' in text or "\\" in text:  # an id is printable ASCII: nothing else in it needs an escape
            ids = [one.replace("\\", "\\\\").replace('"', '\\"') for one in ids]
        rest = looks[0].rest
        rests = [rest] * len(ids) if looks.count(looks[0]) == len(looks) else [look.rest for look in looks]
        written = chain.from_iterable(zip(_heads(first, len(ids)), ids, rests, strict=True))
        self._entries.append("".join(written).encode())

    @property
    def summary(self) -> Summary:
        """How many events ended in each status."""
        return summed(self._counts)

    @property
    def http_status(self) -> int:
        """The HTTP status of the answer, from what became of its events."""
        counts, total = self._counts, self._counts.total()
        if counts[EventStatus.INVALID] + counts[EventStatus.CONFLICT] == total:
            return 422
        if counts[EventStatus.DELIVERED] == total:
            return 200
        return 202 if counts[EventStatus.DELIVERED] + counts[EventStatus.PENDING] == total else 207

    def json(self) -> bytes:
        """Return the whole answer, with an id of its own."""
        head = f'{{"object":"batch_result","batch_id":"bat_{token()}","summary":'.encode()
        return b"".join((head, _encode(self.summary), b',"results":[', b",".join(self._entries), b"]}"))


@lru_cache(256)  # a slice's places are nearly always the same
def _heads(first: int, count: int) -> list[str]:
    """Return what stands before the id in entries that follow one another."""
    return [f'{"," if place > first else ""}{{"index":{place},"id":"' for place in range(first, first + count)]
