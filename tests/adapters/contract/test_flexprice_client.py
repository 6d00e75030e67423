"""Flexprice's own Python client says what we say."""

from datetime import timedelta
from decimal import Decimal

import flexprice

from adapters import encode_row
from tests.adapters.contract.recorder import Recorded, recorder
from tests.adapters.worlds import KEY, NOW, adapter_of, usage_of


def test_our_bulk_request_is_the_one_that_the_vendors_client_sends() -> None:
    with recorder(202, {"message": "Events accepted for processing"}) as server:
        with flexprice.Flexprice(api_key_auth=KEY, server_url=server.url + "/v1") as client:
            answer = client.events.ingest_events_bulk(
                events=[
                    {
                        "event_id": "evt_0001",
                        "event_name": "api_call",
                        "external_customer_id": "customer-one",
                        "timestamp": "2026-11-23T12:00:00Z",
                        "source": "gateway",
                        "properties": {"quantity": "12.5", "region": "eu"},
                    },
                    {
                        "event_id": "evt_0002",
                        "event_name": "tokens",
                        "external_customer_id": "customer-two",
                        "timestamp": "2026-11-23T12:00:00.250Z",
                        "properties": {"tokens_used": "0.00000001"},
                    },
                ]
            )
        (theirs,) = server.requests
    adapter = adapter_of("flexprice", "bulk", base_url=server.url + "/v1")
    usages = [
        usage_of(adapter, "evt_0001", Decimal("12.5"), properties={"region": "eu"}, source="gateway"),
        usage_of(adapter, "evt_0002", Decimal("0.00000001"), index=1, timestamp=NOW + timedelta(milliseconds=250)),
    ]
    request = adapter.request([encode_row(adapter.encode(usage)) for usage in usages])
    assert theirs == Recorded.ours(request, server.url)
    assert {"message": "Events accepted for processing"} == answer
