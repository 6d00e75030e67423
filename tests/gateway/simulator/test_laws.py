"""What simulators answer and what the core makes of it agree: no answer claims more than the vendor did."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import AnyAdapter, Door, Fault, FaultKind, Reply, Sent, State, provider, providers, settle
from adapters._base import encode_row
from adapters._values import Measure, Usage
from gateway.simulator import FAULTS, SimulatedProvider

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
FOUR = [
    (name, profile)
    for name in ("flexprice", "flowglad", "paygentic", "wingback")
    for profile in provider(name).spec.doors
]


def row(name: str, profile: str, key: str, customer: str, meter: str, quantity: int) -> dict[str, object]:
    """One row as that door wants it, written by hand."""
    match name, profile:
        case "flowglad", _:
            return {
                "subscriptionId": customer,
                "priceSlug": meter,
                "amount": quantity,
                "transactionId": key,
                "usageDate": 1_795_431_600_000,
            }
        case "paygentic", "events":
            return {
                "type": meter,
                "source": "t",
                "externalSubject": customer,
                "idempotencyKey": key,
                "timestamp": "2026-11-23T11:00:00Z",
                "data": {"quantity": quantity},
            }
        case "paygentic", _:
            return {
                "idempotencyKey": key,
                "customerId": customer,
                "merchantId": "org_1",
                "timestamp": "2026-11-23T11:00:00Z",
                "properties": [{"billableMetricId": meter, "quantity": quantity}],
            }
        case "flexprice", _:
            return {
                "event_id": key,
                "event_name": meter,
                "external_customer_id": customer,
                "timestamp": "2026-11-23T11:00:00Z",
                "properties": {"quantity": str(quantity)},
            }
        case _:
            return {
                "customer_id": customer,
                "feature_slug": meter,
                "units": str(quantity),
                "timestamp": "2026-11-23T11:00:00Z",
                "metadata": {"gateway_event_id": key},
            }


def body(door: Door, rows: list[dict[str, object]]) -> bytes:
    match door.rows:
        case "one":
            return json.dumps(rows[0]).encode()
        case "list":
            return json.dumps(rows).encode()
        case (under,):
            return json.dumps({under: rows}).encode()


def send(vendor: SimulatedProvider, profile: str, rows: list[dict[str, object]]) -> Reply | Fault:
    """Send through an httpx client, as the gateway's transport would see it."""
    door = vendor.spec.doors[profile]
    url = vendor.spec.base_url + door.path
    headers = {**vendor.spec.auth.headers("k"), "content-type": "application/json"}
    with httpx.Client(transport=vendor.transport(), timeout=0.5) as client:
        try:
            response = client.request(door.method, url, content=body(door, rows), headers=headers)
        except httpx.TransportError as error:
            never = isinstance(error, httpx.ConnectError)
            kind = FaultKind.NEVER_LEFT if never else FaultKind.NO_ANSWER
            return Fault(kind=kind, name=type(error).__name__, timeout=isinstance(error, httpx.TimeoutException))
    lower = {name.lower(): value for name, value in response.headers.items()}
    return Reply(status=response.status_code, headers=lower, body=response.content)


ROWS = st.lists(
    st.tuples(st.sampled_from(["c1", "c2", "stranger"]), st.sampled_from(["m1", "m2", "odd"]), st.integers(1, 99)),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize(("name", "profile"), FOUR)
@given(rows=ROWS, poison=st.sets(st.integers(0, 5)), fault=st.sampled_from([None, *FAULTS]), again=st.booleans())
def test_what_is_settled_as_done_is_stored_and_what_is_refused_is_not(
    name: str, profile: str, rows: list[tuple[str, str, int]], poison: set[int], fault: str | None, again: bool
) -> None:
    vendor = SimulatedProvider(name, known_customers=["c1", "c2"], known_meters=["m1", "m2"], clock=lambda: NOW)
    door = vendor.spec.doors[profile]
    if door.rows == "one":
        rows = rows[:1]
    sent = [
        Sent(key=f"e{index}", row=row(name, profile, f"e{index}", *facts))  # type: ignore[arg-type]
        for index, facts in enumerate(rows)
    ]
    vendor.refuse([f"e{index}" for index in poison])
    if again:
        send(vendor, profile, [dict(one.row) for one in sent])
    before = {stored.key for stored in vendor.stored}
    if fault is not None:
        vendor.fail(fault)
    outcomes = settle(door, send(vendor, profile, [dict(one.row) for one in sent]), sent, now=NOW)
    stored = {stored.key for stored in vendor.stored}
    assert [one.key for one in sent] == list(outcomes)
    for key, outcome in outcomes.items():
        if outcome.state in {State.ACCEPTED, State.DUPLICATE}:
            assert key in stored
        if outcome.state is State.REJECTED or (
            outcome.state in {State.NOT_STORED, State.REFUSED, State.BLOCKED} and not outcome.may_be_stored
        ):
            assert key in before or key not in stored


@pytest.mark.parametrize("name", sorted(providers()))
def test_a_good_request_is_settled_as_done_by_every_provider(name: str) -> None:
    for profile in provider(name).spec.doors if name in dict(FOUR) else ():
        vendor = SimulatedProvider(name)
        sent = [Sent(key="e0", row=row(name, profile, "e0", "c1", "m1", 3))]  # type: ignore[arg-type]
        outcomes = settle(vendor.spec.doors[profile], send(vendor, profile, [dict(sent[0].row)]), sent, now=NOW)
        assert State.ACCEPTED is outcomes["e0"].state
        assert {("c1", "m1"): Decimal(3)} == vendor.billed()


SETTINGS: Mapping[str, Mapping[str, object]] = {"paygentic": {"profile": "usage-v0", "merchant_id": "org_1"}}
NAMES: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "flexprice": ({"event_name": "m1"}, {"external_customer_id": "c1"}),
    "flowglad": ({"price_slug": "m1"}, {"subscription_id": "c1"}),
    "paygentic": ({"billable_metric_id": "m1"}, {"customer_id": "cus_1"}),
    "wingback": ({"feature_slug": "m1"}, {"customer_id": "Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670"}),
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_vendor_reads_what_the_adapter_wrote(name: str) -> None:
    kind = provider(name)
    adapter: AnyAdapter = kind(kind.Settings.model_validate({"api_key": "k", **SETTINGS.get(name, {})}))
    binding, link = NAMES[name]
    at = datetime(2026, 10, 31, 23, 59, 59, 999000, tzinfo=UTC)
    usage = Usage(
        key="e1",
        event_id="e1",
        customer="acme",
        meter="calls",
        timestamp=at,
        measures=(Measure(name="", quantity=Decimal(7), binding=adapter.door.binding.model_validate(binding)),),
        link=adapter.door.link.model_validate(link),
        properties={"quantity": "1000", "amount": 1000, "units": "1000"},
    )
    request = adapter.request([encode_row(adapter.encode(usage))])
    vendor = SimulatedProvider(name, api_key="k")
    with httpx.Client(transport=vendor.transport()) as client:
        client.request(request.method, request.url, content=request.body, headers=dict(request.headers))
    (stored,) = vendor.stored
    (customer,) = link.values()
    assert ("e1", customer, "m1", Decimal(7), at) == (
        stored.key,
        stored.customer,
        stored.meter,
        stored.quantity,
        stored.timestamp,
    )


def test_a_declared_time_window_is_kept() -> None:
    spec = provider("flexprice").spec
    door = spec.doors["bulk"]
    door = replace(door, time=replace(door.time, past=timedelta(minutes=30)))
    vendor = SimulatedProvider(replace(spec, doors={"bulk": door}), clock=lambda: NOW)
    reply = send(vendor, "bulk", [row("flexprice", "bulk", "e1", "c1", "m1", 1)])
    assert isinstance(reply, Reply)
    assert (400, []) == (reply.status, vendor.stored)
