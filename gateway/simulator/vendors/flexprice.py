"""Flexprice: both ends included, newest first, unmerged copies, a cursor made of time and id."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import cast

from adapters import Reply, Row
from canonical_schema import format_time
from gateway.simulator.manners import Manners, answer, text
from gateway.simulator.members import DIGITS, Unreadable, ms, number, when, word
from gateway.simulator.reading import Properties
from gateway.simulator.reads import ReadRequest
from gateway.simulator.vendors._accounts import measured

__all__ = ["MANNERS", "read", "refusal"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_USUAL = timedelta(days=7)
"""How far back it looks unless it is told."""


_INVALID: Row = {"code": "validation_error", "http_status_code": 400}
"""How it begins to say that it cannot read something."""


def _unvalidated(model: str, member: str, tag: str) -> Row:
    """Return what is said of a member that breaks a rule."""
    said = f"Key: '{model}.{member}' Error:Field validation for '{member}' failed on the '{tag}' tag"
    return {**_INVALID, "message": "Request validation failed", "details": {member: said}}


MANNERS = Manners(
    unauthorized=answer(401, {"error": "Unauthorized"}),
    not_found=text(404, "404 page not found"),
    unreadable=answer(400, {**_INVALID, "message": "Invalid request payload"}),
    rowless=answer(400, _unvalidated("BulkIngestEventRequest", "Events", "required")),
    too_few=answer(400, _unvalidated("BulkIngestEventRequest", "Events", "min")),
    too_many=answer(400, _unvalidated("BulkIngestEventRequest", "Events", "max")),
    too_large=answer(
        400, {**_INVALID, "message": "Request body exceeds the maximum size; split the batch into smaller requests"}
    ),
    optional={"bulk": frozenset({"key", "timestamp"})},
    shapes={"bulk": {"properties": "object", "source": "string", "customer_id": "string"}},
    lacking={
        "event_name": answer(400, _unvalidated("IngestEventRequest", "EventName", "required")),
        "external_customer_id": answer(400, _unvalidated("IngestEventRequest", "ExternalCustomerID", "required")),
    },
)


def read(request: ReadRequest) -> Reply | None:
    """Answer a read, or return `None` where there is no such page. Raises Unreadable."""
    if request.method != "POST":
        return None
    asked = request.json()
    match request.path:
        case "/events/query":
            return _events_query(request, asked)
        case "/customers/search":
            wanted = word(asked, "external_id") or None
            known = (name for name in request.customers() if wanted in {None, name})
            return _found(asked, [{"id": f"cust_{name}", "external_id": name, "status": "published"} for name in known])
        case "/features/search":
            # Events of other names are taken and billed to nothing: no feature stands for them.
            names = request.names() if request.meters is None else sorted(request.meters)
            return _found(asked, list(_features(names, request.properties, expand=word(asked, "expand") or "")))
        case "/subscriptions/search":
            customer = str(asked.get("external_customer_id"))
            return answer(200, {"items": [{"id": f"subs_{customer}", "currency": "usd"}], "pagination": {"total": 1}})
        case "/subscriptions/usage":
            return _subscription_usage(request, asked)
        case _:
            return None


def _found(asked: Mapping[str, object], rows: Sequence[Row]) -> Reply:
    limit, first = number(asked.get("limit") or 50, "limit", 1, 1000), number(asked.get("offset") or 0, "offset")
    status = word(asked, "status")
    items = [row for row in rows if status is None or row["status"] == status]
    told = {"limit": limit, "offset": first, "total": len(items)}
    return answer(200, {"items": items[first : first + limit], "pagination": told})


def _events_query(request: ReadRequest, asked: Mapping[str, object]) -> Reply:
    end = when(asked, "end_time") or request.now
    start = when(asked, "start_time") or (end - _USUAL if end.year > 1 else end)
    if end < start:
        return answer(400, {**_INVALID, "message": "end time must be after start time"})
    name, customer, wanted = (word(asked, one) for one in ("event_name", "external_customer_id", "event_id"))
    found: list[tuple[datetime, str, Row]] = []
    for row in request.rows:
        if not start <= row.timestamp <= end:
            continue
        if name not in {None, row.meter} or customer not in {None, row.customer} or wanted not in {None, row.key}:
            continue
        for copy, sent in enumerate(row.listed):
            shown = {
                "id": row.key,
                "external_customer_id": row.customer,
                "event_name": row.meter,
                "timestamp": format_time(row.timestamp),
                "properties": sent.get("properties") or {},
                "ingested_at": format_time(row.received + timedelta(microseconds=copy)),
            }
            found.append((row.timestamp, row.key, shown))
    found.sort(key=lambda one: one[:2], reverse=True)
    size = number(asked.get("page_size") or 50, "page_size", 1)
    first, after = 0, word(asked, "iter_last_key")
    if after is not None:
        stamp, _, key = after.partition("::")
        if not DIGITS.fullmatch(stamp) or "::" in key:
            return answer(400, {**_INVALID, "message": "Invalid cursor key format"})
        at = _EPOCH + timedelta(microseconds=int(stamp) // 1000)
        first = next((place for place, one in enumerate(found) if one[:2] < (at, key)), len(found))
    page = found[first : first + size]
    while first + len(page) < len(found) and page and found[first + len(page)][:2] == page[-1][:2]:
        page.append(found[first + len(page)])  # the cursor names a row, so its copies stay together
    more = first + len(page) < len(found)
    body: dict[str, object] = {"events": [shown for *_, shown in page], "has_more": more}
    if found:
        body["total_count"] = len(found)
    if more:
        at, key, _ = page[-1]
        body["iter_last_key"] = f"{ms(at) * 1_000_000}::{key}"
    return answer(200, body)


def _subscription_usage(request: ReadRequest, asked: Mapping[str, object]) -> Reply:
    customer = str(asked.get("subscription_id")).removeprefix("subs_")
    start, end = when(asked, "start_time") or request.period[0], when(asked, "end_time") or request.period[1]
    totals: dict[str, Decimal] = {}
    for row in request.rows:
        if row.customer == customer and (asked.get("lifetime_usage") or start <= row.timestamp < end):
            for charge in row.charges:
                totals[charge.name] = totals.get(charge.name, Decimal(0)) + charge.quantity
    # A cent for each: no price list is simulated, and money only has to be told apart from usage.
    charges: list[Row] = [
        {
            "meter_id": f"meter_{name}",
            "meter_display_name": name,
            "quantity": float(total),
            "amount": float(total) / 100,
            "currency": "usd",
            "display_amount": f"${float(total) / 100:.2f}",
            "filter_values": {},
        }
        for name, total in sorted(totals.items())
    ]
    amount = sum(cast("float", one["amount"]) for one in charges)
    window = {"start_time": format_time(start), "end_time": format_time(end)}
    money = {"amount": amount, "currency": "usd", "display_amount": f"${amount:.2f}"}
    return answer(200, {**money, "charges": charges, **window})


def _features(names: Iterable[str], properties: Mapping[str, Properties], *, expand: str) -> Iterator[Row]:
    """Give metered features, one for each property that is summed; their meters where `expand` asks."""
    for called, name, field in measured(names, properties):
        adds: Row = {"type": "COUNT"} if field is None else {"type": "SUM", "field": field}
        meter: Row = {
            "id": f"meter_{called}",
            "name": called,
            "event_name": name,
            "aggregation": adds,
            "filters": [],
            "reset_usage": "BILLING_PERIOD",
            "status": "published",
        }
        feature: Row = {
            "id": f"feat_{called}",
            "name": called,
            "type": "metered",
            "status": "published",
            "meter_id": f"meter_{called}",
        }
        yield {**feature, "meter": meter} if "meters" in expand.split(",") else feature


def refusal(_: Unreadable) -> Row:
    """Return the body for a read that makes no sense."""
    return {**_INVALID, "message": "Invalid request payload"}
