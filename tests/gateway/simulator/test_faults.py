"""Every scripted fault does what its name says: what the client sees, and whether the vendor has the row."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway.simulator import FAULTS, SimulatedProvider

URL = "https://us.api.flexprice.io/v1/events/bulk"


def row(key: str) -> dict[str, object]:
    return {
        "event_id": key,
        "event_name": "calls",
        "external_customer_id": "acme",
        "timestamp": "2026-11-23T11:00:00Z",
        "properties": {"quantity": "1"},
    }


def post(vendor: SimulatedProvider, *keys: str, timeout: float = 5.0) -> httpx.Response:
    with httpx.Client(transport=vendor.transport(), timeout=timeout) as client:
        return client.post(URL, json={"events": [row(key) for key in keys or ("e1",)]}, headers={"x-api-key": "k"})


def keys(vendor: SimulatedProvider) -> list[str]:
    return [stored.key for stored in vendor.stored]


RAISES: Mapping[str, tuple[Mapping[str, Any], type[httpx.TransportError], bool]] = {
    "half_answer": ({}, httpx.RemoteProtocolError, True),
    "half_answer, not stored": ({"stored": False}, httpx.RemoteProtocolError, False),
    "latency": ({"seconds": 5.1}, httpx.ReadTimeout, True),
    "refused": ({}, httpx.ConnectError, False),
    "reset_after": ({}, httpx.ReadError, True),
    "reset_before": ({}, httpx.ReadError, False),
    "timeout": ({}, httpx.ReadTimeout, True),
    "timeout, not stored": ({"stored": False}, httpx.ReadTimeout, False),
}

ANSWERS: Mapping[str, tuple[Mapping[str, Any], int, bool]] = {
    "crash_after": ({}, 500, True),
    "latency, short": ({"seconds": 4.9}, 202, True),
    "lost_answer": ({}, 504, True),
    "malformed": ({}, 200, True),
    "malformed, not stored": ({"stored": False, "status": 202}, 202, False),
    "partial": ({}, 400, False),
    "proxy_error": ({}, 502, False),
    "proxy_error, bare 400": ({"status": 400}, 400, False),
    "proxy_error, after storing": ({"stored": True}, 502, True),
    "redirect": ({}, 307, False),
    "throttled": ({}, 429, False),
    "unauthorized": ({}, 401, False),
    "unavailable": ({}, 503, False),
    "unavailable, other status": ({"status": 500}, 500, False),
    "wrong_status": ({}, 418, False),
    "wrong_status, a false success": ({"status": 200, "stored": True}, 200, True),
}


def test_every_fault_is_tried_here() -> None:
    assert {case.partition(",")[0] for case in (*RAISES, *ANSWERS)} == set(FAULTS)


@pytest.mark.parametrize("case", RAISES)
def test_a_broken_exchange_raises_what_httpx_raises(case: str) -> None:
    parameters, error, stored = RAISES[case]
    vendor = SimulatedProvider("flexprice")
    vendor.fail(case.partition(",")[0], **parameters)
    with pytest.raises(httpx.TransportError) as caught:
        post(vendor)
    assert (type(caught.value), keys(vendor)) == (error, ["e1"] if stored else [])
    assert (vendor.calls[0].fault, post(vendor).status_code) == (case.partition(",")[0], 202)


@pytest.mark.parametrize("case", ANSWERS)
def test_a_bad_answer_has_its_status_and_leaves_the_row_where_it_says(case: str) -> None:
    parameters, status, stored = ANSWERS[case]
    vendor = SimulatedProvider("flexprice")
    vendor.fail(case.partition(",")[0], **parameters)
    assert (post(vendor).status_code, keys(vendor)) == (status, ["e1"] if stored else [])
    assert (vendor.calls[0].fault, vendor.calls[0].status) == (case.partition(",")[0], status)
    assert post(vendor).status_code == 202


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["reset_before", "timeout", "refused"])
async def test_an_asynchronous_client_meets_the_same(name: str) -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail(name)
    async with httpx.AsyncClient(transport=vendor.transport()) as client:
        with pytest.raises(RAISES[name][1]):
            await client.post(URL, json={"events": [row("e1")]}, headers={"x-api-key": "k"})
        answer = await client.post(URL, json={"events": [row("e2")]}, headers={"x-api-key": "k"})
    assert answer.status_code == 202


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, None),
        (7, "7"),
        (0.2, "1"),
        (datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC), "Mon, 23 Nov 2026 12:00:30 GMT"),
    ],
)
@pytest.mark.parametrize("name", ["throttled", "unavailable"])
def test_a_server_says_when_to_come_back(name: str, given: float | datetime | None, said: str | None) -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail(name, retry_after=given)
    assert post(vendor).headers.get("retry-after") == said


def test_a_malformed_body_is_no_json() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("malformed")
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        post(vendor).json()


def test_a_redirect_says_where_to() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("redirect", status=302)
    answer = post(vendor)
    assert (answer.status_code, "location" in answer.headers) == (302, True)


def test_every_second_row_fails_in_a_partial_answer() -> None:
    vendor = SimulatedProvider("wingback")
    vendor.fail("partial", code="unknown_customer")
    rows = [{"customer_id": "c", "feature_slug": "F", "units": str(number)} for number in range(4)]
    with httpx.Client(transport=vendor.transport()) as client:
        answer = client.post("https://api.wingback.com/v1/c/usage/bulk", json=rows, headers={"wb-key": "k"})
    assert [(failed["index"], failed["feedback"]["error"]["value"]) for failed in answer.json()] == [
        (0, "Contract not found"),
        (2, "Contract not found"),
    ]
    assert [stored.quantity for stored in vendor.stored] == [Decimal(1), Decimal(3)]


def test_the_rows_that_were_picked_fail_in_a_partial_answer() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("partial", when=["e3"])
    assert (post(vendor, "e1", "e2", "e3", "e4").status_code, keys(vendor)) == (400, ["e1", "e2"])


# The script.


def statuses(vendor: SimulatedProvider, calls: int) -> list[int]:
    return [post(vendor).status_code for _ in range(calls)]


def test_a_fault_lets_some_calls_pass_and_then_hits_as_often_as_told() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("throttled", after=1, times=2)
    assert statuses(vendor, 5) == [202, 429, 429, 202, 202]


def test_a_fault_without_an_end_stays_until_it_is_cleared() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("unavailable", times=None)
    assert statuses(vendor, 3) == [503, 503, 503]
    vendor.clear()
    assert statuses(vendor, 1) == [202]


def test_faults_queue_in_the_order_in_which_they_were_armed() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("throttled")
    vendor.fail("lost_answer")
    assert statuses(vendor, 3) == [429, 504, 202]


def test_a_fault_with_rows_in_mind_leaves_the_others_alone() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("throttled", when="e2")
    assert [post(vendor, *batch).status_code for batch in (("e1",), ("e1", "e2"), ("e2",))] == [202, 429, 202]
    vendor.fail("unavailable", when=lambda sent: sent["event_id"] == "e9")
    assert [post(vendor, *batch).status_code for batch in (("e1",), ("e9",))] == [202, 503]


def test_a_refused_row_stays_refused_until_cleared() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.refuse(lambda sent: sent["event_id"] == "e2")
    assert [post(vendor, *batch).status_code for batch in (("e2",), ("e1", "e2"), ("e1",))] == [400, 400, 202]
    vendor.clear()
    assert post(vendor, "e2").status_code == 202


def test_an_unknown_fault_says_which_exist() -> None:
    with pytest.raises(ValueError, match=r"no fault 'throtled'; did you mean 'throttled'.*unavailable"):
        SimulatedProvider("flexprice").fail("throtled")
    with pytest.raises(ValueError, match=r"no fault 'zzz'\. There are: crash_after, "):
        SimulatedProvider("flexprice").fail("zzz")


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("throttled", {"seconds": 1.0}, "takes no seconds; it takes times, after, when, retry_after"),
        ("timeout", {"status": 500}, "takes no status"),
        ("throttled", {"times": 0}, "times is at least 1"),
        ("throttled", {"after": -1}, "after is at least 0"),
        ("unavailable", {"status": 99}, "from 200 to 599"),
        ("partial", {"code": "nope"}, "nope"),
    ],
)
def test_a_wrong_parameter_is_refused(name: str, parameters: Mapping[str, Any], said: str) -> None:
    vendor = SimulatedProvider("flexprice")
    with pytest.raises(ValueError, match=said):
        vendor.fail(name, **parameters)
    assert vendor.faults == []


def test_reset_goes_back_to_the_start() -> None:
    vendor = SimulatedProvider("flexprice", known_customers=["acme"])
    post(vendor)
    vendor.known_customers = None
    vendor.fail("throttled", times=None)
    vendor.refuse("e1")
    vendor.reset()
    assert (vendor.stored, vendor.calls, vendor.faults, vendor.known_customers) == ([], [], [], {"acme"})
    assert post(vendor).status_code == 202


def test_counting_alone_keeps_nothing() -> None:
    vendor = SimulatedProvider("flexprice", keep=False)
    post(vendor, "e1", "e1")
    assert (vendor.requests, vendor.rows_taken, vendor.stored, vendor.calls) == (1, 2, [], [])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
