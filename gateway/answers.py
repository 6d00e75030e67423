"""The answer to a request as it goes out: put together entry by entry, and what looks alike is written once."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import NamedTuple

import msgspec

from canonical_schema import DeliveryResult, EventResult, EventStatus
from gateway.ledger import Plan
from gateway.merge import fresh, summed
from gateway.tokens import token

__all__ = ["Alike", "Answer", "Template"]

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Template:
    """The entry of events of one plan that were stored just now: they differ in their place and their id alone."""

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
    """The templates of all plans."""

    def __init__(self, providers: Mapping[str, str]) -> None:
        """`providers`: by destination."""

        @lru_cache(4096)  # there are few plans; the bound is for whoever has a route for each customer
        def template(plan: Plan) -> Template:
            return Template(plan, providers)

        self._template = template

    def only(self, plans: Sequence[Plan]) -> Template | None:
        """Return the one template of all events; `None` where their plans differ."""
        return self._template(plans[0]) if plans and plans.count(plans[0]) == len(plans) else None

    def templates(self, plans: Sequence[Plan]) -> Sequence[Template]:
        """Return the template of each event, in the order of their plans."""
        only = self.only(plans)
        return [self._template(plan) for plan in plans] if only is None else [only] * len(plans)


class Answer:
    """What is told about the events of a request, in the order in which they were sent."""

    def __init__(self) -> None:
        self._counts: dict[EventStatus, int] = {}
        self._entries: list[bytes] = []

    def count(self, status: EventStatus, events: int) -> None:
        """Count events without telling more of them."""
        self._counts[status] = self._counts.get(status, 0) + events

    def add(self, result: EventResult) -> None:
        """Put an entry behind those that are there."""
        self.count(result["status"], 1)
        self._entries.append(_encode(result))

    def add_alike(self, first: int, ids: Sequence[str], template: Template) -> None:
        """Put entries of events that were stored just now and look alike behind those that are there."""
        self.count(template.status, len(ids))
        self._add(first, ids, repeat(template.rest, len(ids)))

    def add_new(self, first: int, ids: Sequence[str], templates: Sequence[Template]) -> None:
        """Put entries of events that were stored just now behind those that are there, from a place on."""
        for template in set(templates):
            self.count(template.status, templates.count(template))
        self._add(first, ids, [template.rest for template in templates])

    def _add(self, first: int, ids: Sequence[str], rests: Iterable[str]) -> None:
        text = "".join(ids)
        if '"' in text or "\\" in text:  # an id is printable ASCII: nothing else in it needs an escape
            ids = [one.replace("\\", "\\\\").replace('"', '\\"') for one in ids]
        written = chain.from_iterable(zip(_heads(first, len(ids)), ids, rests, strict=True))
        self._entries.append("".join(written).encode())

    @property
    def http_status(self) -> int:
        """The HTTP status of the answer, from what became of its events."""
        return _ended(tuple(self._counts.items())).http_status

    def json(self) -> bytes:
        """Return the whole answer, with an id of its own."""
        summary = _ended(tuple(self._counts.items())).summary
        head = f'{{"object":"batch_result","batch_id":"bat_{token()}","summary":{summary},"results":['
        return b"".join((head.encode(), b",".join(self._entries), b"]}"))


class _Ended(NamedTuple):
    """What an answer says as a whole."""

    http_status: int
    summary: str
    """As JSON."""


@lru_cache(1024)  # requests of one size nearly always end alike
def _ended(counts: Sequence[tuple[EventStatus, int]]) -> _Ended:
    """Return what became of so many events of each status, as a whole."""
    ended = dict(counts)
    total, delivered = sum(ended.values()), ended.get(EventStatus.DELIVERED, 0)
    if ended.get(EventStatus.INVALID, 0) + ended.get(EventStatus.CONFLICT, 0) == total:
        status = 422
    elif delivered == total:
        status = 200
    else:
        status = 202 if delivered + ended.get(EventStatus.PENDING, 0) == total else 207
    return _Ended(status, _encode(summed(ended)).decode())


@lru_cache(256)  # a slice's places are nearly always the same
def _heads(first: int, count: int) -> list[str]:
    """Return what stands before the id in entries that follow one another."""
    return [f'{"," if place > first else ""}{{"index":{place},"id":"' for place in range(first, first + count)]
