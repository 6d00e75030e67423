"""What stands in a simulated vendor's account, made from what it knows or has heard of: names, and no prices."""

from collections.abc import Iterable, Iterator, Mapping

from adapters import Row
from gateway.simulator.reading import Properties

__all__ = ["features"]


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
