"""What the simulated vendors list of an account, page by page, as who sets up a gateway reads it."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.simulator import SimulatedProvider

AT = "2026-11-23T11:00:00Z"


def answered(vendor: SimulatedProvider, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    headers = {name.lower(): value for name, value in vendor.spec.auth.headers("k").items()}
    path, _, query = path.partition("?")
    answer = vendor.handle(method, path, headers | {"content-type": "application/json"}, body, query)
    assert answer.reply is not None
    return answer.reply.status, answer.reply.body


def asked(vendor: SimulatedProvider, path: str, body: object) -> Any:
    return json.loads(answered(vendor, "POST", path, json.dumps(body).encode())[1])


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


def test_flexprice_finds_the_customer_that_is_asked_for() -> None:
    vendor = SimulatedProvider("flexprice")
    rows = [{"event_id": f"e{name}", "event_name": "calls", "external_customer_id": name} for name in ("a", "b")]
    asked(vendor, "/events/bulk", {"events": rows})
    found = asked(vendor, "/customers/search", {"external_id": "b", "limit": 1})
    assert (["b"], 1) == ([one["external_id"] for one in found["items"]], found["pagination"]["total"])
    assert [] == asked(vendor, "/customers/search", {"external_id": "c"})["items"]


def test_flexprice_looks_a_week_back_unless_it_is_told() -> None:
    vendor = SimulatedProvider("flexprice", clock=lambda: datetime(2026, 11, 23, 12, tzinfo=UTC))
    usage = {"event_name": "calls", "external_customer_id": "acme"}
    times = {"old": "2026-11-16T11:59:59Z", "week": "2026-11-16T12:00:00Z", "late": "2026-11-23T12:00:00.001Z"}
    asked(vendor, "/events/bulk", {"events": [usage | {"event_id": key, "timestamp": at} for key, at in times.items()]})

    def found(**window: str) -> list[str]:
        return [one["id"] for one in asked(vendor, "/events/query", window)["events"]]

    assert ["week"] == found()
    assert ["week", "old"] == found(start_time="2026-11-01T00:00:00Z")
    assert ["old"] == found(end_time="2026-11-16T11:59:59Z")
    assert [] == found(end_time="0001-01-01T00:00:00Z")
    backwards = b'{"start_time": "2026-11-24T00:00:00Z", "end_time": "2026-11-23T00:00:00Z"}'
    assert 400 == answered(vendor, "POST", "/events/query", backwards)[0]


@pytest.mark.parametrize("limit", ["abc", "", "-1", "1e3", "\u0663", "9" * 5000])
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("flowglad", "/usage-events?limit={}"),
        ("flowglad", "/usage-events?cursor={}"),
        ("paygentic", "/v0/billableMetrics?merchantId=org_1&limit={}"),
        ("paygentic", "/v0/billableMetrics?merchantId=org_1&offset={}"),
        ("paygentic", "/v0/usage?merchantId=org_1&endTime=2026-12-01T00:00:00Z&startTime={}"),
        ("paygentic", "/v0/billableMetrics/bm_calls/events?from=2026-11-01T00:00:00Z&to={}"),
        ("wingback", "/v1/c/customer?status=active&limit={}"),
        ("wingback", "/v1/c/customer?status=active&offset=after_{}"),
    ],
)
def test_a_page_that_cannot_be_read_is_the_vendors_400(name: str, path: str, limit: str) -> None:
    status, body = answered(SimulatedProvider(name), "GET", path.format(limit))
    assert status == 400
    assert json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"page_size": "abc"}',
        b'{"page_size": 1.5}',
        b'{"page_size": -1}',
        b'{"start_time": "2026-11-01"}',
        b'{"end_time": 5}',
        b'{"event_name": []}',
        b'{"event_id": {}}',
        b'{"iter_last_key": 5}',
    ],
)
def test_a_query_that_cannot_be_read_is_flexprices_400(body: bytes) -> None:
    said = {"code": "validation_error", "http_status_code": 400, "message": "Invalid request payload"}
    status, told = answered(SimulatedProvider("flexprice"), "POST", "/events/query", body)
    assert (400, said) == (status, json.loads(told))


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_flowglad_lists_for_get_alone(method: str) -> None:
    event = {"subscriptionId": "sub_1", "priceSlug": "calls", "amount": 1, "transactionId": "e1"}
    vendor = SimulatedProvider("flowglad")
    assert answered(vendor, method, "/usage-events", json.dumps({"usageEvent": event}).encode()) == (404, b"Not Found")
