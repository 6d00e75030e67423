"""What all processes that share the ledger keep in common of the vendors: their rate limits, and how they stand."""

from collections.abc import Sequence
from datetime import timedelta

from gateway.errors import LedgerUnavailable
from gateway.ledger._limits import Flow, Health
from gateway.ledger._redis.base import Base

__all__ = ["Limiting"]

UNSURE = timedelta(seconds=1)
"""How long to wait where nobody can say what has left."""
LATE = timedelta(seconds=1)
"""How late a process may come whose turn it is, before the next goes first."""


class Limiting(Base):
    """Leave to send."""

    async def spend(self, destination: str, flows: Sequence[Flow], *, queues: bool = True) -> timedelta:
        """Count a request against the limits, or return how long it has to wait for them."""
        owner, late = self._owners.name if queues else b"", LATE // timedelta(microseconds=1)
        words: list[str] = []
        for flow in flows:
            words += [flow.name, repr(flow.capacity), repr(flow.a_second), repr(flow.amount)]
        try:
            wait = await self._opened()[0].run("spend", destination, owner, late, len(flows), *words)
        except LedgerUnavailable:  # it may have been counted, and nothing leaves
            return UNSURE
        return timedelta(microseconds=int(wait))

    async def agree(
        self, destination: str, heard: tuple[int, timedelta] | None = None, *, tries: bool = False
    ) -> Health | None:
        """Tell the others what was heard, and hear how the destination stands; `None` where nobody can say."""
        told, span = (-1, timedelta(0)) if heard is None else heard
        micros, lease = max(0, span // timedelta(microseconds=1)), round(self._owners.lease * 1e6)
        try:
            known, wait = await self._opened()[0].run(
                "stand", destination, self._owners.name, lease, told, micros, int(tries)
            )
        except LedgerUnavailable:
            return None
        return Health(int(known), timedelta(microseconds=int(wait)))
