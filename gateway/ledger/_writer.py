"""One thread that owns all writing, and commits everything that waits in one transaction."""

import asyncio
import contextlib
import logging
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

from gateway.errors import LedgerUnavailable
from gateway.ledger._claims import Claim
from gateway.ledger._recording import Entry, Recorder

__all__ = ["Writer"]

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

_DISK = (sqlite3.OperationalError, sqlite3.InternalError, MemoryError)
"""What is nobody's own fault; a damaged file is a bare DatabaseError."""

MANY = 8
"""Requests in a flush from which on the next one is put off while the event loop has more of them at hand: there is so
much to do that each costs less then, and nobody waits longer for it. Where few come nobody is made to wait."""
LINGER = 0.005
"""Seconds that a flush is put off at most."""

READY = 2_000
"""Events of a flush up to which the event loop makes them ready, in two milliseconds at most: a thread that has to ask
for the interpreter's lock again and again takes four times as long. With more of them nothing else should wait."""

SWITCH = 0.0005
"""Seconds that a busy thread keeps the interpreter's lock while another asks for it, at most."""


_Waiting = tuple[Operation | Entry, asyncio.Future[Any]]
_Answer = tuple[asyncio.Future[Any], Any]


class Writer:
    """Group commit: what arrives while a flush is in flight shares the next one, and is recorded together.

    An operation that fails takes back its own writes and nobody else's. A commit that fails takes back
    everything, and every caller is told.
    """

    def __init__(
        self, connection: sqlite3.Connection, recorder: Recorder, flushed: Callable[[], None], check: Callable[[], None]
    ) -> None:
        """`flushed` is called after each flush, and `check` before: it raises where nothing written would last."""
        self._connection = connection
        self._flushed = flushed
        self._check = check
        self._recorder = recorder
        self._handed: SimpleQueue[tuple[Sequence[_Waiting], sqlite3.Error | None] | None] = SimpleQueue()
        self._gathered: list[_Waiting] = []
        """What the next flush takes."""
        self._busy = False
        """Whether a flush is in flight, or one is about to be."""
        self._flying = False
        """Whether one is in flight."""
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        # The thread asks for the interpreter's lock after each statement, and a busy event loop gives it away
        # no sooner than this.
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH))
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    async def do(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run `operation` in a transaction and return when it is durable. Going away does not stop it."""
        return await self._put(operation)

    async def record(self, entry: Entry) -> Sequence[Claim]:
        """Record what a request brings, together with others of the flush; return when it is durable."""
        return await self._put(entry)

    async def stop(self) -> None:
        """Finish what waits, then end the thread."""
        self._stopping = True
        self._hand_over()
        self._handed.put(None)
        await asyncio.to_thread(self._thread.join)

    def _put(self, operation: Operation | Entry) -> asyncio.Future[Any]:
        if self._stopping:
            raise LedgerUnavailable("the ledger is closed")
        future = self._loop.create_future()
        self._gathered.append((operation, future))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._hand_over)  # with what this turn of the event loop still brings
        return future

    def _gather(self, before: int, until: float) -> None:
        """Hand over what waits as soon as a turn of the event loop brings nothing more."""
        if len(self._gathered) > before and self._loop.time() < until:
            self._loop.call_soon(self._gather, len(self._gathered), until)
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        self._busy = bool(self._gathered)
        if self._gathered:
            if not self._flying:
                self._make_ready([one for one, _ in self._gathered if isinstance(one, Entry)])
            self._flying = True
            self._handed.put((self._gathered, self._lost()))
            self._gathered = []

    def _lost(self) -> sqlite3.Error | None:
        """Return why nothing written would last. Asked here: the thread would have to wait for the lock after it."""
        try:
            self._check()
        except sqlite3.Error as error:
            return error
        return None

    def _make_ready(self, entries: Sequence[Entry]) -> None:
        if entries and sum(len(entry.events) for entry in entries) <= READY:
            try:
                self._recorder.prepare(entries)
            except Exception:  # noqa: BLE001  the thread meets it again, and tells those whom it concerns
                self._recorder.lost()

    def _run(self) -> None:
        while (handed := self._handed.get()) is not None:
            operations, lost = handed
            answers = self._flush(operations) if lost is None else self._refused(operations, lost)
            self._loop.call_soon_threadsafe(self._ended, answers)
            self._flushed()

    def _ended(self, answers: Sequence[_Answer]) -> None:
        self._flying = False
        self._answer(answers)
        if len(answers) < MANY:
            self._hand_over()
        else:
            self._loop.call_soon(self._gather, len(self._gathered), self._loop.time() + LINGER)

    def _flush(self, operations: Sequence[_Waiting]) -> list[_Answer]:
        connection = self._connection
        entries = [(one, future) for one, future in operations if isinstance(one, Entry)]
        others = [(one, future) for one, future in operations if not isinstance(one, Entry)]
        answers: list[_Answer] = []
        try:
            alone = not others and not any(entry.audit for entry, _ in entries)
            if not alone:
                connection.execute("BEGIN IMMEDIATE")  # recording alone is one statement, and commits by itself
            if entries:
                try:
                    claims = self._recorder.write(connection, [entry for entry, _ in entries])
                except Exception as error:
                    if _is_disk(error) or len(operations) == 1:
                        raise
                    self._recorder.lost()
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    return [answer for one in operations for answer in self._flush([one])]
                answers += zip((future for _, future in entries), claims, strict=True)
            for operation, future in others:
                connection.execute("SAVEPOINT one")
                try:
                    answers.append((future, operation(connection)))
                    connection.execute("RELEASE one")
                except Exception as error:
                    if _is_disk(error):
                        raise
                    connection.execute("ROLLBACK TO one")
                    answers.append((future, error))
            if not alone:
                connection.execute("COMMIT")
            if entries:
                self._recorder.kept()
        except Exception as error:  # noqa: BLE001  the thread outlives whatever happens: others wait for it
            with contextlib.suppress(sqlite3.Error):  # what is not committed is gone either way
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if _is_disk(error):
                return self._refused(operations, error)
            self._recorder.lost()
            return [(future, error) for _, future in operations]
        return answers

    def _refused(self, operations: Sequence[_Waiting], error: Exception) -> list[_Answer]:
        """Return that nothing of them can be promised: the disk does not take it."""
        self._recorder.lost()
        logging.getLogger("gateway.ledger").error("ledger.flush_failed: %s", error)
        refused = LedgerUnavailable(f"the ledger cannot write: {error}")
        return [(future, refused) for _, future in operations]

    @staticmethod
    def _answer(answers: Sequence[_Answer]) -> None:
        for future, result in answers:
            if future.done():  # its caller went away
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)


def _is_disk(error: Exception) -> bool:
    """Say whether it is the disk, not the operation: nothing of its flush can be promised."""
    return isinstance(error, _DISK) or type(error) is sqlite3.DatabaseError
