"""Brings what is committed from the log into the database, beside the commits and not within them."""

import contextlib
import sqlite3
import threading
from pathlib import Path

from gateway.ledger._schema import connect

__all__ = ["Checkpoints"]

EVERY = 64
"""Flushes from one checkpoint to the next."""

ANEW = 8_000
"""Pages in the log from which on it is begun anew: some 32 MiB. A log that stays as large as it is has its pages
written over, and nothing but them needs to reach the disk with a commit; one that grows takes the file system's own
records with it, each time."""

MOST_PAGES = 16_000
"""Pages in the log at which a commit brings the rest over itself, if all else did not help: a reader, say, that long
looked at what the log begins with."""


class Checkpoints:
    """A thread with a connection of its own. What it does not do the next commit does, or the next opening."""

    def __init__(self, path: Path, writing: sqlite3.Connection) -> None:
        """`writing`: the connection that commits."""
        writing.execute(f"PRAGMA wal_autocheckpoint = {MOST_PAGES}")
        self._writing = writing
        self._connection = connect(path)
        self._flushes = 0
        self._nearly = False
        """Whether little of a long log is left to bring over."""
        self._wanted = threading.Semaphore(0)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="ledger-checkpoints", daemon=True)
        self._thread.start()

    def flushed(self) -> None:
        """Take notice of a flush. To be called by the thread that commits, between one flush and the next.

        Under a steady load there is always more by the time that the thread here has done its part, and the log goes
        on; so what little is left is brought over while no commit can come in between, and the next one begins it anew.
        """
        self._flushes += 1
        if self._nearly:
            self._nearly = False
            _brought_over(self._writing)
        if self._flushes % EVERY == 0:
            self._wanted.release()

    def stop(self) -> None:
        """Bring over what is left, end the thread, and let go of the file."""
        self._stopping = True
        self._wanted.release()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            long = _brought_over(self._connection) >= ANEW
            if long:
                _brought_over(self._connection)  # what came meanwhile, so that hardly anything is left
            self._nearly = long
            if self._stopping:
                return


def _brought_over(connection: sqlite3.Connection) -> int:
    """Bring over what nobody is in the way of, and return how many pages the log has; 0 where that failed."""
    with contextlib.suppress(sqlite3.Error):  # a full disk, say: the commits find out, and tell
        _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return pages
    return 0
