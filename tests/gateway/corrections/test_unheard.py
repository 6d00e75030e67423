"""Corrections of what nobody heard the answer to: by names and ids that the vendor may not have it under."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import LedgerUnavailable
from gateway.ledger import Change
from gateway.ledger.backup import back_up, restore
from gateway.times import to_micros
from tests.gateway.conftest import Asking, House, MovableClock, event
from tests.gateway.corrections.asking import ask, billed, corrected, statuses

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("what", "asked"), [("void", {}), ("correct", {"quantity": 7})])
async def test_what_a_lost_answer_may_have_left_twice_is_not_refunded_by_one_of_its_ids(
    house: House, what: str, asked: dict[str, Any]
) -> None:
    async with house() as asking:
        asking.vendors["paygentic"].fail("lost_answer")
        await asking.one(event())
        await asking.settled("e1")
        told = (await corrected(asking, "e1", what, **asked))["deliveries"]["paygentic"]
        assert ("rejected", "unsupported") == (told["status"], told["error"]["code"])
        assert "refund it by hand" in told["error"]["message"]
        assert 3 == billed(asking)["paygentic"]


async def test_a_correction_without_an_answer_is_sent_again_where_the_vendor_tells_repeats(house: House) -> None:
    events = {"profile": "events"}
    binding = {"event_type": "calls", "billable_metric_id": None}
    async with house({
        "destinations": {"paygentic": {"settings": events}},
        "meters": {"api_calls": {"bindings": {"paygentic": binding}}},
    }) as asking:  # fmt: skip
        await asking.one(event())
        asking.vendors["paygentic"].fail("lost_answer")
        told = (await corrected(asking, "e1", "correct", quantity=7))["deliveries"]["paygentic"]
        assert ("accepted", 2) == (told["status"], told["attempts"])
        assert {("cus_acme", "calls"): 7} == asking.vendors["paygentic"].billed()


async def never_heard(asking: Asking) -> None:
    """Have an event sent by a process that ends before it can write the answers down."""

    answered, everywhere = set[str](), asyncio.Event()

    async def away(changes: Sequence[Change], *_: object) -> None:
        answered.update(change.destination for change in changes)
        if len(answered) == len(asking.vendors):
            everywhere.set()
        raise LedgerUnavailable("the disk is full")

    with pytest.MonkeyPatch.context() as planted:
        planted.setattr(asking.gateway.ledger, "settle", away)
        await asking.one(event(), query="?ack=stored")
        await everywhere.wait()
        await asking.gateway.stop(timedelta(0))


async def heard_since(asking: Asking) -> None:
    """Let what can be sent again be, and have the rest decided by a person."""
    await asking.settled("e1")
    said = {"id": "e1", "destination": "wingback", "resolution": "accepted"}
    assert 200 == (await ask(asking, "/v1/deliveries/resolve", **said))[0]


async def test_what_nobody_heard_of_may_be_there_twice_as_well(house: House) -> None:
    async with house() as asking:
        await never_heard(asking)
    async with house() as asking:
        await heard_since(asking)
        shown = (await asking.get("/v1/events/e1"))["deliveries"]["paygentic"]
        assert ("accepted", ["unknown", "accepted"]) == (shown["status"], [one["outcome"] for one in shown["history"]])
        assert "rejected" == statuses(await corrected(asking, "e1"))["paygentic"]
        assert 3 == billed(asking)["paygentic"]


async def test_what_nobody_heard_of_went_under_the_names_of_then(house: House) -> None:
    async with house() as asking:
        await never_heard(asking)
    async with house({"customers": {"acme": {"flowglad": {"subscription_id": "sub_other"}}}}) as asking:
        await heard_since(asking)
        assert "rejected" == statuses(await corrected(asking, "e1", "correct", quantity=7))["flowglad"]
        assert {("sub_acme", "api_calls"): 3} == asking.vendors["flowglad"].billed()


async def test_a_correction_that_may_have_arrived_is_not_refused_as_it_could_not_be_made_now(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    said = {"quantity": 5, "reason": "a meter ran twice"}
    async with house() as asking:
        await asking.send(event("e1", meter="jobs"))
    async with house(running=False) as asking:
        answer = await asking.client.post("/v1/events/e1/correct", json=said, headers={"prefer": "respond-async"})
        assert {"flexprice": "pending"} == statuses(answer.json())
        back_up(path, copy, to_micros(clock.now()))
    async with house() as asking:
        await asking.settled("e1~c1")
        assert {("acme", "jobs"): 5} == asking.vendors["flexprice"].billed()
    restore(path, copy, to_micros(clock.now()))
    async with house({"destinations": {"flexprice": {"settings": {"allow_amend": False}}}}) as asking:
        await asking.settled("e1~c1")
        shown = (await asking.get("/v1/events/e1~c1"))["deliveries"]["flexprice"]
        assert "unknown" == shown["status"]
        assert shown["error"]["message"].endswith("an earlier request without an answer may have stored it")
