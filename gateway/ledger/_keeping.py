"""What happens to what is old: full records are trimmed to what a repeat needs, ids are forgotten, customers erased."""

import sqlite3
from collections.abc import Mapping, Sequence
from secrets import token_bytes
from typing import NamedTuple

import msgspec

from canonical_schema import FINGERPRINT, ErrorItem, Event, differences, fingerprint
from gateway.ledger._kept import AuditRow, Erasure, Remains
from gateway.ledger._model import AttemptRow, Code, WorkState
from gateway.ledger._rows import (
    find_in_events,
    pack_attempt,
    pack_events,
    pack_members,
    pack_parts,
    unpack_attempt,
    unpack_events,
    unpack_members,
    unpack_parts,
)

__all__ = [
    "LETTERS",
    "TABLES",
    "Content",
    "erase",
    "forget",
    "holding",
    "remains",
    "secret",
    "trim",
    "trimmable",
    "trimmed",
    "unname",
    "without",
]

TABLES = (
    """
    CREATE TABLE remains (
        batch INTEGER PRIMARY KEY, prints BLOB NOT NULL, erased BLOB NOT NULL, trimmed INTEGER NOT NULL, segment TEXT
    )
    """,
    "CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
)

LETTERS = (WorkState.REJECTED, WorkState.DEAD, WorkState.UNKNOWN)
"""What is over unless a person decides otherwise."""

_LETTERS = ", ".join(f"'{state.value}'" for state in LETTERS)
LOOKED_AT = 2000
"""Batches that one look passes over: others wait for the reader meanwhile."""


class Content(NamedTuple):
    """What a batch's events are held against when their ids come again."""

    events: Sequence[Event]
    """None where the batch is trimmed."""
    left: Remains | None = None

    def differing(self, index: int, event: Event) -> tuple[str, ...] | None:
        """Return `None` for a repeat, else the members that differ, as far as they are known."""
        left = self.left
        if left is None or not (left.trimmed or index in left.erased):
            return tuple(differences(self.events[index], event)) or None
        return None if left.prints[index * FINGERPRINT : (index + 1) * FINGERPRINT] == fingerprint(event) else ()


def remains(connection: sqlite3.Connection, batch: int) -> Remains | None:
    """Return what is left of a batch that was trimmed, or of which something was erased."""
    query = "SELECT prints, erased, trimmed, segment FROM remains WHERE batch = ?"
    row = connection.execute(query, (batch,)).fetchone()
    if row is None:
        return None
    prints, erased, trimmed, segment = row
    return Remains(prints=prints, erased=frozenset(unpack_members(erased)), trimmed=bool(trimmed), segment=segment)


def trimmable(
    connection: sqlite3.Connection, before: int, letters: int | None, after: int, limit: int
) -> tuple[list[int], int | None]:
    """Return settled batches recorded before an instant, and where to look on."""
    rows = connection.execute(
        "SELECT batch, received < ?1 AND length(body) > 0,"
        " EXISTS (SELECT 1 FROM unrouted WHERE unrouted.batch = batches.batch) OR EXISTS (SELECT 1 FROM work"
        f" WHERE work.batch = batches.batch AND (state NOT IN ({_LETTERS}) OR received >= ?2))"
        " FROM batches WHERE batch > ?3 ORDER BY batch LIMIT ?4",
        (before, -(2**62) if letters is None else letters, after, LOOKED_AT),
    )
    found: list[int] = []
    seen = 0
    for batch, old, unsettled in rows:
        after, seen = batch, seen + 1
        if old and not unsettled:
            found.append(batch)
            if len(found) == limit:
                return found, after
    return found, after if seen == LOOKED_AT else None


def trim(
    connection: sqlite3.Connection, prints: Mapping[int, bytes], segment: str | None, letters: int | None
) -> list[int]:
    """Drop the full records of settled batches; return those that are not settled, or not any more."""
    kept: list[int] = []
    for batch, printed in prints.items():
        row = connection.execute(
            "SELECT received, size, length(body) FROM batches WHERE batch = ?", (batch,)
        ).fetchone()
        if row is None or not row[2]:
            continue
        received, size, _ = row
        final = _LETTERS if letters is not None and received < letters else "''"
        unsettled = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM unrouted WHERE batch = ?1)"
            f" OR EXISTS (SELECT 1 FROM work WHERE batch = ?1 AND state NOT IN ({final}))",
            (batch,),
        ).fetchone()[0]
        if unsettled or len(printed) != size * FINGERPRINT:
            kept.append(batch)
            continue
        connection.execute(
            "INSERT INTO remains VALUES (?, ?, x'', 1, ?)"
            " ON CONFLICT (batch) DO UPDATE SET trimmed = 1, segment = excluded.segment",
            (batch, printed, segment),
        )
        connection.execute("UPDATE batches SET body = x'' WHERE batch = ?", (batch,))
        for table in ("attempts", "parts", "work"):
            connection.execute(f"DELETE FROM {table} WHERE batch = ?", (batch,))
    return kept


def trimmed(connection: sqlite3.Connection, tenant: str, since: int) -> int:
    """Count the batches of a tenant that were recorded since an instant, and were trimmed."""
    query = "SELECT count(*) FROM remains JOIN batches USING (batch) WHERE trimmed AND tenant = ? AND received >= ?"
    (count,) = connection.execute(query, (tenant, since)).fetchone()
    return count


def forget(connection: sqlite3.Connection, before: int, limit: int) -> list[int]:
    """Forget the ids of trimmed batches recorded before an instant, oldest first; return the batches that went.

    The newest batch of all stays: its number must not be given again.
    """
    rows = connection.execute(
        "SELECT batch FROM batches JOIN remains USING (batch) WHERE received < ? AND trimmed"
        " AND batch < (SELECT max(batch) FROM batches) ORDER BY batch LIMIT ?",
        (before, limit),
    ).fetchall()
    for (batch,) in rows:
        for table in ("ids", "remains", "tracks", "batches"):
            connection.execute(f"DELETE FROM {table} WHERE batch = ?", (batch,))
    return [batch for (batch,) in rows]


def secret(connection: sqlite3.Connection, name: str) -> bytes:
    """Return what this ledger keeps under a name: 32 random bytes, drawn when they are first asked for."""
    connection.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, token_bytes(32)))
    (value,) = connection.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()
    return value


def holding(
    connection: sqlite3.Connection, tenant: str, customer: str, after: int, limit: int
) -> tuple[list[int], int | None]:
    """Return batches that hold events of a customer among the next `limit`, and where to look on."""
    rows = connection.execute(
        "SELECT batch, tenant, body FROM batches WHERE batch > ? ORDER BY batch LIMIT ?", (after, limit)
    ).fetchall()
    found = [batch for batch, owner, body in rows if owner == tenant and body and find_in_events(body, customer)]
    return found, rows[-1][0] if len(rows) == limit else None


def erase(connection: sqlite3.Connection, batch: int, erasure: Erasure) -> tuple[int, Mapping[str, int]]:
    """Take a customer out of a batch; return how many events that concerned, and the unsettled deliveries found.

    Where there are unsettled ones and they are not to be abandoned, nothing is changed.
    """
    row = connection.execute("SELECT tenant, body FROM batches WHERE batch = ?", (batch,)).fetchone()
    if row is None or not row[1] or row[0] != erasure.tenant:
        return 0, {}
    events = unpack_events(row[1])
    places = {index for index, event in enumerate(events) if event.customer == erasure.customer}
    if not places:
        return 0, {}
    unsettled = _unsettled(connection, batch, places)
    if unsettled and (not erasure.abandon or WorkState.SENDING in unsettled):
        return len(places), unsettled
    _leave(connection, batch, places)
    left = remains(connection, batch)
    prints = b"".join(map(fingerprint, events)) if left is None else left.prints
    erased = places if left is None else places | left.erased
    connection.execute(
        "INSERT INTO remains VALUES (?, ?, ?, 0, NULL) ON CONFLICT (batch) DO UPDATE SET erased = excluded.erased",
        (batch, prints, pack_members(sorted(erased))),
    )
    made = [erasure.of(event) if index in places else event for index, event in enumerate(events)]
    connection.execute("UPDATE batches SET body = ? WHERE batch = ?", (pack_events(made), batch))
    connection.executemany("DELETE FROM parts WHERE batch = ? AND place = ?", [(batch, index) for index in places])
    query = "SELECT id, body FROM attempts WHERE batch = ?"
    for number, body in connection.execute(query, (batch,)).fetchall():
        attempt = unpack_attempt(body)
        if places.isdisjoint(attempt.members):
            continue
        attempt = without(attempt, places)
        connection.execute("UPDATE attempts SET body = ? WHERE id = ?", (pack_attempt(attempt), number))
    return len(places), unsettled


def unname(connection: sqlite3.Connection, erasure: Erasure) -> int:
    """Put the pseudonym in the place of a customer in the audit trail."""
    query = "SELECT id, body FROM audit WHERE tenant = ? AND instr(body, ?) > 0"
    named = msgspec.json.encode(erasure.customer)[1:-1]
    found = 0
    for number, body in connection.execute(query, (erasure.tenant, named)).fetchall():
        row = msgspec.json.decode(body, type=AuditRow)
        if (left := erasure.row(row)) != row:
            found += 1
            connection.execute("UPDATE audit SET body = ? WHERE id = ?", (msgspec.json.encode(left), number))
    return found


def _unsettled(connection: sqlite3.Connection, batch: int, places: set[int]) -> dict[str, int]:
    """Count what could still be delivered, or be repaired, by the state that it is in."""
    found: dict[str, int] = {}
    rows = connection.execute(
        "SELECT state, members FROM work WHERE batch = ?1 UNION ALL SELECT 'unrouted', members FROM unrouted"
        " WHERE batch = ?1",
        (batch,),
    )
    for state, members in rows:
        if count := len(places & set(unpack_members(members))):
            found[state] = found.get(state, 0) + count
    return found


def _leave(connection: sqlite3.Connection, batch: int, places: set[int]) -> None:
    """Give up whatever is not settled of some events; what was rejected or given up stays what it is."""
    codes: dict[str, bytearray] = {}
    query = "SELECT id, destination, state, members, parts FROM work WHERE batch = ?"
    for number, destination, state, packed, parts in connection.execute(query, (batch,)).fetchall():
        members = unpack_members(packed)
        staying = [place for place, index in enumerate(members) if index not in places]
        if state != WorkState.REJECTED:
            row = connection.execute(_CODES, (batch, destination)).fetchone()
            track = codes.setdefault(destination, bytearray(row[0]))
            for index in places.intersection(members):
                track[index] = Code.DEAD
        if not staying:
            connection.execute("DELETE FROM work WHERE id = ?", (number,))
        elif len(staying) < len(members):
            rendered = unpack_parts(parts)
            connection.execute(
                "UPDATE work SET members = ?, parts = ? WHERE id = ?",
                (
                    pack_members(members[place] for place in staying),
                    None if rendered is None else pack_parts([rendered[place] for place in staying]),
                    number,
                ),
            )
    connection.executemany(
        "UPDATE tracks SET codes = ? WHERE batch = ? AND destination = ?",
        [(bytes(track), batch, destination) for destination, track in codes.items()],
    )
    row = connection.execute("SELECT members FROM unrouted WHERE batch = ?", (batch,)).fetchone()
    if row is not None:
        waiting = [index for index in unpack_members(row[0]) if index not in places]
        connection.execute("DELETE FROM unrouted WHERE batch = ?", (batch,))
        if waiting:
            connection.execute("INSERT INTO unrouted VALUES (?, ?)", (batch, pack_members(waiting)))


def without(attempt: AttemptRow, places: set[int]) -> AttemptRow:
    """Return an attempt that says nothing more of some events than what became of them."""
    return msgspec.structs.replace(
        attempt,
        # The message of one outcome stands for many: with it goes whatever it says of this customer.
        error=_silent(attempt.error),
        others={
            index: (outcome, _silent(error) if index in places else error)
            for index, (outcome, error) in attempt.others.items()
        },
        provider_event_ids={index: named for index, named in attempt.provider_event_ids.items() if index not in places},
    )


_CODES = "SELECT codes FROM tracks WHERE batch = ? AND destination = ?"


def _silent(error: ErrorItem | None) -> ErrorItem | None:
    """Return an error without the vendor's own words, which may name a customer."""
    if error is None:
        return None
    kept: ErrorItem = {**error, "message": "erased with the customer it may name"}
    kept.pop("provider_code", None)
    return kept
