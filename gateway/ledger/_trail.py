"""The audit trail: written with what it tells of, never changed afterwards."""

import sqlite3
from collections.abc import Sequence

import msgspec

from gateway.ledger._kept import AuditRow

__all__ = ["note"]


def note(connection: sqlite3.Connection, audit: Sequence[AuditRow]) -> None:
    """Append to the audit trail."""
    connection.executemany(
        "INSERT INTO audit (tenant, body) VALUES (?, ?)", [(row.tenant, msgspec.json.encode(row)) for row in audit]
    )
