"""Flowglad: pages by an opaque cursor, oldest arrival first, filters ignored; prices and meters by id."""

import base64
from collections.abc import Iterable
from datetime import datetime
from urllib.parse import unquote

from adapters import Reply, Row
from gateway.simulator.manners import Manners, answer, text
from gateway.simulator.members import Unreadable, ms, number
from gateway.simulator.reads import ReadRequest
from gateway.simulator.vendors._accounts import id_of
from gateway.simulator.world import StoredRow

__all__ = ["MANNERS", "read", "refusal"]


_SAID: Row = {"code": "BAD_REQUEST", "request_id": "51f7a0c2"}

MANNERS = Manners(
    bare_key=True,
    unauthorized=text(401, "API key not found or invalid"),
    unreadable=answer(400, {"error": "Invalid JSON in request body", "request_id": "51f7a0c2"}),
    rowless=answer(
        400,
        {
            **_SAID,
            "error": [{"path": ["usageEvents"], "message": "Invalid input: expected array", "code": "invalid_type"}],
        },
    ),
    not_json=answer(415, {"error": "Unsupported content-type", "code": "UNSUPPORTED_MEDIA_TYPE"}),
    empty=True,
    either="priceId",
    coerced=True,
    issues=_SAID,
    optional={"bulk": frozenset({"timestamp"})},
)


def read(request: ReadRequest) -> Reply | None:
    """Answer a read, or return `None` where there is no such page. Raises Unreadable."""
    if request.method != "GET":
        return None
    match request.path:
        case "/usage-events":
            listed = [_usage_event(number, row) for number, row in enumerate(request.rows)]
        case "/prices":
            listed = _prices(request.names())
        case "/usage-meters":
            listed = _usage_meters(request.names())
        case "/subscriptions":
            listed = _subscriptions(request.customers(), request.period)
        case "/customers":
            listed = _holders(request.customers())
        case path if path.startswith("/customers/") and path.endswith("/billing"):
            return _billing(path[len("/customers/") : -len("/billing")], request.customers(), request.period)
        case _:
            return None
    limit = number(request.query.get("limit", "10"), "limit", 1, 100)
    after = request.query.get("cursor")
    first = 0 if after is None else number(_unpacked(after), "cursor")
    page = listed[first : first + limit]
    more = first + len(page) < len(listed)
    cursor = {"nextCursor": base64.b64encode(str(first + len(page)).encode()).decode()} if more else {}
    return answer(200, {"data": page, "hasMore": more, "total": len(listed), **cursor})


def _unpacked(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, validate=True).decode("ascii")
    except ValueError:
        return ""


def _usage_event(number: int, row: StoredRow) -> Row:
    sent = row.row
    name = str(sent.get("usageMeterSlug") or sent.get("priceSlug") or row.meter)
    return {
        "id": f"usage_event_{number}",
        "createdAt": ms(row.received),
        "subscriptionId": row.customer,
        "usageMeterId": sent.get("usageMeterId") or id_of("usage_meter_", name),
        "priceId": sent.get("priceId") or id_of("price_", name),
        "amount": int(row.quantity),
        "usageDate": ms(row.timestamp),
        "transactionId": row.key,
        "properties": sent.get("properties") or {},
    }


def _prices(names: Iterable[str]) -> list[Row]:
    """Return usage prices, each the default of a meter of its own. A cent for each: no prices are told."""
    return [
        {
            "id": id_of("price_", name),
            "slug": name,
            "name": name,
            "type": "usage",
            "usageMeterId": id_of("usage_meter_", name),
            "unitPrice": 1,
            "usageEventsPerUnit": 1,
            "currency": "USD",
            "isDefault": True,
            "active": True,
        }
        for name in names
    ]


def _usage_meters(names: Iterable[str]) -> list[Row]:
    """Return usage meters, which all add up."""
    return [{"id": id_of("usage_meter_", name), "slug": name, "name": name, "aggregationType": "sum"} for name in names]


def _subscriptions(names: Iterable[str], period: tuple[datetime, datetime]) -> list[Row]:
    """Return subscriptions, all of them current."""
    start, end = map(ms, period)
    return [
        {
            "id": name,
            "customerId": f"cust_{_holder(name)}",
            "status": "active",
            "renews": True,
            "currentBillingPeriodStart": start,
            "currentBillingPeriodEnd": end,
        }
        for name in names
    ]


def _holders(names: Iterable[str]) -> list[Row]:
    """Return customers. Usage names subscriptions alone, so who has `sub_acme` is known as `acme`."""
    return [
        {"id": f"cust_{name}", "externalId": name, "name": name, "archived": False}
        for name in sorted({_holder(name) for name in names})
    ]


def _billing(place: str, names: Iterable[str], period: tuple[datetime, datetime]) -> Reply:
    """Answer with what there is of one customer, by the external id in a path."""
    held = list(names)
    customer = next((one for one in _holders(held) if one["externalId"] in (place, unquote(place))), None)
    if customer is None:
        return answer(404, {"error": "Customer not found", "code": "NOT_FOUND"})
    current = [one for one in _subscriptions(held, period) if one["customerId"] == customer["id"]]
    return answer(
        200, {"customer": customer, "subscriptions": current, "currentSubscriptions": current, "invoices": []}
    )


def _holder(subscription: str) -> str:
    return subscription.removeprefix("sub_")


def refusal(error: Unreadable) -> Row:
    """Return the body for a read that makes no sense."""
    return {"error": str(error)}
