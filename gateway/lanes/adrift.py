"""What a configuration leaves without a lane, or without a way: shown as blocked, or given today's."""

import contextlib
from collections.abc import Container
from datetime import datetime

import structlog

from canonical_schema import ErrorCode, ErrorItem
from gateway.catalogue import Catalogue
from gateway.lanes.lots import shelved
from gateway.ledger import Ledger, Moved, WorkState
from gateway.times import from_micros, to_micros

__all__ = ["route_unrouted", "shelve"]

log = structlog.get_logger("gateway.service")


async def shelve(ledger: Ledger, lanes: Container[str], now: datetime) -> None:
    """Show the work of destinations that are switched off or gone as blocked."""
    for name in await ledger.depth():
        if name not in lanes:
            message = f"destination {name} is switched off or removed: configure it again, and this goes on"
            error = ErrorItem(code=ErrorCode.PROVIDER_UNAVAILABLE, message=message, retryable=True)
            await ledger.release(name, WorkState.WAITING, to_micros(now))
            await ledger.hold(name, error)
            for work in await ledger.held(name, WorkState.SENDING):  # nobody is left to hear the answer
                with contextlib.suppress(Moved):
                    await ledger.settle([shelved(work, error, now)], [])


async def route_unrouted(ledger: Ledger, catalogue: Catalogue, now: datetime) -> None:
    """Give events that had no way the way that today's configuration has for them."""
    for batch, tenant, events, members in await ledger.unrouted():
        snapshot = (await ledger.snapshots([batch]))[batch]
        plans = [
            plan
            for index, event in zip(members, events, strict=True)
            for plan in catalogue.plans(tenant, [event], from_micros(snapshot.received_at(index)))
        ]
        found = [(index, plan) for index, plan in zip(members, plans, strict=True) if plan.live]
        if found:
            await ledger.route(batch, [index for index, _ in found], [plan for _, plan in found], to_micros(now))
            log.info("events.routed", batch=batch, events=len(found))
