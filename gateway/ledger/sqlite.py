"""The embedded ledger: SQLite on disk, WAL, full synchronisation, one writer thread with group commit."""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from canonical_schema import DeliveryStatus, ErrorItem, Event, encode_events, format_time
from gateway.errors import LedgerUnavailable
from gateway.ledger import _documents, _keeping, _reading, _settling
from gateway.ledger._checkpoint import Checkpoints
from gateway.ledger._claims import Claim
from gateway.ledger._events import EventCache, StoredEvents
from gateway.ledger._files import OpenedFiles, without_another_log
from gateway.ledger._ids import DIGEST, Ids
from gateway.ledger._keeping import Content
from gateway.ledger._kept import AuditRow, Document, Erasure
from gateway.ledger._model import AttemptRow, Change, Plan, Portion, QueueDepth, Snapshot, Unrouted, Work, WorkState
from gateway.ledger._recording import Entry, Recorder, prepare, verified
from gateway.ledger._restored import begun_anew, moved, recognised
from gateway.ledger._rows import digests, unpack_events
from gateway.ledger._schema import connect, upgrade
from gateway.ledger._trail import note
from gateway.ledger._waiting import count_waiting, waiting
from gateway.ledger._writer import Writer
from gateway.times import from_micros

__all__ = ["SqliteLedger"]

log = structlog.get_logger()

T = TypeVar("T")

SLICE = 1000
"""Events of a request that are made ready before others have a turn: half a millisecond."""

Step = Callable[[sqlite3.Connection, int, int], Sequence[_settling.Piece]]
"""Moves so many pieces of work, up to the one with an id."""

AT_ONCE = 100
"""Pieces of work that are moved in one transaction, where all of a destination are."""
PAGE, PAGE_EVENTS = 64, 4096
"""Batches and events without a way that are read together."""


class SqliteLedger:
    """A `Ledger` in one file, for one process."""

    durability = "fsync"
    shared = False
    limits = None
    fenced = False
    lapses = 0
    leads = True

    def __init__(self, path: Path, *, moved: bool = False) -> None:
        """`moved`: open it also where it was copied to a server, and lives on there."""
        self.path = path
        self._moved = moved
        self._cache = EventCache()
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="ledger-reader")
        self._held = contextlib.ExitStack()
        """The lock and the connections, closed in turn."""

    @property
    def in_line(self) -> bool:
        return True

    def alone(self, destination: str) -> bool:
        return True

    async def lease(self, name: str) -> bool:
        return True

    async def give_back(self, name: str) -> None:
        return

    async def open(self) -> None:
        """Take the file for this process and make its schema this version's.

        Raises LedgerUnavailable where another process has it, or it cannot be written.
        """
        with contextlib.ExitStack() as held:
            try:
                lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
                held.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                now = time.time_ns() // 1000
                if (aside := without_another_log(self.path, now)) is not None:
                    log.warning("ledger.log_of_another_file", kept=str(aside))
                connection = held.enter_context(contextlib.closing(connect(self.path)))
                upgrade(connection)
                if not self._moved and (when := moved(connection)) is not None:
                    hint = f"to go on with the file, say so: `usage-gateway ledger restored --as-of {when}`"
                    raise LedgerUnavailable(f"{self.path} was moved to a server at {when}: start on that one; {hint}")
                anew, taken = begun_anew(connection, lock), recognised(connection, lock, now)
                recorder = self._recorder(connection)
                checkpoints = Checkpoints(self.path, connection)
                held.callback(checkpoints.stop)
                self._reader = held.enter_context(contextlib.closing(connect(self.path)))
                files = OpenedFiles(self.path)
            except BlockingIOError:
                raise LedgerUnavailable(f"{self.path} is in use by another gateway process") from None
            except (OSError, sqlite3.Error) as error:
                raise LedgerUnavailable(f"{self.path} cannot be opened for writing: {error}") from error
            self._held = held.pop_all()
        if anew and taken is None:
            hint = "put a backup in its place with `ledger restore`; else usage that comes again is sent again"
            log.warning("ledger.begins_anew", missing=str(self.path), hint=hint)
        if taken is not None:
            log.warning(
                "ledger.restored", taken=format_time(from_micros(taken)), hint="what it had not sent is in doubt"
            )
        self._writer = Writer(connection, recorder, checkpoints.flushed, files.check)

    async def close(self) -> None:
        """Finish what was asked for, then let go of the file."""
        await self._writer.stop()
        await asyncio.to_thread(self._readers.shutdown)
        self._held.close()

    async def record(
        self, tenant: str, received: int, events: Sequence[Event], plans: Sequence[Plan], audit: Sequence[AuditRow] = ()
    ) -> Sequence[Claim]:
        array("q", [received])  # a time that cannot be kept is the caller's mistake, not the flush's
        known: list[bytes] = []
        texts: list[bytes] = []
        for first in range(0, len(events), SLICE):
            if first:
                await asyncio.sleep(0)
            some = events[first : first + SLICE]
            known += digests(tenant, [event.id for event in some])
            texts.append(encode_events(some))
        return await self._writer.record(Entry(tenant, received, events, plans, known, b"".join(texts), audit))

    async def find(self, tenant: str, event_id: str) -> int | None:
        return (await self.refs(tenant, [event_id])).get(event_id)

    async def refs(self, tenant: str, ids: Sequence[str]) -> Mapping[str, int]:
        wanted = digests(tenant, ids)
        if not self._ids.candidates(b"".join(wanted)):
            return {}
        known = await self._read(lambda connection: verified(connection, self._ids, wanted))
        return {one: known[digest] for one, digest in zip(ids, wanted, strict=True) if digest in known}

    async def snapshots(self, batches: Sequence[int]) -> Mapping[int, Snapshot]:
        return await self._read(
            lambda connection: {
                snapshot.batch: snapshot
                for batch in batches
                if (snapshot := _reading.snapshot(connection, self._load, batch)) is not None
            }
        )

    async def batches_before(self, batch: int | None, limit: int) -> Sequence[int]:
        below = 2**62 if batch is None else batch

        def read(connection: sqlite3.Connection) -> list[int]:
            rows = connection.execute(
                "SELECT batch FROM batches WHERE batch < ? AND body <> x'' ORDER BY batch DESC LIMIT ?", (below, limit)
            )
            return [found for (found,) in rows]

        return await self._read(read)

    async def batches_after(self, batch: int, limit: int) -> Sequence[int]:
        return await self._read(lambda connection: _reading.batches_after(connection, batch, limit))

    async def take(self, destination: str, now: int, limit: int) -> Sequence[Work]:
        return await self._read(lambda connection: _reading.taken(connection, self._load, destination, now, limit))

    async def overdue(self, destination: str, now: int, limit: int) -> tuple[Sequence[Work], int | None]:
        return await self._read(lambda connection: _reading.overdue(connection, self._load, destination, now, limit))

    async def next_due(self, destination: str) -> int | None:
        def read(connection: sqlite3.Connection) -> int | None:
            query = "SELECT min(due) FROM work WHERE destination = ? AND state = 'ready'"
            (due,) = connection.execute(query, (destination,)).fetchone()
            return due

        return await self._read(read)

    async def intend(self, portions: Sequence[Portion], now: int) -> Sequence[int]:
        return await self._writer.do(lambda connection: _settling.intend(connection, portions, now))

    async def settle(
        self, changes: Sequence[Change], attempts: Sequence[AttemptRow], audit: Sequence[AuditRow] = ()
    ) -> None:
        await self._writer.do(lambda connection: _settling.settle(connection, changes, attempts, audit))

    async def confirm(self, destination: str, batch: int, members: Sequence[int]) -> int:
        return await self._writer.do(lambda connection: _settling.confirm(connection, destination, batch, members))

    async def pieces(self, batch: int, destination: str) -> Sequence[Work]:
        return await self._pieces("batch = ? AND destination = ? ORDER BY id", batch, destination)

    async def in_state(self, states: Sequence[WorkState], destination: str | None) -> Sequence[tuple[int, str]]:
        marks = ", ".join("?" for _ in states)
        # Each destination is looked up by itself: what waits at all of them is not read through for a few letters.
        query = f"""
            WITH RECURSIVE names (name) AS (
                SELECT coalesce(?1, (SELECT min(destination) FROM work)) UNION ALL
                SELECT (SELECT min(destination) FROM work WHERE destination > name) FROM names
                WHERE name IS NOT NULL AND ?1 IS NULL
            )
            SELECT DISTINCT batch, destination FROM names JOIN work ON destination = name WHERE state IN ({marks})
            ORDER BY batch
        """
        return await self._read(lambda connection: connection.execute(query, (destination, *states)).fetchall())

    async def note(self, audit: Sequence[AuditRow]) -> None:
        await self._writer.do(lambda connection: note(connection, audit))

    async def trail(self, tenant: str, below: int | None, limit: int) -> Sequence[tuple[int, AuditRow]]:
        def read(connection: sqlite3.Connection) -> list[tuple[int, AuditRow]]:
            query = "SELECT id, body FROM audit WHERE tenant = ? AND id < ? ORDER BY id DESC LIMIT ?"
            rows = connection.execute(query, (tenant, 2**62 if below is None else below, limit))
            return [(number, msgspec.json.decode(body, type=AuditRow)) for number, body in rows]

        return await self._read(read)

    async def keep(self, documents: Sequence[Document], audit: Sequence[AuditRow] = ()) -> None:
        await self._writer.do(lambda connection: _documents.keep(connection, documents, audit))

    async def document(self, kind: str, tenant: str, name: str) -> bytes | None:
        return (await self.named(kind, tenant, [name])).get(name)

    async def named(self, kind: str, tenant: str, names: Sequence[str]) -> Mapping[str, bytes]:
        return await self._read(lambda connection: _documents.named(connection, kind, tenant, names))

    async def documents(self, kind: str, tenant: str, after: str | None, limit: int) -> Sequence[Document]:
        return await self._read(lambda connection: _documents.page(connection, kind, tenant, after, limit))

    async def held(self, destination: str, state: WorkState) -> Sequence[Work]:
        return await self._pieces("destination = ? AND state = ? ORDER BY id", destination, state)

    async def abandoned(self, destination: str) -> Sequence[Work]:
        return []  # nobody else is there, and what this process left is taken up when the next one starts

    async def walk(self, destination: str, state: WorkState, after: int, limit: int) -> Sequence[Work]:
        those = "destination = ? AND state = ? AND id > ? ORDER BY id LIMIT ?"
        return await self._pieces(those, destination, state, after, limit)

    async def _pieces(self, those: str, *values: object) -> Sequence[Work]:
        return await self._read(lambda connection: _reading.pieces(connection, self._load, those, values))

    async def hold(self, destination: str, error: ErrorItem) -> Mapping[int, Sequence[int]]:
        step = partial(_settling.hold, destination=destination, error=error)
        held: dict[int, array[int]] = {}
        for batch, packed, _ in await self._some_at_a_time(destination, WorkState.READY, step):
            held.setdefault(batch, array("H")).frombytes(packed)
        return held

    async def release(self, destination: str, state: WorkState, now: int, pieces: int | None = None) -> int:
        step = partial(_settling.release, destination=destination, state=state, now=now)
        return len(await self._some_at_a_time(destination, state, step, pieces))

    async def _some_at_a_time(
        self, destination: str, state: WorkState, step: Step, pieces: int | None = None
    ) -> Sequence[_settling.Piece]:
        """Move pieces of work in one state, and return them: others want to write meanwhile, and a backlog is large."""

        def newest(connection: sqlite3.Connection) -> int | None:
            query = "SELECT max(id) FROM work WHERE destination = ? AND state = ?"
            (last,) = connection.execute(query, (destination, state)).fetchone()
            return last

        moved: list[_settling.Piece] = []
        last = await self._read(newest)  # no further than what is there, or it might never end
        more = True
        while last is not None and more and (pieces is None or len(moved) < pieces):
            most = AT_ONCE if pieces is None else min(AT_ONCE, pieces - len(moved))
            done = await self._writer.do(lambda connection, most=most, last=last: step(connection, most, last))
            moved += done
            more = len(done) == AT_ONCE
        return moved

    async def unrouted(self) -> AsyncGenerator[Unrouted]:
        after: int | None = 0
        while after is not None:
            look = partial(_reading.unrouted, load=self._load, after=after, limit=PAGE, events=PAGE_EVENTS)
            some = await self._read(look)
            for one in some:
                yield one
            after = some[-1].batch if some else None

    async def route(self, batch: int, members: Sequence[int], plans: Sequence[Plan], now: int) -> None:
        await self._writer.do(lambda connection: _settling.route(connection, batch, members, plans, now, self._peek))

    async def extend(self, batch: int, members: Sequence[int], plans: Sequence[Plan], now: int) -> int:
        def write(connection: sqlite3.Connection) -> int:
            return _settling.extend(connection, batch, members, plans, now, self._peek)

        return await self._writer.do(write)

    async def ready(self) -> str | None:
        written = Document(kind="ready", tenant="", name="", body=b"{}")  # a full disk can be read
        await self._writer.do(lambda connection: _documents.keep(connection, [written], ()))
        return None

    async def depth(self) -> Mapping[str, QueueDepth]:
        return await self._writer.do(waiting)

    async def counts(self) -> Mapping[str, Mapping[DeliveryStatus, int]]:
        return await self._read(_reading.counts)

    async def name(self, providers: Mapping[str, str]) -> None:
        rows = list(providers.items())

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO destinations VALUES (?, ?)", rows)

        await self._writer.do(write)

    async def trimmable(
        self, before: int, letters: int | None, after: int, limit: int
    ) -> tuple[Sequence[int], int | None]:
        return await self._read(lambda connection: _keeping.trimmable(connection, before, letters, after, limit))

    async def trim(self, prints: Mapping[int, bytes], segment: str | None, letters: int | None) -> Sequence[int]:
        return await self._writer.do(lambda connection: _keeping.trim(connection, prints, segment, letters))

    async def trimmed(self, tenant: str, since: int) -> int:
        return await self._read(lambda connection: _keeping.trimmed(connection, tenant, since))

    async def forget(self, before: int, limit: int) -> int:
        gone = await self._writer.do(lambda connection: _keeping.forget(connection, before, limit))
        await self._writer.do(lambda _: self._ids.forget(gone))  # durable by now; where ids are added, not here
        return len(gone)

    async def secret(self, name: str) -> bytes:
        return await self._writer.do(lambda connection: _keeping.secret(connection, name))

    async def holding(self, tenant: str, customer: str, after: int, limit: int) -> tuple[Sequence[int], int | None]:
        return await self._read(lambda connection: _keeping.holding(connection, tenant, customer, after, limit))

    async def erase(self, batch: int, erasure: Erasure) -> tuple[int, Mapping[str, int]]:
        self._cache.bar(batch)  # before anybody can read what is no longer there
        return await self._writer.do(lambda connection: _keeping.erase(connection, batch, erasure))

    def _recorder(self, connection: sqlite3.Connection) -> Recorder:
        """Return what records, with every id that the file holds."""
        prepare(connection)
        count_waiting(connection)
        (count,) = connection.execute("SELECT coalesce(sum(length(digests)), 0) FROM ids").fetchone()
        self._ids = Ids(count // DIGEST)
        for batch, held in connection.execute("SELECT batch, digests FROM ids ORDER BY batch"):
            self._ids.add(batch, held)
        (last,) = connection.execute("SELECT coalesce(max(batch), 0) FROM batches").fetchone()
        return Recorder(self._ids, last, self._content, self._cache.put)

    async def unname(self, erasure: Erasure) -> int:
        return await self._writer.do(lambda connection: _keeping.unname(connection, erasure))

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        def look(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN")  # one consistent look, however many statements it takes
            try:
                return query(connection)
            finally:
                connection.execute("ROLLBACK")

        try:
            reading = self._readers.submit(look, self._reader)
        except RuntimeError:
            raise LedgerUnavailable("the ledger is closed") from None
        try:
            return await asyncio.wrap_future(reading)
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"the ledger cannot be read: {error}") from error

    def _load(self, connection: sqlite3.Connection, batch: int) -> StoredEvents:
        events = self._peek(connection, batch)
        self._cache.put(batch, events)
        return events

    def _peek(self, connection: sqlite3.Connection, batch: int) -> StoredEvents:
        """Return a batch's events without remembering them: inside a transaction they may yet be taken back."""
        events = self._cache.get(batch)
        if events is None:
            body, size = connection.execute("SELECT body, size FROM batches WHERE batch = ?", (batch,)).fetchone()
            events = unpack_events(body, size)
        return events

    def _content(self, connection: sqlite3.Connection, batch: int) -> Content:
        """Return what repeats of a batch's ids are held against."""
        left = _keeping.remains(connection, batch)
        return Content((), left) if left and left.trimmed else Content(self._peek(connection, batch), left)
