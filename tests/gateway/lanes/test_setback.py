"""A clock that is set back: nothing waits until it is then again, and no age is guessed."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.errors import LedgerUnavailable
from gateway.lanes import lane, setback
from gateway.ledger import AttemptRow, Change, Moved, WorkState
from gateway.times import to_micros
from tests.gateway.lanes.world import World, faulty, names
from tests.waiting import until

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
WINDOW = {"dedupe_window": "1h"}


async def test_what_is_in_doubt_is_parked_where_its_age_matters(tmp_path: Path) -> None:
    async with World(tmp_path, "paygentic", settings=WINDOW) as world:
        world.vendor.fail("timeout", stored=True)
        await world.record("e1")
        await world.now()
        world.clock.advance(-2 * HOUR)
        await world.later()
        (view,) = (await world.views()).values()
        assert ("unknown", {"e1": 1}) == (view["status"], dict(world.copies()))
        assert "the clock was set back" in view["error"]["message"]
        world.sound()


async def test_a_start_notices_that_the_clock_is_behind_what_was_recorded(tmp_path: Path) -> None:
    async with World(tmp_path, "paygentic", settings=WINDOW) as world:
        world.vendor.fail("timeout", stored=True)
        await world.record("e1")
        world.clock.advance(40 * MINUTE)
        await world.now()
        await world.record("e2")
        world.vendor.fail("refused", times=9)
        world.clock.advance(-30 * MINUTE)
        await world.crash()
        await world.now()
        assert {"e1": "unknown", "e2": "retrying"} == await world.statuses()
        await world.later()
        assert {"e1": "unknown", "e2": "accepted"} == await world.statuses()
        world.sound()


async def test_what_was_being_sent_when_the_clock_was_set_back_is_parked(tmp_path: Path) -> None:
    world, failing = faulty(tmp_path, "paygentic", settings=WINDOW)
    async with world:
        await world.record("e1")
        failing["settle"] = 1
        await world.lane.step()
        await world.lane.idle()
        world.clock.advance(-2 * HOUR)
        await world.crash()
        await world.later()
        assert ({"e1": "unknown"}, {"e1": 1}) == (await world.statuses(), dict(world.copies()))
        world.sound()


async def test_what_is_held_in_doubt_is_parked_as_well(tmp_path: Path) -> None:
    async with World(tmp_path, "paygentic", settings=WINDOW) as world:
        world.vendor.fail("timeout", stored=True)
        await world.record("e1")
        await world.now()
        world.vendor.api_key = "another"
        await world.record("e2")
        world.clock.advance(15 * MINUTE)
        await world.now()
        assert {"e1": "blocked", "e2": "blocked"} == await world.statuses()
        world.clock.advance(-2 * HOUR)
        await world.now()
        world.vendor.api_key = "k"
        await world.later()
        assert {"e1": "unknown", "e2": "accepted"} == await world.statuses()
        world.sound()


@pytest.mark.parametrize("doubt", [False, True])
async def test_what_was_to_be_tried_again_is_due(tmp_path: Path, doubt: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flowglad knows an id for good: how long ago it was sent does not matter."""
    monkeypatch.setattr(setback, "PAGE", 2)
    async with World(tmp_path, "flowglad") as world:
        world.vendor.fail("lost_answer" if doubt else "refused", times=2)
        await world.record(*names(3))
        await world.now()
        for name in names(4, 3):
            await world.record(name)
        world.clock.advance(-2 * HOUR)
        back = world.clock.now()
        await world.later()
        assert {"duplicate" if doubt else "accepted", "accepted"} == set((await world.statuses()).values())
        assert world.clock.now() - back < HOUR
        world.sound()


async def test_what_the_ledger_does_not_take_is_done_by_the_next_step(tmp_path: Path) -> None:
    world, failing = faulty(tmp_path, "paygentic", settings=WINDOW)
    async with world:
        world.vendor.fail("timeout", stored=True)
        await world.record("e1")
        await world.now()
        world.clock.advance(-2 * HOUR)
        failing["settle"] = 1
        with pytest.raises(LedgerUnavailable):
            await world.lane.step()
        await world.later()
        assert ({"e1": "unknown"}, {"e1": 1}) == (await world.statuses(), dict(world.copies()))


async def test_a_lane_that_waits_long_looks_at_the_clock_all_the_same(tmp_path: Path) -> None:
    async with World(tmp_path, "paygentic", settings=WINDOW) as world:
        world.vendor.fail("throttled", retry_after=3600)
        await world.record("e1")
        task = asyncio.create_task(world.lane.run())
        await until(lambda: world.clock.due() is not None)
        due = world.clock.due()
        assert due is not None
        assert due - world.clock.now() <= lane.LOOK
        await world.lane.stop(timedelta(0))
        await task


async def test_what_somebody_decided_meanwhile_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, "flowglad") as world:
        world.vendor.fail("refused", times=2)
        for name in names(3):
            await world.record(name)
            await world.now()
        first, settle = min(await world.ledger.batches_after(0, 3)), world.ledger.settle

        async def moves(changes: Sequence[Change], attempts: Sequence[AttemptRow]) -> None:
            if not attempts and min(one.batch for one in changes) == first:  # the first piece alone is another's by now
                raise Moved("it is being sent")
            await settle(changes, attempts)

        world.clock.advance(-2 * HOUR)
        monkeypatch.setattr(world.ledger, "settle", moves)
        await world.now()
        due = {work.batch: work.group.due for work in await world.ledger.held("it", WorkState.READY)}
        assert to_micros(world.clock.now()) < due.pop(first)
        assert all(one <= to_micros(world.clock.now()) for one in due.values())
