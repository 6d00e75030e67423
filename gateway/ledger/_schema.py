"""The tables of the embedded ledger, and how a file of an older version becomes one of this version."""

import sqlite3
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path

from gateway.errors import LedgerUnavailable
from gateway.ledger import _keeping
from gateway.ledger._files import begin
from gateway.ledger._refs import split_ref

__all__ = ["UPGRADES", "VERSION", "connect", "upgrade"]

Step = str | Callable[[sqlite3.Connection], None]
"""A statement, or what one statement cannot say."""

VERSION = 2

# A number of `work` is never given twice: who decides about a piece that is gone must not hit another.
_FIRST = """
CREATE TABLE batches (
    batch INTEGER PRIMARY KEY, tenant TEXT NOT NULL, received INTEGER NOT NULL, size INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE ids (digest BLOB PRIMARY KEY, ref INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tracks (
    batch INTEGER NOT NULL, destination TEXT NOT NULL, shadow INTEGER NOT NULL, codes BLOB NOT NULL,
    PRIMARY KEY (batch, destination)
) WITHOUT ROWID;
CREATE TABLE work (
    id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, batch INTEGER NOT NULL, members BLOB NOT NULL,
    state TEXT NOT NULL, due INTEGER NOT NULL, attempts INTEGER NOT NULL, doubt INTEGER NOT NULL,
    since INTEGER NOT NULL, sent INTEGER, error BLOB, parts BLOB
);
CREATE INDEX work_due ON work (destination, state, due);
CREATE INDEX work_batch ON work (batch, destination);
CREATE TABLE attempts (id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, destination TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX attempts_batch ON attempts (batch, destination);
CREATE TABLE parts (
    batch INTEGER NOT NULL, destination TEXT NOT NULL, place INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (batch, destination, place)
) WITHOUT ROWID;
CREATE TABLE unrouted (batch INTEGER PRIMARY KEY, members BLOB NOT NULL);
CREATE TABLE audit (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX audit_tenant ON audit (tenant, id);
CREATE TABLE destinations (name TEXT PRIMARY KEY, provider TEXT NOT NULL) WITHOUT ROWID;
"""

_DOCUMENTS = """
CREATE TABLE documents (
    kind TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (kind, tenant, name)
) WITHOUT ROWID
"""
_DEADLINES = (
    "ALTER TABLE work ADD COLUMN window INTEGER",
    "ALTER TABLE work ADD COLUMN deadline INTEGER",
    "CREATE INDEX work_deadline ON work (destination, state, deadline, due) WHERE deadline IS NOT NULL",
)


def _ids_by_batch(connection: sqlite3.Connection) -> None:
    """Put the ids in rows by batch, in the order of their events: written in sequence, found through memory."""
    connection.execute("CREATE TABLE ids_by_batch (batch INTEGER PRIMARY KEY, digests BLOB NOT NULL)")
    ordered = connection.execute("SELECT ref, digest FROM ids ORDER BY ref")
    for batch, refs in groupby(ordered, key=lambda row: split_ref(row[0])[0]):
        digests = b"".join(digest for _, digest in refs)
        connection.execute("INSERT INTO ids_by_batch VALUES (?, ?)", (batch, digests))
    connection.execute("DROP TABLE ids")
    connection.execute("ALTER TABLE ids_by_batch RENAME TO ids")


_RECORDING = (_ids_by_batch, "ALTER TABLE batches ADD COLUMN receipts BLOB")

UPGRADES: Mapping[int, tuple[Step, ...]] = {
    0: tuple(_FIRST.split(";")[:-1]),
    1: (_DOCUMENTS, *_DEADLINES, *_keeping.TABLES, *_RECORDING),
}
"""What makes a file of each version one of the next, in order. A new file takes all of it, from nothing."""


CACHE = 8 * 1024
"""KiB of the file that a connection keeps in memory, at most. What was written last is all that is used over and over,
a reader forgets everything when another connection commits, and the system has the file in memory besides."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file so that what is committed survives kill -9 and power loss."""
    begin(path)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "temp_store=MEMORY", f"cache_size=-{CACHE}"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def upgrade(connection: sqlite3.Connection) -> None:
    """Make the schema this version's, in one step or not at all; a new file is one of version 0.

    Raises LedgerUnavailable for a file that a newer version wrote.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > VERSION:
        raise LedgerUnavailable(
            f"the ledger has schema version {found} and this is a gateway for version {VERSION}: install a newer one"
        )
    if found == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for version in range(found, VERSION):
            for step in UPGRADES[version]:
                if isinstance(step, str):
                    connection.execute(step)
                else:
                    step(connection)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
