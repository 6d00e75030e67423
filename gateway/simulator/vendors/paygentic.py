"""Paygentic: by metric and newest first at the newer door, all at once at the older; pages by offset."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from adapters import Reply, Row
from canonical_schema import format_time
from gateway.simulator.manners import Manners, answer
from gateway.simulator.members import Unreadable, instant, number
from gateway.simulator.reading import Properties
from gateway.simulator.reads import ReadRequest
from gateway.simulator.vendors._accounts import id_of, measured
from gateway.simulator.world import StoredRow

__all__ = ["MANNERS", "read", "refusal"]


_NAME = re.compile(r"[a-zA-Z0-9_-]{1,255}")

MANNERS = Manners(
    unauthorized=answer(401, {"message": "Unauthorized", "error": "unauthorized"}),
    not_found=answer(404, {"message": "Not found", "error": "not_found"}),
    unreadable=answer(400, {"message": "Bad request", "error": "bad_request"}),
    issues={"message": "Validation failed", "error": "validation_error"},
    dotted=True,
    optional={"events": frozenset({"key", "timestamp"})},
    also={"events": ("source", "data"), "usage-v0": ("merchantId",)},
    shapes={
        "events": {"source": "string", "data": "object", "externalSubject": _NAME, "externalId": _NAME},
        "usage-v0": {"merchantId": "string", "entitlementId": "string", "metadata": "object"},
    },
)


def read(request: ReadRequest) -> Reply | None:
    """Answer a read, or return `None` where there is no such page. Raises Unreadable."""
    if request.method != "GET":
        return None
    query = request.query
    if request.path == "/v0/billableMetrics":
        if "merchantId" not in query:
            raise Unreadable("merchantId", "Required")
        held = list(_metrics(request.names(), request.properties, query["merchantId"]))
        return _offset(query, held, "data", 100, 10)
    if request.path == "/v0/customers":
        if "organizationId" not in query:
            raise Unreadable("organizationId", "Required")
        found = _customers(request.customers(), query["organizationId"], query.get("externalId"))
        return _offset(query, found, "data", 100, 10)
    if request.path == "/v0/subscriptions":
        held = [{"id": f"sub_{name}", "object": "subscription", "status": "active"} for name in request.customers()]
        return _offset(query, held, "data", 100, 10)
    if request.path == "/v0/usage":
        if not {"startTime", "endTime"} <= query.keys() or not {"customerId", "merchantId"} & query.keys():
            return answer(400, {"message": "startTime, endTime and a customer or merchant are required"})
        rows = _within(request.rows, instant(query, "startTime"), instant(query, "endTime"), "usage-v0")
        rows = [row for row in rows if query.get("customerId") in {None, row.customer}]
        return _offset(query, [_usage_v0(row) for row in rows], "data", 100, 10)
    metric = request.path.removeprefix("/v0/billableMetrics/").removesuffix("/events")
    if request.path != f"/v0/billableMetrics/{metric}/events" or not {"from", "to"} <= query.keys():
        return None
    span = _within(request.rows, instant(query, "from"), instant(query, "to"), "events")
    read = [one["eventType"] for one in _metrics(request.names(), request.properties) if one["id"] == metric]
    rows = [row for row in span if row.meter in read]
    for member in ("subject", "externalSubject"):
        rows = [row for row in rows if query.get(member) in (None, row.row.get(member))]
    return _offset(query, [_meter_event(row) for row in rows], "events", 200, 20)


def _within(rows: Iterable[StoredRow], since: datetime, until: datetime, door: str) -> list[StoredRow]:
    found = [row for row in rows if row.door == door and since <= row.timestamp < until]
    return sorted(found, key=lambda row: row.timestamp, reverse=True)


def _offset(query: Mapping[str, str], rows: Sequence[Row], under: str, most: int, usual: int) -> Reply:
    limit, offset = number(query.get("limit", usual), "limit", 1, most), number(query.get("offset", 0), "offset")
    pagination = {"limit": limit, "offset": offset, "total": len(rows)}
    return answer(200, {"object": "list", under: rows[offset : offset + limit], "pagination": pagination})


def _usage_v0(row: StoredRow) -> Row:
    return {
        "id": f"usg_{row.key}",
        "object": "usageEvent",
        "idempotencyKey": row.key,
        "customerId": row.customer,
        "timestamp": format_time(row.timestamp),
        "properties": [
            {"billableMetricId": charge.meter, "quantity": int(charge.quantity), "price": None}
            for charge in row.charges
        ],
        "billing": None,
        "refund": {"reason": "taken back"} if row.withdrawn else None,
    }


def _meter_event(row: StoredRow) -> Row:
    named = {name: row.row[name] for name in ("subject", "externalSubject") if name in row.row}
    return {
        "id": f"evt_{row.serial}",
        "object": "meterEvent",
        "type": row.meter,
        "time": format_time(row.timestamp),
        "idempotencyKey": row.key,
        "data": row.row.get("data"),
        **named,
    }


def _metrics(names: Iterable[str], properties: Mapping[str, Properties], merchant: str | None = None) -> Iterator[Row]:
    """Give billable metrics, one for each property that is summed. The older door names them by id."""
    for called, name, field in measured(names, properties):
        yield {
            "id": id_of("bm_", called),
            "object": "billableMetric",
            "name": called,
            "unit": "unit",
            "merchantId": merchant,
            "aggregation": "COUNT" if field is None else "SUM",
            "eventType": name,
            "valueProperty": None if field is None else f"$.{field}",
        }


def _customers(names: Iterable[str], merchant: str, external: str | None = None) -> list[Row]:
    """Return customers, or the one of an external id. Whom usage names by the vendor's own id has none."""
    made: dict[str, Row] = {}
    for name in names:
        theirs, ours = id_of("cus_", name), {} if name.startswith("cus_") else {"externalId": name}
        consumer = f"org_{theirs.removeprefix('cus_')}"
        made.setdefault(
            theirs, {"id": theirs, "object": "customer", "consumerId": consumer, "merchantId": merchant, **ours}
        )
    return [one for one in made.values() if external in (None, one.get("externalId"))]


def refusal(error: Unreadable) -> Row:
    """Return the body for a read that makes no sense."""
    return {
        "message": "Validation failed",
        "error": "validation_error",
        "errors": [{"field": error.member, "message": error.why}],
    }
