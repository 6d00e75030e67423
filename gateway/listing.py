"""`GET /v1/events`: events by what they are and what became of them, newest first, a page at a time."""

import re
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from canonical_schema import DeliveryStatus, ErrorCode, EventStatus, format_time, parse_time
from gateway.errors import RequestRefused
from gateway.intake import slices
from gateway.ledger import PLACES, Code, Ledger, WorkState, ref_of, snapshot_of, split_ref
from gateway.merge import View
from gateway.times import from_micros

__all__ = ["Filter", "letters", "matches", "page", "read_filter", "read_whole_filter"]

PAGE = 100
SCANNED = 400
SCANNED_EVENTS = 50_000
"""Batches and events that one page looks at; it may come back short, with a cursor to go on."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What to list. `None` is anything."""

    status: str | None = None
    destination: str | None = None
    customer: str | None = None
    meter: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = PAGE
    cursor: int | None = None


_FILTERS = frozenset({"status", "destination", "customer", "meter", "from", "to"})
_PAGING = frozenset({"limit", "cursor"})


def read_filter(query: Mapping[str, str], known: frozenset[str] = _FILTERS | _PAGING) -> Filter:
    """Return the filter of a query string. Raises RequestRefused for names and values that mean nothing."""
    for name in query:
        if name not in known:
            raise _refused(f"unknown filter {name[:64]!r}: there are {', '.join(sorted(known))}")
    status = query.get("status")
    statuses = sorted({*EventStatus, *DeliveryStatus} - {EventStatus.INVALID, EventStatus.CONFLICT})
    if status is not None and status not in statuses:
        raise _refused(f"status: there is no {status[:64]!r}; one of {', '.join(statuses)}")
    since, until = _time(query, "from"), _time(query, "to")
    if since is not None and until is not None and since >= until:
        raise _refused("from: must be before to")
    return Filter(
        status=status,
        destination=query.get("destination"),
        customer=query.get("customer"),
        meter=query.get("meter"),
        since=since,
        until=until,
        limit=_number(query, "limit", 1, 1000) or PAGE,
        cursor=_number(query, "cursor", 0, 2**62),
    )


def read_whole_filter(query: Mapping[str, str]) -> Filter:
    """Return a filter of all that it finds, not of a page of it. Raises RequestRefused, also for what pages have."""
    for name in sorted(_PAGING & query.keys()):
        raise _refused(f"filter: {name} is for pages, leave it out: this is about all that is found")
    return read_filter(query, _FILTERS)


async def page(ledger: Ledger, tenant: str, wanted: Filter) -> dict[str, Any]:
    """Return one page: `data`, and `next_cursor` where there may be more."""
    below = wanted.cursor
    data: list[dict[str, Any]] = []
    batches = events = 0
    while batches < SCANNED and events < SCANNED_EVENTS:
        # `below` may lie inside a batch, which is then looked at again for what is below.
        start = None if below is None else split_ref(below + PLACES - 1)[0]
        numbers = await ledger.batches_before(start, 20)
        if not numbers:
            return {"data": data}
        for batch in numbers:
            snapshot = await snapshot_of(ledger, batch)
            batches += 1
            if snapshot is not None and snapshot.tenant == tenant:  # trimmed ones have nothing to be found by
                events += len(snapshot.events)
                view = View(snapshot)
                async for index in _found(view, below, wanted):
                    data.append(_shown(view, index))
                    if len(data) == wanted.limit:
                        return {"data": data, "next_cursor": str(ref_of(batch, index))}
            below = ref_of(batch, 0)
            if batches >= SCANNED or events >= SCANNED_EVENTS:
                break
    return {"data": data, "next_cursor": str(below)}


async def letters(ledger: Ledger, tenant: str, wanted: Filter) -> AsyncIterator[dict[str, Any]]:
    """Give every delivery of a status that a filter finds, with its event, newest first. Each batch is read once."""
    async for batch in _holding(ledger, wanted):
        snapshot = await snapshot_of(ledger, batch)
        if snapshot is None or snapshot.tenant != tenant:
            continue
        view = View(snapshot)
        async for index in _found(view, None, wanted):
            detail = view.detail(index)
            for name, delivery in detail["deliveries"].items():
                if delivery["status"] == wanted.status and wanted.destination in {None, name}:
                    yield {"destination": name, "event": detail.get("event", {}), "delivery": delivery}


async def _holding(ledger: Ledger, wanted: Filter) -> AsyncIterator[int]:
    """Give the batches that may hold deliveries of a status, newest first: few, of all, where these are kept apart."""
    states = _KEPT_APART.get(wanted.status or "")
    if states is not None:
        for batch in sorted({batch for batch, _ in await ledger.in_state(states, wanted.destination)}, reverse=True):
            yield batch
        return
    below: int | None = None
    while numbers := await ledger.batches_before(below, 20):
        for below in numbers:
            yield below


async def _found(view: View, below: int | None, wanted: Filter) -> AsyncIterator[int]:
    """Give the indexes of what is wanted of a batch, newest first; others have their turns in between."""
    last = len(view.snapshot.events) - 1
    async for part in slices(last + 1):
        for index in (last - position for position in part):
            ref = ref_of(view.snapshot.batch, index)
            if (below is None or ref < below) and matches(view, index, wanted):
                yield index


def matches(view: View, index: int, wanted: Filter) -> bool:
    """Return whether an event is what is wanted."""
    event = view.snapshot.events[index]
    if wanted.customer is not None and event.customer != wanted.customer:
        return False
    if wanted.meter is not None and event.meter != wanted.meter:
        return False
    when = event.timestamp or from_micros(view.snapshot.received_at(index))
    if (wanted.since is not None and when < wanted.since) or (wanted.until is not None and when >= wanted.until):
        return False
    if wanted.status is None and wanted.destination is None:
        return True
    codes: dict[str, Code] = view.codes(index)
    if wanted.destination is not None:
        code = codes.get(wanted.destination)
        if code is None or wanted.status is None or wanted.status in _DELIVERY:
            return code is not None and wanted.status in {None, code.status}
    if wanted.status in _EVENT:
        return view.status(index) == wanted.status
    return any(code.status == wanted.status for code in codes.values())


_EVENT, _DELIVERY = frozenset(EventStatus), frozenset(DeliveryStatus)
"""`pending` and `unknown` are both: the event's, unless a destination is named."""
_GOING = (WorkState.READY, WorkState.SENDING, WorkState.WAITING)
_KEPT_APART = {
    DeliveryStatus.REJECTED.value: (WorkState.REJECTED,),
    DeliveryStatus.DEAD.value: (WorkState.DEAD,),
    DeliveryStatus.UNKNOWN.value: (WorkState.UNKNOWN,),
    DeliveryStatus.BLOCKED.value: (WorkState.BLOCKED, WorkState.HELD),
    DeliveryStatus.PENDING.value: _GOING,
    DeliveryStatus.RETRYING.value: _GOING,
}
"""Statuses whose every delivery is work: the others are of what was settled, perhaps long ago."""


def _shown(view: View, index: int) -> dict[str, Any]:
    event = view.snapshot.events[index]
    received = from_micros(view.snapshot.received_at(index))
    corrects = {} if event.corrects is None else {"corrects": event.corrects.of}
    return {
        "id": event.id,
        **corrects,
        "status": view.status(index),
        "received_at": format_time(received),
        "customer": event.customer,
        "meter": event.meter,
        "timestamp": format_time(event.timestamp or received),
        "deliveries": view.deliveries(index),
    }


def _time(query: Mapping[str, str], name: str) -> datetime | None:
    if name not in query:
        return None
    try:
        return parse_time(re.sub(r" (?=\d\d:\d\d$)", "+", query[name]))  # a plus that a query decoded to a blank
    except ValueError as error:
        raise _refused(f"{name}: {error}") from None


def _number(query: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    if name not in query:
        return None
    text = query[name]
    # Longer than any number in question, if only by zeros: Python reads no more than 4300 digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and least <= int(text) <= most):
        raise _refused(f"{name}: must be a whole number from {least} to {most}")
    return int(text)


def _refused(detail: str) -> RequestRefused:
    return RequestRefused(400, ErrorCode.INVALID_REQUEST, detail)
