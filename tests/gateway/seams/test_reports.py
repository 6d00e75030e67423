"""The report of a month, and events that were corrected in it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from gateway.ledger import Plan, split_ref
from gateway.moving.backfill import Backfills
from gateway.moving.closing import Closing
from gateway.periods import Period
from gateway.reconciling import reconciliations
from gateway.times import to_micros
from tests.gateway.conftest import Asking, House, MovableClock, event
from tests.gateway.seams.conftest import OLD, REASON, corrected, moved, posted
from tests.waiting import until

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


NAMED = 'Ac "me"'


async def named(asking: Asking) -> list[bytes]:
    """Return what is kept of four kinds and still names the customer."""
    found: list[bytes] = []
    for kind in ("backfill", "reconciliation", "reconciliation report", "period"):
        found += [one.body or b"" for one in await asking.gateway.ledger.documents(kind, "default", None, 10)]
    assert len(found) == 4
    return [body for body in found if b"Ac " in body]


async def forgotten(asking: Asking) -> str:
    """Erase the customer, as soon as nothing of it is being sent; return its pseudonym."""

    async def erased() -> Any:
        answer = await asking.client.post("/v1/customers/Ac%20%22me%22/erase", json={**REASON, "unsettled": "abandon"})
        return None if answer.status_code == 409 else answer.json()

    return (await until(erased, "it is being sent for ever"))["pseudonym"]


@pytest.mark.parametrize("meanwhile", [None, "backfill", "reconciliation", "period"])
async def test_an_erased_customer_is_named_in_no_report(
    house: House, clock: MovableClock, monkeypatch: pytest.MonkeyPatch, meanwhile: str | None
) -> None:
    """Nor in one of somebody who had read the name before, and writes it down after."""
    when = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(hours=2)
    stock = {**OLD, "customers": {"acme": None}}
    reached, erased = asyncio.Event(), asyncio.Event()

    def held(kind: str, made: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return what goes on only when the customer was erased, as far as it lets it be."""

        async def holding(*args: Any, **kwargs: Any) -> Any:
            value = await made(*args, **kwargs)
            if kind == meanwhile and not reached.is_set():
                reached.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(erased.wait(), 0.2)
            return value

        return holding

    monkeypatch.setattr(Backfills, "_wait", held("backfill", Backfills._wait))
    monkeypatch.setattr(reconciliations, "compare", held("reconciliation", reconciliations.compare))
    monkeypatch.setattr(Closing, "report", held("period", Closing.report))
    async with house(stock) as asking:
        sent = [event(f"e{n}", customer=NAMED, meter="calls", timestamp=when.isoformat()) for n in range(2)]
        await asking.send(sent, query="?ack=stored")
    async with house({**stock, "destinations": {**OLD["destinations"], "flexprice": {}}}) as asking:
        compared = {
            "from": (when - timedelta(days=1)).isoformat(),
            "to": clock.now().isoformat(),
            "destinations": ["flowglad"],
        }
        asked = {
            f"/v1/periods/{when:%Y-%m}/close": {**REASON, "accept_open": True},
            "/v1/reconciliations": compared if meanwhile == "reconciliation" else {**compared, "customer": NAMED},
            "/v1/backfills": {**REASON, "to": "flexprice", "source": "ledger", "filter": {"customer": NAMED}},
        }
        making = [asyncio.create_task(asking.client.post(path, json=body)) for path, body in asked.items()]
        await asyncio.wait_for(reached.wait(), 10) if meanwhile else await asyncio.gather(*making)
        alias = await forgotten(asking)
        erased.set()
        assert all(one.is_success for one in await asyncio.gather(*making))
        await until(lambda: asking.gateway.ledger.documents("reconciliation report", "default", None, 10))
        assert [] == await named(asking)
        report = await asking.get(f"/v1/periods/{when:%Y-%m}")
        assert ({alias}, 2) == (
            {one["customer"] for one in report["open"]},
            sum(one["events"] for one in report["open"]),
        )
