"""Claim, store and enqueue: what one request brings, in one atomic step."""

import sqlite3
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from canonical_schema import Event, differences
from gateway.ledger._keeping import Content
from gateway.ledger._model import PLACES, Claim, ClaimKind, Code, Plan, WorkState, ref_of, split_ref
from gateway.ledger._rows import DIGEST, pack_events, pack_members
from gateway.times import to_micros

__all__ = ["Entry", "Load", "enqueue", "record", "times"]

Load = Callable[[sqlite3.Connection, int], Sequence[Event]]
"""Gives the events of a batch."""
Held = Callable[[sqlite3.Connection, int], Content]
"""Gives what repeats of a batch's ids are held against."""


class Entry(NamedTuple):
    """What one request wants recorded."""

    tenant: str
    received: int
    events: Sequence[Event]
    plans: Sequence[Plan]
    digests: Sequence[bytes]


def record(connection: sqlite3.Connection, entry: Entry, load: Held) -> tuple[Sequence[Claim], int | None, list[Event]]:
    """Store what is new; return a claim for each event, the batch that holds the new ones, and those events.

    The first of an id wins, in the request as in the ledger.
    """
    refs = _known(connection, entry.digests)
    (last,) = connection.execute("SELECT coalesce(max(batch), 0) FROM batches").fetchone()
    batch: int = last + 1
    new: list[int] = []
    claims: list[Claim] = []
    loaded: dict[int, Content] = {}
    for position, (event, digest) in enumerate(zip(entry.events, entry.digests, strict=True)):
        ref = refs.get(digest)
        if ref is None:
            ref = refs[digest] = ref_of(batch, len(new))
            new.append(position)
            claims.append(Claim(ref, ClaimKind.NEW))
            continue
        held_in, index = split_ref(ref)
        if held_in == batch:
            differing = tuple(differences(entry.events[new[index]], event)) or None
        else:
            if held_in not in loaded:  # repeats come by the batch: it is decoded once, not once an event
                loaded[held_in] = load(connection, held_in)
            differing = loaded[held_in].differing(index, event)
        claims.append(Claim(ref, ClaimKind.REPLAY) if differing is None else Claim(ref, ClaimKind.CONFLICT, differing))
    if not new:
        return claims, None, []
    stored = [entry.events[position] for position in new]
    connection.execute(
        "INSERT INTO batches VALUES (?, ?, ?, ?, ?)",
        (batch, entry.tenant, entry.received, len(stored), pack_events(stored)),
    )
    # One statement for all ids: a statement a row would hand the interpreter's lock over once a row.
    connection.execute(
        "INSERT INTO ids SELECT substr(?1, i * ?2 + 1, ?2) AS digest, ?3 + i FROM numbers WHERE i < ?4 ORDER BY digest",
        (b"".join(entry.digests[position] for position in new), DIGEST, batch * PLACES, len(new)),
    )
    plans = [entry.plans[position] for position in new]
    happened = times(stored, plans, entry.received)
    enqueue(connection, batch, range(len(new)), plans, entry.received, len(new), happened)
    return claims, batch, stored


def times(events: Sequence[Event], plans: Sequence[Plan], received: int) -> Sequence[int] | None:
    """Return when the usage happened, where a plan has a window that it must arrive in; `None` where none has."""
    if not any(plan.windows for plan in plans):
        return None
    return [received if event.timestamp is None else to_micros(event.timestamp) for event in events]


def enqueue(
    connection: sqlite3.Connection,
    batch: int,
    members: Sequence[int],
    plans: Sequence[Plan],
    now: int,
    size: int,
    happened: Sequence[int] | None = None,
) -> None:
    """Give events their deliveries: a status byte each, and one piece of ready work a destination.

    `happened` tells when each was, where a plan has windows.
    """
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
        for destination, window in plan.windows if happened is not None else ():
            closes = happened[place] + window
            _, first = closing.get(destination, (window, closes))
            closing[destination] = window, min(first, closes)
        live.update(plan.live, (destination for destination, _ in plan.filtered))
        if not plan.live:
            unrouted.append(index)
    for destination, fresh in codes.items():
        row = connection.execute(
            "SELECT codes, shadow FROM tracks WHERE batch = ? AND destination = ?", (batch, destination)
        ).fetchone()
        held, was_shadow = row or (bytes(size), True)
        merged = bytes(new or old for new, old in zip(fresh, held, strict=True))
        # What one event of the batch counts on stays live.
        shadow = bool(was_shadow) and destination not in live
        connection.execute("INSERT OR REPLACE INTO tracks VALUES (?, ?, ?, ?)", (batch, destination, shadow, merged))
    connection.executemany(
        "INSERT INTO work (destination, batch, members, state, due, attempts, doubt, since, window, deadline)"
        " VALUES (?, ?, ?, ?, ?, 0, 0, ?, ?, ?)",
        [
            (name, batch, packed.tobytes(), WorkState.READY, now, now, *closing.get(name, (None, None)))
            for name, packed in work.items()
        ],
    )
    if unrouted:
        connection.execute("INSERT OR REPLACE INTO unrouted VALUES (?, ?)", (batch, pack_members(unrouted)))


def _known(connection: sqlite3.Connection, digests: Sequence[bytes]) -> dict[bytes, int]:
    """Return the refs of the ids that are known, in one statement."""
    rows = connection.execute(
        "SELECT digest, ref FROM numbers CROSS JOIN ids ON digest = substr(?1, i * ?2 + 1, ?2) WHERE i < ?3",
        (b"".join(digests), DIGEST, len(digests)),
    )
    return dict(rows)
