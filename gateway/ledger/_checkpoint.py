"""Brings what is committed from the log into the database, beside the commits and not within them."""

import contextlib
import sqlite3
import threading
from pathlib import Path

from gateway.ledger._schema import connect

__all__ = ["Checkpoints"]

EVERY = 64
"""Flushes from one checkpoint to the next."""

MOST_PAGES = 16_000
"""Pages in the log at which a commit brings the rest over itself: under a steady load the log is never quite empty
when the thread here has done its part, and only then does it begin anew."""


class Checkpoints:
    """A thread with a connection of its own. What it does not do the next commit does, or the next opening."""

    def __init__(self, path: Path, writing: sqlite3.Connection) -> None:
        writing.execute(f"PRAGMA wal_autocheckpoint = {MOST_PAGES}")
        self._connection = connect(path)
        self._flushes = 0
        self._wanted = threading.Semaphore(0)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="ledger-checkpoints", daemon=True)
        self._thread.start()

    def flushed(self) -> None:
        """Take notice of a flush."""
        self._flushes += 1
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
            with contextlib.suppress(sqlite3.Error):  # a full disk, say: the commits find out, and tell
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if self._stopping:
                return
