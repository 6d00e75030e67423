"""What people decide: unknown deliveries are resolved, dead letters go again, and all of it is on record."""

import json
from datetime import timedelta
from typing import Any

import pytest

from gateway import fullness
from gateway.configuration.file import loads
from gateway.errors import ConfigurationError
from gateway.ledger.check import add_up
from gateway.listing import Filter
from gateway.repair import Actor, resolve_many, retry

from .conftest import CONFIGURATION

pytestmark = pytest.mark.anyio
UNITS = {("Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670", "api_calls"): 3}


async def resolve(house: Any, resolution: str, event_id: str = "e1") -> tuple[int, dict[str, Any]]:
    body = {"id": event_id, "destination": "wingback", "resolution": resolution, "reason": "counters compared"}
    reply = await house.client.post("/v1/deliveries/resolve", json=body)
    return reply.status_code, reply.json()


async def test_an_unknown_that_arrived_is_accepted_and_not_sent_again(house: Any) -> None:
    house.vendors["wingback"].fail("lost_answer")
    assert "unknown" == (await house.send("e1"))["deliveries"]["wingback"]["status"]
    assert (200, {"id": "e1", "destination": "wingback", "status": "accepted"}) == await resolve(house, "accepted")
    assert "delivered" == (await house.detail("e1"))["status"]
    assert 1 == len(house.vendors["wingback"].calls)
    assert UNITS == house.vendors["wingback"].billed()


async def test_an_unknown_that_never_arrived_is_sent_again(house: Any) -> None:
    house.vendors["wingback"].fail("reset_before")
    assert "unknown" == (await house.send("e1"))["deliveries"]["wingback"]["status"]
    assert 200 == (await resolve(house, "resend"))[0]
    await house.until("e1", "wingback", "accepted")
    assert UNITS == house.vendors["wingback"].billed()


async def test_an_abandoned_unknown_is_dead_and_nothing_is_sent(house: Any) -> None:
    house.vendors["wingback"].fail("lost_answer")
    await house.send("e1")
    assert "dead" == (await resolve(house, "abandon"))[1]["status"]
    assert 1 == len(house.vendors["wingback"].calls)


async def test_only_an_unknown_can_be_resolved_and_only_once(house: Any) -> None:
    await house.send("e1")
    status, problem = await resolve(house, "accepted")
    assert (409, "conflict") == (status, problem["code"])
    assert "the delivery to wingback is accepted, not unknown: there is nothing to resolve" == problem["detail"]
    body = {"id": "e1", "destination": "wingbak", "resolution": "accepted", "reason": "counters compared"}
    reply = await house.client.post("/v1/deliveries/resolve", json=body)
    assert (404, "the event has no delivery to wingbak") == (reply.status_code, reply.json()["detail"])
    assert 404 == (await resolve(house, "accepted", "nobody"))[0]
    house.vendors["wingback"].fail("lost_answer")
    await house.send("e2")
    assert 200 == (await resolve(house, "accepted", "e2"))[0]
    assert 409 == (await resolve(house, "resend", "e2"))[0]


async def test_a_rejected_delivery_goes_again_once_the_vendor_knows_the_price(house: Any) -> None:
    await house.send("e1", meter="api_calls")
    vendor = house.vendors["flowglad"]
    vendor.known_meters = set()
    assert "rejected" == (await house.send("e2"))["deliveries"]["flowglad"]["status"]
    vendor.known_meters = None
    reply = await house.client.post("/v1/deliveries/retry", json={"ids": ["e2"], "reason": "price added"})
    assert [{"id": "e2", "destination": "flowglad"}] == reply.json()["retried"]
    await house.until("e2", "flowglad", "accepted")
    assert {("sub_acme", "api_calls"): 6} == vendor.billed()


async def test_dead_letters_are_found_by_filter_and_streamed_as_lines(house: Any) -> None:
    house.vendors["flowglad"].known_meters = set()
    for number in range(3):
        await house.send(f"e{number}")
    lines = (await house.client.get("/v1/deliveries?status=rejected")).text.splitlines()
    assert 3 == len(lines)
    house.vendors["flowglad"].known_meters = None
    body = {"filter": {"destination": "flowglad"}, "remap": True, "reason": "catalogue mended"}
    assert 3 == len((await house.client.post("/v1/deliveries/retry", json=body)).json()["retried"])
    await house.until("e2", "flowglad", "accepted")
    assert "" == (await house.client.get("/v1/deliveries?status=rejected")).text


async def test_letters_of_one_batch_are_read_once_and_all_of_them_or_none(house: Any) -> None:
    await house.send("before")
    house.vendors["flowglad"].known_meters = set()
    sent = [{"id": f"e{n}", "customer": "acme", "meter": "api_calls", "quantity": 3} for n in range(40)]
    await house.client.post("/v1/events?ack=all", json=sent)
    house.vendors["flowglad"].known_meters = None
    await house.send("after")
    read = 0
    snapshots = house.gateway.ledger.snapshots

    async def counted(batches: list[int]) -> Any:
        nonlocal read
        read += len(batches)
        return await snapshots(batches)

    house.gateway.ledger.snapshots = counted
    lines = (await house.client.get("/v1/deliveries?status=rejected")).text.splitlines()
    assert [f"e{n}" for n in reversed(range(40))] == [json.loads(line)["event"]["id"] for line in lines]
    assert 1 == read, "nor are batches read that hold none"
    await house.send("nobody", customer="nobody")
    read = 0
    for status in ("blocked", "pending", "retrying"):
        lines = (await house.client.get(f"/v1/deliveries?status={status}&destination=flowglad")).text.splitlines()
        assert (["nobody"] if status == "blocked" else []) == [json.loads(line)["event"]["id"] for line in lines]
    assert 1 == read
    everywhere = (await house.client.get("/v1/deliveries?status=accepted&destination=wingback")).text.splitlines()
    assert ["after", "e39", "e38"] == [json.loads(line)["event"]["id"] for line in everywhere][:3]
    assert 42 == len(everywhere)
    for query in ("limit=10", "cursor=5"):
        reply = await house.client.get(f"/v1/deliveries?{query}")
        assert (400, True) == (reply.status_code, "is for pages" in reply.json()["detail"])


async def test_a_retry_needs_no_reason_and_says_of_each_id_what_became_of_it(house: Any) -> None:
    vendor = house.vendors["flowglad"]
    vendor.known_meters = set()
    await house.send("lacking")
    vendor.known_meters = None
    await house.send("fine")
    house.vendors["wingback"].fail("lost_answer")
    await house.send("doubtful")
    await resolve(house, "abandon", "doubtful")
    body = {"ids": ["fine", "nobody", "lacking", "doubtful", "nobody"]}
    reply = (await house.client.post("/v1/deliveries/retry", json=body)).json()
    assert [{"id": "lacking", "destination": "flowglad"}] == reply["retried"]
    assert [
        ("doubtful", "wingback", "it was given up in doubt and may be stored there: bill it there if it is not"),
        ("fine", None, "no delivery of it is dead or rejected, or its record is no longer kept"),
        ("nobody", None, "no event of this tenant has this id"),
    ] == [(one["id"], one.get("destination"), one["why"]) for one in reply["skipped"]]
    (row, _) = (await house.client.get("/v1/audit")).json()["data"]
    assert ("retry", "") == (row["action"], row["reason"])


async def test_a_retry_of_what_a_filter_finds_is_of_all_of_it_and_takes_no_limit(house: Any) -> None:
    house.vendors["flowglad"].known_meters = set()
    await house.send("e1")
    reply = await house.client.post("/v1/deliveries/retry", json={"filter": {"limit": "1"}})
    assert (400, True) == (reply.status_code, "limit is for pages" in reply.json()["detail"])
    assert "rejected" == (await house.detail("e1"))["deliveries"]["flowglad"]["status"]


async def test_a_retry_says_what_its_filter_takes_and_that_it_was_asked_for_too_much(house: Any) -> None:
    reply = await house.client.post("/v1/deliveries/retry", json={"filter": {"colour": "red"}})
    says = "unknown filter 'colour': there are customer, destination, from, meter, status, to"
    assert (400, says) == (reply.status_code, reply.json()["detail"])
    reply = await house.client.post("/v1/deliveries/retry", json={"ids": ["x" * 128] * 9000})
    says = "the body is larger than 1048576 bytes: ask for less at a time"
    assert (413, says) == (reply.status_code, reply.json()["detail"])


async def test_the_audit_trail_takes_no_parameter_that_it_does_not_know(house: Any) -> None:
    reply = await house.client.get("/v1/audit?actor=backend")
    assert (400, "unknown parameter 'actor': there are cursor and limit") == (reply.status_code, reply.json()["detail"])


async def test_every_decision_is_on_record_with_its_reason(house: Any) -> None:
    house.vendors["wingback"].fail("lost_answer")
    await house.send("e1")
    await resolve(house, "abandon")
    (row,) = (await house.client.get("/v1/audit")).json()["data"]
    row.pop("at")
    assert {
        "number": 1,
        "actor": "anonymous",
        "action": "resolve",
        "target": "e1",
        "destination": "wingback",
        "reason": "counters compared",
        "before": "unknown",
        "after": "abandon",
    } == row


async def test_a_wrong_request_says_what_is_wrong(house: Any) -> None:
    reply = await house.client.post("/v1/deliveries/retry", json={"ids": ["e1"], "filter": {}, "reason": "x"})
    assert (400, "body: give ids or filter, one of the two") == (reply.status_code, reply.json()["detail"])
    reply = await house.client.post(
        "/v1/deliveries/resolve", json={"ids": "e1", "reason": 3, "destination": "wingback"}
    )
    assert 400 == reply.status_code
    says = "resolution: is missing; reason: should be text: write it in quotes; ids: unknown member; did you mean id?"
    assert says == reply.json()["detail"]
    reply = await house.client.post("/v1/deliveries/resolve", content=b"id,e1")
    assert (400, "body: is no JSON: send an object as application/json") == (reply.status_code, reply.json()["detail"])


async def test_absolute_values_of_one_key_wait_for_an_unknown_head_and_others_do_not(house: Any) -> None:
    vendor = house.vendors["wingback"]
    vendor.fail("lost_answer")
    await house.send("a1", kind="absolute", quantity=1)
    second = await house.client.post(
        "/v1/events",
        json={"id": "a2", "customer": "acme", "meter": "api_calls", "quantity": 3, "kind": "absolute"},
        headers={"prefer": "respond-async"},
    )
    assert 202 == second.status_code
    assert "accepted" == (await house.send("d1"))["deliveries"]["wingback"]["status"]
    assert "pending" == (await house.detail("a2"))["deliveries"]["wingback"]["status"]
    await resolve(house, "accepted", "a1")
    assert "accepted" == (await house.send("a2", kind="absolute"))["deliveries"]["wingback"]["status"]
    sent = [row["metadata"]["gateway_event_id"] for call in vendor.calls for row in call.rows]
    assert ["a1", "d1", "a2"] == sent


async def test_the_ledger_adds_up_after_all_of_it(house: Any) -> None:
    house.vendors["wingback"].fail("lost_answer")
    house.vendors["flowglad"].known_meters = set()
    await house.send("e1")
    await house.send("e2", customer="nobody")
    await house.send("e3", quantity="1.5")
    report = add_up(house.path / "ledger.db")
    assert [] == report["problems"]
    assert (3, 6) == (report["events"], sum(one["deliveries"] for one in report["destinations"].values()))


async def test_a_reload_mends_a_blocked_delivery_and_is_on_record(house: Any) -> None:
    assert "blocked" == (await house.send("e1", customer="umbrella"))["deliveries"]["flowglad"]["status"]
    links = "\n  umbrella: {flowglad: {subscription_id: sub_umbrella}}\ndelivery:"
    await house.gateway.reload(loads(CONFIGURATION.replace("\ndelivery:", links), {}))
    await house.until("e1", "flowglad", "accepted")
    assert 2 == (await house.client.get("/readyz")).json()["configuration"]["generation"]
    assert "configure" == (await house.client.get("/v1/audit")).json()["data"][0]["action"]


async def test_what_needs_a_restart_is_refused_and_changes_nothing(house: Any) -> None:
    other = loads(CONFIGURATION + "\nlisten: {port: 9}", {})
    with pytest.raises(ConfigurationError, match="listen cannot change while the gateway runs"):
        await house.gateway.reload(other)
    assert 1 == house.gateway.generation.number


async def test_a_full_queue_is_a_503_at_the_door(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    full = CONFIGURATION + "\nintake: {max_queue: 2}"
    await house.gateway.reload(loads(full, {}))
    await house.send("e1", customer="nobody")
    reply = await house.client.post(
        "/v1/events", json={"id": "e2", "customer": "acme", "meter": "api_calls", "quantity": 1}
    )
    monkeypatch.setattr(fullness, "OLDEST", timedelta(0))
    reply = await house.client.post(
        "/v1/events", json={"id": "e3", "customer": "acme", "meter": "api_calls", "quantity": 1}
    )
    assert (503, "ledger_unavailable", True) == (
        reply.status_code,
        reply.json()["code"],
        "retry-after" in reply.headers,
    )
    assert 404 == (await house.client.get("/v1/events/e3")).status_code


async def test_all_that_is_unknown_at_a_destination_is_decided_at_once_by_filter(house: Any) -> None:
    house.vendors["wingback"].fail("lost_answer")
    several = [{"id": f"e{n}", "customer": "acme", "meter": "api_calls", "quantity": n + 1} for n in range(3)]
    answer = await house.client.post("/v1/events?ack=all", json=several, headers={"prefer": "wait=20"})
    assert {"unknown"} == {one["status"] for one in answer.json()["results"]}
    said = {"destination": "wingback", "resolution": "accepted", "reason": "we looked"}
    for wrong in ({}, {"id": "e0", "filter": {}}, {"id": "e0", "dry_run": True}, {"filter": {"status": "unknown"}}):
        assert 400 == (await house.client.post("/v1/deliveries/resolve", json={**said, **wrong})).status_code
    typo = await house.client.post("/v1/deliveries/resolve", json={**said, "destination": "wingbat", "filter": {}})
    wanted = 404, "destination: unknown destination; did you mean wingback?"
    assert wanted == (typo.status_code, typo.json()["detail"])
    told = await house.client.post("/v1/deliveries/resolve", json={**said, "filter": {"customer": "nobody"}})
    assert 0 == told.json()["resolved"]
    told = await house.client.post("/v1/deliveries/resolve", json={**said, "filter": {"customer": "acme"}})
    assert {**said, "object": "resolve_result", "dry_run": False, "resolved": 3} == {
        **told.json(),
        "reason": "we looked",
    }
    for number in range(3):
        assert "accepted" == (await house.detail(f"e{number}"))["deliveries"]["wingback"]["status"]
    rows = [row for row in (await house.client.get("/v1/audit")).json()["data"] if row["action"] == "resolve"]
    assert ["e2", "e1", "e0"] == [row["target"] for row in rows]


async def test_nobody_decides_what_becomes_of_another_tenants_deliveries(house: Any) -> None:
    house.vendors["wingback"].fail("lost_answer")
    house.vendors["flowglad"].known_meters = set()
    await house.send("e1")
    await house.until("e1", "wingback", "unknown")
    ledger, other = house.gateway.ledger, Actor("other", "op", "ours are")
    assert (0, []) == await resolve_many(ledger, other, "wingback", Filter(), "resend", 1, dry_run=False)
    said = await retry(ledger, other, Filter(), remap=False, now=1)
    assert ([], []) == (said["retried"], said["skipped"])
    shown = (await house.detail("e1"))["deliveries"]
    assert ("unknown", "rejected") == (shown["wingback"]["status"], shown["flowglad"]["status"])
