"""What was held back before a start: all of it is tried again, and a start does not wait for it."""

from pathlib import Path

import pytest

from gateway.lanes import returning
from gateway.lanes.returning import Returning
from gateway.ledger import Ledger, Plan, WorkState
from tests.gateway.clocks import START
from tests.gateway.lanes.world import World, names, used
from tests.gateway.ledger.conftest import ERROR, SqliteStore, opened

COUNT = 7


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returning, "AT_ONCE", 3)


async def held(ledger: Ledger) -> int:
    return len(await ledger.held("a", WorkState.HELD))


async def recorded(ledger: Ledger) -> None:
    for number in range(COUNT):
        await ledger.record("default", 1000, [used(f"e{number}")], [Plan(live=("a",))])
    await ledger.hold("a", ERROR)


async def test_a_start_makes_some_ready_and_a_step_the_rest(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path)) as ledger:
        await recorded(ledger)
        one = Returning("a", ledger)
        await one.begin(START)
        assert COUNT - 3 == await held(ledger)
        assert await one.step(START, lambda: False)
        assert 0 == await held(ledger)
        await ledger.hold("a", ERROR)
        assert await one.step(START, lambda: False)
        assert COUNT == await held(ledger), "what is held from now on is held"


async def test_a_lane_that_is_to_stop_waits_for_no_more_than_a_part(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path)) as ledger:
        await recorded(ledger)
        one = Returning("a", ledger)
        await one.begin(START)
        looks = iter([False, True])
        assert not await one.step(START, lambda: next(looks))
        assert COUNT - 6 == await held(ledger)


async def test_a_lane_goes_on_with_all_of_a_backlog_that_was_blocked(tmp_path: Path) -> None:
    async with World(tmp_path, "wingback") as world:
        for name in names(COUNT):
            await world.record(used(name, customer="nobody"))
        await world.later()
        assert {"blocked"} == set((await world.statuses()).values())
        sent = len(world.vendor.stored)
        await world.restart(customers={"nobody": {"it": {"customer_id": "Cust_00000000-0000-4000-8000-000000000009"}}})
        await world.later()
        assert {"accepted"} == set((await world.statuses()).values())
        assert sent + COUNT == len(world.vendor.stored)
        world.sound()
