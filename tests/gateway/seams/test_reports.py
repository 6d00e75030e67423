"""The report of a month, and events that were corrected in it."""

from datetime import timedelta
from typing import Any

import pytest

from gateway.ledger import Plan, split_ref
from gateway.moving.closing import Closing
from gateway.periods import Period
from gateway.times import to_micros
from tests.gateway.conftest import House, MovableClock, event
from tests.gateway.seams.conftest import OLD, REASON, corrected, moved, posted

pytestmark = pytest.mark.anyio


async def test_a_report_says_what_each_vendor_has_of_a_replacement(house: House, clock: MovableClock) -> None:
    when = clock.now().isoformat()
    async with house({**OLD, "customers": {"acme": None}}) as asking:
        await asking.send([event("e1", meter="calls", timestamp=when), event("e2", meter="calls", timestamp=when)])
        await corrected(asking, "e1", quantity=5)
    async with house(OLD) as asking:
        await asking.settled("e1~c1")
        await asking.settled("e2")
        await corrected(asking, "e2", quantity=4)
        assert {("sub_acme", "calls"): 9} == asking.vendors["flowglad"].billed()
        settled = (await asking.get(f"/v1/periods/{clock.now():%Y-%m}"))["settled"]
        assert ["9"] == [one["quantities"]["quantity"] for one in settled if one["status"] == "accepted"]


async def test_what_comes_while_a_month_is_closed_is_in_its_report(
    house: House, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    when = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(hours=2)
    async with house(OLD) as asking:
        await asking.send(event("e1", meter="calls", timestamp=when.isoformat()))
        report, more = Closing.report, ["e2"]

        async def slow(self: Closing, tenant: str, period: Period) -> dict[str, Any]:
            made = await report(self, tenant, period)
            if more:
                await asking.send(event(more.pop(), meter="calls", timestamp=when.isoformat()))
            return made

        monkeypatch.setattr(Closing, "report", slow)
        closed = await posted(asking, f"/v1/periods/{when:%Y-%m}/close")
        assert (True, 2) == (closed["closed"], sum(one["events"] for one in closed["settled"]))
        assert {("sub_acme", "calls"): 6} == asking.vendors["flowglad"].billed()


async def test_a_report_counts_what_it_does_not_name_and_sums_up_everything(house: House, clock: MovableClock) -> None:
    when = clock.now().isoformat()
    meters = {f"m{number}": {"bindings": {"flowglad": {"price_slug": "calls"}}} for number in range(1001)}
    async with house({**OLD, "meters": {**OLD["meters"], **meters}}, running=False) as asking:
        await asking.send([event(f"e{n}", customer=f"c{n}", meter="unheard", timestamp=when) for n in range(1001)])
        sent = [event(f"z{n}", meter=f"m{n}", quantity=0, timestamp=when) for n in range(1001)]
        await asking.send(sent, query="?ack=stored")
        report = await asking.get(f"/v1/periods/{clock.now():%Y-%m}")
        assert (1000, 1001) == (len(report["unrouted"]), report["unrouted_count"])
        assert (1000, 1001) == (len(report["open"]), report["open_count"])
    async with house({**OLD, "meters": {**OLD["meters"], **meters}}) as asking:
        await asking.settled("z1000")
        report = await asking.get(f"/v1/periods/{clock.now():%Y-%m}")
        assert 1001 == sum(one["events"] for one in report["settled"])


async def test_a_report_finds_an_event_that_one_vendor_bills_and_its_correction_that_another_does(
    house: House, clock: MovableClock
) -> None:
    when = (clock.now() - timedelta(minutes=1)).isoformat()
    async with house(OLD) as asking:
        await asking.send(event("e1", meter="calls", timestamp=when))
        await corrected(asking, "e1", quantity=2)
    async with house(moved(clock)) as asking:  # as by hand, past all that keeps it from happening
        ref = await asking.gateway.ledger.find("default", "e1~c1")
        assert ref is not None
        batch, index = split_ref(ref)
        await asking.gateway.ledger.extend(batch, [index], [Plan(live=("flexprice",))], to_micros(clock.now()))
        asking.gateway.wake("flexprice")
        await asking.settled("e1~c1")
        assert {("acme", "calls"): 2} == asking.vendors["flexprice"].billed()
        report = await asking.get(f"/v1/periods/{clock.now():%Y-%m}")
        (twice,) = report["billed_twice"]
        assert ("e1~c1", ["flexprice", "flowglad"]) == (twice["id"], twice["destinations"])


async def test_an_erased_customer_is_named_in_no_report(house: House, clock: MovableClock) -> None:
    when = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(hours=2)
    stock = {**OLD, "customers": {"acme": None}}
    async with house(stock) as asking:
        sent = [event(f"e{n}", customer='Ac "me"', meter="calls", timestamp=when.isoformat()) for n in range(2)]
        await asking.send(sent, query="?ack=stored")
        await posted(asking, f"/v1/periods/{when:%Y-%m}/close", accept_open=True)
        window = {"from": (when - timedelta(days=1)).isoformat(), "to": clock.now().isoformat()}
        assert (await asking.client.post("/v1/reconciliations", json={**window, "customer": 'Ac "me"'})).is_success
    async with house({**stock, "destinations": {**OLD["destinations"], "flexprice": {}}}) as asking:
        await posted(asking, "/v1/backfills", to="flexprice", source="ledger", filter={"customer": 'Ac "me"'})
        before = await asking.get(f"/v1/periods/{when:%Y-%m}")
        assert ['Ac "me"'] == [one["customer"] for one in before["open"]]
        answer = await asking.client.post("/v1/customers/Ac%20%22me%22/erase", json={**REASON, "unsettled": "abandon"})
        assert answer.is_success, answer.text
        alias = answer.json()["pseudonym"]
        after = await asking.get(f"/v1/periods/{when:%Y-%m}")
        unnamed = {name: [{**one, "customer": alias} for one in before[name]] for name in ("open", "late")}
        assert {**before, **unnamed} == after
        ledger, found = asking.gateway.ledger, list[bytes]()
        for kind in ("backfill", "reconciliation", "reconciliation report", "period"):
            found += [one.body or b"" for one in await ledger.documents(kind, "default", None, 10)]
        assert ([4], []) == ([len(found)], [body for body in found if b"Ac " in body])
