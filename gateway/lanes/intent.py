"""The intent to send: durable before the first byte leaves, so that a crash leaves doubt and no second bill."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from gateway.lanes.lots import Lot
from gateway.ledger import Ledger, Portion, Work
from gateway.times import to_micros

__all__ = ["intend"]


async def intend(ledger: Ledger, requests: Sequence[Sequence[Lot]], works: Sequence[Work], now: datetime) -> None:
    """Write down what is about to leave, each lot as work of its own. Raises Moved where some of it is not there."""
    by_id = {work.id: work for work in works}
    lots = [lot for lots in requests for lot in lots]
    portions = [Portion(work=by_id[lot.work], members=lot.members, parts=lot.parts) for lot in lots]
    first = to_micros(now)
    for lot, holder in zip(lots, await ledger.intend(portions, first), strict=True):
        lot.work = holder
        if lot.group.sent is None:
            lot.group = msgspec.structs.replace(lot.group, sent=first)
