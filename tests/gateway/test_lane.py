"""A lane's life: retries, pauses, blocking, crashes and stops. No test sleeps; the clock stands until it is moved."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from adapters import Door, provider
from canonical_schema import DeliveryStatus
from gateway.errors import LedgerUnavailable
from gateway.ledger import Ledger, SqliteLedger, WorkState
from gateway.times import from_micros
from tests.gateway.clocks import START, ManualClock
from tests.gateway.lanes import CONTRACT, World, names, used

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


class Gate(httpx.AsyncBaseTransport):
    """Lets requests through to a vendor when it is opened, and not before."""

    def __init__(self) -> None:
        self.inner: httpx.AsyncBaseTransport | None = None
        self.open = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert self.inner is not None
        self.waiting += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return await self.inner.handle_async_request(request)


class Faulty:
    """A ledger of which single calls fail, as on a full disk."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.failing: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        if self.failing.get(name):
            self.failing[name] -= 1
            return self._refuse
        return getattr(self._ledger, name)

    async def _refuse(self, *_: object, **__: object) -> None:
        raise LedgerUnavailable("disk full")


def gated(folder: Path, kind: str = "flexprice", **members: Any) -> tuple[World, Gate]:
    gate = Gate()
    world = World(folder, kind, mount=gate, **members)
    gate.inner = world.vendor.transport()
    return world, gate


def faulty(folder: Path, kind: str = "flexprice", **members: Any) -> tuple[World, dict[str, int]]:
    ledger = Faulty(SqliteLedger(folder / "ledger.db"))
    return World(folder, kind, ledger=cast("Ledger", ledger), **members), ledger.failing


async def until(met: Callable[[], bool]) -> None:
    """Let others run until something holds."""
    for _ in range(20_000):
        if met():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


async def due(world: World) -> list[datetime]:
    """Return when everything that is ready is due."""
    return sorted({from_micros(work.group.due) for work in await world.ledger.held("it", WorkState.READY)})


# Delivering.


@pytest.mark.parametrize(("max_bytes", "full"), [(10_000_000, [50] * 8 + [30]), (1500, [10] * 43)])
async def test_a_large_backlog_goes_out_in_full_requests_and_each_row_is_rendered_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_bytes: int, full: list[int]
) -> None:
    import gateway.lane

    rendered: list[str] = []
    plain = gateway.lane.render

    def counting(*given: Any) -> Any:
        rendered.append(given[3].id)
        return plain(*given)

    monkeypatch.setattr(gateway.lane, "render", counting)
    doors = cast("dict[str, Door]", provider("flexprice").spec.doors)
    monkeypatch.setitem(doors, "bulk", replace(doors["bulk"], max_rows=50, max_bytes=max_bytes))
    async with World(tmp_path) as world:
        await world.record(*names(370, 1000))
        await world.record(*names(60, 2000))
        await world.now()
        assert full == [len(call.rows) for call in world.vendor.calls]
        assert 430 == len(set(rendered)) == len(world.vendor.stored)
        assert len(rendered) <= 430 + 2 * len(full), "no more than what did not fit any more"


async def test_new_work_wakes_a_running_lane(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        running = asyncio.ensure_future(world.lane.run())
        await world.record("e1")
        world.lane.wake()
        await until(lambda: len(world.vendor.stored) == 1)
        await world.lane.stop(SECOND)
        await running


async def test_one_event_that_breaks_the_adapter_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.flexprice import Flexprice

    plain = Flexprice.encode

    def stumbling(self: Flexprice, usage: Any) -> Any:
        if usage.event_id == "e1":
            raise KeyError("a value of the customer")
        return plain(self, usage)

    monkeypatch.setattr(Flexprice, "encode", stumbling)
    async with World(tmp_path) as world:
        await world.record(*names(3))
        await world.now()
        assert {"e0": "accepted", "e1": "blocked", "e2": "accepted"} == await world.statuses()
        error = (await world.views())["e1"]["error"]
        assert "Flexprice's adapter failed on this event: KeyError" == error["message"]
        monkeypatch.setattr(Flexprice, "encode", plain)
        await world.restart()
        await world.later()
        assert {"accepted"} == set((await world.statuses()).values())


async def test_a_slow_lane_delays_no_other(tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "fast").mkdir()
    slow, gate = gated(tmp_path / "slow")
    async with slow, World(tmp_path / "fast") as fast:
        runs = [asyncio.ensure_future(one.lane.run()) for one in (slow, fast)]
        await slow.record(*names(3))
        slow.lane.wake()
        await until(lambda: gate.waiting == 1)
        await fast.record(*names(3))
        fast.lane.wake()
        await until(lambda: len(fast.vendor.stored) == 3)
        assert [] == slow.vendor.stored
        gate.open.set()
        await asyncio.gather(slow.lane.stop(SECOND), fast.lane.stop(SECOND))
        await asyncio.gather(*runs)


# Retrying.


async def test_the_next_attempt_is_written_down_and_kept_over_a_restart(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.vendor.fail("unavailable", retry_after=90)
        await world.record("e1")
        await world.now()
        (view,) = (await world.views()).values()
        assert ("retrying", "2026-11-23T12:01:30Z") == (view["status"], view["next_attempt_at"])
        await world.restart()
        world.clock.advance(89 * SECOND)
        await world.now()
        assert 1 == len(world.vendor.calls)
        world.clock.advance(SECOND)
        await world.now()
        assert {"e1": "accepted"} == await world.statuses()


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
async def test_a_server_that_says_when_is_not_asked_before(tmp_path: Path, as_date: bool) -> None:
    async with World(tmp_path, "flowglad") as world:
        said: float | datetime = START + 7 * MINUTE if as_date else 420
        world.vendor.fail("throttled", retry_after=said)
        await world.record("e1")
        assert START + 7 * MINUTE == await world.now()
        assert [START + 7 * MINUTE] == await due(world)
        await world.record("e2")
        world.clock.advance(7 * MINUTE - SECOND)
        await world.now()
        assert 1 == len(world.vendor.calls)
        world.clock.advance(SECOND)
        await world.later()
        assert {"e1": 1, "e2": 1} == dict(world.copies())


async def test_a_failing_vendor_is_probed_singly_with_growing_pauses_and_then_gets_everything(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.vendor.fail("unavailable", times=None)
        await world.record(*names(300))
        for _ in range(12):
            when = await world.now()
            assert when is not None
            world.clock.advance_to(when)
        calls = world.vendor.calls
        assert [300] + [1] * 11 == [len(call.rows) for call in calls]
        assert all(later.at > earlier.at for earlier, later in pairwise(calls))
        assert calls[-1].at - calls[0].at > 5 * MINUTE
        world.vendor.clear()
        before = len(calls)
        await world.later()
        after = [len(call.rows) for call in world.vendor.calls[before:]]
        assert 1 == after[0], "the first answer after trouble is to a probe"
        assert len(after) < 20
        assert {"accepted"} == set((await world.statuses()).values())


async def test_giving_up_takes_attempts_and_time(tmp_path: Path) -> None:
    retry = {"first": "1s", "max": "1m", "attempts": 3, "give_up": "1h"}
    async with World(tmp_path, delivery={"retry": retry}) as world:
        world.vendor.fail("refused", times=None)
        await world.record("e1")
        await world.later()
        (view,) = (await world.views()).values()
        assert "dead" == view["status"]
        assert len(view["history"]) > 30
        assert START + 60 * MINUTE <= world.clock.now() < START + 62 * MINUTE
        world.sound()


# Who must act.


async def test_refused_credentials_hold_everything_and_it_goes_on_once_they_are_mended(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.vendor.api_key = "another"
        await world.record(*names(5))
        await world.now()
        await world.record(*names(5, 5))
        for _ in range(6):
            when = await world.now()
            assert {"blocked"} == set((await world.statuses()).values())
            assert when is not None
            world.clock.advance_to(when)
        works = [work for state in WorkState for work in await world.ledger.held("it", state)]
        assert {0} == {work.group.attempts for work in works}
        assert {"unauthorized"} == {view["error"]["code"] for view in (await world.views()).values()}
        world.vendor.api_key = "k"
        await world.later()
        assert {"accepted"} == set((await world.statuses()).values())
        assert {1} == set(world.copies().values())
        world.sound()


async def test_refused_credentials_spend_no_attempt_of_a_delivery_of_two_rows(tmp_path: Path) -> None:
    async with World(tmp_path, "paygentic") as world:
        world.vendor.api_key = "another"
        await world.record(used("e1", meter="halves", quantity=None, quantities={"in": 1, "out": 2}))
        for _ in range(4):
            world.clock.advance_to(await world.now() or world.clock.now())
        (work,) = [work for state in WorkState for work in await world.ledger.held("it", state)]
        assert (WorkState.HELD, 0) == (work.group.state, work.group.attempts)


async def test_a_probe_that_is_turned_away_here_is_followed_by_another(tmp_path: Path) -> None:
    async with World(tmp_path, "flowglad") as world:
        world.vendor.api_key = "another"
        await world.record("e0")
        await world.now()
        await world.record(used("e1", customer="stranger"))
        await world.record("e2")
        world.clock.advance_to(await world.now() or START)
        await world.now()  # the second probe's piece goes to the end of the queue
        world.vendor.api_key = "k"
        await world.later()
        assert {"e0": "accepted", "e1": "blocked", "e2": "accepted"} == await world.statuses()


async def test_a_customer_without_a_link_blocks_only_its_own_and_is_looked_at_again_at_the_start(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, "wingback") as world:
        ended = world.board.watch()
        with ended:
            claims = await world.record("e1", used("e2", customer="stranger"), "e3")
            await world.now()
            batch = claims[0].ref >> 16
            await ended.until_ended([(batch, index, "it") for index in range(3)], 0.0)
        assert {"e1": "accepted", "e2": "blocked", "e3": "accepted"} == await world.statuses()
        assert "unmapped_customer" == (await world.views())["e2"]["error"]["code"]
        assert await world.now() is None
        links = {name: {"it": {"customer_id": CONTRACT}} for name in ("acme", "stranger")}
        await world.restart(customers=links)
        await world.now()
        assert {"e1": 1, "e2": 1, "e3": 1} == dict(world.copies())


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
            with pytest.raises(LedgerUnavailable):
                await world.lane.step()
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
        world.transport._client._transport = gate
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
        world.transport._client._transport = First(world.vendor.transport(), gate)
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


async def test_a_running_lane_outlives_a_ledger_that_fails(tmp_path: Path) -> None:
    world, failing = faulty(tmp_path)
    async with world:
        await world.record("e1")
        failing["take"] = 1
        running = asyncio.ensure_future(world.lane.run())
        await until(lambda: not failing["take"])
        while not world.vendor.stored:
            world.clock.advance(SECOND)
            await asyncio.sleep(0)
        await world.lane.stop(SECOND)
        await running


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


async def test_a_step_that_is_under_way_when_the_lane_stops_leaves_nothing_behind(tmp_path: Path) -> None:
    async with World(tmp_path, "wingback") as world:
        await world.record(*names(5))
        step = asyncio.ensure_future(world.lane.step())
        await asyncio.sleep(0)
        await world.lane.stop(60 * SECOND)
        assert step.done()
        assert set() == world.lane._sending
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


async def test_the_log_tells_of_an_attempt_without_a_secret_or_a_property(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with World(tmp_path, "flowglad", settings={"api_key": "sk_hidden"}) as world:
        world.vendor.refuse("e1", code="unknown_subscription")
        await world.record("e0", used("e1", properties={"who": "jane@example.org"}))
        await world.later()
    said = capsys.readouterr().out
    assert "attempt.settled" in said
    assert [] == [word for word in ("sk_hidden", "jane@example.org", "sub_acme") if word in said]


async def test_a_manual_clock_lets_go_when_it_is_moved_or_the_event_is_set() -> None:
    clock, event = ManualClock(), asyncio.Event()
    waiting = asyncio.ensure_future(clock.wait(event, START + SECOND))
    await asyncio.sleep(0)
    clock.advance(SECOND / 2)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(SECOND)
    await waiting
    again = asyncio.ensure_future(clock.wait(event, None))
    await asyncio.sleep(0)
    event.set()
    await again
