"""What a vendor only queued is confirmed once it is seen there, where that is wanted; nothing else is concluded."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gateway.reconciling import receipts
from gateway.reconciling.confirming import Confirming
from gateway.reconciling.receipts import Receipts
from gateway.simulator import StoredRow
from gateway.simulator.world import Stock
from tests.gateway.conftest import Asking, House, MovableClock, event

pytestmark = pytest.mark.anyio

WANTED = {"delivery": {"confirm_receipts": True}}
DAY = timedelta(days=1)


class Nights:
    """A gateway, and the chore that looks at night, done when the test says so."""

    def __init__(self, asking: Asking, clock: MovableClock) -> None:
        self.asking = asking
        self.clock = clock
        noon = (clock.now() + DAY).replace(hour=12, minute=0)
        clock.ahead += noon - clock.now()
        self.receipts = Receipts(asking.gateway, Confirming(asking.gateway))

    async def night(self, name: str = "flexprice") -> int:
        """Let the next night come and pass; return how many requests it took at one vendor."""
        vendor, due = self.asking.vendors[name], await self.receipts.step()
        assert due is not None
        before = vendor.requests
        self.clock.ahead += due - self.clock.now() + timedelta(hours=2)
        while (due := await self.receipts.step()) is not None and due <= self.clock.now():
            pass
        return vendor.requests - before

    async def told(self, name: str = "flexprice") -> Counter[str | None]:
        """Return how many deliveries have which receipt."""
        listed = (await self.asking.get("/v1/events?limit=1000"))["data"]
        found = [one["deliveries"][name] for one in listed if name in one["deliveries"]]
        assert {"accepted"} == {one["status"] for one in found}
        return Counter(one.get("receipt") for one in found)


async def sent(asking: Asking, *names: str, **members: Any) -> None:
    await asking.send([event(name, **members) for name in names], query="?ack=all")


async def test_what_is_there_is_confirmed_the_next_night_and_then_left_alone(house: House, clock: MovableClock) -> None:
    async with house(WANTED) as asking:
        nights = Nights(asking, clock)
        await sent(asking, *(f"e{index}" for index in range(30)))
        assert {"queued": 30} == await nights.told()
        assert 1 == await nights.night()
        assert {"confirmed": 30} == await nights.told()
        assert [0, 0] == [await nights.night(), await nights.night()]
        assert {None: 30} == await nights.told("wingback"), "where nothing is queued there is nothing to confirm"


async def test_every_row_of_a_delivery_says_so(house: House, clock: MovableClock) -> None:
    halves = [{"event_name": "calls", "quantity": "in"}, {"event_name": "calls2", "quantity": "out"}]
    async with house(WANTED | {"meters": {"halves": {"bindings": {"flexprice": halves}}}}) as asking:
        nights = Nights(asking, clock)
        await asking.send(event("e1", meter="halves", quantity=None, quantities={"in": 1, "out": 2}), query="?ack=all")
        await nights.night()
        delivery = (await asking.get("/v1/events/e1"))["deliveries"]["flexprice"]
        assert ["confirmed"] * 3 == [delivery["receipt"], *(one["receipt"] for one in delivery["parts"].values())]


def lost(stock: Stock) -> None:
    stock.forget(lambda row: row.key == "e1")


def another(stock: Stock) -> None:
    def less(row: StoredRow) -> StoredRow:
        return replace(row, row={**row.row, "properties": {"quantity": "1"}}) if row.key == "e1" else row

    stock.change(less)


@pytest.mark.parametrize("tampered", [lost, another])
async def test_what_is_not_there_or_says_something_else_stays_queued_and_is_looked_for_once_more(
    house: House, clock: MovableClock, tampered: Any
) -> None:
    async with house(WANTED) as asking:
        nights, vendor = Nights(asking, clock), asking.vendors["flexprice"]
        await sent(asking, "e0", "e1", "e2")
        taken = vendor.rows_taken
        vendor.tamper(tampered)
        assert await nights.night()
        assert {"queued": 1, "confirmed": 2} == await nights.told()
        assert 1 == await nights.night()
        assert 0 == await nights.night()
        assert ({"queued": 1, "confirmed": 2}, taken) == (await nights.told(), vendor.rows_taken)


async def test_what_came_a_moment_ago_waits_for_the_next_night(house: House, clock: MovableClock) -> None:
    async with house(WANTED) as asking:
        nights = Nights(asking, clock)
        due = await nights.receipts.step()
        assert due is not None
        clock.ahead += due - clock.now() + timedelta(seconds=1)
        await sent(asking, "e1")
        while (due := await nights.receipts.step()) is not None and due <= clock.now():
            pass
        assert {"queued": 1} == await nights.told()
        await nights.night()
        assert {"confirmed": 1} == await nights.told()


async def test_many_batches_go_in_steps_and_a_vendor_that_fails_is_read_the_next_night(
    house: House, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "CHUNK", 4)
    async with house(WANTED) as asking:
        nights, vendor = Nights(asking, clock), asking.vendors["flexprice"]
        for number in range(6):
            await sent(asking, *(f"e{number}-{index}" for index in range(3)))
        vendor.api_key = "another"
        assert 1 == await nights.night()
        assert {"queued": 18} == await nights.told()
        vendor.api_key = None
        assert 3 == await nights.night()
        assert {"confirmed": 18} == await nights.told()


async def test_usage_of_long_ago_is_not_read_together_with_that_of_today(house: House, clock: MovableClock) -> None:
    async with house(WANTED) as asking:
        nights = Nights(asking, clock)
        await sent(asking, "now")
        await sent(asking, "then", timestamp=(clock.now() - 20 * DAY).isoformat())
        assert 2 == await nights.night()
        assert {"confirmed": 2} == await nights.told()


async def test_where_it_is_not_wanted_nothing_is_read(house: House, clock: MovableClock) -> None:
    async with house() as asking:
        nights = Nights(asking, clock)
        await sent(asking, "e1")
        assert 0 == await nights.night()
        assert {"queued": 1} == await nights.told()
