"""Whether the file of the embedded ledger stands where it was opened, and whether the log beside it is its own."""

import contextlib
import os
import sqlite3
from pathlib import Path

__all__ = ["OpenedFiles", "begin", "without_another_log"]

_NO_LOG = b"\x01\x01"
"""What a file says of itself that was never written to by way of a log: a backup, until a gateway opens it."""
_SAYS = 18
"""Where it says so. https://www.sqlite.org/fileformat.html#file_format_version_numbers"""


def begin(path: Path) -> None:
    """Make a file that is not there one that its owner alone reads: it will tell of customers.

    One that is there keeps its mode, and SQLite gives the log beside it the same. What cannot be made here is told by
    whoever opens it.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


class OpenedFiles:
    """The files that were opened. What is written once they are gone is in no file that anybody can open again."""

    def __init__(self, path: Path) -> None:
        """Take note of the files, which must be there: the log is once something was written."""
        self._path = str(path)
        self._log = str(_log_of(path))
        self._opened = self._there()

    def check(self) -> None:
        """Raise sqlite3.OperationalError, as SQLite does for a disk, where they are others by now, or gone."""
        with contextlib.suppress(OSError):
            if self._there() == self._opened:
                return
        raise sqlite3.OperationalError(
            f"{self._path} or the log beside it was removed, moved or replaced: put it back, or start again"
        )

    def _there(self) -> tuple[int, ...]:
        file, log = os.stat(self._path), os.stat(self._log)
        return file.st_dev, file.st_ino, log.st_dev, log.st_ino


def without_another_log(path: Path, now: int) -> Path | None:
    """Keep a log aside that cannot be of the file which is there; return where it is then.

    SQLite would bring it over into a backup that was put over the file of a gateway that was killed, and the two would
    be one damaged file. It does not ask whose log it is.
    """
    log = _log_of(path)
    if not (path.exists() and log.exists() and log.stat().st_size):
        return None
    with path.open("rb") as file:
        if file.read(_SAYS + len(_NO_LOG))[_SAYS:] != _NO_LOG:
            return None
    return log.rename(log.with_name(f"{log.name}.before-{now // 1_000_000}"))


def _log_of(path: Path) -> Path:
    """Return where SQLite has the log: beside the file itself, where the path is a link to it."""
    real = path.resolve()
    return real.with_name(f"{real.name}-wal")
