"""Flexprice's own Python client says what we say."""

from datetime import datetime, timedelta
from decimal import Decimal

import flexprice

from adapters import CanProbe, CanReadUsage, Wanted, Window, encode_row
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


def test_our_probe_is_how_the_vendors_client_lists_one_customer() -> None:
    with recorder(200, {"items": [], "pagination": {"limit": 1, "offset": 0, "total": 0}}) as server:
        with flexprice.Flexprice(api_key_auth=KEY, server_url=server.url + "/v1") as client:
            client.customers.query_customer(limit=1)
        (theirs,) = server.requests
    adapter = adapter_of("flexprice", "bulk", base_url=server.url + "/v1")
    assert isinstance(adapter, CanProbe)
    assert theirs == Recorded.ours(next(adapter.probe()), server.url)


def test_one_event_is_asked_for_as_the_vendors_client_asks() -> None:
    end = NOW + timedelta(milliseconds=1)
    with recorder(200, {"events": [], "has_more": False}) as server:
        with flexprice.Flexprice(api_key_auth=KEY, server_url=server.url + "/v1") as client:
            client.events.list_raw_events(
                event_id="evt_0001", event_name="api_call", start_time=NOW, end_time=end, page_size=500
            )
        (theirs,) = server.requests
    adapter = adapter_of("flexprice", "bulk", base_url=server.url + "/v1")
    assert isinstance(adapter, CanReadUsage)
    usage = usage_of(adapter)
    window = Window(start=NOW, end=end)
    wanted = Wanted(window=window, bindings={"it": usage.binding}, link=usage.link, key="evt_0001", now=NOW)
    ours = Recorded.ours(next(adapter.read_usage(wanted, lambda _: None)), server.url)
    for time in ("start_time", "end_time"):
        assert datetime.fromisoformat(theirs.body.pop(time)) == datetime.fromisoformat(ours.body.pop(time))
    assert theirs == ours
