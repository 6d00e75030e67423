"""Chores: a step at a time by the given clock, whatever happens in one, and never cut off in the middle."""

import asyncio
from datetime import datetime, timedelta

from gateway.chores import PAUSE, Chore
from tests.gateway.clocks import START, ManualClock


class Steps:
    """Counts its steps; each says to come again in an hour, or fails when told to."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.taken: list[datetime] = []
        self.fail = False

    async def __call__(self) -> datetime:
        self.taken.append(self.clock.now())
        if self.fail:
            raise RuntimeError
        return self.clock.now() + timedelta(hours=1)


async def _turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_step_is_taken_when_its_time_has_come_and_when_woken() -> None:
    clock = ManualClock()
    steps = Steps(clock)
    chore = Chore("housekeeping", steps, clock)
    running = chore.start()
    await _turns()
    assert [START] == steps.taken
    clock.advance(timedelta(hours=1))
    await _turns()
    assert [START, START + timedelta(hours=1)] == steps.taken
    chore.wake()
    await _turns()
    assert 3 == len(steps.taken)
    chore.stop()
    await running


async def test_a_step_that_fails_is_taken_again_after_a_pause() -> None:
    clock = ManualClock()
    steps = Steps(clock)
    steps.fail = True
    chore = Chore("housekeeping", steps, clock)
    running = chore.start()
    await _turns()
    clock.advance(PAUSE)
    await _turns()
    assert [START, START + PAUSE] == steps.taken
    chore.stop()
    await running


async def test_a_stop_waits_for_the_step_under_way() -> None:
    clock = ManualClock()
    going, goes = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def step() -> None:
        goes.set()
        await going.wait()
        ended.append("whole")

    chore = Chore("housekeeping", step, clock)
    running = chore.start()
    await goes.wait()
    chore.stop()
    await _turns()
    assert not running.done()
    going.set()
    await running
    assert ["whole"] == ended


async def test_one_that_is_stopped_before_its_first_turn_takes_no_step() -> None:
    clock = ManualClock()
    steps = Steps(clock)
    chore = Chore("housekeeping", steps, clock)
    running = chore.start()
    chore.stop()
    await running
    assert [] == steps.taken
