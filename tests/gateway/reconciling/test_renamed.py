"""Customers who have, or had, another name at a provider: what was sent under it is neither lost nor a stranger's."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from adapters import Window
from gateway.configuration.file import loads
from gateway.reconciling.comparing import compare, scope_of
from gateway.reconciling.report import report
from gateway.simulator import StoredRow
from tests.gateway.conftest import CONTRACT, Asking, House, MovableClock, configured, event
from tests.gateway.links.test_lookups import House as Looking
from tests.gateway.reconciling.test_counters import OTHER, reconciled
from tests.gateway.reconciling.test_planted import Day, keyed, reasons

pytestmark = pytest.mark.anyio


@pytest.fixture
def day(clock: MovableClock) -> Day:
    return Day(clock)


async def relink(asking: Asking, destination: str, **link: str) -> None:
    links = (await asking.get("/v1/customers/acme"))["links"] | {destination: link}
    answer = await asking.client.put("/v1/customers/acme", json={"links": links, "reason": "another plan"})
    assert 200 == answer.status_code, answer.text


async def test_usage_that_was_sent_under_the_name_before_is_found_by_its_key(asking: Asking, day: Day) -> None:
    await asking.send([day.event("e1"), day.event("lost", quantity=7)])
    await relink(asking, "flowglad", subscription_id="sub_new")
    await asking.send(day.event("e2", quantity=4))
    asking.vendors["flowglad"].tamper(lambda stock: stock.forget(keyed("lost")))
    day.later()
    found = await day.reconcile(asking, destinations=["flowglad"], meter="api_calls")
    assert {("acme", "only_here"): ("-7", ["lost"])} == reasons(found, "flowglad")


async def test_a_customer_alone_is_read_by_its_names_of_today_which_may_not_tell_all(asking: Asking, day: Day) -> None:
    await asking.send(day.event("e1"))
    await relink(asking, "flowglad", subscription_id="sub_new")
    day.later()
    (figure,) = (await day.usage(asking, meter="api_calls", destination="flowglad"))["flowglad"]["figures"]
    assert (False, "unsupported") == ("provider" in figure, figure["unread"]["kind"])
    assert "had another name there" in figure["unread"]["why"]


async def test_usage_of_a_customer_who_was_erased_is_found_by_its_key(asking: Asking, day: Day) -> None:
    """The vendor has it under the customer's name, which is nowhere here any more."""
    await asking.send([day.event("e1"), day.event("lost", quantity=7)], query="?ack=all")
    asking.vendors["flexprice"].tamper(lambda stock: stock.forget(keyed("lost")))
    said = {"reason": "on request", "unsettled": "abandon"}
    alias = (await asking.client.post("/v1/customers/acme/erase", json=said)).json()["pseudonym"]
    day.later()
    for name, lost in (("flowglad", {}), ("paygentic", {}), ("flexprice", {(alias, "only_here"): ("-7", ["lost"])})):
        found = await day.reconcile(asking, destinations=[name], meter="api_calls")
        assert lost == reasons(found, name)


async def erase(asking: Asking) -> None:
    said = {"reason": "on request", "unsettled": "abandon"}
    answer = await asking.client.post("/v1/customers/acme/erase", json=said)
    assert 200 == answer.status_code, answer.text


@pytest.mark.parametrize(("lost", "unread"), [(False, True), (True, False)])
@pytest.mark.parametrize("customer", [None, "acme"])
async def test_a_counter_may_hold_what_an_erased_customer_used_under_its_name(
    asking: Asking, clock: MovableClock, customer: str | None, lost: bool, unread: bool
) -> None:
    await asking.send(event("e1"), query="?ack=all")
    await erase(asking)
    await asking.send([event("e2", quantity=4), event("lost", quantity=5)], query="?ack=all")
    if lost:
        asking.vendors["wingback"].tamper(lambda stock: stock.forget(keyed("lost")))
    clock.ahead = timedelta(minutes=30)
    found = await reconciled(asking, clock, customer=customer)
    assert int(not unread) == found["report"]["unexplained"]
    assert unread == ("who is erased" in str(found["acme"].get("unread")))


@pytest.mark.parametrize("name", ["flowglad", "paygentic", "flexprice"])
async def test_what_an_erased_customer_used_is_not_another_ones_of_its_name(
    asking: Asking, day: Day, name: str
) -> None:
    await asking.send([day.event("e1"), day.event("less"), day.event("more")], query="?ack=all")
    for event_id, quantity in (("less", 2), ("more", 9)):
        said = {"quantity": quantity, "reason": "a test"}
        assert (await asking.client.post(f"/v1/events/{event_id}/correct", json=said)).is_success
    await erase(asking)
    await asking.send(day.event("e2", quantity=4), query="?ack=all")
    day.later()
    (figure,) = (await day.usage(asking, meter="api_calls", destination=name))[name]["figures"]
    assert ("4", "4", []) == (figure["provider"], figure["ledger"]["recorded"], figure["reasons"])


async def test_a_counter_may_hold_what_another_customer_used_before_it_had_the_name(
    asking: Asking, clock: MovableClock
) -> None:
    await asking.send(event("e1"), query="?ack=all")
    await relink(asking, "wingback", customer_id=OTHER)
    link = {"links": {"wingback": {"customer_id": CONTRACT}}, "reason": "a merger"}
    assert (await asking.client.put("/v1/customers/beta", json=link)).is_success
    await asking.send(event("e2", customer="beta", quantity=4), query="?ack=all")
    clock.ahead = timedelta(minutes=30)
    found = await reconciled(asking, clock)
    assert (0, False) == (found["report"]["unexplained"], found["report"]["complete"])


async def test_usage_under_a_name_that_it_never_had_is_a_strangers(asking: Asking, day: Day) -> None:
    await relink(asking, "flowglad", subscription_id="sub_new")
    await asking.send(day.event("e1"))
    await relink(asking, "flowglad", subscription_id="sub_new")
    asking.vendors["flowglad"].tamper(lambda stock: stock.change(_moved))
    day.later()
    found = await day.reconcile(asking, destinations=["flowglad"], meter="api_calls")
    assert {("acme", "only_here"), ("sub_else", "only_there")} == reasons(found, "flowglad").keys()


def _moved(row: StoredRow) -> StoredRow:
    return replace(row, customer="sub_else")


@pytest.mark.parametrize("renamed", [True, False])
async def test_a_counter_does_not_tell_what_is_under_the_name_before(
    asking: Asking, clock: MovableClock, renamed: bool
) -> None:
    await asking.send(event("e1"))
    if renamed:
        await relink(asking, "wingback", customer_id=OTHER)
    await asking.send(event("e2", quantity=4))
    clock.ahead = timedelta(minutes=30)
    found = await reconciled(asking, clock)
    assert (0, not renamed) == (found["report"]["unexplained"], found["report"]["complete"])
    assert (
        ("match", "7") == (found["acme"]["class"], found["acme"]["right"]) if not renamed else "unread" in found["acme"]
    )


async def test_customers_that_are_one_there_share_its_counter(house: House, clock: MovableClock) -> None:
    async with house({"customers": {"beta": {"wingback": {"customer_id": CONTRACT}}}}) as asking:
        await asking.send([event("e1"), event("e2", customer="beta", quantity=4)])
        found = await reconciled(asking, clock)
        assert (0, False) == (found["report"]["unexplained"], found["report"]["complete"])
        for name in ("acme", "beta"):
            assert "several customers of ours are one there" in found[name]["unread"]["why"]


@pytest.fixture
async def looking(tmp_path: Path) -> Any:
    made = Looking(tmp_path)
    await made.gateway.open()
    yield made
    await made.gateway.stop()


async def told(looking: Looking, customer: str | None = None) -> dict[str, Any]:
    now = looking.clock.now()
    window = Window(start=now - timedelta(days=1), end=now + timedelta(days=1))
    made = await compare(looking.gateway, scope_of(looking.gateway, "default", window, ("it",), customer))
    return report(made, looking.gateway.configuration.meters)


async def test_a_customer_that_was_looked_up_is_known_by_its_keys_when_the_answer_is_old(looking: Looking) -> None:
    looking.vendor.subscriptions["acme"] = ["sub_acme"]
    await looking.send("e1", "acme")
    await looking.look_up()
    await looking.send("e2", "acme")
    for customer in (None, "acme"):
        found = await told(looking, customer)
        assert (0, True) == (found["unexplained"], found["complete"])
    looking.clock.advance(timedelta(hours=2))
    found = await told(looking)
    assert (0, True) == (found["unexplained"], found["complete"])
    found = await told(looking, "acme")
    assert (0, False) == (found["unexplained"], found["complete"]), "nobody can be asked for"


async def test_a_customer_whose_vendor_answers_otherwise_has_had_both_names(looking: Looking) -> None:
    looking.vendor.subscriptions["acme"] = ["sub_old"]
    await looking.send("e1", "acme")
    await looking.look_up()
    looking.vendor.subscriptions["acme"] = ["sub_new"]
    looking.clock.advance(timedelta(minutes=31))
    await looking.send("e2", "acme")
    await looking.look_up()
    await looking.send("e3", "acme")
    assert ["sub_old", "sub_old", "sub_new"] == looking.vendor.billed
    found = await told(looking)
    assert (0, True) == (found["unexplained"], found["complete"])


async def test_usage_that_was_sent_under_another_name_of_its_meter_is_not_said_to_be_lost(
    asking: Asking, day: Day
) -> None:
    await asking.send([day.event("e1"), day.event("lost", meter="jobs")], query="?ack=all")
    changed = {"meters": {"api_calls": {"bindings": {"flexprice": {"event_name": "calls"}}}}}
    await asking.gateway.reload(loads(configured(changed), {}))
    await asking.send([day.event("e2")], query="?ack=all")
    asking.vendors["flexprice"].tamper(lambda stock: stock.forget(keyed("lost")))
    day.later()
    found = await day.reconcile(asking, destinations=["flexprice"])
    figures = {one["meter"]: one for one in found["comparisons"][0]["figures"]}
    assert "under another name of its meter" in figures["api_calls"]["unread"]["why"]
    assert not found["complete"]
    assert "only_here" == figures["jobs"]["class"], "its name is what it was"


@pytest.mark.parametrize("name", ["flowglad", "paygentic", "flexprice"])
async def test_usage_that_was_scaled_otherwise_is_not_said_to_be_off(house: House, day: Day, name: str) -> None:
    async with house() as asking:
        await asking.send(day.event("e1"), query="?ack=all")
        await asking.gateway.reload(
            loads(configured({"meters": {"api_calls": {"bindings": {name: SCALED[name]}}}}), {})
        )
        await asking.send(day.event("e2", quantity=4), query="?ack=all")
        day.later()
        found = await day.reconcile(asking, destinations=[name], meter="api_calls")
    (figure,) = found["comparisons"][0]["figures"]
    assert ("7", True, False) == (figure["left"], figure["explained"], "right" in figure)
    assert "before its meter's binding was changed" in figure["unread"]["why"]
    assert not found["complete"]


SCALED = {
    "flowglad": {"price_slug": "api_calls", "scale": "10"},
    "paygentic": {"billable_metric_id": "bm_calls", "scale": "10"},
    "flexprice": {"event_name": "api_call", "scale": "10"},
}


@pytest.mark.parametrize("name", ["flowglad", "paygentic", "flexprice"])
async def test_what_was_corrected_before_its_customer_was_erased_is_what_it_says_since(
    asking: Asking, day: Day, name: str
) -> None:
    await asking.send(day.event("e1"), query="?ack=all")
    answer = await asking.client.post("/v1/events/e1/correct", json={"quantity": 9, "reason": "a test"})
    assert 200 == answer.status_code, answer.text
    await erase(asking)
    day.later()
    found = await day.reconcile(asking, destinations=[name], meter="api_calls")
    assert {} == reasons(found, name)
    (figure,) = found["comparisons"][0]["figures"]
    assert ("9", "9") == (figure["left"], figure["right"])
