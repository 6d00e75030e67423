"""A ledger that acknowledges before it stores. It exists to show that the kill loop would notice."""

import asyncio
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from canonical_schema import Event
from gateway.ledger import AuditRow, Claim, ClaimKind, Plan, SqliteLedger, ref_of

__all__ = ["HastyLedger"]

LATE = 0.05
"""Seconds between the answer and the storing."""


class HastyLedger(SqliteLedger):
    """Promises first and stores a moment later: a power cut in between loses what was promised."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._promised = count(1 << 30)
        self._late: set[asyncio.Task[None]] = set()

    async def record(
        self, tenant: str, received: int, events: Sequence[Event], plans: Sequence[Plan], audit: Sequence[AuditRow] = ()
    ) -> Sequence[Claim]:
        store = super().record

        async def late() -> None:
            await asyncio.sleep(LATE)
            await store(tenant, received, events, plans, audit)

        task = asyncio.ensure_future(late())
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return [Claim(ref_of(next(self._promised), 0), ClaimKind.NEW) for _ in events]
