"""Claim, store and enqueue: what one request brings, in one atomic step."""

import sqlite3
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from canonical_schema import Event, differences
from gateway.ledger._model import PLACES, Claim, ClaimKind, Code, Plan, WorkState, ref_of, split_ref
from gateway.ledger._rows import DIGEST, pack_events, pack_members

__all__ = ["Entry", "enqueue", "record"]

Load = Callable[[sqlite3.Connection, int], Sequence[Event]]


class Entry(NamedTuple):
    """What one request wants recorded."""

    tenant: str
    received: int
    events: Sequence[Event]
    plans: Sequence[Plan]
    digests: Sequence[bytes]


def record(connection: sqlite3.Connection, entry: Entry, load: Load) -> tuple[Sequence[Claim], int | None, list[Event]]:
    """Store what is new; return a claim for each event, the batch that holds the new ones, and those events.

    The first of an id wins, in the request as in the ledger.
    """
    refs = _known(connection, entry.digests)
    (last,) = connection.execute("SELECT coalesce(max(batch), 0) FROM batches").fetchone()
    batch: int = last + 1
    new: list[int] = []
    claims: list[Claim] = []
    loaded: dict[int, Sequence[Event]] = {}
    for position, (event, digest) in enumerate(zip(entry.events, entry.digests, strict=True)):
        ref = refs.get(digest)
        if ref is None:
            ref = refs[digest] = ref_of(batch, len(new))
            new.append(position)
            claims.append(Claim(ref, ClaimKind.NEW))
            continue
        held_in, index = split_ref(ref)
        if held_in == batch:
            first = entry.events[new[index]]
        else:
            if held_in not in loaded:  # repeats come by the batch: it is decoded once, not once an event
                loaded[held_in] = load(connection, held_in)
            first = loaded[held_in][index]
        differing = tuple(differences(first, event))
        claims.append(Claim(ref, ClaimKind.CONFLICT if differing else ClaimKind.REPLAY, differing))
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
    enqueue(connection, batch, range(len(new)), [entry.plans[position] for position in new], entry.received, len(new))
    return claims, batch, stored


def enqueue(
    connection: sqlite3.Connection, batch: int, members: Sequence[int], plans: Sequence[Plan], now: int, size: int
) -> None:
    """Give events their deliveries: a status byte each, and one piece of ready work a destination."""
    codes: defaultdict[str, bytearray] = defaultdict(lambda: bytearray(size))
    work: defaultdict[str, array[int]] = defaultdict(lambda: array("H"))
    live, unrouted = set[str](), array("H")
    for index, plan in zip(members, plans, strict=True):
        for destination in plan.live + plan.shadow:
            codes[destination][index] = Code.PENDING
            work[destination].append(index)
        for destination, code in plan.filtered:
            codes[destination][index] = code
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
        "INSERT INTO work (destination, batch, members, state, due, attempts, doubt, since)"
        " VALUES (?, ?, ?, ?, ?, 0, 0, ?)",
        [(name, batch, packed.tobytes(), WorkState.READY, now, now) for name, packed in work.items()],
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
