"""What would be sent, and every refusal that can be foreseen. Sends and stores nothing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from adapters import AnyAdapter, Request
from canonical_schema import ErrorCode, ErrorItem, Event, EventStatus
from gateway.catalogue import Catalogue
from gateway.intake import Bad
from gateway.lanes.rendering import Turned, encoded, render

__all__ = ["explain"]


def explain(
    catalogue: Catalogue, tenant: str, sent: Sequence[Event | Bad], now: datetime, first: int = 0
) -> dict[str, Any]:
    """Return, for each event and destination, the exact request (credentials masked) or why there is none.

    `first` is the index of the first event, where these are a part of a body.
    """
    return {"results": [_one(catalogue, tenant, position, event, now) for position, event in enumerate(sent, first)]}


def _one(catalogue: Catalogue, tenant: str, position: int, event: Event | Bad, now: datetime) -> dict[str, Any]:
    if isinstance(event, Bad) and event.untimely is not None:  # where it goes then is asked before a route begins
        told = _one(catalogue, tenant, position, event.untimely, now)
        return {"index": position, "id": told["id"], "error": event.error} | told
    if isinstance(event, Bad):
        named = {} if event.event_id is None else {"id": event.event_id}
        return {"index": position, **named, "error": event.error, "deliveries": {}}
    (plan,) = catalogue.plans(tenant, [event], now)
    reasons = catalogue.reasons(tenant, event, now)
    deliveries: dict[str, Any] = {}
    for route, names in (("live", plan.live), ("shadow", plan.shadow)):
        for name in names:
            deliveries[name] = {"route": route, **_delivery(catalogue, name, tenant, event, now)}
    for name, code in plan.filtered:
        deliveries[name] = {"route": "filtered", "reason": code.reason, "problems": []}
    for name, reason in reasons.items():
        if name in deliveries:
            deliveries[name]["because"] = reason
    made: dict[str, Any] = {"index": position, "id": event.id, "deliveries": deliveries}
    if not plan.live:
        made["status"] = EventStatus.UNROUTED
        if catalogue.meter(event.meter) is None:
            message = "meter: not in the catalogue: the event would be stored, and wait for a meter of this name"
            made["problems"] = [ErrorItem(code=ErrorCode.UNKNOWN_METER, message=message, field="meter")]
    return made


def _delivery(catalogue: Catalogue, name: str, tenant: str, event: Event, now: datetime) -> dict[str, Any]:
    adapter = catalogue.destinations[name].adapter
    made = render(catalogue, name, tenant, event, now, now)
    if isinstance(made, Turned):
        problems: list[ErrorItem] = [] if made.error is None else [made.error]
        return {"status": made.code.status, "problems": problems} | (
            {} if made.code.reason is None else {"reason": made.code.reason}
        )
    rows = [part.row for part in encoded(made) if part.row]
    framed = [[row] for row in rows] if adapter.door.max_rows == 1 else [rows]
    requests = [_shown(adapter, adapter.request(group)) for group in framed]
    also = {"requests": requests} if len(requests) > 1 else {}
    return {"request": requests[0], **also, "problems": []}


def _shown(adapter: AnyAdapter, request: Request) -> dict[str, Any]:
    # Not by looking for the key: a provider may want it in another form, as HTTP Basic does.
    headers = {**request.headers, **adapter.spec.auth.headers("***")}
    return {"method": request.method, "url": request.url, "headers": headers, "body": msgspec.Raw(request.body)}
