"""Explaining: the exact request that would go out, and everything that can be foreseen to go wrong."""

import json
from base64 import b64decode
from dataclasses import replace
from typing import Any

import pytest

from adapters.flexprice import Flexprice
from tests.adapters.worlds import Basic
from tests.gateway.conftest import Asking, House, event

SECRETS = ("secret-flowglad", "secret-paygentic", "secret-flexprice", "secret-wingback")


async def explained(asking: Asking, sent: object) -> list[dict[str, Any]]:
    answer = await asking.client.post("/v1/explain", json=sent)
    assert 200 == answer.status_code
    assert not [secret for secret in SECRETS if secret in answer.text]
    return answer.json()["results"]


async def test_it_shows_the_exact_request_that_is_sent_then(asking: Asking) -> None:
    sent = event(quantity=12, timestamp=asking.gateway.clock.now().isoformat(), properties={"region": "eü", "n": 7})
    (told,) = await explained(asking, sent)
    assert ["index", "id", "deliveries"] == list(told)
    await asking.send(sent)
    for name, vendor in asking.vendors.items():
        shown = told["deliveries"][name]
        assert ["route", "request", "problems"] == list(shown)
        assert ("live", []) == (shown["route"], shown["problems"])
        request, (call,) = shown["request"], vendor.calls
        assert ["method", "url", "headers", "body"] == list(request)
        assert (call.method, vendor.relative(request["url"])) == (request["method"], call.path)
        assert "***" in " ".join(request["headers"].values())
        rows = request["body"] if isinstance(request["body"], list) else next(iter(request["body"].values()))
        assert [dict(row) for row in call.rows] == rows


async def test_a_key_that_is_sent_in_another_form_is_masked_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flexprice, "spec", replace(Flexprice.spec, auth=Basic()))
    async with house() as asking:
        (told,) = await explained(asking, event())
        shown = told["deliveries"]["flexprice"]["request"]["headers"]["authorization"]
        assert b"***:" == b64decode(shown.removeprefix("Basic "))


async def test_every_digit_stands_in_the_body(asking: Asking) -> None:
    answer = await asking.client.post(
        "/v1/explain", content=b'{"id":"e1","customer":"acme","meter":"jobs","quantity":9999999999.99999990}'
    )
    (told,) = answer.json()["results"]
    properties = told["deliveries"]["flexprice"]["request"]["body"]["events"][0]["properties"]
    assert "9999999999.99999990" == properties["quantity"]


async def test_where_an_event_goes_is_shown_before_its_time_has_come(house: House) -> None:
    turn = "2030-12-01T00:00:00Z"
    routes = [{"destination": "flowglad", "until": turn}, {"destination": "paygentic", "from": turn}]
    group = {"flowglad": {"group": "billing"}, "paygentic": {"group": "billing"}}
    meters = {"logins": None, "llm_call": None, "jobs": None}
    async with house({"destinations": group, "routes": routes, "meters": meters}) as asking:
        early, late = "2030-11-30T23:59:59Z", turn
        told = await explained(asking, [event("e1", timestamp=early), event("e2", timestamp=late, quantity="0.5")])
        assert ["timestamp", "timestamp"] == [one["error"]["field"] for one in told]
        routed = [
            {name: one["deliveries"][name]["route"] for name in group if "route" in one["deliveries"][name]}
            for one in told
        ]
        assert [{"flowglad": "live", "paygentic": "filtered"}, {"flowglad": "filtered", "paygentic": "live"}] == routed
        (problem,) = told[1]["deliveries"]["paygentic"]["problems"]
        assert "quantity_not_representable" == problem["code"]


async def test_nothing_is_sent_and_nothing_is_stored(asking: Asking) -> None:
    await explained(asking, [event(), event("e2", customer="nobody"), event("e3", meter="unheard")])
    assert {0} == set(asking.calls.values())
    assert {"data": []} == await asking.get("/v1/events")
    assert "delivered" == (await asking.one(event()))["status"]


@pytest.mark.parametrize(
    ("sent", "destination", "code"),
    [
        (event(customer="nobody"), "flowglad", "unmapped_customer"),
        (event(customer="nobody"), "wingback", "unmapped_customer"),
        (event(quantity="0.5"), "flowglad", "quantity_not_representable"),
        (event(quantity="0.5"), "paygentic", "quantity_not_representable"),
        (event(quantity=-1), "flexprice", "quantity_not_representable"),
        (event(quantity=-1), "wingback", "quantity_not_representable"),
        (event(kind="absolute"), "wingback", "unsupported"),
        (event(quantity=None, quantities={"input": 1}), "flowglad", "unsupported"),
    ],
)
async def test_what_a_destination_will_refuse_is_foreseen(
    asking: Asking, sent: dict[str, Any], destination: str, code: str
) -> None:
    (told,) = await explained(asking, sent)
    foreseen = told["deliveries"][destination]
    assert "request" not in foreseen
    assert [code] == [problem["code"] for problem in foreseen["problems"]]
    result = await asking.one(sent)
    assert foreseen["problems"][0] == result["deliveries"][destination]["error"]
    assert foreseen["status"] == result["deliveries"][destination]["status"]


async def test_shadow_filtered_and_zero_are_told(house: House) -> None:
    async with house({"destinations": {"wingback": {"mode": "shadow"}}}) as asking:
        plain, job = await explained(asking, [event(quantity=0), event("e2", meter="jobs")])
        told = {name: (one["route"], one.get("reason")) for name, one in plain["deliveries"].items()}
        assert {
            "flowglad": ("live", "zero"),
            "paygentic": ("live", "zero"),
            "flexprice": ("live", None),
            "wingback": ("shadow", None),
        } == told
        assert ("filtered", "no_binding") == tuple(
            job["deliveries"]["flowglad"].get(name) for name in ("route", "reason")
        )


async def test_an_event_without_any_way_is_told_so(asking: Asking) -> None:
    (told,) = await explained(asking, event(meter="unheard"))
    assert ("unrouted", {}, ["unknown_meter"]) == (
        told["status"],
        told["deliveries"],
        [problem["code"] for problem in told["problems"]],
    )


async def test_several_rows_at_a_vendor_are_in_one_request(asking: Asking) -> None:
    sent = event(meter="llm_call", quantity=None, quantities={"input": 1200, "output": 300})
    (told,) = await explained(asking, sent)
    rows = told["deliveries"]["flowglad"]["request"]["body"]["usageEvents"]
    assert [("tokens_in", 1200), ("tokens_out", 300)] == [(row["priceSlug"], row["amount"]) for row in rows]
    assert 2 == len({row["transactionId"] for row in rows})


async def test_a_body_is_explained_as_it_would_be_taken(asking: Asking) -> None:
    many = [event(f"e{index}") for index in range(45)]
    many[41] = event("bad", quantity="NaN")
    told = await explained(asking, many)
    assert list(range(45)) == [one["index"] for one in told]
    assert ["index", "id", "error", "deliveries"] == list(told[41])
    assert ("invalid_event", "quantity") == (told[41]["error"]["code"], told[41]["error"]["field"])
    assert 400 == (await asking.client.post("/v1/explain", content=b"[")).status_code
    answer = await asking.client.post("/v1/explain", content=json.dumps(event()), headers={"content-type": "text/x"})
    assert 415 == answer.status_code
