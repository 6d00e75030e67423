"""Writes about deliveries: the intent to send, what became of it, blocking, routing."""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from canonical_schema import ErrorItem
from gateway.ledger._codes import fill, listed, read_codes, write_codes
from gateway.ledger._deliveries import enqueue, times
from gateway.ledger._keeping import remains
from gateway.ledger._kept import AuditRow
from gateway.ledger._looking import Looking, sides
from gateway.ledger._model import (
    NO_WAY,
    AttemptRow,
    Change,
    Code,
    Group,
    Moved,
    Plan,
    Portion,
    Rendered,
    WorkState,
    some_of,
)
from gateway.ledger._recording import Load
from gateway.ledger._rows import (
    pack_attempt,
    pack_error,
    pack_members,
    pack_parts,
    unpack_error,
    unpack_members,
    unpack_parts,
    unpack_times,
)
from gateway.ledger._trail import note

__all__ = [
    "Piece",
    "WorkRow",
    "confirm",
    "extend",
    "group_of",
    "hold",
    "intend",
    "release",
    "route",
    "settle",
    "unless_there",
]


class WorkRow(NamedTuple):
    """A row of the table `work`, in its order."""

    id: int
    destination: str
    batch: int
    members: bytes
    state: str
    due: int
    attempts: int
    doubt: int
    since: int
    sent: int | None
    error: bytes | None
    parts: bytes | None
    window: int | None
    deadline: int | None


def group_of(row: WorkRow) -> Group:
    """Return what the deliveries of a row share."""
    return Group(
        state=WorkState(row.state),
        due=row.due,
        attempts=row.attempts,
        doubt=row.doubt,
        since=row.since,
        sent=row.sent,
        error=unpack_error(row.error),
        window=row.window,
        deadline=row.deadline,
    )


def intend(connection: sqlite3.Connection, portions: Sequence[Portion], now: int) -> list[int]:
    """Mark portions as being sent, splitting work where only a part of it goes."""
    by_work: dict[int, list[Portion]] = {}
    for portion in portions:
        by_work.setdefault(portion.work.id, []).append(portion)
    ids: dict[int, int] = {}
    whole: list[tuple[object, ...]] = []
    apart: list[tuple[Portion, Group]] = []
    query = "SELECT id, members FROM work WHERE state = 'ready' AND id IN (SELECT value FROM json_each(?))"
    ready: dict[int, bytes] = dict(connection.execute(query, (listed(by_work),)).fetchall())
    for number, some in by_work.items():
        if number not in ready:
            raise Moved(f"work {number} is not ready")
        packed, (portion, *others) = ready[number], some
        group = portion.work.group
        going = msgspec.structs.replace(
            group, state=WorkState.SENDING, sent=now if group.sent is None else group.sent, error=None
        )
        members = pack_members(portion.members)
        if not others and (members == packed or set(unpack_members(packed)) == set(portion.members)):
            whole.append((number, going.sent, members, pack_parts(portion.parts)))
            ids[id(portion)] = number
            continue
        _take_out(connection, {number: [index for one in some for index in one.members]})
        apart += [(one, going) for one in some]
    _intend_whole(connection, whole)
    rows = [(one.work.destination, one.work.batch, one.members, going, one.parts) for one, going in apart]
    ids |= {id(one): number for (one, _), number in zip(apart, _insert(connection, rows), strict=True)}
    return [ids[id(portion)] for portion in portions]


def _intend_whole(connection: sqlite3.Connection, rows: Sequence[Sequence[object]]) -> None:
    """Mark pieces of work as being sent as they are: id, since when, members and rows of each."""
    for at in range(0, len(rows), _AT_ONCE):
        some = rows[at : at + _AT_ONCE]
        connection.execute(
            "UPDATE work SET state = 'sending', sent = going.column2, members = going.column3, parts = going.column4,"
            f" error = NULL FROM (VALUES {', '.join(['(?, ?, ?, ?)'] * len(some))}) AS going WHERE id = going.column1",
            [value for row in some for value in row],
        )


def settle(
    connection: sqlite3.Connection,
    changes: Sequence[Change],
    attempts: Sequence[AttemptRow],
    audit: Sequence[AuditRow] = (),
) -> None:
    """Take members out of the work that held them, give them their status, and keep what is not done."""
    leaving: dict[int, list[int]] = {}
    waiting = {change.work for change in changes if change.waiting}
    for change in changes:
        leaving.setdefault(change.work, []).extend(change.members)
    _take_out(connection, leaving, waiting)
    _insert(
        connection,
        [
            (change.destination, change.batch, change.members, change.group, change.parts)
            for change in changes
            if change.group is not None
        ],
    )
    codes = read_codes(connection, [(change.batch, change.destination) for change in changes])
    for change in changes:
        track = codes[change.batch, change.destination]
        fill(track, change.members, change.code)
        if change.anew:
            connection.executemany(
                "DELETE FROM parts WHERE batch = ? AND destination = ? AND place = ?",
                [(change.batch, change.destination, index) for index in change.members],
            )
        for index, parts in zip(change.members, change.parts or (), strict=False):
            if len(parts) > 1:
                connection.execute(
                    "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)",
                    (change.batch, change.destination, index, pack_parts([parts])),
                )
    write_codes(connection, codes)
    _insert_all(
        connection,
        "attempts (batch, destination, body)",
        [(attempt.batch, attempt.destination, pack_attempt(attempt)) for attempt in attempts],
    )
    note(connection, audit)


Piece = tuple[int, bytes, int]
"""Batch, packed members and attempts of a piece of work."""


def hold(
    connection: sqlite3.Connection, pieces: int, last: int, *, destination: str, error: ErrorItem
) -> Sequence[Piece]:
    """Hold some pieces of what is ready, up to the one with the id `last`, and return them."""
    rows: list[Piece] = connection.execute(
        "UPDATE work SET state = 'held', error = ?1 WHERE id IN (SELECT id FROM work WHERE destination = ?2"
        " AND state = 'ready' AND id <= ?4 ORDER BY id LIMIT ?3) RETURNING batch, members, attempts",
        (pack_error(error), destination, pieces, last),
    ).fetchall()
    _mark(connection, destination, rows, lambda _: Code.BLOCKED)
    return rows


def release(
    connection: sqlite3.Connection, pieces: int, last: int, *, destination: str, state: WorkState, now: int
) -> Sequence[Piece]:
    """Make some pieces of what is held or blocked ready, up to the one with the id `last`, and return them."""
    rows: list[Piece] = connection.execute(
        "UPDATE work SET state = 'ready', due = ?1 WHERE id IN (SELECT id FROM work WHERE destination = ?2"
        " AND state = ?3 AND id <= ?5 ORDER BY id LIMIT ?4) RETURNING batch, members, attempts",
        (now, destination, state, pieces, last),
    ).fetchall()
    _mark(connection, destination, rows, lambda attempts: Code.RETRYING if attempts else Code.PENDING)
    return rows


def route(
    connection: sqlite3.Connection, batch: int, members: Sequence[int], plans: Sequence[Plan], now: int, load: Load
) -> None:
    """Give events that had no way their deliveries. One that has a way by now, or a delivery, gets no second."""
    row = connection.execute("SELECT members FROM unrouted WHERE batch = ?", (batch,)).fetchone()
    waiting = set[int]() if row is None else set(unpack_members(row[0]))
    routed = {index: plan for index, plan in zip(members, plans, strict=True) if index in waiting}
    if not routed:
        return
    _give(connection, batch, routed, now, load)
    _still_unrouted(connection, batch, waiting.difference(index for index, plan in routed.items() if plan.live))


def extend(
    connection: sqlite3.Connection, batch: int, members: Sequence[int], plans: Sequence[Plan], now: int, load: Load
) -> int:
    """Give stored events deliveries where they have none, and return how many these are."""
    gone = remains(connection, batch)
    if gone is not None:  # nobody can be billed for what is not known any more
        there = [index for index in members if not gone.trimmed and index not in gone.erased]
        plans = [plan for index, plan in zip(members, plans, strict=True) if index in there]
        members = there
    row = connection.execute("SELECT members FROM unrouted WHERE batch = ?", (batch,)).fetchone()
    waiting = set[int]() if row is None else set(unpack_members(row[0]))
    fresh = _give(connection, batch, dict(zip(members, plans, strict=True)), now, load)
    # A shadow delivery is no way, and a live one is.
    ways = {index for index, plan in zip(members, fresh, strict=True) if plan.live}
    _still_unrouted(connection, batch, waiting - ways)
    return sum(len(plan.live) + len(plan.shadow) for plan in fresh)


def _give(connection: sqlite3.Connection, batch: int, routed: Mapping[int, Plan], now: int, load: Load) -> list[Plan]:
    """Enqueue what the plans add to what there is, and return what that was."""
    query = "SELECT destination, codes, shadow FROM tracks WHERE batch = ?"
    rows = connection.execute(query, (batch,)).fetchall()
    known: dict[str, bytes] = {name: codes for name, codes, _ in rows}
    looking = {name: Looking.unpack(shadow) for name, _, shadow in rows}
    fresh = [unless_there(plan, known, index) for index, plan in routed.items()]
    query = "SELECT size, received, receipts FROM batches WHERE batch = ?"
    size, received, packed = connection.execute(query, (batch,)).fetchone()
    happened = None
    if any(plan.windows for plan in fresh):
        events = load(connection, batch)
        receipts = unpack_times(packed) or [received] * size
        happened = times([events[index] for index in routed], fresh, [receipts[index] for index in routed])
    enqueue(connection, batch, list(routed), fresh, now, size, happened)
    after = {
        name: looking.get(name, Looking()).given(known.get(name, b""), counts)
        for name, counts in sides(routed, fresh).items()
    }
    connection.executemany(
        "UPDATE tracks SET shadow = ? WHERE batch = ? AND destination = ?",
        [(one.pack() if one.counting else int(one.shadow), batch, name) for name, one in after.items()],
    )
    return fresh


def _still_unrouted(connection: sqlite3.Connection, batch: int, left: Iterable[int]) -> None:
    members = sorted(left)
    connection.execute("DELETE FROM unrouted WHERE batch = ?", (batch,))
    if members:
        connection.execute("INSERT INTO unrouted VALUES (?, ?)", (batch, pack_members(members)))


def unless_there(plan: Plan, known: Mapping[str, bytes], index: int) -> Plan:
    """Return a plan without the destinations where the event has a delivery, as shadow."""

    def missing(name: str) -> bool:
        return name not in known or known[name][index] in NO_WAY

    return Plan(
        live=tuple(filter(missing, plan.live)),
        shadow=tuple(filter(missing, plan.shadow)),
        filtered=tuple((name, code) for name, code in plan.filtered if missing(name)),
        windows=plan.windows,
    )


def _take_out(
    connection: sqlite3.Connection, leaving: Mapping[int, Sequence[int]], waiting: Collection[int] = ()
) -> None:
    """Take members out of pieces of work, by id; nothing of one is left where they were all.

    Of those in `waiting`, not out of one that is being sent.
    """
    rows = connection.execute(
        "SELECT id, members, state FROM work WHERE id IN (SELECT value FROM json_each(?))", (listed(leaving),)
    )
    there = {number: (packed, state) for number, packed, state in rows}
    whole: list[int] = []
    for work, members in leaving.items():
        if work not in there:
            raise Moved(f"work {work} is gone")
        packed, state = there[work]
        if work in waiting and state == WorkState.SENDING:
            raise Moved(f"work {work} is being sent")
        if packed == pack_members(members) or not _cut(connection, work, unpack_members(packed), members):
            whole.append(work)  # as it mostly is
    connection.execute("DELETE FROM work WHERE id IN (SELECT value FROM json_each(?))", (listed(whole),))


def _cut(connection: sqlite3.Connection, work: int, held: Sequence[int], members: Sequence[int]) -> bool:
    """Take members out of a piece of work that holds others too; return whether it does."""
    leaving = set(members)
    left = [index for index in held if index not in leaving]
    if len(held) - len(left) != len(members):
        raise Moved(f"work {work} no longer holds all that was to be changed")
    if not left:
        return False
    (parts,) = connection.execute("SELECT parts FROM work WHERE id = ?", (work,)).fetchone()
    rendered = unpack_parts(parts)
    if rendered is not None:
        rendered = some_of(rendered, [place for place, index in enumerate(held) if index not in leaving])
    connection.execute(
        "UPDATE work SET members = ?, parts = ? WHERE id = ?", (pack_members(left), pack_parts(rendered), work)
    )
    return True


def _insert(
    connection: sqlite3.Connection, works: Sequence[tuple[str, int, Sequence[int], Group, Rendered | None]]
) -> list[int]:
    """Write down new work: destination, batch, members, and what they share; return the ids."""
    rows = [
        (
            destination,
            batch,
            pack_members(members),
            group.state,
            group.due,
            group.attempts,
            group.doubt,
            group.since,
            group.sent,
            pack_error(group.error),
            pack_parts(parts),
            group.window,
            group.deadline,
        )
        for destination, batch, members, group, parts in works
    ]
    return _insert_all(
        connection,
        "work (destination, batch, members, state, due, attempts, doubt, since, sent, error, parts, window, deadline)",
        rows,
    )


def _insert_all(connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[object]]) -> list[int]:
    """Insert rows by few statements, as each hands the interpreter over; return their ids.

    Those of one statement follow one another: nobody else writes meanwhile.
    """
    ids: list[int] = []
    for at in range(0, len(rows), _AT_ONCE):
        some = rows[at : at + _AT_ONCE]
        marks = f"({', '.join('?' * len(some[0]))})"
        statement = f"INSERT INTO {into} VALUES {', '.join([marks] * len(some))}"
        last = connection.execute(statement, [value for row in some for value in row]).lastrowid or 0
        ids += range(last - len(some) + 1, last + 1)
    return ids


_AT_ONCE = 64
"""Rows a statement: a statement of each length is kept ready."""


def confirm(connection: sqlite3.Connection, destination: str, batch: int, members: Sequence[int]) -> int:
    """Mark what is accepted and queued as confirmed; return how many that were."""
    row = connection.execute(
        "SELECT codes FROM tracks WHERE batch = ? AND destination = ?", (batch, destination)
    ).fetchone()
    if row is None:
        return 0
    track = bytearray(row[0])
    found = [index for index in members if track[index] == Code.ACCEPTED_QUEUED]
    if found:
        fill(track, found, Code.ACCEPTED_CONFIRMED)
        write_codes(connection, {(batch, destination): track})
    return len(found)


def _mark(connection: sqlite3.Connection, destination: str, rows: Sequence[Piece], code: Callable[[int], Code]) -> None:
    codes = read_codes(connection, [(batch, destination) for batch, _, _ in rows])
    for batch, packed, attempts in rows:
        fill(codes[batch, destination], unpack_members(packed), code(attempts))
    write_codes(connection, codes)
