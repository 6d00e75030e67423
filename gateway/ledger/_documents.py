"""What is kept beside events: documents by kind, tenant and name."""

import sqlite3
from collections.abc import Mapping, Sequence

from gateway.ledger._kept import AuditRow, Document
from gateway.ledger._trail import note

__all__ = ["keep", "named", "page"]

AT_ONCE = 500
"""Names in one statement."""


def keep(connection: sqlite3.Connection, documents: Sequence[Document], audit: Sequence[AuditRow]) -> None:
    """Put documents in the place of those of their names. Of two of one name the last counts."""
    for one in documents:
        key = (one.kind, one.tenant, one.name)
        if one.body is None:
            connection.execute("DELETE FROM documents WHERE kind = ? AND tenant = ? AND name = ?", key)
        else:
            connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)", (*key, one.body))
    note(connection, audit)


def named(connection: sqlite3.Connection, kind: str, tenant: str, names: Sequence[str]) -> Mapping[str, bytes]:
    """Return bodies by name, in few statements: many customers are asked for at a time."""
    found: dict[str, bytes] = {}
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        marks = ", ".join("?" * len(some))
        query = f"SELECT name, body FROM documents WHERE kind = ? AND tenant = ? AND name IN ({marks})"
        found.update(connection.execute(query, (kind, tenant, *some)))
    return found


def page(connection: sqlite3.Connection, kind: str, tenant: str, after: str | None, limit: int) -> list[Document]:
    """Return documents in the order of their names."""
    rows = connection.execute(
        "SELECT name, body FROM documents WHERE kind = ?1 AND tenant = ?2 AND (?3 IS NULL OR name > ?3)"
        " ORDER BY name LIMIT ?4",
        (kind, tenant, after, limit),
    )
    return [Document(kind=kind, tenant=tenant, name=name, body=body) for name, body in rows]
