"""What stands in a simulated vendor's account, made from what it knows or has heard of: names, and no prices."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from urllib.parse import unquote

from adapters import Reply, Row
from gateway.simulator.manners import answer
from gateway.simulator.members import ms
from gateway.simulator.reading import Properties

__all__ = ["billing", "features", "holders", "id_of", "prices", "subscriptions", "usage_meters"]


def id_of(prefix: str, name: str) -> str:
    """Return an id at Flowglad: usage names a meter by slug or by id, and what is an id already stays as it is."""
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
    for name in names:
        where = properties.get(name, "quantity")
        fields = (where,) if where is None or isinstance(where, str) else where
        for field in fields:
            called = name if len(fields) == 1 else f"{name}.{field}"
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
