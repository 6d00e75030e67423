"""A lane that crashes, stops, or cannot write an answer down: what left is in doubt, and nothing else is."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import httpx
import pytest

from adapters import Door, Rate, provider
from canonical_schema import DeliveryStatus
from gateway.errors import LedgerUnavailable
from gateway.ledger import WorkState
from gateway.transport import Mounted
from tests.gateway.clocks import START
from tests.gateway.lanes.world import Gate, World, faulty, gated, names, used
from tests.waiting import until

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("kind", "becomes", "copies"),
    [("wingback", "unknown", 1), ("flexprice", "accepted", 2), ("flowglad", "duplicate", 2)],
)
async def test_a_crash_after_the_vendor_stored_it_bills_nothing_twice(
    tmp_path: Path, kind: str, becomes: str, copies: int
) -> None:
    world, failing = faulty(tmp_path, kind)
    async with world:
        await world.record(*names(3))
        failing["settle"] = 1
        await world.lane.step()
        await world.lane.idle()
        assert 3 == len(world.vendor.stored)
        await world.crash()
        await world.later()
        assert dict.fromkeys(names(3), becomes) == await world.statuses()
        assert dict.fromkeys(names(3), copies) == dict(world.copies())
        assert 6 == sum(world.vendor.billed().values())
        world.sound()


async def test_a_crash_before_anything_left_is_in_doubt_all_the_same(tmp_path: Path) -> None:
    world, gate = gated(tmp_path, "wingback")
    async with world:
        await world.record("e1", "e2")
        await world.lane.step()
        await until(lambda: gate.waiting == 1)
        await world.crash()
        assert {"e1": "unknown", "e2": "unknown"} == await world.statuses()


async def test_a_delivery_of_two_rows_that_is_parked_says_so_of_each_row(tmp_path: Path) -> None:
    world, gate = gated(tmp_path, "wingback")
    async with world:
        await world.record(used("e1", meter="halves", quantity=None, quantities={"in": 1, "out": 2}))
        await world.lane.step()
        await until(lambda: gate.waiting == 1)
        await world.crash()
        view = (await world.views())["e1"]
        assert {"in": "unknown", "out": "unknown"} == {name: part["status"] for name, part in view["parts"].items()}


@pytest.mark.parametrize(("kind", "becomes"), [("flexprice", "accepted"), ("wingback", "unknown")])
async def test_a_settlement_that_fails_neither_loses_nor_doubles(tmp_path: Path, kind: str, becomes: str) -> None:
    world, failing = faulty(tmp_path, kind)
    async with world:
        await world.record("e1")
        failing["settle"] = 3
        await world.lane.step()
        await world.lane.idle()
        for _ in range(2):
            assert START + timedelta(seconds=1) == await world.lane.step(), "the ledger is asked again soon"
        await world.later()
        assert {"e1": becomes} == await world.statuses()
        assert [2] == list(world.vendor.billed().values())
        assert ["unknown" if becomes == "unknown" else "accepted"] == [
            view["status"] for view in (await world.views()).values()
        ]


async def test_what_was_stranded_is_judged_even_where_a_lane_is_never_idle(tmp_path: Path) -> None:
    world, failing = faulty(tmp_path, "wingback")
    async with world:
        await world.record("e0")
        failing["settle"] = 1
        await world.lane.step()
        await world.lane.idle()
        gate = Gate()
        gate.inner = world.vendor.transport()
        world.transport._end = Mounted(gate, 30)
        world.lane._stranded = True
        await world.record(*names(3, 1))
        await world.lane.step()
        await until(lambda: gate.waiting == 1)
        world.lane._stranded = True
        await world.record(*names(3, 4))
        assert await world.lane.step() is None
        assert 1 == gate.waiting, "nothing new leaves until it is judged"
        gate.open.set()
        await world.lane.idle()
        await world.later()
        assert {"e0": "unknown", **dict.fromkeys(names(6, 1), "accepted")} == await world.statuses()


async def test_of_a_door_of_single_rows_nothing_is_judged_while_some_are_in_flight(tmp_path: Path) -> None:
    world, failing = faulty(tmp_path, "paygentic")
    gate = Gate()
    gate.inner = world.vendor.transport()
    async with world:
        world.transport._end = Mounted(First(world.vendor.transport(), gate), 30)
        await world.record("e0", "e1", "e2")
        failing["settle"] = 1
        await world.lane.step()
        await until(lambda: gate.waiting == 2 and not failing["settle"])
        for _ in range(200):
            await asyncio.sleep(0)
        assert 1 == len(world.lane._sending), "the shipment ends with its last request"
        gate.open.set()
        await world.lane.idle()
        await world.later()
        assert {"accepted"} == set((await world.statuses()).values())
        assert {("acme", "calls"): 6} == {("acme", "calls"): sum(world.vendor.billed().values())}
        world.sound()


class First(httpx.AsyncBaseTransport):
    """Lets one request through, and leads the others to a gate."""

    def __init__(self, inner: httpx.AsyncBaseTransport, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate
        self._calls = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._calls += 1
        return await (self._inner if self._calls == 1 else self._gate).handle_async_request(request)


async def test_an_intent_that_cannot_be_written_sends_nothing(tmp_path: Path) -> None:
    world, failing = faulty(tmp_path, "wingback")
    async with world:
        await world.record("e1")
        failing["intend"] = 1
        with pytest.raises(LedgerUnavailable):
            await world.lane.step()
        assert [] == world.vendor.calls
        await world.later()
        assert ({"e1": "accepted"}, {"e1": 1}) == (await world.statuses(), dict(world.copies()))


async def test_stopping_lets_what_is_in_flight_finish_and_sends_nothing_new(tmp_path: Path) -> None:
    world, gate = gated(tmp_path, "wingback")
    async with world:
        await world.record(*names(3))
        running = asyncio.ensure_future(world.lane.run())
        await until(lambda: gate.waiting == 1)
        await world.record(*names(3, 3))
        stopping = asyncio.ensure_future(world.lane.stop(60 * SECOND))
        await asyncio.sleep(0)
        gate.open.set()
        await stopping
        await running
        assert {
            **dict.fromkeys(names(3), "accepted"),
            **dict.fromkeys(names(3, 3), "pending"),
        } == await world.statuses()
        assert 3 == len(world.vendor.stored)


async def test_stopping_a_door_of_single_rows_does_not_send_the_rest_of_a_shipment(tmp_path: Path) -> None:
    world, gate = gated(tmp_path, "paygentic")
    async with world:
        await world.record(*names(40))
        await world.lane.step()
        await until(lambda: gate.waiting == 4)
        stopping = asyncio.ensure_future(world.lane.stop(60 * SECOND))
        await asyncio.sleep(0)
        gate.open.set()
        await stopping
        assert 4 == len(world.vendor.stored)
        assert {DeliveryStatus.ACCEPTED: 4, DeliveryStatus.PENDING: 36} == await world.counted()
        assert [] == await world.ledger.held("it", WorkState.SENDING), "nothing is in doubt"


async def test_what_waits_for_its_turn_by_a_slow_limit_when_the_lane_stops_is_not_sent_and_in_no_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors = cast("dict[str, Door]", provider("paygentic").spec.doors)
    limit = Rate(requests=10, per=timedelta(hours=1))
    monkeypatch.setitem(doors, "events", replace(doors["events"], rates=(limit,)))
    async with World(tmp_path, "paygentic", rate="vendor") as world:
        await world.record(*names(4))
        await world.lane.step()
        await until(lambda: len(world.vendor.stored) == 1)
        await asyncio.wait_for(world.lane.stop(60 * SECOND), 10)  # the clock stands: no other turn ever comes
        assert 1 == len(world.vendor.stored)
        assert {DeliveryStatus.ACCEPTED: 1, DeliveryStatus.PENDING: 3} == await world.counted()
        assert [] == await world.ledger.held("it", WorkState.SENDING), "nothing is in doubt"


async def test_a_step_that_is_under_way_when_the_lane_stops_leaves_nothing_behind(tmp_path: Path) -> None:
    async with World(tmp_path, "wingback") as world:
        await world.record(*names(5))
        step = asyncio.ensure_future(world.lane.step())
        await asyncio.sleep(0)
        await world.lane.stop(60 * SECOND)
        assert step.done()
        assert not world.lane._sending
        assert [] == await world.ledger.held("it", WorkState.SENDING)


async def test_what_does_not_finish_within_the_grace_is_ended_and_in_doubt_at_the_next_start(tmp_path: Path) -> None:
    world, gate = gated(tmp_path, "wingback")
    async with world:
        await world.record("e1")
        await world.lane.step()
        await until(lambda: gate.waiting == 1)
        await world.lane.stop(timedelta(0))
        assert (0, 1) == (gate.waiting, gate.cancelled)
        await world.restart()
        assert {"e1": "unknown"} == await world.statuses()
