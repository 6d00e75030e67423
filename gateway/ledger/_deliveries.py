"""The deliveries of a batch as they are first written down: status bytes, ready work, what has no way."""

import sqlite3
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from canonical_schema import Event
from gateway.ledger._model import Code, Plan, WorkState
from gateway.ledger._refs import PLACES
from gateway.ledger._rows import pack_members
from gateway.times import to_micros

__all__ = ["earliest", "enqueue", "fresh", "times"]

Closing = Mapping[str, tuple[int, int]]
"""By destination: its window, and when the first of the deliveries must have arrived."""

_IN_ORDER = pack_members(range(PLACES))


def fresh(
    events: Sequence[Event], plans: Sequence[Plan], receipts: Sequence[int]
) -> tuple[bytes, bytes, bytes, bytes | None]:
    """Return the deliveries of a new batch in four columns.

    For each destination its name, whether it is shadow, where among all members its own are, its window and its
    deadline, as JSON; the status bytes of all destinations; the members of all; the members that have no way.
    """
    size, plan = len(plans), plans[0]
    codes: dict[str, bytes] = {}
    work: dict[str, bytes] = {}
    closing: Closing = {}
    unrouted: bytes | None = None
    if plans.count(plan) == size:
        members = _IN_ORDER[: 2 * size]
        codes |= dict.fromkeys(plan.live + plan.shadow, bytes([Code.PENDING]) * size)
        codes |= {destination: bytes([code]) * size for destination, code in plan.filtered}
        work |= dict.fromkeys(plan.live + plan.shadow, members)
        if plan.windows:
            first = earliest(events, receipts)
            closing = {destination: (window, first + window) for destination, window in plan.windows}
        live = {*plan.live, *(destination for destination, _ in plan.filtered)}
        unrouted = None if plan.routed else members
    else:
        spread = _spread(range(size), plans, size, times(events, plans, receipts))
        codes |= {destination: bytes(some) for destination, some in spread.codes.items()}
        work |= {destination: members.tobytes() for destination, members in spread.work.items()}
        closing, live, unrouted = spread.closing, spread.live, spread.unrouted.tobytes() or None
    at, described = 1, list[tuple[object, ...]]()
    for destination in codes:
        length = len(work.get(destination, b""))
        window, deadline = closing.get(destination, (None, None))
        described.append((destination, int(destination not in live), at, length, window, deadline))
        at += length
    packed = b"".join(work[destination] for destination in codes if destination in work)
    return msgspec.json.encode(described), b"".join(codes.values()), packed, unrouted


def times(events: Sequence[Event], plans: Sequence[Plan], receipts: Sequence[int]) -> Sequence[int] | None:
    """Return when the usage happened, where a plan has a window that it must arrive in; `None` where none has."""
    if not any(plan.windows for plan in plans):
        return None
    return [
        received if event.timestamp is None else to_micros(event.timestamp)
        for event, received in zip(events, receipts, strict=True)
    ]


def earliest(events: Sequence[Event], receipts: Sequence[int]) -> int:
    """Return when the first usage happened."""
    own = [event.timestamp for event in events if event.timestamp is not None]
    told = [to_micros(min(own))] if own else []
    if len(own) < len(events):
        told += [received for event, received in zip(events, receipts, strict=True) if event.timestamp is None]
    return min(told)


def enqueue(
    connection: sqlite3.Connection,
    batch: int,
    members: Sequence[int],
    plans: Sequence[Plan],
    now: int,
    size: int,
    happened: Sequence[int] | None = None,
) -> None:
    """Give events of a stored batch their deliveries: a status byte each, one piece of ready work a destination.

    Whether they look on is for the caller to write down.

    `happened` tells when each was, where a plan has windows.
    """
    spread = _spread(members, plans, size, happened)
    for destination, given in spread.codes.items():
        row = connection.execute(
            "SELECT codes, shadow FROM tracks WHERE batch = ? AND destination = ?", (batch, destination)
        ).fetchone()
        held, shadow = row or (bytes(size), 0)
        merged = bytes(new or old for new, old in zip(given, held, strict=True))
        connection.execute("INSERT OR REPLACE INTO tracks VALUES (?, ?, ?, ?)", (batch, destination, shadow, merged))
    connection.executemany(
        "INSERT INTO work (destination, batch, members, state, due, attempts, doubt, since, window, deadline)"
        " VALUES (?, ?, ?, ?, ?, 0, 0, ?, ?, ?)",
        [
            (name, batch, packed.tobytes(), WorkState.READY, now, now, *spread.closing.get(name, (None, None)))
            for name, packed in spread.work.items()
        ],
    )
    if spread.unrouted:
        connection.execute("INSERT OR REPLACE INTO unrouted VALUES (?, ?)", (batch, pack_members(spread.unrouted)))


class _Spread(NamedTuple):
    """Deliveries by destination."""

    codes: dict[str, bytearray]
    work: "dict[str, array[int]]"
    closing: Closing
    live: set[str]
    """Where one event of the batch counts on the delivery."""
    unrouted: "array[int]"


def _spread(members: Sequence[int], plans: Sequence[Plan], size: int, happened: Sequence[int] | None) -> _Spread:
    codes: defaultdict[str, bytearray] = defaultdict(lambda: bytearray(size))
    work: defaultdict[str, array[int]] = defaultdict(lambda: array("H"))
    closing: dict[str, tuple[int, int]] = {}
    live, unrouted = set[str](), array("H")
    for place, (index, plan) in enumerate(zip(members, plans, strict=True)):
        for destination in plan.live + plan.shadow:
            codes[destination][index] = Code.PENDING
            work[destination].append(index)
        for destination, code in plan.filtered:
            codes[destination][index] = code
        if happened is not None:
            for destination, window in plan.windows:
                closes = happened[place] + window
                _, first = closing.get(destination, (window, closes))
                closing[destination] = window, min(first, closes)
        live.update(plan.live, (destination for destination, _ in plan.filtered))
        if not plan.routed:
            unrouted.append(index)
    return _Spread(codes, work, closing, live, unrouted)
