"""Paygentic's own Python client says what we say; its present release only has the door of single events."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import paygentic_sdk
import pytest

from adapters import CanProbe, encode_row
from tests.adapters.contract.recorder import CLIENTS_OWN, Recorded, recorder
from tests.adapters.worlds import KEY, NOW, adapter_of, usage_of

SOURCE = "usage-gateway"


@pytest.mark.parametrize("index", [0, 1])
def test_our_event_is_the_one_that_the_vendors_client_sends(index: int) -> None:
    named: list[dict[str, Any]] = [
        {"type": "api.calls", "externalSubject": "customer-one", "data": {"quantity": 1500, "region": "eu"}},
        {"type": "tokens", "subject": "cus_customertwo", "data": {"tokens_used": 1500, "region": "eu"}},
    ]
    event = {
        "idempotencyKey": "evt_0001",
        "source": SOURCE,
        "timestamp": datetime.fromisoformat("2026-11-23T12:00:00.250+00:00"),
        **named[index],
    }
    with recorder(202, {"id": "evt_srv_1", "object": "event"}) as server:
        with paygentic_sdk.Paygentic(bearer_auth=KEY, server_url=server.url) as client:
            answer = client.events.ingest(request=event)  # pyright: ignore[reportArgumentType]
        (theirs,) = server.requests
    adapter = adapter_of("paygentic", "events", base_url=server.url)
    at = NOW + timedelta(milliseconds=250)
    usage = usage_of(adapter, "evt_0001", Decimal(1500), index=index, timestamp=at, properties={"region": "eu"})
    ours = Recorded.ours(adapter.request([encode_row(adapter.encode(usage))]), server.url)
    assert datetime.fromisoformat(theirs.body.pop("timestamp")) == datetime.fromisoformat(ours.body.pop("timestamp"))
    assert theirs == ours
    assert "evt_srv_1" == answer.id


def test_our_batch_is_the_one_that_the_older_client_sent() -> None:
    """Held against what its last release with this door, 0.1.34, was seen to send."""
    older = Recorded(
        method="POST",
        path="/v0/usage/batch",
        headers={"accept": "application/json", "authorization": f"Bearer {KEY}", "content-type": "application/json"},
        body={
            "events": [
                {
                    "customerId": "cus_customerone",
                    "idempotencyKey": "evt_0001",
                    "merchantId": "org_1",
                    "properties": [{"billableMetricId": "bm_calls", "quantity": 2500}],
                    "timestamp": "2026-11-23T12:00:00Z",
                },
                {
                    "customerId": "cus_customertwo",
                    "idempotencyKey": "evt_0002",
                    "merchantId": "org_1",
                    "properties": [{"billableMetricId": "bm_tokens", "quantity": 3, "price": "0.000125"}],
                    "timestamp": "2026-11-23T12:00:00.123Z",
                    "metadata": {"region": "eu"},
                },
            ]
        },
    )
    adapter = adapter_of("paygentic", "usage-v0")
    at = NOW + timedelta(milliseconds=123)
    usages = [
        usage_of(adapter, "evt_0001", Decimal(2500)),
        usage_of(adapter, "evt_0002", Decimal(3), index=1, timestamp=at, properties={"region": "eu"}),
    ]
    request = adapter.request([encode_row(adapter.encode(usage)) for usage in usages])
    assert older == Recorded.ours(request, "https://api.paygentic.io")
    assert "authorization" not in CLIENTS_OWN


def test_our_probe_is_how_the_vendors_client_lists_one_subscription() -> None:
    with recorder(200, {"data": [], "pagination": {"limit": 1, "offset": 0, "total": 0}}) as server:
        with paygentic_sdk.Paygentic(bearer_auth=KEY, server_url=server.url) as client:
            client.subscriptions.list(request={"limit": "1"})
        (theirs,) = server.requests
    adapter = adapter_of("paygentic", "events", base_url=server.url)
    assert isinstance(adapter, CanProbe)
    ours = Recorded.ours(next(adapter.probe()), server.url)
    (path, query), (their_path, their_query) = (one.path.split("?") for one in (ours, theirs))
    assert (their_path, theirs.headers, theirs.method) == (path, ours.headers, ours.method)
    assert set(query.split("&")) <= set(their_query.split("&")), "theirs names its defaults as well"
