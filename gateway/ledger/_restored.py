"""A ledger from a copy: told by `ledger restore`, or recognised when a file was put in place by other means.

A backup says that it is one. Beside a ledger stands its lock, which holds a number that is drawn anew each time the
ledger is opened, and so does the ledger: a file from before the last opening has another one.
"""

import os
import sqlite3
from secrets import token_hex
from typing import Any

import msgspec

from canonical_schema import ErrorCode, ErrorItem, format_time
from gateway.ledger._documents import keep
from gateway.ledger._kept import AuditRow, Document
from gateway.ledger._model import LOST_ANSWER, WorkState
from gateway.ledger._rows import pack_error
from gateway.times import from_micros

__all__ = [
    "BACKUP",
    "LETTERS",
    "MOVED",
    "OPEN",
    "RESTORE",
    "RestoredAt",
    "Taken",
    "begun_anew",
    "doubted",
    "moved",
    "recognised",
    "sent_since",
]

BACKUP = "backup"
"""Kind of the document that makes a copy one: `taken`."""
MOVED = "moved"
"""Kind of the document that says that a ledger lives on somewhere else: `to a server`."""
RESTORE = "restore"
"""Kind of the document that says since when a ledger is one from a copy: `last`."""
OPEN = (WorkState.READY, WorkState.SENDING, WorkState.WAITING, WorkState.BLOCKED, WorkState.HELD)
LETTERS = (WorkState.REJECTED, WorkState.DEAD)
_OPENING = "opening"
_TOKEN = 32
"""Digits of the number of an opening; the lock has room for two."""


class Taken(msgspec.Struct):
    """When a copy was made."""

    at: int


class RestoredAt(msgspec.Struct, frozen=True):
    """That a ledger was put back from a copy."""

    taken: int
    """When the copy was made; of several restores one after the other, the first."""
    at: int
    """When it was put back."""


class _Opening(msgspec.Struct):
    token: str
    at: int


def sent_since(taken: int) -> ErrorItem:
    """Return what is told of a delivery that may have been made since the copy."""
    message = f"the ledger was restored from a backup of {format_time(from_micros(taken))}: it may have been sent since"
    return ErrorItem(code=ErrorCode.PROVIDER_UNAVAILABLE, message=message, retryable=True)


def doubted(connection: sqlite3.Connection, taken: int, now: int, how: str) -> dict[str, Any]:
    """Mark what may have been sent since the copy was made, and number further batches as none was numbered since.

    `how`: by what the ledger is known to be one from a copy.
    """
    error = pack_error(sent_since(taken))
    found = dict(connection.execute("SELECT state, sum(length(members) / 2) FROM work GROUP BY state").fetchall())
    connection.execute(
        "UPDATE work SET doubt = ?1, sent = min(coalesce(sent, ?2), ?2), error = coalesce(error, ?3)"
        f" WHERE state IN ({', '.join('?' for _ in OPEN)})",
        (LOST_ANSWER, taken, error, *OPEN),
    )
    (last,) = connection.execute("SELECT coalesce(max(batch), 0) FROM batches").fetchone()
    connection.execute(
        "INSERT INTO batches (batch, tenant, received, size, body) VALUES (?, '', ?, 0, x'')",
        (max(last + 1, now // 1000), now),
    )
    doubt = sum(found.get(state, 0) for state in OPEN)
    (unrouted,) = connection.execute("SELECT coalesce(sum(length(members) / 2), 0) FROM unrouted").fetchone()
    row = AuditRow(
        at=now,
        tenant="default",
        actor=how,
        action="restore",
        target=f"backup of {format_time(from_micros(taken))}",
        reason="the ledger was restored from a backup",
        after=f"{doubt} deliveries in doubt",
    )
    body = _document(connection, RESTORE, "last")
    before = None if body is None else msgspec.json.decode(body, type=RestoredAt)
    since = RestoredAt(taken if before is None else min(taken, before.taken), now)
    documents = [
        Document(kind=RESTORE, tenant="", name="last", body=msgspec.json.encode(since)),
        Document(kind=BACKUP, tenant="", name="taken", body=None),
    ]
    keep(connection, documents, [row])
    return {
        "in_doubt": doubt,
        "unknown": found.get(WorkState.UNKNOWN, 0),
        "letters": sum(found.get(state, 0) for state in LETTERS),
        "unrouted": unrouted,
    }


def moved(connection: sqlite3.Connection) -> str | None:
    """Return when the ledger was copied to a server, which others may have worked on since; `None`: never."""
    body = _document(connection, MOVED, "to a server")
    return None if body is None else format_time(from_micros(msgspec.json.decode(body, type=Taken).at))


def begun_anew(connection: sqlite3.Connection, lock: int) -> bool:
    """Return whether the file is a new one where the lock tells of another: what that one knew is forgotten.

    To be asked before `recognised`.
    """
    return _document(connection, _OPENING, "last") is None and bool(_tokens(_places(lock)))


def recognised(connection: sqlite3.Connection, lock: int, now: int) -> int | None:
    """Treat a file that was put in place by hand as restored; return when it was copied, `None` for any other.

    `lock` is the open file beside it.
    """
    body = _document(connection, _OPENING, "last")
    opening = None if body is None else msgspec.json.decode(body, type=_Opening)
    places = _places(lock)
    tokens = _tokens(places)
    taken, how = None, ""
    if (marked := _document(connection, BACKUP, "taken")) is not None:
        taken, how = msgspec.json.decode(marked, type=Taken).at, "a backup was put in place"
    elif tokens and (opening is None or opening.token not in tokens):
        (newest,) = connection.execute("SELECT max(received) FROM batches").fetchone()
        if newest is not None:
            # At the earliest; what was sent between that and the copy is written down.
            taken, how = max(newest, 0 if opening is None else opening.at), "an older file was put in place"
    if taken is not None:
        connection.execute("BEGIN IMMEDIATE")
        doubted(connection, taken, now, how)
        connection.execute("COMMIT")
    _opened(connection, lock, now, _TOKEN if opening is not None and places[0] == opening.token else 0)
    return taken


def _places(lock: int) -> tuple[str, str]:
    kept = os.pread(lock, 2 * _TOKEN, 0).decode("ascii", "replace")
    return kept[:_TOKEN], kept[_TOKEN:]


def _tokens(places: tuple[str, str]) -> set[str]:
    return {token for token in places if len(token.strip()) == _TOKEN}


def _opened(connection: sqlite3.Connection, lock: int, now: int, place: int) -> None:
    """Draw a number for this opening. Wherever that breaks off, the lock holds the one that the ledger has."""
    token = token_hex(_TOKEN // 2)
    os.pwrite(lock, token.encode(), place)
    os.fsync(lock)
    keep(
        connection,
        [Document(kind=_OPENING, tenant="", name="last", body=msgspec.json.encode(_Opening(token, now)))],
        [],
    )
    os.pwrite(lock, b" " * _TOKEN, _TOKEN - place)


def _document(connection: sqlite3.Connection, kind: str, name: str) -> bytes | None:
    query = "SELECT body FROM documents WHERE kind = ? AND tenant = '' AND name = ?"
    row = connection.execute(query, (kind, name)).fetchone()
    return None if row is None else row[0]
