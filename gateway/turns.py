"""What one task of one process does at a time, of all processes that share a ledger."""

import asyncio

from gateway.errors import LedgerUnavailable
from gateway.ledger import Ledger

__all__ = ["Turn", "Turns"]

LOOK = 0.05
"""Seconds between two looks whether another process is done."""
PATIENCE = 30.0
"""Seconds after which whoever waits for a turn is told so."""
AGAIN = 1.0
"""Seconds after which it is given back again, where the ledger did not answer: others wait for it."""


class Turn:
    """Something that is done by one after the other. To be used as an asynchronous context manager."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._name = name
        self._lock = asyncio.Lock()
        self._owed: asyncio.Task[None] | None = None
        """Gives back what could not be given back at once."""

    async def __aenter__(self) -> None:
        """Wait for the turn. Raises LedgerUnavailable where nobody can say whose it is, or it does not come."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._begin()
        except TimeoutError:
            raise LedgerUnavailable(f"others are {self._name} for long: this waits until they are done") from None

    async def _begin(self) -> None:
        await self._lock.acquire()
        try:
            while not await self._ledger.lease(self._name):  # noqa: ASYNC110  nobody tells across processes
                await asyncio.sleep(LOOK)
        except BaseException:  # who waited went away: the ledger may have given it nevertheless
            await self._end()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _end(self) -> None:
        try:
            await self._ledger.give_back(self._name)
        except LedgerUnavailable:
            if self._owed is None or self._owed.done():
                self._owed = asyncio.create_task(self._give_back())
        finally:
            self._lock.release()

    async def _give_back(self) -> None:
        while True:
            await asyncio.sleep(AGAIN)
            async with self._lock:  # not while it is this process's turn again
                try:
                    await self._ledger.give_back(self._name)
                except LedgerUnavailable:
                    continue
                return


class Turns:
    """What one after the other does in a gateway: whoever reads something, and writes down what follows from it."""

    def __init__(self, ledger: Ledger) -> None:
        self.correcting = Turn(ledger, "correcting")
        """Held from looking at what events say until what corrects them is recorded."""
        self.filling = Turn(ledger, "filling in")
        """Held from reading how far a backfill is until it is written down."""
        self.closing = Turn(ledger, "closing")
        """Held from adding a period up until its report is written down."""
        self.linking = Turn(ledger, "linking")
        """Held from looking at a customer's links until they are written down."""
        self.comparing = Turn(ledger, "comparing")
        """Held while a reconciliation is written down, not while it is made."""
