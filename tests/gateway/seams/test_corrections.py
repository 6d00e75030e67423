"""Corrections, and who has taken their ids, closed their month, or given their event other names."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from adapters import Door, provider
from gateway.chain import LedgerReader
from gateway.corrections.recording import record
from gateway.corrections.steps import chain_of, steps_to
from gateway.repair import Actor
from tests.gateway.conftest import Asking, House, MovableClock, event
from tests.gateway.seams.conftest import APART, OLD, corrected, filled, posted, standing

pytestmark = pytest.mark.anyio


async def test_an_id_that_is_taken_leaves_one_event_out_and_every_other_on_record(asking: Asking) -> None:
    await asking.send([event("e1"), event("e2")])
    await asking.send(event("e1~c1", meter="logins", quantity=None))
    said = await posted(asking, "/v1/corrections", filter={"meter": "api_calls"}, action="void")
    assert (1, ["e1"]) == (said["corrected"], [one["id"] for one in said["skipped"]])
    assert [1] == [one["events"] for one in said["impact"]]
    trail = [(row["action"], row["target"]) for row in (await asking.get("/v1/audit"))["data"]]
    assert [("void", "e2")] == trail
    assert {"void": True} == (await asking.get("/v1/events/e2"))["current"]


async def test_an_id_that_is_taken_while_it_is_worked_out_is_told_and_every_other_on_record(asking: Asking) -> None:
    await asking.send([event("e1"), event("e2")])
    gateway, reader, actor = (
        asking.gateway,
        LedgerReader(asking.gateway.ledger),
        Actor("default", "ada", "a meter ran twice"),
    )
    chains = [await chain_of(reader, "default", event_id) for event_id in ("e1", "e2")]
    steps = [step for chain in chains for step in await steps_to(gateway, reader, chain, {}, actor)]
    await asking.send(event("e1~c1", meter="logins", quantity=None))
    assert [True, False] == [ref is None for ref in await record(gateway, actor, steps)]
    trail = [(row["action"], row["target"], row["reason"]) for row in (await asking.get("/v1/audit"))["data"]]
    assert [("void", "e2", "a meter ran twice")] == trail
    assert {"void": True} == (await asking.get("/v1/events/e2"))["current"]


async def test_of_many_only_those_whose_id_is_taken_meanwhile_are_told_as_left_out(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asking.send([event("e1"), event("e2")])
    ledger = asking.gateway.ledger
    recorded = ledger.record

    async def later(*said: Any) -> Any:
        monkeypatch.setattr(ledger, "record", recorded)
        await asking.send(event("e1~c1", meter="logins", quantity=None))
        return await recorded(*said)

    monkeypatch.setattr(ledger, "record", later)
    said = await posted(asking, "/v1/corrections", filter={"meter": "api_calls"}, action="void")
    assert (1, ["e1"]) == (said["corrected"], [one["id"] for one in said["skipped"]])
    assert [(1, {"quantity": "3"})] == [(one["events"], one["before"]) for one in said["impact"]]
    assert {"void": True} == (await asking.get("/v1/events/e2"))["current"]


async def test_what_is_void_stays_void_whatever_everything_is_scaled_by(house: House) -> None:
    async with house(OLD) as asking:
        await asking.send([event(f"e{number}", meter="calls") for number in (1, 2)])
        await posted(asking, "/v1/events/e1/void")
        said = await posted(asking, "/v1/corrections", filter={"meter": "calls"}, action="scale", factor=2)
        assert (1, 1) == (said["corrected"], said["unchanged"])
        assert {"void": True} == (await asking.get("/v1/events/e1"))["current"]


async def test_where_only_another_event_of_the_request_was_filled_in_nothing_is_told_of_a_correction(
    house: House,
) -> None:
    async with house(OLD) as asking:
        await asking.send([event("e1", meter="calls", customer="zoe"), event("e2", meter="calls")])
    async with house(APART) as asking:
        assert 1 == (await filled(asking, filter={"customer": "zoe"}))["fed"]
        await asking.settled("e1")
        assert {"flowglad"} == (await corrected(asking, "e2", quantity=5))["deliveries"].keys()
        assert {("zoe", "calls"): 3} == asking.vendors["flexprice"].billed()


async def test_what_is_an_erased_customer_s_is_left_out_by_name(asking: Asking) -> None:
    await asking.send([event("e1"), event("e2", customer="zoe")])
    await posted(asking, "/v1/customers/zoe/erase", unsettled="abandon")
    said = await posted(asking, "/v1/corrections", filter={"meter": "api_calls"}, action="void")
    assert 1 == said["corrected"]
    assert [{"id": "e2", "why": "its customer was erased: correct it at the providers"}] == said["skipped"]


async def test_a_refund_is_held_as_late_as_any_other_row(house: House, clock: MovableClock) -> None:
    held = {"destinations": {"paygentic": {"late": "hold"}}}
    first = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    async with house(held) as asking:
        await asking.send(event("e1", timestamp=(first - timedelta(hours=2)).isoformat()))
        assert (await posted(asking, f"/v1/periods/{first - timedelta(days=1):%Y-%m}/close"))["closed"]
        said = await posted(asking, "/v1/events/e1/void")
        refund = said["deliveries"]["paygentic"]
        assert ("blocked", "outside_time_window") == (refund["status"], refund["error"]["code"])
        assert {("cus_acme", "bm_calls"): 3} == asking.vendors["paygentic"].billed()
    async with house() as asking:  # it goes where it may
        await asking.settled("e1~c1")
        assert "accepted" == (await standing(asking, "e1~c1"))["status"]
        assert not any(asking.vendors["paygentic"].billed().values())


async def test_a_measure_that_a_vendor_does_not_bill_is_corrected_there_as_nothing(house: House) -> None:
    bindings = {"flowglad": {"price_slug": "tokens_in", "quantity": "input"}, "flexprice": None}
    async with house({"meters": {"llm_call": {"bindings": bindings}}}) as asking:
        await asking.one(event(meter="llm_call", quantity=None, quantities={"input": 10, "output": 4}))
        said = await corrected(asking, "e1", quantities={"input": 10, "output": 3})
        told = said["deliveries"]["flowglad"]
        assert ("delivered", "filtered", "zero") == (said["status"], told["status"], told.get("reason"))
        said = await corrected(asking, "e1", quantities={"input": 12, "output": 2})
        assert "accepted" == said["deliveries"]["flowglad"]["status"]
        assert {("sub_acme", "tokens_in"): 12} == asking.vendors["flowglad"].billed()


async def test_where_no_way_to_correct_is_known_the_correction_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors = cast("dict[str, Door]", provider("flexprice").spec.doors)
    for profile, door in doors.items():
        monkeypatch.setitem(doors, profile, replace(door, corrections=None))
    async with house() as asking:
        await asking.one(event("e1", meter="jobs"))
        told = (await corrected(asking, "e1", quantity=5))["deliveries"]["flexprice"]
        assert ("rejected", "unsupported") == (told["status"], told["error"]["code"])
        assert {("acme", "jobs"): 3} == asking.vendors["flexprice"].billed()


async def test_what_is_there_in_part_is_for_a_person_to_correct_and_that_is_foreseen(asking: Asking) -> None:
    asking.vendors["flowglad"].known_meters = {"tokens_in"}
    await asking.one(event(meter="llm_call", quantity=None, quantities={"input": 10, "output": 4}))
    foreseen = (await posted(asking, "/v1/events/e1/void", dry_run=True))["deliveries"]["flowglad"]
    told = (await corrected(asking, "e1"))["deliveries"]["flowglad"]
    assert {"does": "unsupported", "error": told["error"]} == foreseen
    assert ("rejected", "a part of what it corrects") == (told["status"], told["error"]["message"][:26])


DELTAS: dict[str, Any] = {
    "destinations": {"flowglad": None, "wingback": None, "paygentic": {"settings": {"profile": "events"}},
                     "flexprice": {"settings": {"allow_amend": True}}},
    "meters": {"api_calls": {"bindings": {"flowglad": None, "wingback": None, "paygentic": {"event_type": "calls",
               "billable_metric_id": None}}}, "logins": None, "llm_call": None},
    "customers": {"acme": {"flowglad": None, "wingback": None}},
}  # fmt: skip
OTHER = {"links": {"paygentic": [{"customer_id": "cus_new"}], "flexprice": [{"external_customer_id": "new"}]}}


def bills(asking: Asking) -> dict[str, Any]:
    names = ("paygentic", "flexprice")
    return {name: {key: one for key, one in asking.vendors[name].billed().items() if one} for name in names}


async def refused_there(asking: Asking, **asked: Any) -> None:
    """Correct an event, and find that nothing was sent for it, and why."""
    before = bills(asking)
    foreseen = await posted(asking, f"/v1/events/e1/{'correct' if asked else 'void'}", **asked, dry_run=True)
    assert {"unsupported"} == {one["does"] for one in foreseen["deliveries"].values()}
    said = await corrected(asking, "e1", **asked)
    assert {"rejected"} == {one["status"] for one in said["deliveries"].values()}
    messages = [one["error"]["message"] for one in said["deliveries"].values()]
    assert all("it was sent under other names of its meter or customer" in one for one in messages)
    assert before == bills(asking)


@pytest.mark.parametrize("asked", [{}, {"quantity": 5}])
async def test_what_was_sent_under_other_names_of_its_customer_is_not_corrected_under_todays(
    house: House, asked: dict[str, int]
) -> None:
    async with house(DELTAS) as asking:
        await asking.send(event("e1"))
        assert (await asking.client.put("/v1/customers/acme", json=OTHER)).is_success
        await refused_there(asking, **asked)
        await asking.send(event("e2"))
        said = await corrected(asking, "e2", quantity=5)  # sent under those of today
        assert {"accepted"} == {one["status"] for one in said["deliveries"].values()}
        assert 5 == bills(asking)["paygentic"]["cus_new", "calls"] == bills(asking)["flexprice"]["new", "api_call"]


@pytest.mark.parametrize("again", [False, True])
async def test_what_was_sent_under_other_names_of_its_meter_is_not_corrected_under_todays(
    house: House, *, again: bool
) -> None:
    names = {"flowglad": None, "wingback": None, "flexprice": {"event_name": "calls2"},
             "paygentic": {"event_type": "calls2", "billable_metric_id": None}}  # fmt: skip
    renamed = {**DELTAS, "meters": {**DELTAS["meters"], "api_calls": {"bindings": names}}}
    async with house(DELTAS) as asking:
        await asking.send(event("e1"))
    async with house(renamed) as asking:
        if again:
            await asking.send(event("e2"))
        else:
            await refused_there(asking, quantity=5)
    async with house(DELTAS if again else renamed) as asking:
        await refused_there(asking, quantity=6)


async def retried(asking: Asking, *, remap: bool) -> None:
    said = await posted(asking, "/v1/deliveries/retry", ids=["e1"], remap=remap)
    assert ["paygentic"] == [one["destination"] for one in said["retried"]]
    await asking.settled("e1")
    assert "accepted" == (await standing(asking, "e1"))["status"]


CALLS = {"flowglad": None, "wingback": None, "flexprice": None,
         "paygentic": {"event_type": "calls", "billable_metric_id": None}}  # fmt: skip
SCALED = {**CALLS, "paygentic": {"event_type": "calls2", "billable_metric_id": None, "scale": 10}}
ALONE = {**DELTAS, "destinations": {**DELTAS["destinations"], "flexprice": None},
         "meters": {"api_calls": {"bindings": CALLS}, "jobs": None, "logins": None, "llm_call": None}}  # fmt: skip
RESCALED = {**ALONE, "meters": {**ALONE["meters"], "api_calls": {"bindings": SCALED}}}


@pytest.mark.parametrize("remap", [False, True])
async def test_what_was_refused_under_other_names_is_corrected_under_those_it_was_rendered_anew_with(
    house: House, *, remap: bool
) -> None:
    async with house(ALONE) as asking:
        asking.vendors["paygentic"].refuse(("e1",))
        assert "rejected" == (await asking.one(event("e1")))["deliveries"]["paygentic"]["status"]
        asking.vendors["paygentic"].clear()
    async with house(RESCALED) as asking:
        await retried(asking, remap=remap)
        if not remap:  # it went as it was rendered at first
            assert {("cus_acme", "calls"): 3} == bills(asking)["paygentic"]
            await refused_there(asking, quantity=5)
            return
        assert {("cus_acme", "calls2"): 30} == bills(asking)["paygentic"]
        foreseen = await posted(asking, "/v1/events/e1/correct", quantity=5, dry_run=True)
        assert "delta" == foreseen["deliveries"]["paygentic"]["does"]
        said = await corrected(asking, "e1", quantity=5)
        assert "accepted" == said["deliveries"]["paygentic"]["status"]
        assert {("cus_acme", "calls2"): 50} == bills(asking)["paygentic"]
    async with house(ALONE) as asking:  # and under no others
        await refused_there(asking)


async def test_links_that_change_from_some_time_on_leave_what_was_before_to_be_corrected(
    house: House, clock: MovableClock
) -> None:
    cut = (clock.now() + timedelta(days=1)).isoformat()
    rows = {"paygentic": "customer_id", "flexprice": "external_customer_id"}
    async with house(DELTAS) as asking:
        await asking.send(event("e1"))
        old = {"paygentic": "cus_acme", "flexprice": "acme"}
        links = {
            name: [{field: old[name], "until": cut}, {field: "cus_b", "from": cut}] for name, field in rows.items()
        }
        assert (
            await asking.client.put("/v1/customers/acme", json={"links": {"paygentic": links["paygentic"]}})
        ).is_success
        said = await corrected(asking, "e1", quantity=5)
        assert {"accepted"} == {one["status"] for one in said["deliveries"].values()}
        assert {("cus_acme", "calls"): 5} == bills(asking)["paygentic"]


async def test_what_was_sent_before_the_clock_was_set_back_has_perhaps_another_name(
    house: House, clock: MovableClock
) -> None:
    async with house(DELTAS) as asking:
        await asking.one(event())
        before = bills(asking)
        clock.ahead -= timedelta(hours=1)
        assert (await asking.client.put("/v1/customers/acme", json=OTHER)).is_success
        said = await corrected(asking, "e1", quantity=2)
        assert {"rejected"} == {one["status"] for one in said["deliveries"].values()}
        assert all("clock was set back" in one["error"]["message"] for one in said["deliveries"].values())
        assert before == bills(asking)
