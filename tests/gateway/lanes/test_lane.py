"""A lane's life: full requests, retries, pauses, and who must act. Nothing sleeps; the clock stands until moved."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from adapters import Door, provider
from canonical_schema import Event
from gateway.errors import LedgerUnavailable
from gateway.lanes.stencils import Stencils
from gateway.ledger import Moved, SqliteLedger, WorkState
from gateway.times import from_micros
from tests.gateway.clocks import START, ManualClock
from tests.gateway.lanes.world import CONTRACT, World, faulty, gated, names, used
from tests.waiting import until

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


async def due(world: World) -> list[datetime]:
    """Return when everything that is ready is due."""
    return sorted({from_micros(work.group.due) for work in await world.ledger.held("it", WorkState.READY)})


# Delivering.


@pytest.mark.parametrize(("max_bytes", "full"), [(10_000_000, [50] * 8 + [30]), (1500, [10] * 43)])
async def test_a_large_backlog_goes_out_in_full_requests_and_each_row_is_rendered_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_bytes: int, full: list[int]
) -> None:
    rendered: list[str] = []
    plain = Stencils.rows

    def counting(stencils: Stencils, tenant: str, events: Sequence[Event], *others: Any) -> Any:
        rendered.extend(event.id for event in events)
        return plain(stencils, tenant, events, *others)

    monkeypatch.setattr(Stencils, "rows", counting)
    doors = cast("dict[str, Door]", provider("flexprice").spec.doors)
    monkeypatch.setitem(doors, "bulk", replace(doors["bulk"], max_rows=50, max_bytes=max_bytes))
    async with World(tmp_path) as world:
        await world.record(*names(370, 1000))
        await world.record(*names(60, 2000))
        await world.now()
        assert full == [len(call.rows) for call in world.vendor.calls]
        assert 430 == len(set(rendered)) == len(world.vendor.stored)
        assert len(rendered) <= 430 + 2 * len(full), "no more than what did not fit any more"


async def test_work_that_changes_hands_again_and_again_is_looked_at_later_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        await world.record("e1")

        async def moves(*_: object) -> None:
            raise Moved("work 1 is not ready")

        with monkeypatch.context() as planted:
            planted.setattr(world.ledger, "intend", moves)
            assert START + SECOND == await asyncio.wait_for(world.lane.step(), 10)
        world.clock.advance(SECOND)
        await world.now()
        assert ["e1"] == [row.key for row in world.vendor.stored]


async def test_new_work_wakes_a_running_lane(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        running = asyncio.ensure_future(world.lane.run())
        await world.record("e1")
        world.lane.wake()
        await until(lambda: len(world.vendor.stored) == 1)
        await world.lane.stop(SECOND)
        await running


async def test_a_lane_that_is_told_to_stop_while_its_step_waits_for_its_turn_ends_at_once(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        async with world.lane._stepping:  # as while a batch of corrections is looked through
            running = asyncio.ensure_future(world.lane.run())
            await asyncio.sleep(0)
            stopping = asyncio.ensure_future(world.lane.stop(SECOND))
            await asyncio.sleep(0)
        await asyncio.wait_for(stopping, 10)
        await asyncio.wait_for(running, 10)


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


async def test_a_failing_vendor_is_tried_singly_with_growing_pauses_and_then_gets_everything(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.vendor.fail("unavailable", times=None, when=lambda _: True)  # what is read it answers
        await world.record(*names(300))
        for _ in range(12):
            when = await world.now()
            assert when is not None
            world.clock.advance_to(when)
        calls = [call for call in world.vendor.calls if call.rows]
        assert [300] + [1] * 11 == [len(call.rows) for call in calls]
        assert all(later.at > earlier.at for earlier, later in pairwise(calls))
        assert calls[-1].at - calls[0].at > 5 * MINUTE
        world.vendor.clear()
        before = len(world.vendor.calls)
        await world.later()
        after = [len(call.rows) for call in world.vendor.calls[before:]]
        assert [0, 1] == after[:2], "the first answer after trouble is to a read, the next to one delivery"
        assert len(after) < 20
        assert {"accepted"} == set((await world.statuses()).values())


async def test_giving_up_takes_attempts_and_time(tmp_path: Path) -> None:
    retry = {"first": "1s", "max": "1m", "attempts": 3, "give_up": "1h"}
    async with World(tmp_path, delivery={"retry": retry}) as world:
        world.vendor.fail("refused", times=None, when="e1")
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


async def test_what_refused_credentials_held_goes_where_the_ledger_would_not_let_it_at_once(tmp_path: Path) -> None:
    world, failing = faulty(tmp_path)
    async with world:
        world.vendor.api_key = "another"
        await world.record("e0")
        await world.record("e1")
        world.clock.advance_to(await world.now() or START)
        world.vendor.api_key = "k"
        while world.lane.pace.refused:
            await world.lane.step()
            await world.lane.idle()
        assert {"accepted", "blocked"} == set((await world.statuses()).values())
        failing["release"] = 1
        with pytest.raises(LedgerUnavailable):
            await world.lane.step()
        await world.later()
        assert {"accepted"} == set((await world.statuses()).values())


async def test_what_one_answer_held_goes_on_where_the_next_one_speaks_of_other_trouble(tmp_path: Path) -> None:
    """Both requests were under way: the lane takes no step between the two answers, and hears of the last alone."""
    asked = 0

    class Turning(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal asked
            asked += 1
            if asked == 1:
                await until(lambda: asked == 2)
                return httpx.Response(401)
            if asked == 2:
                await until(lambda: world.lane.pace.refused)
                raise httpx.ReadError("")
            return httpx.Response(202, json={"object": "event", "id": "evt_1"})

    world = World(tmp_path, "paygentic", mount=Turning())
    async with world:
        await world.record("e0", "e1")
        await world.later()
        assert {"e0": "accepted", "e1": "accepted"} == await world.statuses()
        assert 0 == len(await world.ledger.held("it", WorkState.HELD))
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


async def test_a_process_that_others_may_take_for_gone_sends_nothing_it_was_about_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        await world.record("e1")
        monkeypatch.setattr(SqliteLedger, "fenced", True)
        await world.lane.step()
        await world.lane.idle()
        assert ([], [START + SECOND]) == (world.vendor.calls, await due(world))
        monkeypatch.setattr(SqliteLedger, "fenced", False)
        await world.later()
        assert (1, {"e1": "accepted"}) == (len(world.vendor.calls), await world.statuses())
        assert 1 == (await world.views())["e1"]["attempts"]
