"""A vendor that only counts: sums are held against sums, and what is in doubt explains exactly what it comes to."""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.configuration.file import loads
from gateway.reconciling._model import Ours
from gateway.reconciling.counting import _combination
from gateway.reconciling.spill import Spill
from tests.gateway.conftest import CONTRACT, Asking, House, MovableClock, configured, event

pytestmark = pytest.mark.anyio

OTHER = "Cust_0b8f3a44-3d0e-4f0e-9a53-5b1f4f7a2c11"


async def reconciled(
    asking: Asking, clock: MovableClock, meter: str | None = "api_calls", customer: str | None = None
) -> dict[str, Any]:
    """Reconcile the vendor's current period; return its figures by customer."""
    now = clock.now()
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    asked = {
        "from": start.isoformat(),
        "to": (start + timedelta(days=32)).replace(day=1).isoformat(),
        "destinations": ["wingback"],
        "meter": meter,
        "customer": customer,
    }
    answer = await asking.client.post("/v1/reconciliations", json=asked)
    assert 201 == answer.status_code, answer.text
    report = answer.json()["report"]
    return {one["customer"]: one for one in report["comparisons"][0]["figures"]} | {"report": report}


async def test_a_counter_that_says_what_was_sent_matches(asking: Asking, clock: MovableClock) -> None:
    await asking.send([event("e1"), event("e2", quantity="0.5"), event("e3", customer="stranger", quantity=4)])
    found = await reconciled(asking, clock)
    assert ("match", "3.5", "3.5") == tuple(found["acme"][name] for name in ("class", "left", "right"))
    assert ("unmapped", "4", "0") == tuple(found["stranger"][name] for name in ("class", "left", "right"))


@pytest.mark.parametrize("stored", [True, False])
async def test_a_delivery_in_doubt_explains_its_own_quantity_alone(
    asking: Asking, clock: MovableClock, stored: bool
) -> None:
    await asking.send([event("e1"), event("e2", quantity=9)])
    asking.vendors["wingback"].fail("lost_answer")
    await asking.send(event("doubt", quantity=5))
    if not stored:
        asking.vendors["wingback"].tamper(lambda stock: stock.forget(lambda row: row.quantity == 5))
    clock.ahead = timedelta(minutes=30)
    found = await reconciled(asking, clock)
    assert 0 == found["report"]["unexplained"]
    reasons = [(one["class"], one["quantity"], one["ids"]) for one in found["acme"]["reasons"]]
    assert ([] if stored else [("in_flight", "-5", ["doubt"])]) == reasons


@pytest.mark.parametrize(("lost", "why"), [(range(16, 19), "in_flight"), (range(1, 20), "unexplained")])
async def test_more_that_need_not_count_yet_than_are_told_apart_explain_what_they_can_come_to(
    asking: Asking, clock: MovableClock, lost: range, why: str
) -> None:
    await asking.send(event("before", quantity=2**21))
    clock.ahead = timedelta(minutes=30)
    await asking.send([event(f"e{number}", quantity=2**number) for number in range(20)], query="?ack=all")
    gone = {f"e{number}" for number in lost} | ({"before"} if why == "unexplained" else set())
    asking.vendors["wingback"].tamper(lambda stock: stock.forget(lambda row: row.key in gone))
    found = await reconciled(asking, clock)
    assert [why] == [one["class"] for one in found["acme"]["reasons"]]


@given(st.lists(st.integers(-3, 9).map(Decimal), max_size=9), st.integers(-9, 40).map(Decimal))
def test_a_sum_is_explained_by_the_fewest_deliveries_that_come_to_it(open_: list[Decimal], wanted: Decimal) -> None:
    given_ = [(quantity, f"e{place}") for place, quantity in enumerate(open_)]
    every = [some for count in range(len(given_) + 1) for some in combinations(given_, count)]
    fewest = next((len(some) for some in every if sum(quantity for quantity, _ in some) == wanted), None)
    found = _combination(given_, wanted)
    assert fewest == (None if found is None else len(found))
    if found is not None:
        assert wanted == sum(quantity for quantity, _ in found)
        assert set(found) <= set(given_)


async def test_what_has_no_key_there_is_held_against_it_in_parts(
    asking: Asking, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is worked on without a break: there may be any number of events without a link."""
    sizes: list[int] = []
    real = Spill.part

    def part(self: Spill[Ours], number: int) -> Iterator[Ours]:
        rows = list(real(self, number))
        sizes.append(len(rows))
        return iter(rows)

    monkeypatch.setattr(Spill, "part", part)
    await asking.send([event(f"e{number}", customer="stranger") for number in range(60)])
    found = await reconciled(asking, clock)
    assert ("unmapped", 60) == (found["stranger"]["class"], found["stranger"]["events"])
    assert max(sizes) < 20


async def test_a_figure_of_many_digits_keeps_them_all(asking: Asking, clock: MovableClock) -> None:
    asking.vendors["wingback"].refuse("refused")
    sent = {"refused": "12345678901234567890123456.123456789012", "e1": "98765432109876543210987654.000000000001"}
    await asking.send([event(event_id, quantity=quantity) for event_id, quantity in sent.items()])
    clock.ahead = timedelta(minutes=30)
    found = await reconciled(asking, clock)
    assert 0 == found["report"]["unexplained"]
    told = found["acme"]
    assert (sent["e1"], f"-{sent['refused']}") == (told["right"], told["difference"])
    assert [("rejected", f"-{sent['refused']}")] == [(one["class"], one["quantity"]) for one in told["reasons"]]


async def test_a_link_that_ended_when_the_period_began_has_no_part_in_it(house: House, clock: MovableClock) -> None:
    start = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    links = [{"customer_id": OTHER, "until": start.isoformat()}, {"customer_id": CONTRACT, "from": start.isoformat()}]
    async with house({"customers": {"acme": {"wingback": links}}}) as asking:
        before = (start - timedelta(minutes=30)).isoformat()
        await asking.send([event("e1", timestamp=before), event("e2", quantity=4, timestamp=start.isoformat())])
        found = await reconciled(asking, clock)
        assert ("match", "4", "4") == tuple(found["acme"][name] for name in ("class", "left", "right"))


async def test_what_two_links_of_a_customer_count_in_one_period_is_added_up(house: House, clock: MovableClock) -> None:
    now = clock.now()
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    half = start + (now - start) / 2
    links = [{"customer_id": OTHER, "until": half.isoformat()}, {"customer_id": CONTRACT, "from": half.isoformat()}]
    async with house({"customers": {"acme": {"wingback": links}}}) as asking:
        times = {"e1": start, "e2": half, "e3": now}
        await asking.send([event(event_id, timestamp=when.isoformat()) for event_id, when in times.items()])
        asking.vendors["wingback"].tamper(lambda stock: stock.forget(lambda row: row.key == "e2"))
        clock.ahead = timedelta(minutes=30)
        found = await reconciled(asking, clock)
        assert ("9", "6", "unexplained") == tuple(found["acme"][name] for name in ("left", "right", "class"))


async def test_a_counter_that_is_off_is_unexplained(house: House, clock: MovableClock) -> None:
    async with house() as asking:
        await asking.send([event("e1"), event("lost", quantity=4)])
        asking.vendors["wingback"].tamper(lambda stock: stock.forget(lambda row: row.quantity == 4))
        clock.ahead = timedelta(minutes=30)
        found = await reconciled(asking, clock)
        assert [("unexplained", "-4")] == [(one["class"], one["quantity"]) for one in found["acme"]["reasons"]]
        assert 1 == found["report"]["unexplained"]
        assert CONTRACT not in str(found)


async def test_a_counter_under_another_name_of_the_meter_is_not_laid_beside_all_of_it(
    asking: Asking, clock: MovableClock
) -> None:
    await asking.send(event("e1"), query="?ack=all")
    changed = {"meters": {"api_calls": {"bindings": {"wingback": {"feature_slug": "CALLS"}}}}}
    await asking.gateway.reload(loads(configured(changed), {}))
    await asking.send(event("e2", quantity=4), query="?ack=all")
    clock.ahead = timedelta(minutes=30)
    found = await reconciled(asking, clock)
    assert "under another name of its meter" in found["acme"]["unread"]["why"]


@pytest.mark.parametrize("back", [0, 100])
async def test_what_nothing_was_read_of_is_told_where_the_ledger_has_nothing_either(
    house: House, clock: MovableClock, back: int
) -> None:
    """A counter of a past month cannot be read, and a feature without one neither: that is no zero."""
    nowhere = {"bindings": {"wingback": {"feature_slug": "NOWHERE"}}}
    async with house({"meters": {"other": nowhere}}) as asking:
        await asking.send(event("e1"))
        then = clock.now() - timedelta(days=back)
        start = then.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        window = {"from": start.isoformat(), "to": (start + timedelta(days=32)).replace(day=1).isoformat()}
        meter = "api_calls" if back else "other"
        usage = await asking.client.get("/v1/usage", params={**window, "customer": "acme", "meter": meter})
        (figure,) = usage.json()["destinations"][-1]["figures"]
        assert "unread" in figure
        assert "provider" not in figure
        asked = {**window, "destinations": ["wingback"], "customer": "acme", "meter": meter}
        report = (await asking.client.post("/v1/reconciliations", json=asked)).json()["report"]
        assert (False, 1) == (report["complete"], report["comparisons"][0]["unread"])


async def test_a_feature_without_a_counter_that_nobody_used_is_no_figure(house: House, clock: MovableClock) -> None:
    async with house({"meters": {"other": {"bindings": {"wingback": {"feature_slug": "NOPE"}}}}}) as asking:
        await asking.send(event("e1"))
        found = await reconciled(asking, clock, meter=None)
        assert ["api_calls"] == [one["meter"] for one in found["report"]["comparisons"][0]["figures"]]
        assert found["report"]["complete"]


async def test_usage_beyond_the_period_that_is_counted_is_said_to_be_left_out(
    asking: Asking, clock: MovableClock
) -> None:
    start = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    before = (start - timedelta(minutes=30)).isoformat()
    await asking.send([event("e1"), event("e2", quantity=4, timestamp=before)], query="?ack=all")
    asked = {"to": (start + timedelta(days=32)).replace(day=1).isoformat(), "destinations": ["wingback"]}
    for since, outside in ((start, None), (start - timedelta(days=1), 1)):
        answer = await asking.client.post("/v1/reconciliations", json={"from": since.isoformat(), **asked})
        report = answer.json()["report"]
        assert [("3", "3")] == [(one["left"], one["right"]) for one in report["comparisons"][0]["figures"]]
        assert (outside, outside is None) == (report["destinations"][0].get("outside"), report["complete"])
