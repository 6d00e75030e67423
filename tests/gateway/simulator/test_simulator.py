"""What each simulated vendor takes, tells apart, refuses and bills. Requests are built by hand, as a client would."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from gateway.simulator import SimulatedProvider

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
AT = "2026-11-23T11:00:00Z"

PATHS = {
    "flowglad": "/usage-events/bulk",
    "paygentic": "/v0/usage/batch",
    "flexprice": "/events/bulk",
    "wingback": "/v1/c/usage/bulk",
}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def flowglad(key: str, amount: object = 5, meter: str = "calls", customer: str = "sub_1") -> dict[str, object]:
    return {
        "subscriptionId": customer,
        "priceSlug": meter,
        "amount": amount,
        "transactionId": key,
        "usageDate": 1_795_431_600_000,
    }


def usage(key: str, quantity: object = 5, meter: str = "bm_1", customer: str = "cus_1") -> dict[str, object]:
    return {
        "idempotencyKey": key,
        "customerId": customer,
        "merchantId": "org_1",
        "timestamp": AT,
        "properties": [{"billableMetricId": meter, "quantity": quantity}],
    }


def flexprice(key: str, quantity: object = "5", at: str = AT, customer: str = "acme") -> dict[str, object]:
    return {
        "event_id": key,
        "event_name": "calls",
        "external_customer_id": customer,
        "timestamp": at,
        "properties": {"quantity": quantity},
    }


def wingback(key: str, units: object = "5", at: str = AT, customer: str = "Cust_1") -> dict[str, object]:
    return {
        "customer_id": customer,
        "feature_slug": "CALLS",
        "units": units,
        "timestamp": at,
        "metadata": {"gateway_event_id": key},
    }


def headers(vendor: SimulatedProvider, key: str = "k") -> dict[str, str]:
    given = {name.lower(): value for name, value in vendor.spec.auth.headers(key).items()}
    return {**given, "content-type": "application/json"}


def framed(vendor: SimulatedProvider, rows: Sequence[object]) -> bytes:
    under = {"flowglad": "usageEvents", "paygentic": "events", "flexprice": "events"}.get(vendor.name)
    return json.dumps(list(rows) if under is None else {under: list(rows)}).encode()


def post(vendor: SimulatedProvider, *rows: Mapping[str, object], key: str = "k") -> tuple[int, Any]:
    answer = vendor.handle("POST", PATHS[vendor.name], headers(vendor, key), framed(vendor, rows))
    assert answer.reply is not None
    return answer.reply.status, json.loads(answer.reply.body)


def event(vendor: SimulatedProvider, **members: object) -> tuple[int, Any]:
    row = {"type": "calls", "source": "t", "externalSubject": "acme", "timestamp": AT, **members}
    answer = vendor.handle("POST", "/v0/events", headers(vendor), json.dumps(row).encode())
    assert answer.reply is not None
    return answer.reply.status, json.loads(answer.reply.body)


# Telling repeats apart.


def test_flowglad_leaves_a_repeat_out_of_the_answer_and_keeps_the_first() -> None:
    vendor = SimulatedProvider("flowglad")
    post(vendor, flowglad("e1", 5))
    status, body = post(vendor, flowglad("e1", 9), flowglad("e2", 1))
    assert (200, ["e2"]) == (status, [row["transactionId"] for row in body["usageEvents"]])
    assert {("sub_1", "calls"): Decimal(6)} == vendor.billed()
    assert [("e1", 2), ("e2", 1)] == [(row.key, row.copies) for row in vendor.stored]


def test_flowglad_tells_repeats_by_meter_and_for_ever() -> None:
    clock = Clock()
    vendor = SimulatedProvider("flowglad", clock=clock)
    post(vendor, flowglad("e1", 5), flowglad("e1", 7, meter="other"))
    clock.now += timedelta(days=4000)
    post(vendor, flowglad("e1", 5))
    assert {("sub_1", "calls"): Decimal(5), ("sub_1", "other"): Decimal(7)} == vendor.billed()


def test_flowglad_keeps_the_first_of_two_in_one_batch() -> None:
    vendor = SimulatedProvider("flowglad")
    _, body = post(vendor, flowglad("e1", 5), flowglad("e1", 7))
    assert [5] == [row["amount"] for row in body["usageEvents"]]
    assert {("sub_1", "calls"): Decimal(5)} == vendor.billed()


def test_flexprice_bills_the_newest_copy_of_an_id_and_its_time() -> None:
    vendor = SimulatedProvider("flexprice")
    assert 202 == post(vendor, flexprice("e1", "5"))[0]
    assert 202 == post(vendor, flexprice("e1", "7", at="2026-11-23T11:00:00.0004+00:00"))[0]
    assert {("acme", "calls"): Decimal(7)} == vendor.billed()
    assert [2] == [row.copies for row in vendor.stored]


def test_flexprice_bills_an_id_again_under_another_time() -> None:
    vendor = SimulatedProvider("flexprice")
    post(vendor, flexprice("e1"), flexprice("e1", at="2026-11-23T11:00:00.001Z"))
    assert {("acme", "calls"): Decimal(10)} == vendor.billed()


def test_paygentic_answers_a_repeat_like_the_first_and_only_within_its_window() -> None:
    clock = Clock()
    vendor = SimulatedProvider("paygentic", clock=clock)
    first = post(vendor, usage("e1", 5))
    clock.now += timedelta(hours=24) - timedelta(microseconds=1)
    assert first == post(vendor, usage("e1", 9))
    assert {("cus_1", "bm_1"): Decimal(5)} == vendor.billed()
    clock.now += timedelta(microseconds=1)
    post(vendor, usage("e1", 5))
    assert {("cus_1", "bm_1"): Decimal(10)} == vendor.billed()


def test_paygentics_events_are_told_apart_by_their_keys() -> None:
    vendor = SimulatedProvider("paygentic")
    first = event(vendor, idempotencyKey="e1", data={"quantity": 2.5})
    assert first == event(vendor, idempotencyKey="e1", data={"quantity": 2.5})
    event(vendor, data={"quantity": 1})
    event(vendor, data={"quantity": 1})
    assert {("acme", "calls"): Decimal("4.5")} == vendor.billed()


def test_wingback_bills_every_copy() -> None:
    vendor = SimulatedProvider("wingback")
    assert (200, []) == post(vendor, wingback("e1"))
    post(vendor, wingback("e1"))
    assert {("Cust_1", "CALLS"): Decimal(10)} == vendor.billed()
    assert ["e1", "e1"] == [row.key for row in vendor.stored]


def test_wingbacks_absolute_row_discards_what_came_before_it() -> None:
    vendor = SimulatedProvider("wingback")
    post(vendor, wingback("e1", "5"), wingback("e3", "2", at="2026-11-23T11:00:02Z"))
    post(vendor, {**wingback("e2", "40", at="2026-11-23T11:00:01Z"), "is_absolute": True}, wingback("e0", "9"))
    post(vendor, wingback("e4", "1", at="2026-11-23T11:00:01Z"))
    assert {("Cust_1", "CALLS"): Decimal(42)} == vendor.billed()


# Refusing.


def test_flowglad_refuses_a_whole_batch_for_one_unknown_subscription() -> None:
    vendor = SimulatedProvider("flowglad", known_customers=["sub_1"])
    refused = post(vendor, flowglad("e1"), flowglad("e2", customer="sub_9"))
    assert (500, {"error": "Subscription not found: sub_9 (usage event at index 1)"}) == refused
    assert [] == vendor.stored


def test_flowglad_refuses_an_unknown_price_without_an_index() -> None:
    vendor = SimulatedProvider("flowglad", known_meters=["calls"])
    refused = post(vendor, flowglad("e1"), flowglad("e2", meter="nope"))
    assert (500, {"error": "Price not found: with slug nope (not in customer's pricing model)"}) == refused
    assert [] == vendor.stored


@pytest.mark.parametrize("amount", [0, -1, 1.5, "5", 2**31, True])
def test_flowglad_lists_every_row_of_the_wrong_shape(amount: object) -> None:
    vendor = SimulatedProvider("flowglad")
    status, body = post(vendor, flowglad("e1"), flowglad("e2", amount), flowglad("e3", amount))
    paths = [issue["path"] for issue in body["error"]]
    assert (400, [["usageEvents", 1, "amount"], ["usageEvents", 2, "amount"]]) == (status, paths)
    assert [] == vendor.stored


def test_flowglad_wants_exactly_one_name_for_the_meter() -> None:
    vendor = SimulatedProvider("flowglad")
    assert 400 == post(vendor, {**flowglad("e1"), "priceId": "price_1"})[0]


def test_paygentic_names_the_failed_rows_and_stores_the_others() -> None:
    vendor = SimulatedProvider("paygentic", known_customers=["cus_1"], known_meters=["bm_1"])
    rows = [usage("e1"), usage("e2", customer="cus_9"), usage("e1", meter="bm_9"), usage("e4")]
    status, body = post(vendor, *rows)
    assert 207 == status
    assert ["e1", "e4"] == [row["idempotencyKey"] for row in body["successful"]]
    assert [
        {"index": 1, "error": "Customer not found", "idempotencyKey": "e2"},
        {"index": 2, "error": "Invalid billable metric ID", "idempotencyKey": "e1"},
    ] == body["failed"]
    assert ["e1", "e4"] == [row.key for row in vendor.stored]


def test_paygentic_says_where_a_batch_has_the_wrong_shape() -> None:
    vendor = SimulatedProvider("paygentic")
    status, body = post(vendor, usage("e1"), usage("e2", 0))
    assert (400, ["events[1].properties[0].quantity"]) == (status, [issue["field"] for issue in body["errors"]])
    assert [] == vendor.stored


def test_paygentics_events_take_unknown_customers_but_no_unknown_types() -> None:
    vendor = SimulatedProvider("paygentic", known_customers=[], known_meters=["calls"])
    assert 202 == event(vendor, data={"quantity": 1})[0]
    assert {} == vendor.billed()
    status, body = event(vendor, type="nope", data={"quantity": 1})
    assert (422, "invalid_event_type") == (status, body["error"])
    vendor.known_customers = {"acme"}
    assert {("acme", "calls"): Decimal(1)} == vendor.billed()


def test_paygentics_subject_wins_over_the_senders_own_id() -> None:
    vendor = SimulatedProvider("paygentic")
    event(vendor, subject="cus_1", data={"quantity": 1})
    assert {("cus_1", "calls"): Decimal(1)} == vendor.billed()


def test_flexprice_takes_what_it_does_not_know_and_bills_nothing_for_it() -> None:
    vendor = SimulatedProvider("flexprice", known_customers=["acme"], known_meters=["other"])
    assert 202 == post(vendor, flexprice("e1"), flexprice("e2", customer="nobody"))[0]
    assert (2, {}) == (len(vendor.stored), vendor.billed())


def test_flexprice_queues_what_stands_before_a_refused_row() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.refuse("e2")
    status, body = post(vendor, flexprice("e1"), flexprice("e2"), flexprice("e3"))
    assert (400, "validation_error") == (status, body["code"])
    assert ["e1"] == [row.key for row in vendor.stored]


def test_flexprice_notices_a_missing_name_late_and_a_wrong_type_early() -> None:
    vendor = SimulatedProvider("flexprice")
    assert 400 == post(vendor, flexprice("e1"), {**flexprice("e2"), "event_name": ""})[0]
    assert ["e1"] == [row.key for row in vendor.stored]
    vendor.reset()
    assert 400 == post(vendor, flexprice("e1"), flexprice("e2", at="yesterday"))[0]
    assert [] == vendor.stored


@pytest.mark.parametrize(
    ("sent", "billed"),
    [
        ("12.123456789", "12.12345678"),
        ("-3", "0"),
        ("many", "0"),
        (None, "0"),
        (True, "0"),
        ("10000000000", "0"),
        (2.5, "2.5"),
        (9007199254740993, "0"),
    ],
)
def test_flexprice_makes_of_a_property_what_its_storage_holds(sent: object, billed: str) -> None:
    vendor = SimulatedProvider("flexprice")
    assert 202 == post(vendor, flexprice("e1", sent))[0]
    assert {("acme", "calls"): Decimal(billed)} == vendor.billed()


def test_flexprice_reads_a_json_number_as_a_double_and_a_string_exactly() -> None:
    vendor = SimulatedProvider("flexprice")
    post(vendor, flexprice("e1", "1234567890.12345678"))
    body = framed(vendor, [flexprice("e2", 0)]).replace(b'"quantity": 0', b'"quantity": 1234567890.12345678')
    vendor.handle("POST", PATHS["flexprice"], headers(vendor), body)
    exact, read = Decimal("1234567890.12345678"), Decimal("1234567890.1234567")
    assert [row.quantity for row in vendor.stored] == [exact, read]


def test_meters_of_flexprice_read_the_properties_that_they_name() -> None:
    properties = {"calls": ("input", "output"), "counted": None}
    vendor = SimulatedProvider("flexprice", quantity_properties=properties)
    post(vendor, {**flexprice("e1"), "properties": {"input": "3", "output": "0.5"}})
    post(vendor, {**flexprice("e2"), "event_name": "counted"}, {**flexprice("e3"), "event_name": "counted"})
    billed = {("acme", "calls.input"): 3, ("acme", "calls.output"): Decimal("0.5"), ("acme", "counted"): 2}
    assert billed == vendor.billed()


def test_wingback_stores_the_good_rows_and_names_the_bad() -> None:
    vendor = SimulatedProvider("wingback", known_customers=["Cust_1"])
    status, body = post(vendor, wingback("e1"), wingback("e2", customer="Cust_9"), wingback("e3", "x"))
    said = [(row["index"], row["status"], row["feedback"]["error"]["value"]) for row in body]
    assert (200, [(1, 400, "Contract not found"), (2, 400, "units: Invalid input: expected number")]) == (status, said)
    assert ["e1"] == [row.key for row in vendor.stored]


def test_wingback_keeps_twelve_places_of_any_sign() -> None:
    vendor = SimulatedProvider("wingback")
    post(vendor, wingback("e1", "1.0000000000009"), wingback("e2", -3))
    assert [Decimal("1.000000000000"), Decimal(-3)] == [row.quantity for row in vendor.stored]


# The door itself.


@pytest.mark.parametrize("name", sorted(PATHS))
def test_a_wrong_key_stores_nothing(name: str) -> None:
    build = {"flowglad": flowglad, "paygentic": usage, "flexprice": flexprice, "wingback": wingback}[name]
    vendor = SimulatedProvider(name, api_key="right")
    answer = vendor.handle("POST", PATHS[name], headers(vendor, "wrong"), framed(vendor, [build("e1")]))
    assert answer.reply is not None
    assert (401, []) == (answer.reply.status, vendor.stored)
    assert ("text/plain" in answer.reply.headers["content-type"]) == (name == "flowglad")
    post(vendor, build("e1"), key="right")
    assert 1 == len(vendor.stored)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_any_key_will_do_where_none_is_set_but_there_must_be_one(name: str) -> None:
    vendor = SimulatedProvider(name)
    for given in ({}, headers(vendor, "")):
        answer = vendor.handle("POST", PATHS[name], given, framed(vendor, []))
        assert answer.reply is not None
        assert 401 == answer.reply.status


@pytest.mark.parametrize(
    ("name", "rows", "status"), [("flexprice", 1000, 400), ("wingback", 1000, 413), ("paygentic", 1000, 413)]
)
def test_a_request_holds_no_more_rows_than_declared(name: str, rows: int, status: int) -> None:
    build = {"paygentic": usage, "flexprice": flexprice, "wingback": wingback}[name]
    vendor = SimulatedProvider(name)
    many = [build(f"e{number}") for number in range(rows + 1)]
    answer = vendor.handle("POST", PATHS[name], headers(vendor), framed(vendor, many))
    assert answer.reply is not None
    assert (status, []) == (answer.reply.status, vendor.stored)
    post(vendor, *many[:-1])
    assert rows == len(vendor.stored)


def test_a_request_holds_no_more_bytes_than_declared() -> None:
    vendor = SimulatedProvider("flexprice")
    padded = {**flexprice("e1"), "source": "x" * vendor.spec.doors["bulk"].max_bytes}
    status, body = post(vendor, padded)
    assert (400, True) == (status, "exceeds the maximum size" in body["message"])
    assert [] == vendor.stored


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"usageEvents": {}}', b"\xff", b"null", b"[" * 100_000])
def test_a_body_of_another_shape_is_refused(body: bytes) -> None:
    vendor = SimulatedProvider("flowglad")
    answer = vendor.handle("POST", PATHS["flowglad"], headers(vendor), body)
    assert answer.reply is not None
    assert 400 == answer.reply.status


def test_other_paths_are_not_there() -> None:
    vendor = SimulatedProvider("flexprice")
    for method, path in (("GET", "/events/bulk"), ("POST", "/v1/events/bulk"), ("POST", "/")):
        answer = vendor.handle(method, path, headers(vendor), b"{}")
        assert answer.reply is not None
        assert 404 == answer.reply.status


def test_flowglad_takes_nothing_but_json() -> None:
    vendor = SimulatedProvider("flowglad")
    answer = vendor.handle(
        "POST", PATHS["flowglad"], {**headers(vendor), "content-type": "text/plain"}, framed(vendor, [flowglad("e1")])
    )
    assert answer.reply is not None
    assert (415, []) == (answer.reply.status, vendor.stored)


def test_calls_keep_what_was_asked_and_answered_and_no_key() -> None:
    vendor = SimulatedProvider("flexprice", clock=Clock())
    post(vendor, flexprice("e1"), key="sk_secret")
    (call,) = vendor.calls
    assert ("POST", "/events/bulk", 202, None, (flexprice("e1"),), NOW) == (
        call.method,
        call.path,
        call.status,
        call.fault,
        call.rows,
        call.at,
    )
    assert "sk_secret" not in str(vars(vendor))
