"""Looks at the file: work with its events, batches as they stand, what waits and what was counted."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from canonical_schema import DeliveryStatus
from gateway.ledger._events import apart, some_events
from gateway.ledger._keeping import remains
from gateway.ledger._looking import Looking
from gateway.ledger._model import Code, Snapshot, Track, Unrouted, Work, WorkState
from gateway.ledger._recording import Load
from gateway.ledger._rows import unpack_attempt, unpack_members, unpack_parts, unpack_times
from gateway.ledger._settling import WorkRow, group_of

__all__ = ["batches_after", "counts", "overdue", "pieces", "snapshot", "taken", "unrouted"]

_ROW = ", ".join(f"work.{name}" for name in WorkRow._fields)
_COLUMNS = len(WorkRow._fields)
_ID, _DEADLINE = map(WorkRow._fields.index, ("id", "deadline"))
_WORK = f"{_ROW}, tenant, received, receipts"
"""What `_work` takes, of a piece and its batch: asking once more for each piece would take longer than all of this."""
_PIECES, _CLOSING_PIECES = (
    f"work {index} CROSS JOIN batches USING (batch)" for index in ("", "INDEXED BY work_deadline")
)
"""Work is walked in the order of an index of its own."""
# The planner would rather sort everything that is due than walk the index of the few that have a deadline.
_TAKE_CLOSING = f"""
    SELECT {_WORK} FROM {_CLOSING_PIECES}
    WHERE destination = ? AND state = 'ready' AND due <= ? AND deadline IS NOT NULL ORDER BY deadline, due, id
"""
_TAKE = f"""
    SELECT {_WORK} FROM {_PIECES} WHERE destination = ? AND state = 'ready' AND due <= ? AND deadline IS NULL
    ORDER BY due, id
"""

# The first of each state, and of these the first: together they would all have to be sorted.
_CLOSING = (
    " UNION ALL ".join(
        f"SELECT * FROM (SELECT {_WORK} FROM {_CLOSING_PIECES} WHERE destination = ?1"
        f" AND state = '{state}' AND deadline IS NOT NULL ORDER BY deadline, due, id LIMIT ?2)"
        for state in (WorkState.READY, WorkState.BLOCKED, WorkState.HELD, WorkState.WAITING)
    )
    + f" ORDER BY {_DEADLINE + 1}, {_ID + 1} LIMIT ?2"
)


def taken(connection: sqlite3.Connection, load: Load, destination: str, now: int, limit: int) -> Sequence[Work]:
    """Return ready work that is due, at most `limit` deliveries."""
    found: list[Work] = []
    room = limit
    for query in (_TAKE_CLOSING, _TAKE):
        if room <= 0:  # or the second would look for what has no deadline through all that has one
            break
        rows = connection.execute(query, (destination, now))
        while room > 0 and (row := rows.fetchone()) is not None:
            work = _work(connection, load, row, room)
            found.append(work)
            room -= len(work.members)
        rows.close()
    return found


def overdue(
    connection: sqlite3.Connection, load: Load, destination: str, now: int, limit: int
) -> tuple[Sequence[Work], int | None]:
    """Return work past its deadline, and when the next deadline is."""
    rows = connection.execute(_CLOSING, (destination, limit + 1)).fetchall()
    past = [row for row in rows[:limit] if row[_DEADLINE] < now]
    following = rows[len(past)][_DEADLINE] if len(past) < len(rows) else None
    return [_work(connection, load, row) for row in past], following


def pieces(connection: sqlite3.Connection, load: Load, those: str, values: Sequence[object]) -> list[Work]:
    """Return work with its events; `those` says which and in what order."""
    rows = connection.execute(f"SELECT {_WORK} FROM {_PIECES} WHERE {those}", values).fetchall()
    return [_work(connection, load, row) for row in rows]


def _work(connection: sqlite3.Connection, load: Load, found: Sequence[Any], room: int | None = None) -> Work:
    """Return a piece of work with its events, or as much of it as there is room for."""
    row, (tenant, received, packed) = WorkRow(*found[:_COLUMNS]), found[_COLUMNS:]
    receipts = unpack_times(packed)
    events, members = load(connection, row.batch), unpack_members(row.members)[:room]
    parts = unpack_parts(row.parts)
    return Work(
        id=row.id,
        destination=row.destination,
        batch=row.batch,
        tenant=tenant,
        received=received,
        group=group_of(row),
        members=members,
        events=some_events(events, members),
        parts=None if parts is None else parts[:room],
        receipts=[receipts[index] for index in members] if receipts else (),
    )


def snapshot(connection: sqlite3.Connection, load: Load, batch: int) -> Snapshot | None:
    """Return a batch as it stands, if it is known."""
    query = "SELECT tenant, received, receipts FROM batches WHERE batch = ?"
    found = connection.execute(query, (batch,)).fetchone()
    if found is None:
        return None
    tenant, received, receipts = found
    left = remains(connection, batch)
    query = """
        SELECT destination, coalesce(provider, ''), shadow, codes FROM tracks
        LEFT JOIN destinations ON name = destination WHERE batch = ? ORDER BY destination
    """
    tracks = {
        destination: Track(
            destination=destination,
            provider=provider,
            shadow=(looking := Looking.unpack(shadow)).shadow,
            codes=codes,
            work=[],
            attempts=[],
            parts={},
            counting=looking.counting,
        )
        for destination, provider, shadow, codes in connection.execute(query, (batch,))
    }
    for row in connection.execute(f"SELECT {_ROW} FROM work WHERE batch = ?", (batch,)):
        piece = WorkRow(*row)
        tracks[piece.destination].work.append((group_of(piece), unpack_members(piece.members)))
    query = "SELECT destination, body FROM attempts WHERE batch = ? ORDER BY id"
    for destination, body in connection.execute(query, (batch,)):
        tracks[destination].attempts.append(unpack_attempt(body))
    query = "SELECT destination, place, body FROM parts WHERE batch = ?"
    for destination, place, body in connection.execute(query, (batch,)):
        tracks[destination].parts[place] = (unpack_parts(body) or [[]])[0]
    return Snapshot(
        batch=batch,
        tenant=tenant,
        received=received,
        events=[] if left and left.trimmed else apart(load(connection, batch)),
        tracks=list(tracks.values()),
        remains=left,
        receipts=unpack_times(receipts),
    )


def batches_after(connection: sqlite3.Connection, batch: int, limit: int) -> list[int]:
    """Return the numbers of batches above one whose full record is there."""
    query = "SELECT batch FROM batches WHERE batch > ? AND body <> x'' ORDER BY batch LIMIT ?"
    return [found for (found,) in connection.execute(query, (batch, limit))]


def unrouted(connection: sqlite3.Connection, load: Load, after: int, limit: int, events: int) -> list[Unrouted]:
    """Return events without a way of batches above one: of so many batches, or few more than so many events."""
    query = """
        SELECT batch, tenant, received, receipts, members FROM unrouted JOIN batches USING (batch)
        WHERE batch > ? ORDER BY batch LIMIT ?
    """
    found: list[Unrouted] = []
    for batch, tenant, received, packed, places in connection.execute(query, (after, limit)).fetchall():
        if events <= 0:
            break
        receipts, members = unpack_times(packed), unpack_members(places)
        events -= len(members)
        found.append(
            Unrouted(
                batch=batch,
                tenant=tenant,
                members=members,
                events=some_events(load(connection, batch), members),
                receipts=[receipts[index] for index in members] if receipts else [received] * len(members),
            )
        )
    return found


def counts(connection: sqlite3.Connection) -> Mapping[str, Mapping[DeliveryStatus, int]]:
    """Count all deliveries by destination and status."""
    bytes_seen: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for destination, codes in connection.execute("SELECT destination, codes FROM tracks"):
        bytes_seen[destination].update(codes)
    counted: dict[str, Mapping[DeliveryStatus, int]] = {}
    for destination, seen in bytes_seen.items():
        statuses: Counter[DeliveryStatus] = Counter()
        for code, count in seen.items():
            if code != Code.NONE:
                statuses[Code(code).status] += count
        counted[destination] = dict(statuses)
    return counted
