"""What one task of one process does at a time, of all processes that share a ledger."""

import asyncio
import contextlib

from gateway.errors import LedgerUnavailable
from gateway.ledger import Ledger

__all__ = ["Turn"]

LOOK = 0.05
"""Seconds between two looks whether another process is done."""


class Turn:
    """Something that is done by one after the other. To be used as an asynchronous context manager."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._name = name
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        """Wait for the turn. Raises LedgerUnavailable where nobody can say whose it is."""
        await self._lock.acquire()
        try:
            while not await self._ledger.lease(self._name):  # noqa: ASYNC110  nobody tells across processes
                await asyncio.sleep(LOOK)
        except BaseException:
            self._lock.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        try:
            # Where it cannot be given back it falls to others with this process; and stays its own until then.
            with contextlib.suppress(LedgerUnavailable):
                await self._ledger.give_back(self._name)
        finally:
            self._lock.release()
