"""Who sends: processes that share a ledger, each with a name of its own and a heartbeat."""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.ledger._redis.layout import OWNER

__all__ = ["HORIZON", "Owners", "here"]

HORIZON = 24 * 3600 * 1000
"""Milliseconds after which a process that is not heard of is forgotten."""


def here() -> str:
    """Return what tells a process from every other, as far as this machine can say."""
    return f"{_machine()}|{os.getpid()}|{_began(os.getpid())}"


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}|{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(process: int) -> str:
    """Return when a process began, empty where none is shown."""
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _ended(where: str) -> bool:
    """Return whether a process certainly ended: it ran on this machine, among the same processes, and is not there."""
    machine, _, rest = where.rpartition("|")
    machine, _, process = machine.rpartition("|")
    if not machine or machine != _machine() or not process.isdigit():
        return False
    began = _began(int(process))
    return began != rest if began else not _is_there(int(process))


def _is_there(process: int) -> bool:
    """Return whether there is a process, also one of another user that is not shown: as with `hidepid`."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Owners:
    """What this process knows of those that share its ledger, as of the last heartbeat."""

    def __init__(self, lease: float) -> None:
        """`lease` is how many seconds after its last heartbeat a process counts as gone."""
        self.name = os.urandom(OWNER)
        self.lease = lease
        self._living = [self.name]
        self._heard: float | None = None
        self._leader = b""
        self._intents = 0
        self.lost: dict[bytes, float] = {}
        """Intents that nobody can say were written down, since when. What they name was not sent."""
        self.lapses = 0
        """How often others may have taken this process for gone, as it was not heard of for so long."""
        self.missing = asyncio.Event()
        """Set where there is one more of them."""

    def intent(self) -> bytes:
        """Return this process's name with the next of its intents."""
        self._intents = (self._intents + 1) % 2**24
        return self.name + self._intents.to_bytes(3, "big")

    def lose(self, intent: bytes) -> None:
        """Take note of an intent that nobody can say was written down."""
        self.lost[intent] = time.monotonic()
        self.missing.set()

    def forget(self, before: float) -> None:
        """Take note that what was lost before an instant has been looked for since."""
        for intent in [one for one, since in self.lost.items() if since < before]:
            del self.lost[intent]

    def heard(self, answer: Any, asked: float) -> None:
        """Take notice of an answer to a heartbeat, and of when that was sent: others know of no later sign of life."""
        (now, *beats), placed, self._leader = answer
        where = {placed[at]: placed[at + 1].decode() for at in range(0, len(placed), 2)}
        limit = float(now) - self.lease * 1000
        living = {
            name
            for name, beat in zip(beats[::2], beats[1::2], strict=True)
            if float(beat) >= limit and not _ended(where.get(name, ""))
        }
        self._living = sorted(living | {self.name})
        self.lapses += self._heard is not None and self.fenced
        self._heard = asked

    @property
    def living(self) -> Sequence[bytes]:
        """The processes that are there, this one too, in an order that all of them know."""
        return self._living

    @property
    def share(self) -> tuple[int, int]:
        """Which share of the work is this process's, of how many."""
        return self._living.index(self.name), len(self._living)

    @property
    def fenced(self) -> bool:
        """Whether others may take this process for gone: then nothing more may leave."""
        # A little before the others think so: their clock started earlier.
        return self._heard is None or asyncio.get_running_loop().time() - self._heard > self.lease * 0.8

    @property
    def leads(self) -> bool:
        """Whether this is the process that does what one alone may do."""
        return self._leader == self.name and not self.fenced
