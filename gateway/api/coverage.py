"""Which customers with usage lack a link where: every event that the ledger holds, held against today's links."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec

from canonical_schema import format_time
from gateway.catalogue import Catalogue
from gateway.intake import slices
from gateway.ledger import Ledger
from gateway.stored import stored
from gateway.times import from_micros

__all__ = ["coverage"]

TOLD = 50
"""Batches between two words of how far it is."""


class _Lack(msgspec.Struct):
    """What a customer lacks at a destination."""

    events: int
    first: datetime
    last: datetime


async def coverage(
    ledger: Ledger, catalogue: Catalogue, tenant: str, only: str | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Give how far it is from time to time, then a line for each customer and destination without a link, then the sum.

    Looked at are the destinations that take the tenant's events of a meter and are not switched off, or `only` one,
    switched off or not; what the routes say does not matter. In memory are the customers, and what they lack.
    """
    needing = {
        name: one
        for name, one in catalogue.destinations.items()
        if (name == only if only is not None else one.mode != "off")
        and one.serves(tenant)
        and one.adapter.door.link.default is None
    }
    seen: set[int] = set()
    lacks: dict[tuple[str, str], _Lack] = {}
    batches = events = 0
    async for view in stored(ledger, tenant):
        found = view.snapshot.events
        batches += 1
        async for part in slices(len(found)):
            some = found[part.start : part.stop]
            await catalogue.learn([(tenant, (event.customer for event in some))])
            for index, event in zip(part, some, strict=True):
                if index in view.erased:  # whoever it was can be given no link
                    continue
                when = event.timestamp or from_micros(view.snapshot.received_at(index))
                seen.add(hash(event.customer))
                for name in needing:
                    if not catalogue.rows(name, event.meter) or catalogue.link(name, tenant, event, when) is not None:
                        continue
                    lack = lacks.get((event.customer, name))
                    if lack is None:
                        lacks[event.customer, name] = _Lack(1, when, when)
                    else:
                        lack.events += 1
                        lack.first, lack.last = min(lack.first, when), max(lack.last, when)
            events += len(some)
        if batches % TOLD == 0:
            yield {"object": "progress", "events": events}
    for (customer, name), lack in sorted(lacks.items()):
        yield {
            "object": "lack",
            "customer": customer,
            "destination": name,
            "events": lack.events,
            "first": format_time(lack.first),
            "last": format_time(lack.last),
        }
    yield {
        "object": "coverage",
        "customers": len(seen),
        "events": events,
        "destinations": {name: sum(at == name for _, at in lacks) for name in needing},
    }
