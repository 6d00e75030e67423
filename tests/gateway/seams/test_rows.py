"""Deliveries of several rows, and what is found out about some of them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.configuration.file import loads
from gateway.lanes.adrift import Strays
from gateway.ledger import Unrouted, WorkState
from gateway.reconciling.confirming import Confirming, Doubt
from tests.gateway.conftest import House, configured, event
from tests.gateway.seams.conftest import corrected, posted, standing
from tests.waiting import until

pytestmark = pytest.mark.anyio


def bound(*names: str) -> dict[str, Any]:
    """Return a vendor of one row a request, whose memory for repeats is short, with a meter of several rows."""
    rows = [{"event_type": name, "quantity": name} for name in names]
    return {
        "destinations": {"paygentic": {"settings": {"profile": "events", "dedupe_window": "1ms"}}},
        "meters": {"api_calls": None, "trio": {"bindings": {"paygentic": rows}}},
    }


def trio(event_id: str, **quantities: int) -> dict[str, Any]:
    return event(event_id, meter="trio", quantity=None, quantities=quantities)


async def test_a_refused_row_is_not_forgotten_when_its_neighbour_is_resolved_as_arrived(
    house: House, sums: Callable[[], None]
) -> None:
    async with house(bound("one", "two")) as asking:
        vendor = asking.vendors["paygentic"]
        vendor.known_meters = {"one"}
        vendor.fail("lost_answer")
        await asking.send(trio("p", one=3, two=5), query="?ack=stored")
        await asking.settled("p")
        assert "unknown" == (await standing(asking, "p"))["status"]
        said = await posted(asking, "/v1/deliveries/resolve", id="p", destination="paygentic", resolution="accepted")
        assert "rejected" == said["status"]
        parts = (await standing(asking, "p"))["parts"]
        assert ("accepted", "rejected") == (parts["one"]["status"], parts["two"]["status"])
        sums()
        vendor.known_meters = None
        assert 1 == len((await posted(asking, "/v1/deliveries/retry", ids=["p"]))["retried"])
        await asking.settled("p")
        assert "accepted" == (await standing(asking, "p"))["status"]
        assert {("cus_acme", "one"): 3, ("cus_acme", "two"): 5} == vendor.billed()
        sums()


async def test_what_is_stored_in_part_is_not_rendered_anew(house: House) -> None:
    async with house(bound("one", "two")) as asking:
        vendor = asking.vendors["paygentic"]
        vendor.known_meters = {"one"}
        await asking.send(trio("p", one=3, two=5), query="?ack=stored")
        await asking.settled("p")
        vendor.known_meters = None
    async with house(bound("two", "one")) as asking:
        said = await posted(asking, "/v1/deliveries/retry", ids=["p"], remap=True)
        assert ([], ["some of it is stored: it can only be sent again unchanged"]) == (
            said["retried"],
            [one["why"] for one in said["skipped"]],
        )
        assert "rejected" == (await standing(asking, "p"))["status"]


async def test_a_refused_running_value_is_not_sent_again(house: House) -> None:
    async with house({"destinations": {"wingback": {"settings": {"allow_absolute": True}}}}) as asking:
        asking.vendors["wingback"].refuse(lambda _: True)
        await asking.send(event("a", kind="absolute"), query="?ack=stored")
        await asking.settled("a")
        said = await posted(asking, "/v1/deliveries/retry", filter={"destination": "wingback"})
        assert ([], [("a", "wingback")]) == (
            said["retried"],
            [(one["id"], one["destination"]) for one in said["skipped"]],
        )
        assert "rejected" == (await standing(asking, "a", "wingback"))["status"]


async def test_what_goes_anew_in_one_row_where_two_were_refused_can_be_taken_back(house: House) -> None:
    def billing(**more: str) -> dict[str, Any]:
        rows = [{"billable_metric_id": f"bm_{name}", "quantity": name} for name in ("one", "two")]
        return {"meters": {"api_calls": None, "trio": {"bindings": {"paygentic": [rows[0] | more, rows[1]]}}}}

    async with house(billing(entitlement_id="ent_1")) as asking:
        vendor = asking.vendors["paygentic"]
        vendor.known_meters = set()
        await asking.send(trio("p", one=3, two=5), query="?ack=stored")
        await asking.settled("p")
        assert ["one", "two"] == sorted((await standing(asking, "p"))["parts"])
    async with house(billing()) as asking:
        vendor.known_meters = None
        await posted(asking, "/v1/deliveries/retry", ids=["p"], remap=True)
        await asking.settled("p")
        shown = await standing(asking, "p")
        assert ("accepted", False) == (shown["status"], "parts" in shown)
        assert {("cus_acme", "bm_one"): 3, ("cus_acme", "bm_two"): 5} == vendor.billed()
        await corrected(asking, "p")
        await asking.settled("p~c1")
        assert "accepted" == (await standing(asking, "p~c1"))["status"]
        assert {} == vendor.billed()


async def test_reading_back_looks_for_every_row_that_was_sent_and_not_for_those_of_today(house: House) -> None:
    async with house(bound("one", "two", "three")) as asking:
        for fault in ("lost_answer", "lost_answer", "reset_before"):
            asking.vendors["paygentic"].fail(fault)
        await asking.send(trio("p", one=3, two=4, three=5), query="?ack=stored")
        await asking.settled("p")
        assert "unknown" == (await standing(asking, "p"))["status"]
    async with house(bound("one", "two")) as asking:
        assert 0 == await Confirming(asking.gateway).confirm("paygentic")
        assert "unknown" == (await standing(asking, "p"))["status"]
    async with house(bound("one", "two", "three")) as asking:
        assert 0 == await Confirming(asking.gateway).confirm("paygentic"), "the third is not there"


async def test_a_running_value_that_is_found_to_have_arrived_lets_the_next_one_go(house: House) -> None:
    async with house({"destinations": {"wingback": {"settings": {"allow_absolute": True}}}}) as asking:
        asking.vendors["wingback"].fail("lost_answer")
        for number in range(2):
            await asking.send(event(f"a{number}", kind="absolute"), query="?ack=stored")

        async def parked() -> bool:
            return "unknown" == (await standing(asking, "a0", "wingback"))["status"]

        await until(parked)
        assert "pending" == (await standing(asking, "a1", "wingback"))["status"]
        ref = await asking.gateway.ledger.find("default", "a0")
        assert ref is not None
        (work,) = await asking.gateway.ledger.walk("wingback", WorkState.UNKNOWN, 0, 1)
        doubt = Doubt("default", work.events[0], {}, asking.gateway.clock.now())
        assert await Confirming(asking.gateway).settle("wingback", doubt)
        await asking.settled("a1")
        assert "accepted" == (await standing(asking, "a1", "wingback"))["status"]


async def test_a_running_value_that_gets_its_way_late_is_not_sent_after_a_newer_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the vendor goes by what comes last, the older value would be the bill."""
    before = {"destinations": {"wingback": {"settings": {"allow_absolute": True}}}}
    after = {**before, "meters": {"seats": {"bindings": {"wingback": {"feature_slug": "SEATS"}}}}}
    value: dict[str, Any] = {"meter": "seats", "kind": "absolute"}
    route, go = Strays._route, asyncio.Event()

    async def later(self: Strays, some: Unrouted) -> None:
        await go.wait()
        await route(self, some)

    async with house(before) as asking:
        await asking.one(event("a0", quantity=10, **value))
        monkeypatch.setattr(Strays, "_route", later)
        await asking.gateway.reload(loads(configured(after), {}))
        await asking.send(event("a1", quantity=12, **value), query="?ack=stored")
        await asking.gateway.lanes["wingback"].step()
        await asking.gateway.lanes["wingback"].idle()
        go.set()
        for one in ("a1", "a0"):
            await asking.settled(one)
        assert [10, 12] == [row.quantity for row in asking.vendors["wingback"].stored]
