"""What the simulated vendors list of an account, page by page, as who sets up a gateway reads it."""

import json
from typing import Any

from gateway.simulator import SimulatedProvider

AT = "2026-11-23T11:00:00Z"


def asked(vendor: SimulatedProvider, path: str, body: object) -> Any:
    headers = {name.lower(): value for name, value in vendor.spec.auth.headers("k").items()}
    answer = vendor.handle("POST", path, headers | {"content-type": "application/json"}, json.dumps(body).encode())
    assert answer.reply is not None
    return json.loads(answer.reply.body)


def test_flexprice_lists_its_customers_page_by_page() -> None:
    vendor = SimulatedProvider("flexprice")
    usage = {"event_name": "calls", "timestamp": AT, "properties": {"quantity": "5"}}
    rows = [usage | {"event_id": f"e{number}", "external_customer_id": f"c{number}"} for number in range(5)]
    asked(vendor, "/events/bulk", {"events": rows})
    found: list[str] = []
    for first in (0, 2, 4, 6):
        page = asked(vendor, "/customers/search", {"limit": 2, "offset": first})
        assert {"limit": 2, "offset": first, "total": 5} == page["pagination"]
        found += [one["external_id"] for one in page["items"]]
    assert [f"c{number}" for number in range(5)] == found
