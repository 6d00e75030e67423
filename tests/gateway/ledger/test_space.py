"""What trimming frees is written again: the file grows by what is kept of an event, not by what it was."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from canonical_schema import fingerprint
from gateway.ledger import Change, Code, Ledger, Plan
from tests.gateway.ledger.conftest import TENANT, SqliteStore, event, opened, rendered

ROUND = 20
SIZE = 200


def pages(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as connection:
        (used,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        return used, free


async def a_round(ledger: Ledger, number: int) -> None:
    """Record, deliver and trim some batches."""
    for batch in range(ROUND):
        sent = [event(f"e{number}-{batch}-{n}", properties={"noise": os.urandom(100).hex()}) for n in range(SIZE)]
        await ledger.record(TENANT, 1000, sent, [Plan(live=("a",))] * SIZE)
    while works := await ledger.take("a", 2000, 1000):
        numbers = await ledger.intend([rendered(work) for work in works], 2000)
        changes = [
            Change(work=held, batch=work.batch, destination="a", members=work.members, code=Code.ACCEPTED, group=None)
            for held, work in zip(numbers, works, strict=True)
        ]
        await ledger.settle(changes, [])
    found, _ = await ledger.trimmable(9000, None, 0, 1000)
    for batch, shot in (await ledger.snapshots(found)).items():
        assert [] == list(await ledger.trim({batch: b"".join(map(fingerprint, shot.events))}, None, None))


async def test_a_file_grows_by_what_is_kept(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    async with opened(store) as ledger:
        await a_round(ledger, 0)
        first, free = pages(store.path)
        for number in range(1, 4):
            await a_round(ledger, number)
        last, still_free = pages(store.path)
    grown = (last - first) * 4096 / (3 * ROUND * SIZE)
    assert 16 + 8 + 1 <= grown < 48, "a digest, a fingerprint and a status, and what stands around them"
    assert still_free <= free * 1.1
