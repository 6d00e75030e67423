"""Corrections over HTTP: a whole gateway, four simulated vendors, a ledger on disk."""

from hashlib import sha256
from typing import Any

import pytest

from gateway.ledger.check import add_up
from tests.gateway.conftest import CONTRACT, Asking, House, event
from tests.gateway.corrections.asking import ask, billed, corrected, statuses

pytestmark = pytest.mark.anyio


async def test_a_void_is_what_each_vendor_can_make_of_it(asking: Asking) -> None:
    await asking.one(event())
    answer = await corrected(asking, "e1")
    assert ("e1~c1", "e1", "void", False) == (answer["id"], answer["corrects"], answer["action"], answer["replayed"])
    assert ({"quantity": "3"}, {}) == (answer["before"], answer["after"])
    assert {
        "flexprice": "accepted", "flowglad": "rejected", "paygentic": "accepted", "wingback": "rejected",
    } == statuses(answer)  # fmt: skip
    assert "partial" == answer["status"]
    assert ["unsupported"] * 2 == [answer["deliveries"][name]["error"]["code"] for name in ("flowglad", "wingback")]
    assert "allow_negative" in answer["deliveries"]["wingback"]["error"]["message"]
    assert {"flexprice": 0, "paygentic": 0, "flowglad": 3, "wingback": 3} == billed(asking)


async def test_no_event_is_sent_again_where_nobody_says_that_the_vendor_takes_it(house: House) -> None:
    async with house({"destinations": {"flexprice": {"settings": {"allow_amend": None}}}}) as asking:
        await asking.one(event())
        requests = asking.vendors["flexprice"].requests
        refused = (await corrected(asking, "e1"))["deliveries"]["flexprice"]
        assert ("rejected", "unsupported") == (refused["status"], refused["error"]["code"])
        assert "set destinations.flexprice.settings.allow_amend" in refused["error"]["message"]
        assert (3, requests) == (billed(asking)["flexprice"], asking.vendors["flexprice"].requests)


async def test_a_replacement_is_billed_instead_where_it_can_be_said(house: House) -> None:
    async with house({"destinations": {"wingback": {"settings": {"allow_negative": True}}}}) as asking:
        await asking.one(event())
        answer = await corrected(asking, "e1", "correct", quantity=2)
        assert ("replace", {"quantity": "2"}) == (answer["action"], answer["after"])
        assert {
            "flexprice": "accepted", "flowglad": "rejected", "paygentic": "accepted", "wingback": "accepted",
        } == statuses(answer)  # fmt: skip
        assert ("e1~c1", "e1~c2") == (answer["refund"]["id"], answer["id"])
        refund = answer["refund"]["deliveries"]["paygentic"]
        assert ("accepted", "usg_e1") == (refund["status"], refund["provider_event_id"])
        assert {"flexprice": 2, "paygentic": 2, "flowglad": 3, "wingback": 2} == billed(asking)
        await corrected(asking, "e1", "correct", quantity="7")
        assert {"flexprice": 7, "paygentic": 7, "flowglad": 7, "wingback": 7} == billed(asking)
        await corrected(asking, "e1")
        assert {"flexprice": 0, "paygentic": 0, "flowglad": 7, "wingback": 0} == billed(asking)
        await corrected(asking, "e1", "correct", quantity="5")
        assert {"flexprice": 5, "paygentic": 5, "flowglad": 7, "wingback": 5} == billed(asking)
        assert 1 == asking.vendors["flexprice"].billed().keys().__len__()


async def test_the_same_again_answers_the_same_and_sends_nothing(asking: Asking) -> None:
    await asking.one(event())
    first = await corrected(asking, "e1", "correct", quantity=5)
    calls = asking.calls
    again = await corrected(asking, "e1", "correct", quantity="5.0")
    assert {**first, "replayed": True} == again
    assert calls == asking.calls
    status, problem = await ask(asking, "/v1/events/e1~c1/void")
    assert (409, "conflict") == (status, problem["code"])


async def test_an_event_and_its_corrections_show_each_other(asking: Asking) -> None:
    await asking.one(event())
    await corrected(asking, "e1", "correct", quantity=5)
    found = await asking.get("/v1/events/e1")
    assert ({"quantity": "5"}, "3") == (found["current"], found["event"]["quantity"])
    assert [("e1~c1", "refund"), ("e1~c2", "replace")] == [(one["id"], one["action"]) for one in found["corrections"]]
    other = await asking.get("/v1/events/e1~c2")
    assert ("e1", "2", "a meter ran twice") == (
        other["event"]["corrects"]["id"], other["event"]["quantity"], other["event"]["corrects"]["reason"],
    )  # fmt: skip
    await corrected(asking, "e1")
    assert {"void": True} == (await asking.get("/v1/events/e1"))["current"]
    (row, *_) = (await asking.get("/v1/audit"))["data"]
    assert ("void", "e1", "5", "void") == (row["action"], row["target"], row["before"], row["after"])


async def test_no_sender_can_write_a_correction(asking: Asking) -> None:
    forged = event(corrects={"of": "e1", "number": 1, "action": "void", "before": {}, "after": {}, "reason": "x"})
    one = await asking.one(forged)
    assert ("invalid", "unknown member") == (one["status"], one["error"]["message"].partition(": ")[2])
    await asking.one(event())
    await asking.one(event("e1~c1"))
    status, problem = await ask(asking, "/v1/events/e1/void")
    assert (409, "conflict") == (status, problem["code"])
    assert {"current", "corrections"}.isdisjoint(await asking.get("/v1/events/e1"))
    assert {"flexprice": 6} == {"flexprice": billed(asking)["flexprice"]}


async def test_what_was_not_sent_is_taken_back(house: House) -> None:
    async with house() as asking:
        blocked = await asking.one(event(customer="nobody"))
        assert "blocked" == blocked["deliveries"]["flowglad"]["status"]
        answer = await corrected(asking, "e1")
        assert {"filtered"} == {statuses(answer)[name] for name in ("flowglad", "paygentic", "wingback")}
        assert "voided" == answer["deliveries"]["flowglad"]["reason"]
        found = await asking.get("/v1/events/e1")
        assert ("filtered", "voided") == tuple(found["deliveries"]["flowglad"][name] for name in ("status", "reason"))
        assert "delivered" == found["status"]


async def test_what_was_not_sent_goes_with_the_new_quantity(house: House) -> None:
    async with house() as asking:
        await asking.one(event(customer="late"))
        await corrected(asking, "e1", "correct", quantity=8)
    links = {"flowglad": {"subscription_id": "sub_late"}, "wingback": {"customer_id": CONTRACT}}
    async with house({"customers": {"late": links}}) as asking:
        await asking.settled("e1~c2")
        assert {("sub_late", "api_calls"): 8} == asking.vendors["flowglad"].billed()
        assert {(CONTRACT, "API_CALLS"): 8} == asking.vendors["wingback"].billed()


async def test_a_refused_event_that_is_void_cannot_be_retried(asking: Asking) -> None:
    vendor = asking.vendors["flowglad"]
    vendor.known_meters = set()
    assert "rejected" == (await asking.one(event()))["deliveries"]["flowglad"]["status"]
    assert "filtered" == statuses(await corrected(asking, "e1"))["flowglad"]
    vendor.known_meters = None
    status, answer = await ask(asking, "/v1/deliveries/retry", ids=["e1", "e1~c1"], remap=True)
    assert (200, []) == (status, [one for one in answer["retried"] if one["destination"] == "flowglad"])
    assert 0 == billed(asking)["flowglad"]


async def test_what_is_unknown_has_to_be_resolved_first(house: House) -> None:
    async with house({"destinations": {"wingback": {"settings": {"allow_negative": True}}}}) as asking:
        asking.vendors["wingback"].fail("lost_answer")
        await asking.one(event())
        status, problem = await ask(asking, "/v1/events/e1/void")
        assert (409, "it is unknown whether it arrived at wingback: resolve that first") == (status, problem["detail"])
        await ask(asking, "/v1/deliveries/resolve", id="e1", destination="wingback", resolution="accepted")
        assert "accepted" == statuses(await corrected(asking, "e1"))["wingback"]
        assert 0 == billed(asking)["wingback"]


async def test_what_is_unknown_where_it_was_only_shadowed_holds_up_no_correction(house: House) -> None:
    async with house(
        {"destinations": {"wingback": {"mode": "shadow", "settings": {"allow_negative": True}}}}
    ) as asking:
        asking.vendors["wingback"].fail("lost_answer")
        assert "delivered" == (await asking.one(event(), query="?ack=all"))["status"]
        await asking.settled("e1")
        status, foreseen = await ask(asking, "/v1/events/e1/correct", quantity=7, dry_run=True)
        assert (200, "waits", True) == (status, *map(foreseen["deliveries"]["wingback"].get, ("does", "shadow")))
        answer = await corrected(asking, "e1", "correct", quantity=7)
        assert "delivered" == answer["status"]
        assert ("pending", True) == tuple(map(answer["deliveries"]["wingback"].get, ("status", "shadow")))
        assert {"flexprice": 7, "paygentic": 7, "flowglad": 7, "wingback": 3} == billed(asking)
        said = await ask(asking, "/v1/corrections", filter={"customer": "acme"}, action="replace", quantity=8)
        assert (200, 1, []) == (said[0], said[1]["corrected"], said[1]["skipped"])


LOOKING_ON = {
    "destinations": {"wingback": {"settings": {"allow_negative": True}}},
    "customers": {
        "globex": {
            "flowglad": {"subscription_id": "sub_globex"},
            "paygentic": {"customer_id": "cus_globex"},
            "wingback": {"customer_id": "Cust_00000000-0000-4000-8000-000000910be8"},
        }
    },
    "routes": [
        {"destination": "wingback", "customers": ["acme"]},
        {"destination": "wingback", "customers": ["globex"], "mode": "shadow"},
    ],
}


async def test_corrections_of_many_count_and_look_on_where_their_events_do(house: House, tmp_path: Any) -> None:
    async with house(LOOKING_ON) as asking:
        await asking.send([event("a"), event("g", customer="globex"), event("b")], query="?ack=all")
        for action in ({"action": "replace", "quantity": 5}, {"action": "void"}):
            status, said = await ask(asking, "/v1/corrections", filter={"meter": "api_calls"}, **action)
            assert (200, 3, []) == (status, said["corrected"], said["skipped"])
            seen: dict[str, list[bool]] = {"a": [], "b": [], "g": []}
            for name, counts in seen.items():
                for one in (await asking.get(f"/v1/events/{name}"))["corrections"]:
                    await asking.settled(one["id"])
                    found = (await asking.get(f"/v1/events/{one['id']}"))["deliveries"].get("wingback", {})
                    counts += [not found.get("shadow", False)] if found.get("attempts") else []
            assert {"a": {True}, "b": {True}, "g": {False}} == {name: set(counts) for name, counts in seen.items()}
    assert [] == add_up(tmp_path / "ledger.db")["problems"]


async def test_a_correction_without_an_answer_is_unknown_where_repeats_are_billed(house: House) -> None:
    async with house({"destinations": {"wingback": {"settings": {"allow_negative": True}}}}) as asking:
        await asking.one(event())
        for vendor in asking.vendors.values():
            vendor.fail("lost_answer")
        answer = await corrected(asking, "e1")
        assert ("unknown", "unknown") == (statuses(answer)["wingback"], statuses(answer)["paygentic"])
        assert {"flexprice": 0, "wingback": 0, "paygentic": 0, "flowglad": 3} == billed(asking)
        status, _ = await ask(asking, "/v1/events/e1/correct", quantity=9)
        assert 409 == status


async def test_a_correction_is_foreseen_without_doing_anything(asking: Asking) -> None:
    await asking.one(event())
    calls = asking.calls
    answer = await corrected(asking, "e1", "correct", quantity=2, dry_run=True)
    assert {
        "flexprice": "amend", "flowglad": "unsupported", "paygentic": "refund, then new row", "wingback": "unsupported",
    } == {name: one["does"] for name, one in answer["deliveries"].items()}  # fmt: skip
    assert calls == asking.calls
    assert 404 == (await asking.client.get("/v1/events/e1~c1")).status_code
    assert [] == (await asking.get("/v1/audit"))["data"]


async def test_many_are_corrected_by_filter_once(house: House, tmp_path: Any) -> None:
    async with house() as asking:
        await asking.send([event(f"e{number}") for number in range(5)] + [event("other", customer="zoe")])
        wanted: dict[str, Any] = {"filter": {"customer": "acme", "meter": "api_calls"}, "action": "scale"}
        status, foreseen = await ask(asking, "/v1/corrections", **wanted, factor="2", dry_run=True)
        assert (200, 5, []) == (status, foreseen["corrected"], foreseen["skipped"])
        (impact,) = foreseen["impact"]
        assert ("acme", "api_calls", 5) == (impact["customer"], impact["meter"], impact["events"])
        assert ({"quantity": "15"}, {"quantity": "30"}) == (impact["before"], impact["after"])
        assert {"amend": 5} == impact["destinations"]["flexprice"]
        _, done = await ask(asking, "/v1/corrections", **wanted, factor=2)
        assert {**foreseen, "dry_run": False} == done
        for number in range(5):
            await asking.settled(f"e{number}~c2")
        assert {"flexprice": 30, "paygentic": 30, "flowglad": 30, "wingback": 30} == billed(asking)
        _, again = await ask(asking, "/v1/corrections", **wanted, factor="2.0")
        assert (0, 5, []) == (again["corrected"], again["unchanged"], again["impact"])
    assert [] == add_up(tmp_path / "ledger.db")["problems"]


async def test_more_than_so_many_are_corrected_by_no_request(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.corrections.many.MOST", 2)
    await asking.send([event("e1"), event("e2"), event("other", customer="zoe")])
    status, problem = await ask(asking, "/v1/corrections", filter={"meter": "api_calls"}, action="void")
    assert (422, True) == (status, problem["detail"].startswith("more than 2 events match"))
    assert [] == (await asking.get("/v1/audit"))["data"]
    assert 2 == (await ask(asking, "/v1/corrections", filter={"customer": "acme"}, action="void"))[1]["corrected"]


async def test_the_impact_is_of_each_measure_that_an_event_says(asking: Asking) -> None:
    said = [{"input": 10, "output": 4}, {"input": 1}]
    await asking.send([event(f"e{n}", meter="llm_call", quantity=None, quantities=each) for n, each in enumerate(said)])
    _, done = await ask(asking, "/v1/corrections", filter={"meter": "llm_call"}, action="void", dry_run=True)
    assert [{"input": "11", "output": "4"}] == [one["before"]["quantities"] for one in done["impact"]]
    assert [{"input": "0", "output": "0"}] == [one["after"]["quantities"] for one in done["impact"]]


async def test_many_corrections_do_not_look_their_events_up_one_by_one(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asking.send([event(f"e{number}") for number in range(30)])
    finds: list[str] = []
    find = asking.gateway.ledger.find

    async def counted(tenant: str, event_id: str) -> int | None:
        finds.append(event_id)
        return await find(tenant, event_id)

    monkeypatch.setattr(asking.gateway.ledger, "find", counted)
    _, done = await ask(asking, "/v1/corrections", filter={"meter": "api_calls"}, action="void")
    assert (30, []) == (done["corrected"], finds)


async def test_a_wrong_request_says_what_is_wrong(asking: Asking) -> None:
    await asking.one(event())
    for path, body, says in (
        ("/v1/events/e1/correct", {}, "give quantity or quantities"),
        ("/v1/events/e1/correct", {"quantity": True}, "must be a finite decimal"),
        ("/v1/events/e1/correct", {"quantities": {"in": 1}}, "a plain quantity"),
        ("/v1/events/e1/void", {"reason": ""}, "reason"),
        ("/v1/corrections", {"filter": {}, "action": "void"}, "filter"),
        ("/v1/corrections", {"filter": {"meter": "m"}, "action": "scale"}, "scale takes factor"),
        ("/v1/corrections", {"filter": {"limit": "3"}, "action": "void"}, "leave it out"),
    ):
        status, problem = await ask(asking, path, **body)
        assert status in {400, 422}
        assert says in problem["detail"], problem
    assert 404 == (await ask(asking, "/v1/events/nobody/void"))[0]
    assert 409 == (await ask(asking, "/v1/events/e1/correct", quantity=3))[0]


@pytest.mark.parametrize("path", ["/v1/events/e1/void", "/v1/events/e1/correct", "/v1/corrections"])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"reason": "\xff"}', "body: "),
        (b'{"reason": "x"', "body: "),
        (b"\xff", "body: "),
        (b"[]", "body: should be an object"),
        (b"1", "body: should be an object"),
    ],
)
async def test_a_body_that_is_no_object_of_json_is_refused(asking: Asking, path: str, body: bytes, says: str) -> None:
    answer = await asking.client.post(path, content=body)
    assert (400, "invalid_request") == (answer.status_code, answer.json()["code"])
    assert answer.json()["detail"].startswith(says)


async def test_measures_in_one_row_and_in_rows_of_their_own_are_corrected(asking: Asking) -> None:
    await asking.one(event(meter="llm_call", quantity=None, quantities={"input": 10, "output": 4}))
    vendor = asking.vendors["flexprice"]
    vendor.quantity_properties["llm_call"] = ["in", "out"]
    answer = await corrected(asking, "e1", "correct", quantities={"input": 12, "output": "9"})
    assert {"flexprice": "accepted", "flowglad": "accepted"} == statuses(answer)
    assert {("acme", "llm_call.in"): 12, ("acme", "llm_call.out"): 9} == vendor.billed()
    assert {("sub_acme", "tokens_in"): 12, ("sub_acme", "tokens_out"): 9} == asking.vendors["flowglad"].billed()


async def test_a_counted_event_is_voided_where_zero_is_as_good_as_none(asking: Asking) -> None:
    await asking.one(event(meter="logins", quantity=None))
    status, problem = await ask(asking, "/v1/events/e1/correct", quantity=2)
    assert (422, "unsupported") == (status, problem["code"])
    answer = await corrected(asking, "e1")
    assert {"flexprice": "rejected", "flowglad": "rejected"} == statuses(answer)
    assert "aggregates by count" in answer["deliveries"]["flexprice"]["error"]["message"]
    shown = (await asking.get("/v1/events/e1~c1"))["deliveries"]
    assert {"no_binding"} == {shown[name].get("reason") for name in ("paygentic", "wingback")}


async def test_what_has_no_way_yet_or_is_a_running_value_is_not_corrected(house: House) -> None:
    async with house({"destinations": {"wingback": {"settings": {"allow_absolute": True}}}}) as asking:
        assert "unrouted" == (await asking.one(event(meter="unheard_of")))["status"]
        assert 409 == (await ask(asking, "/v1/events/e1/void"))[0]
        await asking.one(event("a1", kind="absolute"))
        assert 422 == (await ask(asking, "/v1/events/a1/void"))[0]


async def test_a_destination_that_is_switched_off_gives_back_what_waits_for_it(house: House) -> None:
    async with house() as asking:
        await asking.one(event(customer="nobody"))
        await asking.one(event("e2"))
    off: dict[str, Any] = {"destinations": {"flowglad": {"mode": "off"}, "flexprice": {"mode": "off"}}}
    async with house(off) as asking:
        answer = await corrected(asking, "e1")
        assert {"flowglad": "filtered", "flexprice": "blocked"} == {
            name: statuses(answer)[name] for name in ("flowglad", "flexprice")
        }
    async with house() as asking:
        await asking.settled("e1~c1")
        assert 0 == asking.vendors["flexprice"].billed()["nobody", "api_call"]
        assert {("sub_acme", "api_calls"): 3} == asking.vendors["flowglad"].billed()


async def test_a_removed_destination_is_told_the_new_quantity_of_what_waits_for_it_once_it_is_back(
    house: House,
) -> None:
    async with house() as asking:
        await asking.one(event(customer="nobody"))
    none = {"flowglad": None}
    meters = {name: {"bindings": none} for name in ("api_calls", "logins", "llm_call")}
    async with house({"destinations": none, "meters": meters, "customers": {"acme": none}}) as asking:
        _, foreseen = await ask(asking, "/v1/events/e1/correct", quantity=7, dry_run=True)
        assert {"does": "blocked", "taken_back": True} == foreseen["deliveries"]["flowglad"]
        answer = await corrected(asking, "e1", "correct", quantity=7)
        assert "blocked" == statuses(answer)["flowglad"]
    async with house({"customers": {"nobody": {"flowglad": {"subscription_id": "sub_nobody"}}}}) as asking:
        await asking.settled(answer["id"])
        assert {("sub_nobody", "api_calls"): 7} == asking.vendors["flowglad"].billed()


async def test_an_operator_who_allows_negatives_has_the_refused_correction_sent(house: House) -> None:
    async with house() as asking:
        await asking.one(event())
        assert "rejected" == statuses(await corrected(asking, "e1"))["wingback"]
    async with house({"destinations": {"wingback": {"settings": {"allow_negative": True}}}}) as asking:
        _, answer = await ask(asking, "/v1/deliveries/retry", ids=["e1~c1"], remap=True)
        assert {"id": "e1~c1", "destination": "wingback"} in answer["retried"]
        await asking.settled("e1~c1")
        assert 0 == billed(asking)["wingback"]


async def test_only_an_admin_corrects(house: House) -> None:
    keys = [{"name": "backend", "sha256": sha256(b"ugw_b").hexdigest(), "scopes": ["events:write", "events:read"]}]
    async with house({"auth": {"keys": keys}}) as asking:
        for path in ("/v1/events/e1/void", "/v1/events/e1/correct", "/v1/corrections"):
            answer = await asking.client.post(path, json={}, headers={"authorization": "Bearer ugw_b"})
            assert 403 == answer.status_code


async def test_a_refund_where_the_event_was_only_shadowed_waits_for_no_way(house: House, tmp_path: Any) -> None:
    async with house({"destinations": {"paygentic": {"mode": "shadow"}}}) as asking:
        await asking.one(event(), query="?ack=all")
        await asking.settled("e1")
        await corrected(asking, "e1", "correct", quantity=7)
        await asking.settled("e1~c2")
        assert {"flexprice": 7, "paygentic": 7, "flowglad": 7, "wingback": 7} == billed(asking)
        assert [] == [one async for one in asking.gateway.ledger.unrouted()]
        answer = await asking.client.post("/v1/customers/acme/erase", json={"reason": "asked for"})
        assert (200, 3) == (answer.status_code, answer.json().get("events"))
    assert [] == add_up(tmp_path / "ledger.db")["problems"]
