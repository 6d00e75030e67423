"""What the ledger holds, from the first event to the last, a batch at a time: for whoever adds up."""

from collections.abc import AsyncIterator

from gateway.ledger import Ledger, snapshot_of
from gateway.merge import View

__all__ = ["stored"]

PAGE = 20
"""Batches whose numbers are asked for at once."""


async def stored(ledger: Ledger, tenant: str | None, after: int = 0) -> AsyncIterator[View]:
    """Give each batch of a tenant, or of all, with a number above `after`, oldest first. Holds one at a time.

    What is recorded meanwhile may or may not be among them.
    """
    while numbers := await ledger.batches_after(after, PAGE):
        for after in numbers:
            snapshot = await snapshot_of(ledger, after)
            if snapshot is not None and tenant in {None, snapshot.tenant}:
                yield View(snapshot)
