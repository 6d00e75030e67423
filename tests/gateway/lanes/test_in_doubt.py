"""A lane in doubt: lost answers, windows that close, whoever else may be sending. Nothing is billed twice."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from adapters import Dedupe, Door, provider
from canonical_schema import DeliveryStatus, Kind
from gateway.errors import LedgerUnavailable
from gateway.lanes.adrift import shelve
from gateway.ledger import AttemptRow, Change, Portion, Sheet, SqliteLedger, WorkState
from gateway.ledger.doubting import doubt
from gateway.repair import Actor, retry
from gateway.times import to_micros
from gateway.transport import Mounted
from tests.gateway.clocks import START
from tests.gateway.lanes.world import LINKS, Gate, World, faulty, gated, names, passes, used
from tests.waiting import until

MINUTE = timedelta(minutes=1)


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


async def test_a_row_that_was_refused_goes_again_though_one_beside_it_was_in_doubt_for_a_while(tmp_path: Path) -> None:
    """What a vendor refuses that never had it is known: the other row's lost answer says nothing of it."""
    quantities = {"in": Decimal(1), "out": Decimal(2)}
    async with World(tmp_path, "paygentic", delivery={"max_in_flight": 1}) as world:
        world.vendor.refuse(lambda row: _amount(row) == 1)
        world.vendor.fail("timeout", stored=True, when=lambda row: _amount(row) == 2)
        await world.record(used("e1", meter="halves", quantity=None, quantities=quantities))
        await world.later()
        view = (await world.views())["e1"]
        assert {"in": "rejected", "out": "accepted"} == {name: part["status"] for name, part in view["parts"].items()}
        world.vendor.clear()
        actor = Actor(tenant="default", name="ana", reason="the meter is there now")
        now = to_micros(world.clock.now())
        assert (await retry(world.ledger, actor, ["e1"], remap=False, now=now))["retried"]
        await world.later()
        assert ({"e1": "accepted"}, [1, 2]) == (await world.statuses(), sorted(world.copies().values()))
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


def _amount(row: Any) -> int:
    return row["data"]["quantity"]


async def test_what_may_be_there_goes_again_as_it_went_though_it_was_held_and_its_customer_has_another_name(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, "flexprice") as world:
        world.vendor.fail("timeout", stored=True)
        await world.record("e1")
        await world.now()
        world.vendor.api_key = "another"
        await passes(world, 2 * MINUTE)
        assert {"e1": "blocked"} == await world.statuses()
        world.vendor.api_key = None
        await world.restart(customers={"acme": {"it": {"external_customer_id": "theirs"}}})
        await world.later()
        assert {"e1": "accepted"} == await world.statuses()
        assert {"acme"} == {str(row["external_customer_id"]) for call in world.vendor.calls for row in call.rows}
