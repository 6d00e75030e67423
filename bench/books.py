"""The least that keeps books: what a drain comes to when all is taken away but reading, rows, books and sending.

It reads stored batches from a file, fills in the rows as the lanes do, writes down what it is about to send and what
has been taken, both durably, and holds each answer's status against success. No leases, no doubt, no verdicts row by
row, no rates, breaker, deadlines, corrections or log: it tells how much of the distance to a bare sender is the lanes'.
"""

import asyncio
import sqlite3
import tempfile
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import zstandard

from bench.baselines import IN_FLIGHT, Sending
from bench.events import texts
from canonical_schema import encode_events, read_event
from gateway.catalogue import DEFAULT_TENANT
from gateway.garbage import collect_rarely
from gateway.lanes.stencils import Stencils
from gateway.ledger import StoredEvents

__all__ = ["Books"]

SIZE = 1000
"""Events of a batch."""
AT_HAND = 32
"""Batches that are not read again for another destination."""

_BEGUN = "UPDATE work SET state = 1, rows = ? WHERE batch = ? AND destination = ?"
_ENDED = "UPDATE work SET state = 2, rows = NULL WHERE batch = ? AND destination = ?"


class Books(Sending):
    """A sender that keeps the least books."""

    async def open(self) -> dict[str, Any]:
        """Begin a file of its own."""
        self._folder = tempfile.TemporaryDirectory()
        self._file = Path(self._folder.name) / "books.db"
        with sqlite3.connect(self._file) as file:
            file.execute("PRAGMA journal_mode = wal")
            file.execute("CREATE TABLE batches (batch INTEGER PRIMARY KEY, events BLOB)")
            file.execute(
                "CREATE TABLE work (batch INTEGER, destination TEXT, state INTEGER, rows BLOB,"
                " PRIMARY KEY (batch, destination))"
            )
        return await super().open()

    async def close(self) -> None:
        await super().close()
        self._folder.cleanup()

    async def do_fill(self, prefix: str, events: int) -> None:
        """Store events that are to be delivered, and forget those of before."""
        with sqlite3.connect(self._file) as file:
            file.execute("DELETE FROM batches")
            file.execute("DELETE FROM work")
            every = [read_event(text.encode()) for text in texts(prefix, events)]
            for at in range(0, events, SIZE):
                stored = zstandard.compress(encode_events(every[at : at + SIZE]), 1)
                file.execute("INSERT INTO batches VALUES (?, ?)", (at, stored))
                file.executemany("INSERT INTO work VALUES (?, ?, 0, NULL)", [(at, name) for name in self.sessions])

    async def do_drain(self) -> dict[str, Any]:
        """Deliver all that is stored; tell how long that took. Raises RuntimeError where not all was taken."""
        stencils = {name: Stencils(self.catalogue, name) for name in self.sessions}
        writer, reader = _Writer(self._file), _Reader(self._file)
        collect_rarely()  # as `serve` does
        began, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for name in self.sessions:
                waiting = deque(reader.batches)
                for _ in range(IN_FLIGHT):
                    group.create_task(self._ship(name, waiting, stencils[name], reader, writer))
        spent = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        writer.close()
        reader.close()
        with sqlite3.connect(self._file) as file:
            if file.execute("SELECT count(*) FROM work WHERE state < 2").fetchone() != (0,):
                raise RuntimeError("not delivered")
        return spent

    async def _ship(
        self, name: str, waiting: deque[int], stencils: Stencils, reader: "_Reader", writer: "_Writer"
    ) -> None:
        adapter = self.catalogue.destinations[name].adapter
        step = adapter.door.max_rows
        while waiting:
            batch = waiting.popleft()
            events, now = await reader.events(batch), datetime.now(UTC)
            rows = stencils.rows(DEFAULT_TENANT, events, [now] * len(events), now)
            if not isinstance(rows, bytes):
                raise RuntimeError(f"{name}: the events are not alike")
            await writer.write(_BEGUN, (zstandard.compress(rows, 1), batch, name))
            if step >= len(events):
                requests = [adapter.framed(rows.replace(b"\n", b","))]
            else:
                lines = rows.split(b"\n")
                requests = [adapter.request(lines[at : at + step]) for at in range(0, len(lines), step)]
            await asyncio.gather(*(self.sent(name, request) for request in requests))
            await writer.write(_ENDED, (batch, name))


class _Reader:
    """Batches of the file, read by a thread, each once for all destinations that ask soon."""

    def __init__(self, file: Path) -> None:
        self._file = sqlite3.connect(file, check_same_thread=False)
        self.batches: Sequence[int] = [batch for (batch,) in self._file.execute("SELECT batch FROM batches")]
        self._thread = ThreadPoolExecutor(1)
        self._known: OrderedDict[int, asyncio.Future[StoredEvents]] = OrderedDict()

    async def events(self, batch: int) -> StoredEvents:
        if batch not in self._known:
            self._known[batch] = asyncio.get_running_loop().run_in_executor(self._thread, self._read, batch)
            if len(self._known) > AT_HAND:
                self._known.popitem(last=False)
        return await self._known[batch]

    def _read(self, batch: int) -> StoredEvents:
        (packed,) = self._file.execute("SELECT events FROM batches WHERE batch = ?", (batch,)).fetchone()
        return StoredEvents(zstandard.decompress(packed))

    def close(self) -> None:
        self._thread.shutdown()
        self._file.close()


class _Writer:
    """A thread that commits what waits in one transaction."""

    def __init__(self, file: Path) -> None:
        self._path = file
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[str, tuple[Any, ...], asyncio.Future[None]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def write(self, statement: str, values: tuple[Any, ...]) -> asyncio.Future[None]:
        """Return what is done once the write is durable."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((statement, values, done))
        return done

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        file = sqlite3.connect(self._path, isolation_level=None)
        file.execute("PRAGMA synchronous = full")
        while (first := self._queue.get()) is not None:
            some = [first]
            while not self._queue.empty() and (next_ := self._queue.get()) is not None:
                some.append(next_)
            file.execute("BEGIN")
            for statement, values, _ in some:
                file.execute(statement, values)
            file.execute("COMMIT")
            self._loop.call_soon_threadsafe(_told, [done for *_, done in some])
        file.close()


def _told(done: Sequence[asyncio.Future[None]]) -> None:
    for one in done:
        one.set_result(None)
