"""What simulators answer and what the core makes of it agree: no answer claims more than the vendor did."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
from hypothesis import given
from hypothesis import strategies as st

from adapters import AnyAdapter, Fault, FaultKind, Reply, Sent, State, encode_row, settle
from gateway.simulator import FAULTS, SimulatedProvider
from tests.adapters.worlds import KEY, NAMED, NOW, adapter_of, bound, decoded, every_door, usage_of


def row(adapter: AnyAdapter, key: str, meter: int = 0, customer: int = 0, quantity: int = 3) -> Sent:
    """Return a row for one of the door's two meters and one of its two customers."""
    usage = usage_of(adapter, key, Decimal(quantity), index=meter, timestamp=NOW - timedelta(hours=1))
    encoded = encode_row(adapter.encode(replace(usage, link=bound(adapter, customer)[1])))
    return Sent(key=key, row=decoded(encoded))


def send(vendor: SimulatedProvider, adapter: AnyAdapter, sent: list[Sent]) -> Reply | Fault:
    """Send through an httpx client, as the gateway's transport would see it."""
    request = adapter.request([encode_row(one.row) for one in sent])
    headers = dict(request.headers)
    with httpx.Client(transport=vendor.transport(), timeout=0.5) as client:
        try:
            response = client.request(request.method, request.url, content=request.body, headers=headers)
        except httpx.TransportError as error:
            never = isinstance(error, httpx.ConnectError)
            kind = FaultKind.NEVER_LEFT if never else FaultKind.NO_ANSWER
            return Fault(kind=kind, name=type(error).__name__, timeout=isinstance(error, httpx.TimeoutException))
    lower = {name.lower(): value for name, value in response.headers.items()}
    return Reply(status=response.status_code, headers=lower, body=response.content)


def simulated(name: str, profile: str, customers: int = 2, meters: int = 2) -> SimulatedProvider:
    """Return a vendor that knows so many of the door's customers and meters."""
    names = [NAMED[name, profile].names(index) for index in (0, 1)]
    return SimulatedProvider(
        name,
        api_key=KEY,
        known_customers=[customer for _, customer in names[:customers]],
        known_meters=[meter for meter, _ in names[:meters]],
        quantity_properties=dict(zip((meter for meter, _ in names), NAMED[name, profile].quantity, strict=True)),
        clock=lambda: NOW,
    )


ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(1, 99)), min_size=1, max_size=6)


@every_door
@given(
    rows=ROWS,
    known=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    poison=st.sets(st.integers(0, 5)),
    fault=st.sampled_from([None, *FAULTS]),
    again=st.booleans(),
)
def test_what_is_settled_as_done_is_stored_and_what_is_refused_is_not(
    name: str,
    profile: str,
    rows: list[tuple[int, int, int]],
    known: tuple[int, int],
    poison: set[int],
    fault: str | None,
    again: bool,
) -> None:
    vendor, adapter = simulated(name, profile, *known), adapter_of(name, profile)
    sent = [row(adapter, f"e{index}", *facts) for index, facts in enumerate(rows[: adapter.door.max_rows])]
    vendor.refuse([f"e{index}" for index in poison])
    if again:
        send(vendor, adapter, sent)
    before = {stored.key for stored in vendor.stored}
    if fault is not None:
        vendor.fail(fault)
    outcomes = settle(adapter.door, send(vendor, adapter, sent), sent, now=NOW)
    stored = {stored.key for stored in vendor.stored}
    assert [one.key for one in sent] == list(outcomes)
    for key, outcome in outcomes.items():
        if outcome.state in {State.ACCEPTED, State.DUPLICATE}:
            assert key in stored
        if outcome.state is State.REJECTED or (
            outcome.state in {State.NOT_STORED, State.REFUSED, State.BLOCKED} and not outcome.may_be_stored
        ):
            assert key in before or key not in stored


@every_door
def test_a_good_request_is_settled_as_done_and_billed(name: str, profile: str) -> None:
    vendor, adapter = simulated(name, profile), adapter_of(name, profile)
    for index in (0, 1):
        sent = row(adapter, f"e{index}", index, index)
        outcomes = settle(adapter.door, send(vendor, adapter, [sent]), [sent], now=NOW)
        assert State.ACCEPTED is outcomes[sent.key].state
    names = [NAMED[name, profile].names(index) for index in (0, 1)]
    assert {(customer, meter): Decimal(3) for meter, customer in names} == vendor.billed()


@every_door
def test_the_vendor_reads_what_the_adapter_wrote(name: str, profile: str) -> None:
    vendor, adapter = simulated(name, profile), adapter_of(name, profile)
    at = datetime(2026, 10, 31, 23, 59, 59, 999000, tzinfo=UTC)
    usage = usage_of(
        adapter, "e1", Decimal(7), timestamp=at, properties={"quantity": "1000", "amount": 1000, "units": "1000"}
    )
    send(vendor, adapter, [Sent(key="e1", row=decoded(encode_row(adapter.encode(usage))))])
    (stored,) = vendor.stored
    meter, customer = NAMED[name, profile].names(0)
    assert ("e1", customer, meter, Decimal(7), usage.timestamp) == (
        stored.key,
        stored.customer,
        stored.meter,
        stored.quantity,
        stored.timestamp,
    )


def test_a_declared_time_window_is_kept() -> None:
    adapter = adapter_of("flexprice", "bulk")
    door = replace(adapter.door, time=replace(adapter.door.time, past=timedelta(minutes=30)))
    vendor = SimulatedProvider(replace(adapter.spec, doors={"bulk": door}), clock=lambda: NOW)
    reply = send(vendor, adapter, [row(adapter, "e1")])
    assert isinstance(reply, Reply)
    assert (400, []) == (reply.status, vendor.stored)
