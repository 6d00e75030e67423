"""A lane in doubt: lost answers, crashes, settlements that fail, stops. Nothing is lost, and nothing billed twice."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import cast

import httpx
import pytest

from adapters import Dedupe, Door, Rate, provider
from canonical_schema import DeliveryStatus, Kind
from gateway.errors import LedgerUnavailable
from gateway.lanes.adrift import shelve
from gateway.ledger import AttemptRow, Change, Portion, Sheet, SqliteLedger, WorkState
from gateway.ledger.doubting import doubt
from gateway.times import to_micros
from gateway.transport import Mounted
from tests.gateway.clocks import START
from tests.gateway.lanes.world import LINKS, Gate, World, faulty, gated, names, until, used

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


# Doubt.


async def test_a_lost_answer_is_sent_again_where_repeats_are_told(tmp_path: Path) -> None:
    async with World(tmp_path, "flowglad") as world:
        world.vendor.fail("lost_answer")
        await world.record("e1")
        await world.later()
        (view,) = (await world.views()).values()
        assert ("duplicate", False, {"e1": 2}) == (view["status"], "unexpected" in view, dict(world.copies()))
        assert {("sub_acme", "calls"): 2} == world.vendor.billed()


async def test_a_lost_answer_is_parked_where_a_repeat_would_be_billed(tmp_path: Path) -> None:
    async with World(tmp_path, "wingback") as world:
        world.vendor.fail("lost_answer")
        await world.record("e1", "e2")
        await world.later()
        assert {DeliveryStatus.UNKNOWN: 2} == await world.counted()
        assert 1 == len(world.vendor.calls)


async def test_what_never_left_is_sent_again_even_where_a_repeat_would_be_billed(tmp_path: Path) -> None:
    async with World(tmp_path, "wingback") as world:
        world.vendor.fail("refused", times=3)
        await world.record("e1")
        await world.later()
        assert ({"e1": "accepted"}, {"e1": 1}) == (await world.statuses(), dict(world.copies()))


async def test_a_repeat_is_not_sent_once_the_vendor_may_have_forgotten(tmp_path: Path) -> None:
    async with World(tmp_path, "paygentic", settings={"dedupe_window": "1h"}) as world:
        world.vendor.fail("timeout")
        await world.record("e1")
        await world.now()
        assert {"e1": "retrying"} == await world.statuses()
        world.clock.advance(56 * MINUTE)
        await world.now()
        assert {"e1": "unknown"} == await world.statuses()
        assert {"e1": 1} == dict(world.copies())
        world.sound()


async def test_the_window_counts_from_the_first_request_that_may_have_arrived(tmp_path: Path) -> None:
    async with World(tmp_path, "paygentic", settings={"dedupe_window": "1h"}) as world:
        world.vendor.fail("timeout", times=2)
        await world.record("e1")
        await world.now()
        world.clock.advance(50 * MINUTE)
        await world.now()
        assert {"e1": "retrying"} == await world.statuses()
        world.clock.advance(20 * MINUTE)
        await world.now()
        assert ({"e1": "unknown"}, 2) == (await world.statuses(), len(world.vendor.calls))


async def test_a_crash_does_not_have_the_window_begin_anew(tmp_path: Path) -> None:
    world, failing = faulty(tmp_path, "paygentic", settings={"dedupe_window": "1h"})
    async with world:
        world.vendor.fail("timeout")
        await world.record("e1")
        await world.now()
        world.clock.advance(50 * MINUTE)
        failing["settle"] = 1
        await world.lane.step()
        await world.lane.idle()
        await world.crash()
        assert {"e1": "retrying"} == await world.statuses()
        world.clock.advance(20 * MINUTE)
        await world.now()
        assert ({"e1": "unknown"}, 2) == (await world.statuses(), len(world.vendor.calls))


async def test_a_row_in_doubt_beside_one_that_did_not_leave_is_not_sent_once_the_vendor_may_have_forgotten(
    tmp_path: Path,
) -> None:
    settings, quantities = {"dedupe_window": "1h"}, {"in": Decimal(1), "out": Decimal(2)}
    async with World(tmp_path, "paygentic", settings=settings, delivery={"max_in_flight": 1}) as world:
        world.vendor.fail("timeout", stored=True)
        await world.record(used("e1", meter="halves", quantity=None, quantities=quantities))
        await world.now()
        assert 1 == len(world.vendor.calls)
        world.clock.advance(60 * MINUTE)
        await world.later()
        assert ({"e1": "unknown"}, [1]) == (await world.statuses(), list(world.copies().values()))
        world.sound()


async def test_doubt_is_parked_while_credentials_are_refused_and_the_window_closes(tmp_path: Path) -> None:
    async with World(tmp_path, "paygentic", settings={"dedupe_window": "1h"}) as world:
        world.vendor.fail("timeout")
        await world.record("e1")
        await world.now()
        world.vendor.api_key = "another"
        for _ in range(60):
            world.clock.advance(MINUTE)
            await world.now()
        world.vendor.api_key = "k"
        world.clock.advance(60 * MINUTE)
        await world.now()
        assert ({"e1": "unknown"}, {"e1": 1}) == (await world.statuses(), dict(world.copies()))


async def test_what_another_process_sends_meanwhile_is_not_put_aside_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a link there, and none here: what becomes of it is for the answer to say."""
    async with World(tmp_path, "wingback", customers={}) as world:
        await world.record("e1")
        now = to_micros(world.clock.now())
        (work,) = await world.ledger.take("it", now, 1)
        settle = world.ledger.settle

        async def later(changes: Sequence[Change], attempts: Sequence[AttemptRow]) -> None:
            monkeypatch.undo()
            await world.ledger.intend([Portion(work=work, members=[0], parts=Sheet(["e1"], [b"{}"]))], now)
            await settle(changes, attempts)

        monkeypatch.setattr(world.ledger, "settle", later)
        await world.lane.step()
        assert [[0]] == [one.members for one in await world.ledger.held("it", WorkState.SENDING)]


async def test_what_was_being_sent_to_a_destination_that_is_removed_is_in_doubt_once_it_is_back(tmp_path: Path) -> None:
    world, gate = gated(tmp_path, "wingback")
    async with world:
        await world.record("e1")
        await world.lane.step()
        await until(lambda: gate.waiting == 1)
        await world.lane.stop(timedelta(0))
        await shelve(world.ledger, {}, world.clock.now())
        assert {"e1": "blocked"} == await world.statuses()
        gate.open.set()
        await world.restart()
        await world.later()
        assert ({"e1": "unknown"}, {}) == (await world.statuses(), dict(world.copies()))
        world.sound()


# Crashing and stopping.


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


class Passing(SqliteLedger):
    """A ledger that others share: who sends alone is not this process at first."""

    shared = True
    mine = False

    def alone(self, destination: str) -> bool:
        return self.mine


async def test_whoever_comes_to_send_running_values_alone_takes_over_and_goes_on(tmp_path: Path) -> None:
    ledger = Passing(tmp_path / "ledger.db")
    async with World(tmp_path, "wingback", settings={"allow_absolute": True}, ledger=ledger) as world:
        await world.record(used("a0", kind=Kind.ABSOLUTE), used("a1", kind=Kind.ABSOLUTE))
        assert START + timedelta(seconds=1) == await world.lane.step()
        assert [] == world.vendor.stored
        ledger.mine = True
        async with asyncio.timeout(5):
            await world.lane.step()
        await world.now()
        assert ["a0", "a1"] == [row.key for row in world.vendor.stored]


async def test_what_waits_its_turn_goes_on_after_another_sent_alone_meanwhile(tmp_path: Path) -> None:
    """Or nobody did: a ledger that was away for longer than a lease."""
    ledger = Passing(tmp_path / "ledger.db")
    ledger.mine = True
    world, gate = gated(tmp_path, "wingback", settings={"allow_absolute": True}, ledger=ledger)
    async with world:
        await world.record(used("a0", kind=Kind.ABSOLUTE), used("a1", kind=Kind.ABSOLUTE))
        await world.lane.step()
        await until(lambda: gate.waiting == 1)
        for mine in (False, True):
            ledger.mine = mine
            await world.lane.step()
        gate.open.set()
        await world.lane.idle()
        await world.later()
        assert ["a0", "a1"] == [row.key for row in world.vendor.stored]
        assert {"a0": "accepted", "a1": "accepted"} == await world.statuses()


async def test_nothing_is_sent_alone_before_all_that_is_unsettled_was_looked_at(tmp_path: Path) -> None:
    ledger = Passing(tmp_path / "ledger.db")
    ledger.mine = True
    world, failing = faulty(tmp_path, "wingback", inner=ledger, settings={"allow_absolute": True})
    async with world:
        world.vendor.fail("lost_answer")
        await world.record(used("a0", kind=Kind.ABSOLUTE))
        await world.later()
        ledger.mine = False
        await world.lane.step()
        await world.record(used("a1", kind=Kind.ABSOLUTE))
        ledger.mine, failing["walk"] = True, 1
        with pytest.raises(LedgerUnavailable):
            await world.lane.step()
        await world.later()
        assert {"a0": "unknown", "a1": "pending"} == await world.statuses()


async def test_what_waits_its_turn_is_let_go_where_that_could_not_be_written_at_once(tmp_path: Path) -> None:
    world, failing = faulty(tmp_path, "wingback", settings={"allow_absolute": True})
    gate = Gate()
    gate.inner = world.vendor.transport()
    async with world:
        world.transport._end = Mounted(gate, 30)
        await world.record(used("a0", kind=Kind.ABSOLUTE), used("a1", kind=Kind.ABSOLUTE))
        await world.lane.step()
        await until(lambda: gate.waiting == 1)
        failing["release"] = 1
        gate.open.set()
        await world.lane.idle()
        await world.later()
        assert {"a0": "accepted", "a1": "accepted"} == await world.statuses()


class Lapsing(SqliteLedger):
    """A ledger that others share, who may have taken this process for gone."""

    lapses = 0


async def test_what_others_may_have_taken_over_does_not_leave_here_too(tmp_path: Path) -> None:
    """A process that stood still for longer than a lease goes on where it was."""
    ledger = Lapsing(tmp_path / "ledger.db")
    world, gate = gated(tmp_path, "paygentic", ledger=ledger)
    async with world:
        await world.record(*names(40))
        await world.lane.step()
        await until(lambda: gate.waiting == 4)
        ledger.lapses += 1
        gate.open.set()
        assert await world.lane.step() is None, "first all of that ends"
        await world.lane.idle()
        assert {DeliveryStatus.ACCEPTED: 4, DeliveryStatus.PENDING: 36} == await world.counted()
        await world.later()
        assert {DeliveryStatus.ACCEPTED: 40} == await world.counted()
        assert dict.fromkeys(names(40), 1) == dict(world.copies())


@pytest.mark.parametrize(("hours", "becomes"), [(1, "accepted"), (25, "unknown")])
async def test_what_cannot_be_rendered_for_a_while_stays_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int, becomes: str
) -> None:
    doors = cast("dict[str, Door]", provider("flowglad").spec.doors)
    for profile, door in doors.items():
        monkeypatch.setitem(doors, profile, replace(door, dedupe=Dedupe(window=timedelta(hours=24))))
    async with World(tmp_path, "flowglad", customers={}) as world:
        await world.record("e1")
        now = to_micros(world.clock.now())
        assert 1 == (await doubt(world.ledger, now, now))["in_doubt"], "the ledger was put back"
        await world.now()
        assert {"e1": "blocked"} == await world.statuses()
        world.clock.advance(timedelta(hours=hours))
        await world.restart(customers={"acme": {"it": LINKS["flowglad"]}})
        await world.later()
        assert {"e1": becomes} == await world.statuses(), "sent again while repeats are told, and never later"
        world.sound()
