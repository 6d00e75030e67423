"""What stands in a simulated vendor's account, made from what it knows or has heard of: names, and no prices."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from urllib.parse import unquote

from adapters import Reply, Row
from gateway.simulator.manners import answer
from gateway.simulator.members import ms
from gateway.simulator.reading import Properties

__all__ = ["billing", "customers", "features", "holders", "id_of", "metrics", "prices", "subscriptions", "usage_meters"]


def id_of(prefix: str, name: str) -> str:
    """Return the vendor's id of what usage names by one or by another name; what is an id already stays as it is."""
    return name if name.startswith(prefix) else prefix + name


def prices(names: Iterable[str]) -> list[Row]:
    """Return Flowglad's usage prices, each the default of a meter of its own. A cent for each: no prices are told."""
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


def usage_meters(names: Iterable[str]) -> list[Row]:
    """Return Flowglad's usage meters, which all add up."""
    return [{"id": id_of("usage_meter_", name), "slug": name, "name": name, "aggregationType": "sum"} for name in names]


def subscriptions(names: Iterable[str], period: tuple[datetime, datetime]) -> list[Row]:
    """Return Flowglad's subscriptions, all of them current."""
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


def holders(names: Iterable[str]) -> list[Row]:
    """Return Flowglad's customers. Usage names subscriptions alone, so who has `sub_acme` is known as `acme`."""
    return [
        {"id": f"cust_{name}", "externalId": name, "name": name, "archived": False}
        for name in sorted({_holder(name) for name in names})
    ]


def billing(place: str, names: Iterable[str], period: tuple[datetime, datetime]) -> Reply:
    """Answer with what Flowglad has of one customer, by the external id in a path."""
    held = list(names)
    customer = next((one for one in holders(held) if one["externalId"] in (place, unquote(place))), None)
    if customer is None:
        return answer(404, {"error": "Customer not found", "code": "NOT_FOUND"})
    current = [one for one in subscriptions(held, period) if one["customerId"] == customer["id"]]
    return answer(
        200, {"customer": customer, "subscriptions": current, "currentSubscriptions": current, "invoices": []}
    )


def _holder(subscription: str) -> str:
    return subscription.removeprefix("sub_")


def features(names: Iterable[str], properties: Mapping[str, Properties], *, expand: str) -> Iterator[Row]:
    """Give Flexprice's metered features, one for each property that is summed; their meters where `expand` asks."""
    for called, name, field in _measured(names, properties):
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


def metrics(names: Iterable[str], properties: Mapping[str, Properties], merchant: str | None = None) -> Iterator[Row]:
    """Give Paygentic's billable metrics, one for each property that is summed. The older door names them by id."""
    for called, name, field in _measured(names, properties):
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


def customers(names: Iterable[str], merchant: str, external: str | None = None) -> list[Row]:
    """Return Paygentic's customers, or the one of an external id. Whom usage names by the vendor's own id has none."""
    made: dict[str, Row] = {}
    for name in names:
        theirs, ours = id_of("cus_", name), {} if name.startswith("cus_") else {"externalId": name}
        consumer = f"org_{theirs.removeprefix('cus_')}"
        made.setdefault(
            theirs, {"id": theirs, "object": "customer", "consumerId": consumer, "merchantId": merchant, **ours}
        )
    return [one for one in made.values() if external in (None, one.get("externalId"))]


def _measured(names: Iterable[str], properties: Mapping[str, Properties]) -> Iterator[tuple[str, str, str | None]]:
    """Give what each metric is called, the events that it reads, and the property that it sums; `None`: it counts."""
    for name in names:
        where = properties.get(name, "quantity")
        fields = (where,) if where is None or isinstance(where, str) else where
        for field in fields:
            yield name if len(fields) == 1 else f"{name}.{field}", name, field
