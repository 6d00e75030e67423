"""How the simulated vendors take what other clients send than ours: as their own servers do."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from adapters import provider
from gateway.simulator import SimulatedProvider
from tests.adapters.worlds import Basic

EVENT = {
    "subscriptionId": "sub_1",
    "priceSlug": "calls",
    "amount": 5,
    "transactionId": "e1",
    "usageDate": 1_795_431_600_000,
}


def told(vendor: SimulatedProvider, path: str, body: object, **headers: str) -> tuple[int, Any]:
    given = {name.lower(): value for name, value in vendor.spec.auth.headers("k").items()}
    sent = {**given, "content-type": "application/json", **headers}
    answer = vendor.handle("POST", path, sent, json.dumps(body).encode())
    assert answer.reply is not None
    return answer.reply.status, json.loads(answer.reply.body) if answer.reply.body.startswith(b"{") else None


def flowglad(vendor: SimulatedProvider, *events: object, **headers: str) -> tuple[int, Any]:
    return told(vendor, "/usage-events/bulk", {"usageEvents": events}, **headers)


@pytest.mark.parametrize(("key", "status"), [("k", 200), ("Bearer k", 200), ("wrong", 401), ("Bearer", 401), ("", 401)])
def test_flowglad_takes_its_key_without_the_word_before_it_as_its_own_client_sends_it(key: str, status: int) -> None:
    assert status == flowglad(SimulatedProvider("flowglad", api_key="k"), EVENT, authorization=key)[0]


def test_others_want_the_word_before_the_key() -> None:
    vendor = SimulatedProvider("paygentic", api_key="k")
    assert 401 == told(vendor, "/v0/events", {}, authorization="k")[0]


@pytest.mark.parametrize(
    ("given", "status"),
    [(Basic().headers("k")["authorization"], 202), (Basic().headers("")["authorization"], 401), ("Basic ", 401)],
)
def test_any_key_will_do_in_the_form_that_the_vendor_wants_it(given: str, status: int) -> None:
    vendor = SimulatedProvider(replace(provider("flexprice").spec, auth=Basic()))
    assert status == told(vendor, "/events/bulk", {"events": [USAGE]}, authorization=given)[0]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("2026-11-23T11:00:00Z", 1_795_431_600_000),
        ("2026-11-23T12:00:00.5+01:00", 1_795_431_600_500),
        (None, 0),
        (5, 5),
    ],
)
def test_flowglad_reads_a_time_from_text_and_null_as_1970(given: object, read: int) -> None:
    vendor = SimulatedProvider("flowglad")
    status, body = flowglad(vendor, {**EVENT, "usageDate": given})
    assert (200, [read]) == (status, [event["usageDate"] for event in body["usageEvents"]])
    assert [datetime.fromtimestamp(read / 1000, UTC)] == [row.timestamp for row in vendor.stored]


@pytest.mark.parametrize("given", [True, "", "x", [], 10**20])
def test_flowglad_refuses_what_is_no_time(given: object) -> None:
    status, body = flowglad(SimulatedProvider("flowglad"), {**EVENT, "usageDate": given})
    assert (400, [["usageEvents", 0, "usageDate"]]) == (status, [issue["path"] for issue in body["error"]])


@pytest.mark.parametrize("meters", [{"priceSlug": None}, {"priceSlug": "a", "usageMeterId": "b"}])
def test_flowglad_says_of_the_price_id_that_one_meter_must_be_named(meters: dict[str, object]) -> None:
    status, body = flowglad(SimulatedProvider("flowglad"), {**EVENT, **meters})
    assert (400, [["usageEvents", 0, "priceId"]]) == (status, [issue["path"] for issue in body["error"]])


@pytest.mark.parametrize("body", [{}, {"events": [EVENT]}, {"usageEvents": None}])
def test_flowglad_names_the_list_that_is_missing(body: object) -> None:
    status, said = told(SimulatedProvider("flowglad"), "/usage-events/bulk", body)
    assert (400, "BAD_REQUEST", [["usageEvents"]]) == (status, said["code"], [issue["path"] for issue in said["error"]])


USAGE = {
    "event_id": "e1",
    "event_name": "calls",
    "external_customer_id": "acme",
    "timestamp": "2026-11-23T11:00:00Z",
    "properties": {"quantity": "5"},
}
INVALID = {"code": "validation_error", "http_status_code": 400}


def flexprice(vendor: SimulatedProvider, *events: object) -> tuple[int, Any]:
    return told(vendor, "/events/bulk", {"events": events})


@pytest.mark.parametrize("wrong", [{"properties": "5"}, {"properties": [5]}, {"source": 5}, {"customer_id": {}}])
def test_flexprice_takes_nothing_of_a_request_with_a_member_of_another_type(wrong: dict[str, object]) -> None:
    vendor = SimulatedProvider("flexprice")
    said = {**INVALID, "message": "Invalid request payload"}
    assert ((400, said), []) == (flexprice(vendor, USAGE, {**USAGE, **wrong, "event_id": "e2"}), vendor.stored)


@pytest.mark.parametrize(
    ("member", "called"), [("event_name", "EventName"), ("external_customer_id", "ExternalCustomerID")]
)
def test_flexprice_says_what_a_row_lacks_and_keeps_those_before_it(member: str, called: str) -> None:
    vendor = SimulatedProvider("flexprice")
    status, body = flexprice(vendor, USAGE, {**USAGE, member: "", "event_id": "e2"}, {**USAGE, "event_id": "e3"})
    why = f"Key: 'IngestEventRequest.{called}' Error:Field validation for '{called}' failed on the 'required' tag"
    assert (400, {**INVALID, "message": "Request validation failed", "details": {called: why}}) == (status, body)
    assert ["e1"] == [row.key for row in vendor.stored]


@pytest.mark.parametrize(("body", "tag"), [({}, "required"), ({"rows": [USAGE]}, "required"), ({"events": []}, "min")])
def test_flexprice_says_that_there_are_no_events(body: object, tag: str) -> None:
    why = f"Key: 'BulkIngestEventRequest.Events' Error:Field validation for 'Events' failed on the '{tag}' tag"
    said = {**INVALID, "message": "Request validation failed", "details": {"Events": why}}
    assert (400, said) == told(SimulatedProvider("flexprice"), "/events/bulk", body)


@pytest.mark.parametrize(
    ("member", "wrong"),
    [("data", "5"), ("data", []), ("source", 5), ("externalSubject", "a@example.com"), ("externalId", "a b")],
)
def test_paygentic_refuses_what_its_description_excludes(member: str, wrong: object) -> None:
    vendor = SimulatedProvider("paygentic")
    event = {"type": "calls", "source": "t", "externalSubject": "acme", "data": {"quantity": 5}}
    assert 202 == told(vendor, "/v0/events", event)[0]
    status, body = told(vendor, "/v0/events", {**event, member: wrong})
    assert (400, "validation_error", [member]) == (status, body["error"], [one["field"] for one in body["errors"]])
