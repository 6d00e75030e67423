"""The vendors' rate limits, kept in common by all processes that share the ledger."""

from collections.abc import Sequence
from datetime import timedelta

from gateway.errors import LedgerUnavailable
from gateway.ledger._model import Flow
from gateway.ledger._redis.base import Base

__all__ = ["Limiting"]

UNSURE = timedelta(seconds=1)
"""How long to wait where nobody can say what has left."""


class Limiting(Base):
    """Leave to send."""

    async def spend(self, destination: str, flows: Sequence[Flow]) -> timedelta:
        """Count a request against the limits, or return how long it has to wait for them."""
        words: list[str] = []
        for flow in flows:
            words += [flow.name, repr(flow.capacity), repr(flow.a_second), repr(flow.amount)]
        try:
            wait = await self._opened()[0].run("spend", destination, len(flows), *words)
        except LedgerUnavailable:  # it may have been counted, and nothing leaves
            return UNSURE
        return timedelta(microseconds=int(wait))
