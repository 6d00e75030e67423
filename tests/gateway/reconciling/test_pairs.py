"""Two vendors held against each other: what one of them alone was meant to have is no difference that nobody knows."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.gateway.conftest import Asking, House, MovableClock, event
from tests.gateway.reconciling.test_counters import OTHER
from tests.gateway.reconciling.test_meanwhile import month
from tests.gateway.reconciling.test_planted import HOUR, Day, keyed, moved, reasons

pytestmark = pytest.mark.anyio


@pytest.fixture
def day(clock: MovableClock) -> Day:
    return Day(clock)


async def correct(asking: Asking, event_id: str, quantity: int) -> None:
    body = {"quantity": quantity, "reason": "a test"}
    answer = await asking.client.post(f"/v1/events/{event_id}/correct", json=body)
    assert 200 == answer.status_code, answer.text


async def test_a_corrected_event_that_one_of_two_alone_has_counts_as_it_is_there(asking: Asking, day: Day) -> None:
    await asking.send([day.event("e1", meter="jobs", quantity=5), day.event("e2")], query="?ack=all")
    await correct(asking, "e1", 7)
    day.later()
    report = await day.reconcile(asking, destinations=["flexprice"], against="flowglad")
    assert {("acme", "unmapped"): ("-7", ["e1"])} == reasons(report, "flowglad", "flexprice")
    assert 0 == report["unexplained"]


async def test_a_correction_that_two_carry_out_otherwise_is_of_both(house: House, day: Day) -> None:
    route: dict[str, Any] = {"destination": "paygentic", "from": (day.start + 2 * HOUR).isoformat()}
    async with house({"routes": [route]}) as asking:
        early = day.event("early", day.start + timedelta(hours=1), quantity=4)
        await asking.send([day.event("e1"), early], query="?ack=all")
        await correct(asking, "e1", 9)
        day.later()
        report = await day.reconcile(asking, destinations=["flexprice"], against="paygentic", meter="api_calls")
    assert {("acme", "only_here"): ("-4", ["early"])} == reasons(report, "paygentic", "flexprice")


async def test_usage_of_a_customer_that_went_past_the_gateway_is_one_figure_at_both(asking: Asking, day: Day) -> None:
    """The ledger has nothing of the customer in the window: it is known by its links, of which some were put."""
    links = {"flowglad": {"subscription_id": "sub_beta"}, "paygentic": {"customer_id": "cus_beta"}}
    assert (await asking.client.put("/v1/customers/beta", json={"links": links, "reason": "a test"})).is_success
    await asking.send([day.event("e1"), day.event("e2", customer="beta", quantity=5)], query="?ack=all")
    for name in ("flowglad", "paygentic"):
        asking.vendors[name].tamper(lambda stock: stock.change(moved(4 * HOUR)))
    day.start, day.end = day.end, day.end + 4 * HOUR
    day.clock.ahead += 8 * HOUR
    report = await day.reconcile(asking, destinations=["flowglad"], against="paygentic", meter="api_calls")
    for comparison in report["comparisons"]:
        assert {"acme", "beta"} == {figure["customer"] for figure in comparison["figures"]}
    assert {} == reasons(report, "paygentic", "flowglad")


@pytest.mark.parametrize("second", ["lost", "gone"])
async def test_what_two_vendors_lost_alike_is_no_difference_between_them(asking: Asking, day: Day, second: str) -> None:
    await asking.send([day.event("e1"), day.event("lost", quantity=5), day.event("gone", quantity=5)], query="?ack=all")
    for name, key in (("flowglad", "lost"), ("flexprice", second)):
        asking.vendors[name].tamper(lambda stock, key=key: stock.forget(keyed(key)))
    day.later()
    report = await day.reconcile(asking, destinations=["flowglad"], against="flexprice", meter="api_calls")
    found = reasons(report, "flexprice", "flowglad")
    expected = {("acme", "only_there"): ("5", ["lost"]), ("acme", "only_here"): ("-5", ["gone"])}
    assert ({} if second == "lost" else expected) == found


async def test_a_counter_that_was_not_asked_for_is_no_zero(house: House, clock: MovableClock) -> None:
    links = {"flowglad": {"subscription_id": "sub_beta"}, "wingback": {"customer_id": OTHER}}
    changes = {"customers": {"beta": links}, "routes": [{"destination": "wingback", "customers": ["acme"]}]}
    async with house(changes) as asking:
        await asking.send([event("e1"), event("e2", customer="beta", quantity=5)], query="?ack=all")
        asking.vendors["wingback"].tamper(lambda stock: [stock.put(replace(row, customer=OTHER)) for row in [*stock]])
        clock.ahead = timedelta(minutes=30)
        report = await month(asking, clock, destinations=["flowglad"], against="wingback")
    found = {one["customer"]: one for one in report["comparisons"][2]["figures"]}
    assert ("3", "3") == (found["acme"]["left"], found["acme"]["right"])
    assert ("5", False, False) == (found["beta"]["left"], "right" in found["beta"], report["complete"])


async def test_a_meter_that_a_counter_does_not_know_is_unmapped_there(asking: Asking, clock: MovableClock) -> None:
    await asking.send([event("e1"), event("e2", meter="jobs", quantity=5)], query="?ack=all")
    await asking.send(event("e3", customer="stranger", meter="jobs", quantity=6), query="?ack=all")
    clock.ahead = timedelta(minutes=90)
    report = await month(asking, clock, meter=None, destinations=["wingback"], against="flexprice")
    expected = {("acme", "unmapped"): ("5", ["e2"]), ("stranger", "unmapped"): ("6", ["e3"])}
    assert expected == reasons(report, "flexprice", "wingback")
    assert report["complete"]
