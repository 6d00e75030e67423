"""The embedded ledger: what holds because it is SQLite in one file, for one process."""

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from canonical_schema import Event
from gateway.errors import LedgerUnavailable
from gateway.ledger import AttemptRow, ClaimKind, Part, Plan, Sheet, SqliteLedger, _checkpoint, _writer
from gateway.ledger._checkpoint import EVERY, Checkpoints
from gateway.ledger._recording import SHARED, Entry, Recorder
from gateway.ledger._rows import (
    SMALL,
    pack_attempt,
    pack_events,
    pack_members,
    pack_parts,
    unpack_attempt,
    unpack_events,
    unpack_members,
    unpack_parts,
)
from gateway.ledger._schema import VERSION, connect
from gateway.ledger.check import add_up
from tests.gateway.ledger.conftest import SqliteStore, event, events, opened, recorded

PLAN = Plan(live=("a",))


async def refusal(path: Path) -> str:
    """Return why a file cannot be opened. Whatever was opened on the way must be closed again."""
    with pytest.raises(LedgerUnavailable) as refused:
        await SqliteLedger(path).open()
    return str(refused.value)


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB); print(1)"
    async with opened(store):
        assert f"{store.path} is in use by another gateway process" == await refusal(store.path)
        other = await anyio.run_process([sys.executable, "-c", code, f"{store.path}.lock"], check=False)
        assert b"BlockingIOError" in other.stderr
    async with opened(store) as ledger:
        await recorded(ledger, "e1")


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    async with opened(store) as ledger:
        await recorded(ledger, "e1")
    connection = sqlite3.connect(store.path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    for _ in range(2):  # the first refusal leaves nothing locked
        said = await refusal(store.path)
        assert f"schema version {VERSION + 1}" in said
        assert "install a newer one" in said


async def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database, however long one makes it" * 100)
    assert "cannot be opened" in await refusal(path)
    assert "cannot be opened" in await refusal(tmp_path / "nowhere" / "ledger.db")


@pytest.mark.parametrize("what", ["ledger.db", "ledger.db-wal"])
async def test_nothing_is_promised_in_a_file_that_is_not_there_any_more(tmp_path: Path, what: str) -> None:
    store = SqliteStore(tmp_path)
    moved = tmp_path / "moved"
    async with opened(store) as ledger:
        await recorded(ledger, "e1")
        there = store.path.with_name(what)
        there.rename(moved)
        with pytest.raises(LedgerUnavailable, match="removed, moved or replaced"):
            await recorded(ledger, "e2")
        there.touch()
        with pytest.raises(LedgerUnavailable, match="removed, moved or replaced"):
            await ledger.ready()
        moved.rename(there)
        await recorded(ledger, "e2")
    sums = add_up(store.path)
    assert ([], 2) == (sums["problems"], sums["events"])


async def test_a_ledger_that_is_begun_where_one_was_before_says_that_it_knows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = SqliteStore(tmp_path)
    for _ in range(2):
        async with opened(store) as ledger:
            await recorded(ledger, "e1")
    assert "ledger.begins_anew" not in capsys.readouterr().out
    store.path.unlink()
    for says in (True, False):  # once: from then on it is the ledger that was before
        async with opened(store) as ledger:
            await ledger.ready()
        assert says == ("ledger.begins_anew" in capsys.readouterr().out)


async def test_a_ledger_may_stand_elsewhere_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "ledger.db").symlink_to(tmp_path / "disk" / "real.db")
    for name in ("e1", "e2"):
        ledger = SqliteLedger(tmp_path / "ledger.db")
        await ledger.open()
        try:
            await recorded(ledger, name)
        finally:
            await ledger.close()
    assert 2 == add_up(tmp_path / "disk" / "real.db")["events"]


async def test_a_log_that_was_cut_short_loses_only_what_was_not_promised(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    async with opened(store) as ledger:
        await recorded(ledger, "e1")
        left = store.cut()
    log = left.path.with_name("ledger.db-wal")
    log.write_bytes(log.read_bytes() + b"half a frame" * 100)
    async with opened(left) as ledger:
        (claim,) = await ledger.record("default", 1, events("e1"), [PLAN])
        assert ClaimKind.REPLAY is claim.kind
    assert [] == add_up(left.path)["problems"]


async def test_what_breaks_the_disk_breaks_the_flush_and_not_the_ledger(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path)) as ledger:
        assert isinstance(ledger, SqliteLedger)
        for error in (sqlite3.OperationalError("disk I/O error"), sqlite3.DatabaseError("malformed"), MemoryError()):
            with pytest.raises(LedgerUnavailable):
                await ledger._writer.do(raising(error))
        await recorded(ledger, "e1")


def raising(error: Exception) -> Callable[[sqlite3.Connection], None]:
    def operation(_: sqlite3.Connection) -> None:
        raise error

    return operation


@pytest.mark.parametrize("ready", [0, 1000], ids=["by the thread", "by the loop"])
async def test_events_of_a_flush_that_was_taken_back_are_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready: int
) -> None:
    monkeypatch.setattr(_writer, "READY", ready)
    async with opened(SqliteStore(tmp_path)) as ledger:
        assert isinstance(ledger, SqliteLedger)
        writer = ledger._writer
        commit, failing = writer._flush, True

        def flush(operations: list[object]) -> object:
            extra = (raising(sqlite3.OperationalError("disk full")), writer._loop.create_future())
            return commit([*operations, extra] if failing else operations)[: len(operations)]  # type: ignore[list-item]

        writer._flush = flush  # type: ignore[method-assign]
        twice = [ledger.record("default", 1000, events("lost"), [PLAN]) for _ in range(2)]
        answers = await asyncio.gather(*twice, return_exceptions=True)
        assert [LedgerUnavailable] * 2 == [type(answer) for answer in answers]
        failing = False
        batch = await recorded(ledger, "kept")
        assert events("kept") == (await ledger.snapshots([batch]))[batch].events
        assert await ledger.find("default", "lost") is None


async def test_small_requests_of_one_flush_are_one_batch_and_large_ones_are_their_own(tmp_path: Path) -> None:
    large = events(*(f"l{number}" for number in range(SHARED)))
    async with opened(SqliteStore(tmp_path)) as ledger:
        assert isinstance(ledger, SqliteLedger)
        small = [ledger.record("default", 1000 + number, events(f"e{number}"), [PLAN]) for number in range(60)]
        await in_one_flush(ledger, *small, ledger.record("default", 2000, large, [PLAN] * SHARED))
        first, second = await ledger.batches_after(0, 10)
        shots = await ledger.snapshots([first, second])
        assert [60, SHARED] == [len(shot.events) for shot in shots.values()]
        assert list(range(1000, 1060)) == list(map(shots[first].received_at, range(60)))
        assert ((), 2000) == (tuple(shots[second].receipts), shots[second].received_at(5))


async def test_what_cannot_be_made_ready_beforehand_is_recorded_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(SqliteStore(tmp_path)) as ledger:
        assert isinstance(ledger, SqliteLedger)
        before = await recorded(ledger, "e1")
        recorder = ledger._writer._recorder

        def breaking(entries: Sequence[Entry]) -> None:
            Recorder.prepare(recorder, entries)
            raise ValueError("no memory, say")

        monkeypatch.setattr(recorder, "prepare", breaking)
        claims = await ledger.record("default", 1000, events("e1", "e2"), [PLAN] * 2)
        assert [ClaimKind.REPLAY, ClaimKind.NEW] == [claim.kind for claim in claims]
        batch = await recorded(ledger, "e3")
        assert before + 2 == batch
        claims = await ledger.record("default", 1000, events("e1", "e2", "e3"), [PLAN] * 3)
        assert [ClaimKind.REPLAY] * 3 == [claim.kind for claim in claims]


async def test_a_request_of_many_events_is_recorded_in_their_order(tmp_path: Path) -> None:
    many = events(*(f"e{number}" for number in range(_writer.READY + 500)))
    async with opened(SqliteStore(tmp_path)) as ledger:
        fresh = await ledger.record("default", 1000, many, [PLAN] * len(many))
        again = await ledger.record("default", 2000, many[::-1], [PLAN] * len(many))
        assert [claim.ref for claim in fresh] == [claim.ref for claim in again][::-1]
        assert {ClaimKind.REPLAY} == {claim.kind for claim in again}
        (batch,) = await ledger.batches_after(0, 10)
        assert many == (await ledger.snapshots([batch]))[batch].events


async def in_one_flush(ledger: SqliteLedger, *requests: Coroutine[Any, Any, object]) -> None:
    started, together = threading.Event(), threading.Event()
    held = asyncio.ensure_future(ledger._writer.do(lambda _: (started.set(), together.wait(30))))
    await asyncio.to_thread(started.wait, 10)  # its flush is in flight: what comes now shares the next one
    waiting = asyncio.gather(*requests)
    await asyncio.sleep(0)
    assert len(requests) == len(ledger._writer._gathered)
    together.set()
    await asyncio.gather(held, waiting)


@pytest.mark.parametrize(
    ("requests", "each", "batches"),
    [(300, 1, [256, 44]), (12, 100, [1000, 200]), (100, 10, [800, 200]), (3, 600, [600, 600, 600])],
)
async def test_a_batch_is_shared_by_the_fewer_requests_the_larger_it_is(
    tmp_path: Path, requests: int, each: int, batches: list[int]
) -> None:
    async with opened(SqliteStore(tmp_path)) as ledger:
        assert isinstance(ledger, SqliteLedger)
        sent = [events(*(f"e{request}-{place}" for place in range(each))) for request in range(requests)]
        await in_one_flush(ledger, *(ledger.record("default", 1000, some, [PLAN] * each) for some in sent))
        made = await ledger.snapshots(await ledger.batches_after(0, 10))
        assert batches == [len(shot.events) for shot in made.values()]
        assert [event for some in sent for event in some] == [event for shot in made.values() for event in shot.events]


async def test_the_log_is_brought_over_beside_the_commits_and_begins_anew(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    async with opened(store) as ledger:
        before, log = store.path.stat().st_size, store.path.with_name("ledger.db-wal")
        with anyio.fail_after(30):
            number = 0
            while store.path.stat().st_size == before:  # the thread takes its time
                number += 1
                await recorded(ledger, f"e{number}")
            assert number >= EVERY
            grown, seen = log.stat().st_size, number
            while number < 2 * seen:
                number += 1
                await recorded(ledger, f"e{number}")
        assert log.stat().st_size < 2 * grown
    assert ([], number) == (add_up(store.path)["problems"], add_up(store.path)["events"])


async def test_a_long_log_begins_anew_though_more_was_committed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_checkpoint, "ANEW", 10)
    path = tmp_path / "some.db"
    writing = connect(path)
    writing.execute("CREATE TABLE some (body BLOB)")
    checkpoints = Checkpoints(path, writing)

    def begun() -> bytes:
        """Commit, and return what the log begins with: it is another each time that it begins anew."""
        writing.execute("INSERT INTO some VALUES (zeroblob(5000))")
        return path.with_name("some.db-wal").read_bytes()[:32]

    first = begun()
    reading = connect(path)
    reading.execute("BEGIN")
    reading.execute("SELECT count(*) FROM some").fetchone()  # what is committed from now on stays in the log
    for _ in range(EVERY):
        assert first == begun()
        checkpoints.flushed()
    with anyio.fail_after(30):
        while not checkpoints._nearly:  # the thread takes its time
            await anyio.lowlevel.checkpoint()
            assert first == begun()
    reading.close()
    assert first == begun()
    checkpoints.flushed()
    assert first != begun()
    checkpoints.stop()
    assert ("ok",) == writing.execute("PRAGMA integrity_check").fetchone()
    writing.close()


async def test_an_id_that_is_claimed_twice_does_not_add_up(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    async with opened(store) as ledger:
        await recorded(ledger, "e1", "e2")
        await recorded(ledger, "e3", "e4")
    assert [] == add_up(store.path)["problems"]
    connection = sqlite3.connect(store.path)
    connection.execute("UPDATE ids SET digests = (SELECT digests FROM ids WHERE batch = 1) WHERE batch = 2")
    connection.commit()
    assert ["2 ids are claimed twice"] == add_up(store.path)["problems"]
    connection.execute("UPDATE ids SET digests = zeroblob(16) WHERE batch = 2")
    connection.commit()
    connection.close()
    assert ["batch 2: 2 events are stored and 1 ids are claimed"] == add_up(store.path)["problems"]


async def test_a_batch_is_decoded_once_however_many_of_its_events_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, sent = SqliteStore(tmp_path), events(*(f"e{index}" for index in range(300)))
    async with opened(store) as ledger:
        await ledger.record("default", 1000, sent, [PLAN] * 300)
    decoded: list[int] = []

    def counting(packed: bytes, size: int) -> Sequence[Event]:
        found = unpack_events(packed, size)
        decoded.append(len(found))
        return found

    monkeypatch.setattr("gateway.ledger.sqlite.unpack_events", counting)
    async with opened(store) as ledger:
        claims = await ledger.record("default", 2000, sent, [PLAN] * 300)
    assert {ClaimKind.REPLAY} == {claim.kind for claim in claims}
    assert sum(decoded) <= 600


@given(st.lists(st.integers(0, 2**16 - 1)))
def test_members_survive_packing(members: list[int]) -> None:
    assert members == unpack_members(pack_members(members))


@given(st.lists(st.builds(event, st.text("ab-1", min_size=1), properties=st.dictionaries(st.text(), st.text()))))
def test_events_survive_packing(some: list[Event]) -> None:
    assert some == ([] if not some else unpack_events(pack_events(some)))


ROWS = st.lists(st.binary(max_size=SMALL), max_size=5)


@given(ROWS)
def test_rows_and_attempts_survive_packing_few_or_many(rows: list[bytes]) -> None:
    keys = [f"key {index}" for index in range(len(rows))]
    sheet, parts = Sheet(keys, rows), [[Part("", key, row)] for key, row in zip(keys, rows, strict=True)]
    assert [parts, None] == [unpack_parts(pack_parts(one)) for one in (parts, None)]
    found = unpack_parts(pack_parts(sheet))
    assert isinstance(found, Sheet)
    assert (keys, rows) == (found.keys, found.rows)
    attempt = AttemptRow(
        batch=1,
        destination="a",
        members=list(range(len(rows))),
        at=1,
        duration_ms=2,
        http_status=200,
        outcome="accepted",
        error=None,
        others={},
        provider_event_ids=dict(enumerate(row.hex() for row in rows)),
    )
    assert attempt == unpack_attempt(pack_attempt(attempt))


def test_what_an_older_version_compressed_is_read() -> None:
    """It compressed all, however small."""
    packed = pack_parts([[Part("", "k", b"{}")]])
    assert packed is not None
    assert [[Part("", "k", b"{}")]] == unpack_parts(zstandard.compress(packed))
