"""Wingback: counters of the current period, and customers by at least one filter."""

from decimal import Decimal

from adapters import Reply, Row
from adapters._values import JsonValue
from canonical_schema import format_time, plain
from gateway.simulator.manners import Manners, answer
from gateway.simulator.members import Unreadable, number
from gateway.simulator.reads import ReadRequest

__all__ = ["MANNERS", "read", "refusal"]


MANNERS = Manners(
    unauthorized=answer(401, {"feedback": {"token": {"type": "error", "value": "Invalid API token"}}}),
    unreadable=answer(400, {"feedback": {"body": {"type": "error", "value": "Invalid request body"}}}),
    empty=True,
    optional={"bulk": frozenset({"key", "timestamp"})},
    absolute="is_absolute",
)


def read(request: ReadRequest) -> Reply | None:
    """Answer a read, or return `None` where there is no such page. Raises Unreadable."""
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


def refusal(error: Unreadable) -> Row:
    """Return the body for a read that makes no sense."""
    return {"feedback": {error.member: {"type": "error", "value": error.why}}}
