"""One thread that owns all writing, and commits everything that waits in one transaction."""

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from gateway.errors import LedgerUnavailable

__all__ = ["Writer"]

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

_DISK = (sqlite3.OperationalError, sqlite3.InternalError, MemoryError)
"""What is nobody's own fault; a damaged file is a bare DatabaseError."""


class Writer:
    """Group commit: what arrives while a flush is in flight shares the next one.

    An operation that fails takes back its own writes and nobody else's. A commit that fails takes back
    everything, and every caller is told.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._waiting: deque[tuple[Operation, asyncio.Future[Any]]] = deque()
        self._signal = threading.Condition()
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    async def do(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run `operation` in a transaction and return when it is durable."""
        future: asyncio.Future[T] = self._loop.create_future()
        with self._signal:
            if self._stopping:
                raise LedgerUnavailable("the ledger is closed")
            self._waiting.append((operation, future))
            self._signal.notify()
        # A caller that goes away must not take the transaction of the others with it.
        return await asyncio.shield(future)

    async def stop(self) -> None:
        """Finish what waits, then end the thread."""
        with self._signal:
            self._stopping = True
            self._signal.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while True:
            with self._signal:
                while not self._waiting and not self._stopping:
                    self._signal.wait()
                operations = list(self._waiting)
                self._waiting.clear()
            if not operations:
                return
            results = self._flush(operations)
            self._loop.call_soon_threadsafe(self._answer, results)

    def _flush(self, operations: list[tuple[Operation, asyncio.Future[Any]]]) -> list[tuple[asyncio.Future[Any], Any]]:
        connection = self._connection
        results: list[tuple[asyncio.Future[Any], Any]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for operation, future in operations:
                connection.execute("SAVEPOINT one")
                try:
                    results.append((future, operation(connection)))
                    connection.execute("RELEASE one")
                except Exception as error:
                    if isinstance(error, _DISK) or type(error) is sqlite3.DatabaseError:
                        raise  # the disk, not the operation: nothing of this flush can be promised
                    connection.execute("ROLLBACK TO one")
                    results.append((future, error))
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  the thread outlives whatever happens: others wait for it
            logging.getLogger("gateway.ledger").error("ledger.flush_failed: %s", error)
            with contextlib.suppress(sqlite3.Error):  # what is not committed is gone either way
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            refused = LedgerUnavailable(f"the ledger cannot write: {error}")
            results = [(future, refused) for _, future in operations]
        return results

    @staticmethod
    def _answer(results: list[tuple[asyncio.Future[Any], Any]]) -> None:
        for future, result in results:
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
