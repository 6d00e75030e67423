"""What a simulated vendor answers when its usage is read: from the rows that it holds, with the vendor's oddities.

Each vendor has its own pages. What they are made of is what was sent, by the declared roles.
"""

import base64
from calendar import monthrange
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import cast
from urllib.parse import parse_qsl

import msgspec

from adapters import Reply, Row
from adapters._values import JsonValue
from canonical_schema import format_time, plain
from gateway.simulator import accounts
from gateway.simulator.manners import INVALID, answer
from gateway.simulator.members import DIGITS, Unreadable, instant, ms, number, when, word
from gateway.simulator.reading import Properties
from gateway.simulator.world import StoredRow

__all__ = ["ReadRequest", "read"]

_DECODER = msgspec.json.Decoder()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_USUAL = timedelta(days=7)
"""How far back Flexprice looks unless it is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """A read, and all that the vendor knows that could answer it."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    rows: Sequence[StoredRow]
    """In the order of their first copies."""
    meters: frozenset[str] | None
    """Those that the vendor has from the start; `None`: it makes them as they come."""
    known: frozenset[str] | None
    """The customers that it has; `None`: whom usage comes for."""
    properties: Mapping[str, Properties]
    """Where its metrics find the quantity, by meter."""
    billed: Mapping[tuple[str, str], Decimal]
    now: datetime
    period: tuple[datetime, datetime]
    """The current billing period."""

    def names(self) -> list[str]:
        """Return every meter that the vendor has heard of, in order."""
        seen = {charge.meter for row in self.rows for charge in row.charges}
        return sorted(seen | (self.meters or set()))

    def customers(self) -> list[str]:
        """Return every customer that the vendor has, in order: where it knows all, those that usage came for."""
        return sorted({row.customer for row in self.rows} if self.known is None else self.known)

    def json(self) -> Mapping[str, object]:
        """Return the body; no body has no members. Raises Unreadable for what is no JSON object."""
        try:
            body = _DECODER.decode(self.body or b"{}")
        except (msgspec.DecodeError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Unreadable("body", "must be a JSON object")
        return cast("Mapping[str, object]", body)


def read(vendor: str, request: ReadRequest) -> Reply | None:
    """Answer a read, or return `None` where the vendor has no such page. What cannot be read is a 400, as theirs is."""
    reader = _VENDORS.get(vendor)
    try:
        return None if reader is None else reader(request)
    except Unreadable as error:
        return answer(400, _REFUSALS[vendor](error))


def queried(query: str) -> dict[str, str]:
    """Return a query string's members."""
    return dict(parse_qsl(query, keep_blank_values=True))


def month_of(now: datetime) -> tuple[datetime, datetime]:
    """Return the calendar month around an instant, UTC: a billing period as good as any."""
    start = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start, start + timedelta(days=monthrange(start.year, start.month)[1])


# Flowglad: pages by an opaque cursor, oldest arrival first, filters ignored; prices and meters by id.


def _flowglad(request: ReadRequest) -> Reply | None:
    if request.method != "GET":
        return None
    match request.path:
        case "/usage-events":
            listed = [_usage_event(number, row) for number, row in enumerate(request.rows)]
        case "/prices":
            listed = accounts.prices(request.names())
        case "/usage-meters":
            listed = accounts.usage_meters(request.names())
        case "/subscriptions":
            listed = accounts.subscriptions(request.customers(), request.period)
        case "/customers":
            listed = accounts.holders(request.customers())
        case path if path.startswith("/customers/") and path.endswith("/billing"):
            return accounts.billing(path[len("/customers/") : -len("/billing")], request.customers(), request.period)
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
        "usageMeterId": sent.get("usageMeterId") or accounts.id_of("usage_meter_", name),
        "priceId": sent.get("priceId") or accounts.id_of("price_", name),
        "amount": int(row.quantity),
        "usageDate": ms(row.timestamp),
        "transactionId": row.key,
        "properties": sent.get("properties") or {},
    }


# Flexprice: both ends included, newest first, unmerged copies, a cursor made of time and id.


def _flexprice(request: ReadRequest) -> Reply | None:
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
            return _found(asked, list(accounts.features(names, request.properties, expand=word(asked, "expand") or "")))
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
        return answer(400, {**INVALID, "message": "end time must be after start time"})
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
            return answer(400, {**INVALID, "message": "Invalid cursor key format"})
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


# Paygentic: by metric and newest first at the newer door, all at once at the older; pages by offset.


def _paygentic(request: ReadRequest) -> Reply | None:
    if request.method != "GET":
        return None
    query = request.query
    if request.path == "/v0/billableMetrics":
        if "merchantId" not in query:
            raise Unreadable("merchantId", "Required")
        held = list(accounts.metrics(request.names(), request.properties, query["merchantId"]))
        return _offset(query, held, "data", 100, 10)
    if request.path == "/v0/customers":
        if "organizationId" not in query:
            raise Unreadable("organizationId", "Required")
        found = accounts.customers(request.customers(), query["organizationId"], query.get("externalId"))
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
    read = [one["eventType"] for one in accounts.metrics(request.names(), request.properties) if one["id"] == metric]
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


# Wingback: counters of the current period, and customers by at least one filter.


def _wingback(request: ReadRequest) -> Reply | None:
    if request.method != "GET":
        return None
    start, end = request.period
    if request.path == "/v1/c/customer":
        return _customers(request)
    if request.path.startswith("/v1/c/contract/"):
        period = {"start": format_time(start), "end": format_time(end)}
        return answer(200, {"contract_summary": {"billing_information": {"current_period": period}}})
    customer = request.path.removeprefix("/v1/c/entitlement/").removesuffix("/access")
    if request.path != f"/v1/c/entitlement/{customer}/access":
        return None
    features: list[JsonValue] = [
        {
            "slug": name,
            "name": name,
            "entitlement_details": {
                "pricing_strategy": "usage",
                "unit_name": "unit",
                "used_unit_count": plain(request.billed.get((customer, name), Decimal(0))),
            },
        }
        for name in request.names()
    ]
    contract = {"contract_id": f"Cont_{customer[5:]}", "status": "active"}
    return answer(200, [{"customer": {"status": "active"}, "contract": contract, "plan": {"features": features}}])


def _customers(request: ReadRequest) -> Reply:
    """Answer with whom usage came for: active, and without a reference of ours."""
    asked = {name: value for name, value in request.query.items() if name not in {"limit", "offset", "direction"}}
    if not asked:
        return answer(400, {"feedback": {"filter": {"type": "error", "value": "at least one filter is required"}}})
    known: list[Row] = [{"id": name, "status": "active", "customer_reference": None} for name in request.customers()]
    found = [one for one in known if all(one.get(name) == value for name, value in asked.items())]
    limit, place = number(request.query.get("limit", "50"), "limit"), request.query.get("offset", "after_0")
    first = number(place[6:] if place.startswith("after_") else "", "offset")  # a bare number is no word of theirs
    last = first + limit
    more = {"forward": f"after_{last}"} if last < len(found) else {}
    pages = {
        "total": len(found),
        "total_pages": -(-len(found) // (limit or 1)),
        "current_page": first // (limit or 1) + 1,
    }
    return answer(200, {"hits": found[first:last], **pages, **more})


_VENDORS: Mapping[str, Callable[[ReadRequest], Reply | None]] = {
    "flowglad": _flowglad,
    "flexprice": _flexprice,
    "paygentic": _paygentic,
    "wingback": _wingback,
}


_REFUSALS: Mapping[str, Callable[[Unreadable], Row]] = {
    "flowglad": lambda error: {"error": str(error)},
    "flexprice": lambda _: {**INVALID, "message": "Invalid request payload"},
    "paygentic": lambda error: {
        "message": "Validation failed",
        "error": "validation_error",
        "errors": [{"field": error.member, "message": error.why}],
    },
    "wingback": lambda error: {"feedback": {error.member: {"type": "error", "value": error.why}}},
}
