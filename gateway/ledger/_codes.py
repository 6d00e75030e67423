"""The status bytes of batches: one for each event, at each destination. Read and written by few statements."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gateway.ledger._model import Code

__all__ = ["Key", "fill", "listed", "read_codes", "write_codes"]

Key = tuple[int, str]
"""Batch and destination."""


def fill(track: bytearray, members: Sequence[int], code: Code) -> None:
    """Give events of a batch a status: most often it is one for a run of them."""
    run = range(members[0], members[-1] + 1) if members else range(0)
    if len(run) == len(members) and list(run) == members:
        track[run.start : run.stop] = bytes((code,)) * len(run)
        return
    for index in members:
        track[index] = code


def read_codes(connection: sqlite3.Connection, keys: Iterable[Key]) -> dict[Key, bytearray]:
    """Return the status bytes of batches at their destinations."""
    codes: dict[Key, bytearray] = {}
    batches: dict[str, set[int]] = {}
    for batch, destination in keys:
        batches.setdefault(destination, set()).add(batch)
    query = "SELECT batch, codes FROM tracks WHERE destination = ? AND batch IN (SELECT value FROM json_each(?))"
    for destination, some in batches.items():
        for batch, found in connection.execute(query, (destination, listed(some))).fetchall():
            codes[batch, destination] = bytearray(found)
    return codes


def write_codes(connection: sqlite3.Connection, codes: Mapping[Key, bytearray]) -> None:
    """Write them back."""
    rows = [(bytes(track), batch, destination) for (batch, destination), track in codes.items()]
    for at in range(0, len(rows), _AT_ONCE):
        some = rows[at : at + _AT_ONCE]
        connection.execute(
            f"UPDATE tracks SET codes = now.column1 FROM (VALUES {', '.join(['(?, ?, ?)'] * len(some))}) AS now"
            " WHERE batch = now.column2 AND destination = now.column3",
            [value for row in some for value in row],
        )


_AT_ONCE = 64
"""Rows a statement: a statement of each length is kept ready."""


def listed(numbers: Iterable[int]) -> str:
    """Return numbers as one argument, for `json_each`."""
    return msgspec.json.encode(list(numbers)).decode()
