"""Moves a ledger from a file to a Redis server: every batch as it stands, once, and again where it was interrupted.

Whatever was being sent when the gateway ended is so there too, and in doubt when a gateway starts on it.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gateway.errors import LedgerUnavailable
from gateway.ledger._ids import DIGEST as LONG_DIGEST
from gateway.ledger._keeping import remains
from gateway.ledger._kept import AuditRow, Document, Remains
from gateway.ledger._looking import Looking
from gateway.ledger._model import Group, Rendered, some_of
from gateway.ledger._redis.deliveries import tally
from gateway.ledger._redis.layout import DIGEST, pack_head, pack_rendered, pack_runs
from gateway.ledger._refs import PLACES
from gateway.ledger._restored import MOVED, Taken
from gateway.ledger._rows import (
    pack_attempt,
    pack_error,
    pack_events,
    unpack_attempt,
    unpack_events,
    unpack_members,
    unpack_parts,
    unpack_times,
)
from gateway.ledger._settling import WorkRow, group_of
from gateway.ledger.check import add_up
from gateway.ledger.redis import RedisLedger
from gateway.ledger.sqlite import SqliteLedger

__all__ = ["copy"]

PRINT = 8
"""Bytes of a fingerprint."""
NOBODY = bytes(8)
AT_ONCE = 500


class _Batch(NamedTuple):
    """One batch of the file, with all that hangs on it."""

    number: int
    tenant: str
    receipts: Sequence[int]
    events: Sequence[Any]
    digests: bytes
    left: Remains | None
    tracks: Sequence[tuple[str, bool, bytes]]
    work: Sequence[tuple[Group, str, list[int], Rendered | None]]
    attempts: Sequence[bytes]
    rows: Sequence[tuple[str, int, bytes]]
    unrouted: Sequence[int]


async def copy(path: Path, target: RedisLedger) -> dict[str, Any]:
    """Copy a file that no gateway uses into a ledger that nothing else was put into; return what both add up to.

    Raises LedgerUnavailable where the file is in use, the target holds something else, or the sums differ.
    """
    source = SqliteLedger(path, moved=True)
    await source.open()  # takes the file: no gateway can write to it meanwhile
    try:
        await target.open()
        try:
            await target.receive()
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                await _copied(connection, target)
            finally:
                connection.close()
            made = await _verified(path, target)
            # From here on the server has it, and nobody starts on the file by mistake.
            body = msgspec.json.encode(Taken(time.time_ns() // 1000))
            await source.keep([Document(kind=MOVED, tenant="", name="to a server", body=body)])
            await target.received()
            return made
        finally:
            await target.close()
    finally:
        await source.close()


async def _verified(path: Path, target: RedisLedger) -> dict[str, Any]:
    before, after = add_up(path), await target.add_up()
    for name, sums in (("file", before), ("server", after)):
        if sums["problem_count"]:
            raise LedgerUnavailable(f"what is on the {name} does not add up: {sums['problems'][0]}")
    if (before["events"], before["destinations"]) != (after["events"], after["destinations"]):
        raise LedgerUnavailable(
            f"{before['events']} events are in the file, {after['events']} on the server: copy again"
        )
    return {"object": "ledger_copy", "events": after["events"], "destinations": after["destinations"]}


async def _copied(connection: sqlite3.Connection, target: RedisLedger) -> None:
    secrets: Mapping[str, bytes] = dict(connection.execute("SELECT name, value FROM secrets"))
    await target.name(dict(connection.execute("SELECT name, provider FROM destinations")))
    await target.put_secrets(secrets)
    for kind, tenant in connection.execute("SELECT DISTINCT kind, tenant FROM documents").fetchall():
        query = "SELECT name, body FROM documents WHERE kind = ? AND tenant = ?"
        rows = connection.execute(query, (kind, tenant)).fetchall()
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            await target.keep([Document(kind=kind, tenant=tenant, name=name, body=body) for name, body in some])
    audit = connection.execute("SELECT id, body FROM audit ORDER BY id").fetchall()
    await target.put_trail([(number, msgspec.json.decode(body, type=AuditRow)) for number, body in audit])
    last = await target.copied_until()
    for (number,) in connection.execute("SELECT batch FROM batches WHERE batch >= ? ORDER BY batch", (last // PLACES,)):
        batch = _read(connection, number)
        for place, (partition, members) in enumerate(_groups(batch, target)):
            await target.put(partition, number * PLACES + place, _arguments(batch, members))


def _read(connection: sqlite3.Connection, number: int) -> _Batch:
    query = "SELECT tenant, received, size, body, receipts FROM batches WHERE batch = ?"
    tenant, received, size, body, receipts = connection.execute(query, (number,)).fetchone()
    (digests,) = connection.execute("SELECT coalesce(max(digests), x'') FROM ids WHERE batch = ?", (number,)).fetchone()
    columns = ", ".join(WorkRow._fields)
    work = [WorkRow(*row) for row in connection.execute(f"SELECT {columns} FROM work WHERE batch = ?", (number,))]
    waiting = connection.execute("SELECT members FROM unrouted WHERE batch = ?", (number,)).fetchone()
    return _Batch(
        number,
        tenant,
        list(unpack_times(receipts)) or [received] * size,
        unpack_events(body) if body else (),
        digests,
        remains(connection, number),
        connection.execute("SELECT destination, shadow, codes FROM tracks WHERE batch = ?", (number,)).fetchall(),
        [(group_of(row), row.destination, unpack_members(row.members), unpack_parts(row.parts)) for row in work],
        [body for (body,) in connection.execute("SELECT body FROM attempts WHERE batch = ? ORDER BY id", (number,))],
        connection.execute("SELECT destination, place, body FROM parts WHERE batch = ?", (number,)).fetchall(),
        () if waiting is None else unpack_members(waiting[0]),
    )


def _groups(batch: _Batch, target: RedisLedger) -> Iterator[tuple[int, list[int]]]:
    """Give the indexes that become one batch there: of one partition, and received at one time."""
    found: dict[tuple[int, int], list[int]] = {}
    for index, received in enumerate(batch.receipts):
        partition = target.partition_of(_digest(batch, index))
        found.setdefault((received, partition), []).append(index)
    for (_, partition), members in sorted(found.items()):
        yield partition, members


def _digest(batch: _Batch, index: int) -> bytes:
    return batch.digests[index * LONG_DIGEST : index * LONG_DIGEST + DIGEST]


def _arguments(batch: _Batch, members: Sequence[int]) -> list[bytes | str | int]:
    """Return what the script puts of a batch: some of its events, with all that hangs on them."""
    places = {index: place for place, index in enumerate(members)}
    left = batch.left
    events = pack_events([batch.events[index] for index in members]) if batch.events else b""
    arguments: list[bytes | str | int] = [
        batch.receipts[members[0]],
        batch.tenant,
        events,
        b"".join(_digest(batch, index) for index in members),
        pack_runs([places[index] for index in batch.unrouted if index in places]),
        b"" if left is None else b"".join(left.prints[index * PRINT : (index + 1) * PRINT] for index in members),
        b"" if left is None else pack_runs(sorted(places[index] for index in left.erased if index in places)),
        f"1{left.segment or ''}" if left is not None and left.trimmed else b"",
    ]
    arguments.append(len(batch.tracks))
    for name, shadow, whole in batch.tracks:
        looking, codes = Looking.unpack(shadow), bytes(whole[index] for index in members)
        counting = frozenset(places[index] for index in looking.counting if index in places)
        arguments += [name, Looking(looking.shadow, counting).pack(), codes, tally(codes)]
    pieces: list[bytes | str | int] = []
    for group, name, held, parts in batch.work:
        going = sorted((places[index], at) for at, index in enumerate(held) if index in places)
        if going:
            mine = [place for place, _ in going]
            rendered = None if parts is None else some_of(parts, [at for _, at in going])
            pieces += [
                pack_head(group, NOBODY, name, mine),
                pack_error(group.error) or b"",
                pack_rendered(mine, rendered),
            ]
    arguments += [len(pieces) // 3, *pieces]
    attempts: list[bytes] = []
    for packed in batch.attempts:
        attempt = unpack_attempt(packed)
        attempt.members = [places[index] for index in attempt.members if index in places]
        attempt.others = {places[index]: what for index, what in attempt.others.items() if index in places}
        named = attempt.provider_event_ids.items()
        attempt.provider_event_ids = {places[index]: one for index, one in named if index in places}
        if attempt.members:
            attempts.append(pack_attempt(attempt))
    arguments += [len(attempts), *attempts]
    rows = [(f"{places[place]}:{name}", body) for name, place, body in batch.rows if place in places]
    return [*arguments, len(rows), *(one for row in rows for one in row)]
