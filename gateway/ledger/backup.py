"""A copy of the embedded ledger while it is in use, and a ledger from such a copy: what was sent since is in doubt."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from canonical_schema import format_time
from gateway.errors import LedgerUnavailable
from gateway.ledger._files import begin
from gateway.ledger._kept import AuditRow
from gateway.ledger._restored import BACKUP, Taken, doubted
from gateway.ledger._schema import VERSION, upgrade
from gateway.times import from_micros

__all__ = ["back_up", "restore"]


def back_up(path: Path, to: Path, now: int) -> dict[str, Any]:
    """Copy a ledger as it stands at one instant; a gateway may go on writing to it. Returns what the copy holds.

    `to` is there, whole and durable, when this returns, or it is not there. Raises LedgerUnavailable.
    """
    if not path.exists():
        raise LedgerUnavailable(f"{path} does not exist: nothing was stored there yet")
    if to.exists():
        raise LedgerUnavailable(f"{to} is there already: name another file")
    part = to.with_name(f"{to.name}.part")
    with _failing(f"{path} cannot be copied to {to}"):
        part.unlink(missing_ok=True)
        begin(part)
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as source:
            _this_version(source, path)
            source.execute("VACUUM INTO ?", (str(part),))
        with _file(part) as copy:
            # Whoever restores it counts from before the first request that is not in it.
            copy.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, '', 'taken', ?)", (BACKUP, msgspec.json.encode(Taken(now)))
            )
            events = _events(copy)
        _place(part, to)
    return {"object": "ledger_backup", "to": str(to), "at": format_time(from_micros(now)), "events": events}


def restore(path: Path, source: Path, now: int) -> dict[str, Any]:
    """Put a copy in the place of a ledger that no gateway has open; the one that is there is moved aside.

    Every delivery that was not done when the copy was made may have been sent since: it is in doubt from then on.
    What was accepted since is not in the copy. Raises LedgerUnavailable, and then the ledger is as it was.
    """
    if not source.exists():
        raise LedgerUnavailable(f"{source} does not exist")
    part = path.with_name(f"{path.name}.part")
    with _failing(f"{source} cannot be restored to {path}"), _locked(path) as lock:
        _copied(source, part)
        with _file(part) as copy:
            (sound,) = copy.execute("PRAGMA quick_check(1)").fetchone()
            if sound != "ok":
                raise LedgerUnavailable(f"{source} is damaged: {sound}")
            upgrade(copy)
            row = copy.execute("SELECT body FROM documents WHERE kind = ? AND name = 'taken'", (BACKUP,)).fetchone()
            if row is None:
                raise LedgerUnavailable(f"{source} is no backup: make one with `usage-gateway ledger backup`")
            taken = msgspec.json.decode(row[0], type=Taken).at
            copy.execute("BEGIN IMMEDIATE")
            told = doubted(copy, taken, now, "ledger restore")
            copy.execute("COMMIT")
            events = _events(copy)
        decided = _decided(path, taken)
        aside = _aside(path, now)
        _place(part, path)
        lock.truncate()  # by what it held this one would be taken for an older file that was put in place
    moved: dict[str, Any] = {} if aside is None else {"moved": str(aside), "decisions": decided}
    return {"object": "ledger_restore", "at": format_time(from_micros(taken)), "events": events, **told, **moved}


def _decided(path: Path, taken: int) -> list[dict[str, Any]]:
    """Return what people decided since the copy was made, as far as the ledger can be read that is there."""
    if not path.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            rows = [
                msgspec.json.decode(body, type=AuditRow)
                for (body,) in connection.execute("SELECT body FROM audit ORDER BY id")
            ]
    except (sqlite3.Error, msgspec.MsgspecError):  # it may be why there is a restore
        return []
    return [
        {**msgspec.to_builtins(row), "at": format_time(from_micros(row.at))}
        for row in rows
        if row.at > taken and row.action not in {"restore", "configure"}
    ]


def _this_version(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found != VERSION:
        raise LedgerUnavailable(
            f"{path} has schema version {found} and this is for version {VERSION}: start the gateway once to upgrade it"
        )


def _events(connection: sqlite3.Connection) -> int:
    (events,) = connection.execute("SELECT coalesce(sum(size), 0) FROM batches").fetchone()
    return events


@contextlib.contextmanager
def _failing(what: str) -> Generator[None]:
    try:
        yield
    except (OSError, sqlite3.Error, msgspec.MsgspecError) as error:
        raise LedgerUnavailable(f"{what}: {error}") from error


@contextlib.contextmanager
def _file(path: Path) -> Generator[sqlite3.Connection]:
    """Open a copy that nobody else has, without a log beside it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        yield connection


@contextlib.contextmanager
def _locked(path: Path) -> Generator[BinaryIO]:
    """Give the lock, as it stands: a running gateway's, or what the next start knows an older file by, is in it."""
    handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(handle, "rb+", buffering=0) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerUnavailable(f"{path} is in use by a gateway: stop it first") from None
        yield lock


def _copied(source: Path, part: Path) -> None:
    """Copy a file by way of SQLite, so that a log that stands beside it is not left behind."""
    part.unlink(missing_ok=True)
    begin(part)
    with (
        contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as opened,
        contextlib.closing(sqlite3.connect(part)) as copy,
    ):
        opened.backup(copy)


def _aside(path: Path, now: int) -> Path | None:
    """Keep what is there under another name, with its log; the new one must not find that."""
    if not path.exists():
        return None
    aside = path.with_name(f"{path.name}.before-{now // 1_000_000}")
    os.link(path, aside)
    for end in ("-wal", "-shm"):
        if (beside := path.with_name(path.name + end)).exists():
            beside.rename(aside.with_name(aside.name + end))
    return aside


def _place(part: Path, to: Path) -> None:
    """Give a finished file its name, durably."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(to)
    handle = os.open(to.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
