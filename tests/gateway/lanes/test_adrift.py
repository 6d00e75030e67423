"""Events that had no way: however many there are, each is given one, and none is forgotten where the ledger fails."""

from pathlib import Path

import pytest

from gateway.errors import LedgerUnavailable
from gateway.lanes import adrift
from gateway.lanes.adrift import Strays
from gateway.ledger import Ledger, Plan, WorkState
from tests.gateway.clocks import ManualClock
from tests.gateway.lanes.test_stencils import LINKED
from tests.gateway.lanes.world import used
from tests.gateway.ledger.conftest import SqliteStore, opened, places, strays

COUNT = 7


@pytest.fixture
def woken() -> list[str]:
    return []


async def left(ledger: Ledger) -> int:
    return sum(len(one.members) for one in await strays(ledger))


async def recorded(ledger: Ledger) -> None:
    for number in range(COUNT):
        sent = [used(f"e{number}"), used(f"nobody{number}", meter="unheard")]
        await ledger.record("default", 1000, sent, [Plan()] * 2)


async def test_all_are_given_their_way_some_batches_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, woken: list[str]
) -> None:
    monkeypatch.setattr(adrift, "BATCHES", 3)
    clock = ManualClock()
    async with opened(SqliteStore(tmp_path)) as ledger:
        await recorded(ledger)
        walk = Strays(ledger, LINKED["flexprice"], clock, woken.append)
        for rest in (COUNT + 4, COUNT + 1):
            assert (clock.now(), rest) == (await walk.step(), await left(ledger))
        assert (["flexprice"] * 6, False) == (woken, walk.done)
        assert (None, COUNT) == (await walk.step(), await left(ledger)), "those that still have none"
        assert (["flexprice"] * (COUNT + 1), True) == (woken, walk.done), "the last is for what waits for this"
        assert {WorkState.READY: [0]} == await places(ledger, 1, "flexprice")
        assert await walk.step() is None


async def test_it_begins_anew_where_the_ledger_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, woken: list[str]
) -> None:
    async with opened(SqliteStore(tmp_path)) as ledger:
        await recorded(ledger)
        walk = Strays(ledger, LINKED["flexprice"], ManualClock(), woken.append)
        for broken in ("route", "_read"):
            with monkeypatch.context() as patch:

                async def fails(*_: object, **__: object) -> None:
                    raise LedgerUnavailable("gone")

                patch.setattr(ledger, broken, fails)
                with pytest.raises(LedgerUnavailable):
                    await walk.step()
        assert (None, COUNT) == (await walk.step(), await left(ledger))


async def test_what_comes_later_is_found_by_beginning_anew(tmp_path: Path, woken: list[str]) -> None:
    async with opened(SqliteStore(tmp_path)) as ledger:
        walk = Strays(ledger, LINKED["flexprice"], ManualClock(), woken.append)
        assert await walk.step() is None
        await recorded(ledger)
        assert (None, 2 * COUNT) == (await walk.step(), await left(ledger))
        walk.again()
        assert (None, COUNT) == (await walk.step(), await left(ledger))
