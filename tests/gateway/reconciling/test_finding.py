"""A delivery in doubt is looked for soon, by itself: there it has arrived, and nothing else is concluded."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from adapters import AnyAdapter, CanReadUsage, Read, Reply, Request, UsageRow, Wanted, Window, encode_row, provider
from gateway.lanes.doubts import FIRST, LOOKS, MOST, Doubts
from gateway.lanes.pace import Heard
from gateway.reconciling.confirming import Confirming
from gateway.reconciling.finding import REST, TOGETHER, Finding
from gateway.simulator import SimulatedProvider, StoredRow
from gateway.simulator.world import Stock
from tests.adapters.worlds import adapter_of, every_door, usage_of
from tests.gateway.clocks import ManualClock
from tests.gateway.conftest import Asking, House, MovableClock, event
from tests.waiting import until

pytestmark = pytest.mark.anyio

SHORT = {"destinations": {"paygentic": {"settings": {"dedupe_window": "1ms"}}}}
"""So short a memory for repeats that a lost answer leaves a delivery in doubt."""
FINDS = ("paygentic", "flexprice")


class Sought:
    """A gateway with deliveries in doubt, and the chore that looks for them, done when the test says so."""

    def __init__(self, asking: Asking, clock: MovableClock) -> None:
        self.asking = asking
        self.clock = clock
        self.gateway = asking.gateway
        asking.gateway.doubts.wake = None  # its own chore sleeps
        self.finding = Finding(asking.gateway, Confirming(asking.gateway))

    async def doubt(self, name: str, event_id: str = "doubt", **members: Any) -> None:
        """Have the answer to one delivery lost, where that parks it."""
        vendor = self.asking.vendors[name]
        vendor.fail("lost_answer", when=event_id)
        if name == "flexprice":  # it would be sent again, so the repeat is refused: which takes nothing from the doubt
            vendor.fail("wrong_status", status=400, stored=False, when=event_id)
        await self.asking.send(event(event_id, quantity=5, **members), query="?ack=stored")
        await self.asking.settled(event_id)
        assert "unknown" == await self.status(name, event_id)

    async def status(self, name: str, event_id: str = "doubt") -> str:
        return (await self.asking.get(f"/v1/events/{event_id}"))["deliveries"][name]["status"]

    async def look(self, name: str) -> int:
        """Move time on to the next look, and do it; return how many requests it took, 0 where there is none."""
        vendor, due = self.asking.vendors[name], await self.finding.step()
        if due is None:
            return 0
        before = vendor.requests
        self.clock.ahead += due - self.clock.now() + timedelta(seconds=1)
        await self.finding.step()
        return vendor.requests - before


@pytest.mark.parametrize("name", FINDS)
async def test_it_is_found_soon_and_by_one_request(house: House, clock: MovableClock, name: str) -> None:
    async with house(SHORT) as asking:
        sought = Sought(asking, clock)
        await asking.send([event(f"other{index}") for index in range(300)])
        await sought.doubt(name)
        began = clock.now()
        assert 1 == await sought.look(name)
        assert clock.now() - began < 2 * FIRST
        assert "accepted" == await sought.status(name)
        (row,) = [row for row in (await asking.get("/v1/audit"))["data"] if row["action"] == "resolve"]
        assert ("read-back", "doubt", name) == (row["actor"], row["target"], row["destination"])
        assert 0 == await sought.look(name)
        assert 1 == next(row.copies for row in asking.vendors[name].stored if row.key == "doubt")


async def test_a_running_gateway_does_it_by_itself(house: House, clock: MovableClock) -> None:
    async with house(SHORT) as asking:
        asking.vendors["paygentic"].fail("lost_answer")
        await asking.send(event("doubt"), query="?ack=stored")
        await until(lambda: asking.gateway.doubts.next, "it is not in doubt")
        clock.ahead += 2 * FIRST
        assert asking.gateway.doubts.wake is not None
        asking.gateway.doubts.wake()  # as its timer does, half a minute later

        async def found() -> bool:
            return "accepted" == (await asking.get("/v1/events/doubt"))["deliveries"]["paygentic"]["status"]

        await until(found, "it is not looked for")


def lost(stock: Stock) -> None:
    stock.forget(lambda _: True)


def another(stock: Stock) -> None:
    def less(row: StoredRow) -> StoredRow:
        sent = {**row.row, "properties": {"quantity": "4"}} if row.door == "bulk" else row.row
        return replace(row, row=sent, charges=tuple(one._replace(quantity=one.quantity - 1) for one in row.charges))

    stock.change(less)


@pytest.mark.parametrize("name", FINDS)
@pytest.mark.parametrize("tampered", [lost, another])
async def test_what_is_not_there_or_says_something_else_is_looked_for_a_few_times_and_never_sent_again(
    house: House, clock: MovableClock, name: str, tampered: Any
) -> None:
    async with house(SHORT) as asking:
        sought = Sought(asking, clock)
        await sought.doubt(name)
        asking.vendors[name].tamper(tampered)
        began, times, taken = clock.now(), list[timedelta](), asking.vendors[name].rows_taken
        while requests := await sought.look(name):
            assert 1 == requests
            times.append(clock.now() - began)
        assert LOOKS == len(times)
        assert all(later >= 3 * earlier for earlier, later in pairwise(times)), times
        assert (taken, "unknown") == (asking.vendors[name].rows_taken, await sought.status(name))


async def test_what_comes_to_light_late_is_found_then(house: House, clock: MovableClock) -> None:
    async with house(SHORT) as asking:
        sought = Sought(asking, clock)
        await sought.doubt("flexprice")
        (row,) = asking.vendors["flexprice"].stored
        asking.vendors["flexprice"].tamper(lost)
        await sought.look("flexprice")
        asking.vendors["flexprice"].tamper(lambda stock: stock.put(row))
        await sought.look("flexprice")
        assert "accepted" == await sought.status("flexprice")


async def test_what_was_parked_before_a_restart_is_found_after_it(house: House, clock: MovableClock) -> None:
    async with house(SHORT) as asking:
        await Sought(asking, clock).doubt("paygentic", "old")
        asking.gateway.doubts.drop("paygentic")
        clock.ahead += timedelta(days=2)
        await Sought(asking, clock).doubt("paygentic")
    async with house(SHORT) as asking:
        sought = Sought(asking, clock)
        assert 1 == await sought.look("paygentic")
        assert ["accepted", "unknown"] == [await sought.status("paygentic", name) for name in ("doubt", "old")]


async def test_every_row_of_a_delivery_has_to_be_there(house: House, clock: MovableClock) -> None:
    halves = [{"billable_metric_id": "bm_in", "quantity": "in"}, {"billable_metric_id": "bm_out", "quantity": "out"}]
    meters = {"halves": {"bindings": {"paygentic": halves}}}
    async with house(SHORT | {"meters": meters}) as asking:
        sought = Sought(asking, clock)
        asking.vendors["paygentic"].fail("lost_answer")
        await asking.send(event("doubt", meter="halves", quantity=None, quantities={"in": 1, "out": 2}))
        assert "unknown" == await sought.status("paygentic")
        assert await sought.look("paygentic")
        assert "accepted" == await sought.status("paygentic")


async def test_a_vendor_that_does_not_tell_is_asked_again(house: House, clock: MovableClock) -> None:
    async with house(SHORT) as asking:
        sought = Sought(asking, clock)
        await sought.doubt("paygentic")
        asking.vendors["paygentic"].api_key = "another"
        assert await sought.look("paygentic")
        assert "unknown" == await sought.status("paygentic")
        asking.vendors["paygentic"].api_key = None
        assert await sought.look("paygentic")
        assert "accepted" == await sought.status("paygentic")


async def test_a_vendor_that_is_down_is_asked_for_nothing(house: House, clock: MovableClock) -> None:
    async with house(SHORT) as asking:
        sought = Sought(asking, clock)
        await sought.doubt("paygentic")
        pace = asking.gateway.lanes["paygentic"].pace
        pace.faults = 99
        for _ in range(5):
            assert 0 == await sought.look("paygentic")
        now = clock.now()
        pace.heard(Heard.FINE, now, now, busy=False)
        assert await sought.look("paygentic")
        assert "accepted" == await sought.status("paygentic")


async def test_what_a_person_decided_is_not_looked_for(house: House, clock: MovableClock) -> None:
    async with house(SHORT) as asking:
        sought = Sought(asking, clock)
        await sought.doubt("paygentic")
        body = {"id": "doubt", "destination": "paygentic", "resolution": "abandon", "reason": "a test"}
        assert 200 == (await asking.client.post("/v1/deliveries/resolve", json=body)).status_code
        assert 0 == await sought.look("paygentic")
        assert 0 == await sought.look("paygentic")


async def test_many_are_looked_for_a_few_at_a_time(house: House, clock: MovableClock) -> None:
    async with house(SHORT) as asking:
        sought = Sought(asking, clock)
        names = [f"doubt{index}" for index in range(2 * TOGETHER + 5)]
        asking.vendors["paygentic"].fail("lost_answer")
        await asking.send([event(name, quantity=5) for name in names], query="?ack=stored")
        await asking.settled(names[-1])
        times: list[Any] = []
        for expected in (TOGETHER, TOGETHER, 5, 0):
            assert expected == await sought.look("paygentic")
            times.append(clock.now())
        assert all(later - earlier >= REST for earlier, later in pairwise(times[:-1]))
        assert {"accepted"} == {await sought.status("paygentic", name) for name in names}


@pytest.mark.parametrize(("name", "wanted"), [("paygentic", False), ("wingback", True)])
async def test_where_it_is_not_wanted_or_cannot_be_nothing_is_asked(
    house: House, clock: MovableClock, name: str, wanted: bool
) -> None:
    async with house(SHORT) as asking:
        sought, gateway = Sought(asking, clock), asking.gateway
        await sought.doubt(name)
        if not wanted:
            delivery = gateway.configuration.delivery.model_copy(update={"read_back": None})
            gateway.configuration = gateway.configuration.model_copy(update={"delivery": delivery})
        assert 0 == await sought.look(name)
        assert [] == list(gateway.doubts.destinations)
        assert "unknown" == await sought.status(name)


async def test_a_look_counts_against_the_vendor_s_rate(
    house: House, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(SHORT) as asking:
        sought = Sought(asking, clock)
        await sought.doubt("flexprice")
        lane, turns = asking.gateway.lanes["flexprice"], list[int]()
        turn = lane.turn

        async def counted() -> None:
            turns.append(1)
            await turn()

        monkeypatch.setattr(lane, "turn", counted)
        assert 1 == await sought.look("flexprice") == len(turns)


def test_what_is_remembered_is_bounded_and_the_oldest_is_due_first() -> None:
    clock = ManualClock()
    doubts = Doubts(clock)
    woken = list[int]()
    doubts.wake = lambda: woken.append(1)
    doubts.put("it", 1, range(3))
    clock.advance(FIRST / 2)
    doubts.put("it", 1, range(3))  # told twice is told once
    doubts.put("it", 2, range(2 * MOST))
    assert (["it"], clock.now() + FIRST / 2, [1, 1, 1]) == (doubts.destinations, doubts.next, woken)
    clock.advance(FIRST * 1000)
    first = doubts.due("it", 4)
    assert [1 << 16, (1 << 16) + 1, (1 << 16) + 2, 2 << 16] == [ref for ref, _ in first]
    assert MOST - 4 == len(doubts.due("it", 2 * MOST))
    assert ([], None) == (doubts.destinations, doubts.next)
    doubts.again("it", 5, LOOKS - 2)
    doubts.again("it", 6, LOOKS - 1)
    clock.advance(FIRST * 4**LOOKS)
    assert [(5, LOOKS - 1)] == doubts.due("it", 9)


@every_door
def test_where_one_can_be_asked_for_no_more_is_asked_than_its_key_or_its_instant(name: str, profile: str) -> None:
    read_back = provider(name).spec.doors[profile].read_back
    if read_back is None or read_back.finds is None:
        return
    adapter = adapter_of(name, profile)
    assert isinstance(adapter, CanReadUsage)
    usage = usage_of(adapter)
    window = Window(start=usage.timestamp, end=usage.timestamp + adapter.door.time.resolution)
    wanted = Wanted(window=window, bindings={"it": usage.binding}, link=usage.link, key=usage.key, now=usage.timestamp)
    vendor, rows = SimulatedProvider(name, clock=lambda: usage.timestamp), list[UsageRow]()
    for index in range(300):  # of the same customer, a second apart
        at = usage.timestamp + timedelta(seconds=index)
        row = encode_row(adapter.encode(usage_of(adapter, f"e{index}" if index else usage.key, timestamp=at)))
        handed(vendor, adapter, adapter.request([row]))
    ask, requests = adapter.read_usage(wanted, rows.append), 0
    try:
        request = next(ask)
        while True:
            requests += 1
            request = ask.send(handed(vendor, adapter, request))
    except StopIteration as ended:
        told = ended.value
    assert isinstance(told, Read)
    assert [usage.key] == [row.key for row in rows]
    assert requests <= 2, "what it is, where it is asked by that, and the one row"


def handed(vendor: SimulatedProvider, adapter: AnyAdapter, request: Request) -> Reply:
    """Return a simulated vendor's answer, as a transport hands it over."""
    path, _, query = request.url.removeprefix(adapter.base_url).partition("?")
    reply = vendor.handle(request.method, path, request.headers, request.body, query).reply
    assert reply is not None
    assert reply.status < 300
    return reply
