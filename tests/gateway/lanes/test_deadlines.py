"""A provider that takes usage only so long after it happened: first goes what closes first, and late is late."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from adapters import Door, provider
from canonical_schema import Kind
from gateway.ledger import Moved, WorkState, split_ref
from gateway.ledger.doubting import doubt
from gateway.merge import closing, fresh
from gateway.repair import Actor, resolve, retry
from gateway.times import to_micros
from tests.gateway.clocks import START
from tests.gateway.lanes.world import World, names, used

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
ACTOR = Actor(tenant="default", name="op", reason="asked")
Windowed = Callable[..., None]


@pytest.fixture
def windowed(monkeypatch: pytest.MonkeyPatch) -> Windowed:
    """Give a provider's door an acceptance window."""

    def give(name: str = "flexprice", past: timedelta | None = HOUR, **changes: Any) -> None:
        doors = cast("dict[str, Door]", provider(name).spec.doors)
        for profile, door in doors.items():
            monkeypatch.setitem(doors, profile, replace(door, time=replace(door.time, past=past), **changes))

    return give


def ago(minutes: float) -> datetime:
    return START - minutes * MINUTE


async def minutes(world: World, count: int) -> None:
    """Let so many minutes pass, no more than one at a time."""
    end = world.clock.now() + count * MINUTE
    while world.clock.now() < end:
        due = await world.now()
        later = world.clock.now() + MINUTE
        world.clock.advance_to(min(end, later if due is None else min(due, later)))
    await world.now()


async def ended(world: World) -> datetime:
    """Let time pass until no delivery is open; return when that was."""
    while {"pending", "retrying", "blocked"} & set((await world.statuses()).values()):
        world.clock.advance_to(await world.now() or START)
        await world.now()
    return world.clock.now()


async def test_what_has_closed_and_changes_hands_again_and_again_is_ended_later(
    tmp_path: Path, windowed: Windowed, monkeypatch: pytest.MonkeyPatch
) -> None:
    windowed()
    async with World(tmp_path) as world:
        world.vendor.fail("refused", times=None)
        await world.record(used("e1", timestamp=ago(59)))
        await world.now()
        world.clock.advance(2 * MINUTE)

        async def moves(*_: object) -> None:
            raise Moved("work 1 is being sent")

        with monkeypatch.context() as planted:
            planted.setattr(world.ledger, "settle", moves)
            again = await asyncio.wait_for(world.lane.step(), 10)
        assert again == world.clock.now() + timedelta(seconds=1)
        await world.now()
        assert {"e1": "dead"} == await world.statuses()


async def test_a_delivery_shows_until_when_it_is_taken_and_one_without_a_window_does_not(
    tmp_path: Path, windowed: Windowed
) -> None:
    windowed()
    async with World(tmp_path) as world:
        world.vendor.fail("unavailable", retry_after=60)
        await world.record(used("e1", timestamp=ago(30)), used("e2"))
        assert ["2026-11-23T12:30:00Z", "2026-11-23T13:00:00Z"] == [
            view["deadline"] for view in (await world.views()).values()
        ]
        await world.later()
        assert [None, None] == [view.get("deadline") for view in (await world.views()).values()], "once it is there"
    (tmp_path / "free").mkdir()
    async with World(tmp_path / "free", "wingback") as world:
        await world.record("e1")
        assert ["deadline" not in view for view in (await world.views()).values()] == [True]


async def test_what_closes_first_is_sent_first(tmp_path: Path, windowed: Windowed) -> None:
    windowed(max_rows=1)
    async with World(tmp_path, delivery={"max_in_flight": 1}) as world:
        for name, minutes in {"e1": 10, "e2": 50, "e3": 30}.items():
            await world.record(used(name, timestamp=ago(minutes)))
        world.vendor.fail("unavailable", retry_after=60)
        await world.now()
        await world.later()
        assert ["e2", "e2", "e3", "e1"] == [str(row["event_id"]) for call in world.vendor.calls for row in call.rows]


async def test_what_waits_too_long_is_expired_and_says_what_it_waited_for(tmp_path: Path, windowed: Windowed) -> None:
    windowed()
    async with World(tmp_path) as world:
        world.vendor.fail("throttled", times=None)
        await world.record(*names(40), used("old", timestamp=ago(50)))
        assert START + HOUR < await ended(world) < START + HOUR + SECOND, "when the window closed, not later"
        assert {"dead"} == set((await world.statuses()).values())
        views = await world.views()
        assert {"expired"} == {view["error"]["code"] for view in views.values()}
        assert (
            "takes nothing older than 1:00:00, and the window closed; until then: the provider asks to slow down"
            in (views["e7"]["error"]["message"] + views["old"]["error"]["message"])
        )
        world.sound()


async def test_the_window_of_one_closes_for_that_one(tmp_path: Path, windowed: Windowed) -> None:
    windowed()
    async with World(tmp_path) as world:
        world.vendor.fail("refused", times=None)
        await world.record("e1", used("e2", timestamp=ago(50)), used("e3", timestamp=ago(20)), "e4")
        await minutes(world, 15)
        world.vendor.clear()
        await world.later()
        assert {"e1": "accepted", "e2": "dead", "e3": "accepted", "e4": "accepted"} == await world.statuses()
        world.sound()


async def test_the_window_of_one_closes_and_the_others_wait_as_long_as_they_would(
    tmp_path: Path, windowed: Windowed
) -> None:
    windowed()
    async with World(tmp_path) as world:
        world.vendor.fail("throttled", times=None, retry_after=1800)
        await world.record("e1", used("e2", timestamp=ago(50)))
        await world.now()
        (before,) = await world.ledger.held("it", WorkState.READY)
        await minutes(world, 15)
        assert ({"e1": "retrying", "e2": "dead"}, 1) == (await world.statuses(), len(world.vendor.calls))
        (after,) = await world.ledger.held("it", WorkState.READY)
        assert before.parts is not None
        assert before.parts[:1] == after.parts, "what was sent once is sent again as it was"


async def test_usage_without_a_time_has_that_of_its_own_receipt(tmp_path: Path, windowed: Windowed) -> None:
    windowed()
    async with World(tmp_path) as world:
        world.vendor.fail("refused", times=None)
        plans = world.catalogue.plans("default", [used("e1")], START)
        first, second = await asyncio.gather(  # two requests of one flush: they share a batch
            world.ledger.record("default", to_micros(ago(50)), [used("e1")], plans),
            world.ledger.record("default", to_micros(START), [used("e2")], plans),
        )
        assert split_ref(first[0].ref)[0] == split_ref(second[0].ref)[0]
        await minutes(world, 15)
        world.vendor.clear()
        assert ["2026-11-23T12:10:00Z", "2026-11-23T13:00:00Z"] == [
            view["deadline"] for view in (await world.views()).values()
        ]
        await world.later()
        assert {"e1": "dead", "e2": "accepted"} == await world.statuses()
        world.sound()


async def test_a_window_that_closes_over_a_doubt_leaves_the_doubt(tmp_path: Path, windowed: Windowed) -> None:
    windowed()
    async with World(tmp_path) as world:
        world.vendor.fail("timeout", stored=True)
        world.vendor.fail("unavailable", times=None)
        await world.record("e1")
        await world.later()
        (view,) = (await world.views()).values()
        assert ("unknown", "expired") == (view["status"], view["error"]["code"])
        assert "an earlier request may have stored it" in view["error"]["message"]
        world.sound()


async def test_what_a_person_has_to_act_for_expires_too(tmp_path: Path, windowed: Windowed) -> None:
    windowed("flowglad")
    async with World(tmp_path, "flowglad") as world:
        await world.record("e1", used("e2", customer="stranger"), used("e3", customer="stranger", timestamp=ago(30)))
        await world.now()
        assert {"e1": "accepted", "e2": "blocked", "e3": "blocked"} == await world.statuses()
        assert START + 30 * MINUTE < (await world.now() or START) <= START + 30 * MINUTE + SECOND
        world.clock.advance(31 * MINUTE)
        await world.now()
        assert {"e1": "accepted", "e2": "blocked", "e3": "dead"} == await world.statuses()
        await world.later()
        assert {"e1": "accepted", "e2": "dead", "e3": "dead"} == await world.statuses()
        assert "no link names this customer" in (await world.views())["e2"]["error"]["message"]
        world.sound()


async def test_what_refused_credentials_hold_expires_too(tmp_path: Path, windowed: Windowed) -> None:
    windowed()
    async with World(tmp_path) as world:
        world.vendor.api_key = "another"
        await world.record(*names(3), used("e3", timestamp=ago(50)))
        await world.now()
        await minutes(world, 15)
        assert {"e0": "blocked", "e1": "blocked", "e2": "blocked", "e3": "dead"} == await world.statuses()
        world.vendor.api_key = "k"
        await world.later()
        assert {"e0": 1, "e1": 1, "e2": 1} == dict(world.copies())
        world.sound()


async def test_an_absolute_value_that_expires_holds_its_key_no_longer(tmp_path: Path, windowed: Windowed) -> None:
    windowed("wingback")
    async with World(tmp_path, "wingback", settings={"allow_absolute": True}) as world:
        world.vendor.fail("refused", times=None)
        await world.record(used("a1", kind=Kind.ABSOLUTE, timestamp=ago(50)), used("a2", kind=Kind.ABSOLUTE))
        await minutes(world, 20)
        world.vendor.clear()
        await world.later()
        assert {"a1": "dead", "a2": "accepted"} == await world.statuses()


async def test_rows_that_are_there_are_told_from_those_that_came_too_late(tmp_path: Path, windowed: Windowed) -> None:
    windowed("paygentic")
    async with World(tmp_path, "paygentic") as world:
        world.vendor.fail("throttled", times=None, after=1)
        await world.record(used("e1", meter="halves", quantity=None, quantities={"in": Decimal(1), "out": Decimal(2)}))
        await world.later()
        (view,) = (await world.views()).values()
        assert ("dead", ["accepted", "dead"]) == (
            view["status"],
            sorted(part["status"] for part in view["parts"].values()),
        )
        world.sound()


async def test_a_row_in_doubt_beside_one_that_came_too_late_is_never_sent_again(
    tmp_path: Path, windowed: Windowed
) -> None:
    windowed("wingback", max_rows=1)
    async with World(tmp_path, "wingback", delivery={"max_in_flight": 1}) as world:
        world.vendor.fail("timeout", stored=True)
        world.vendor.fail("throttled", times=None, after=1)
        await world.record(used("e1", meter="halves", quantity=None, quantities={"in": Decimal(1), "out": Decimal(2)}))
        await world.later()
        (view,) = (await world.views()).values()
        assert ("unknown", ["dead", "unknown"]) == (
            view["status"],
            sorted(part["status"] for part in view["parts"].values()),
        )
        world.vendor.clear()
        now = to_micros(world.clock.now())
        await resolve(world.ledger, ACTOR, "e1", "it", "abandon", now)
        windowed("wingback", past=None, max_rows=1)
        await world.restart()
        said = await retry(world.ledger, ACTOR, ["e1"], remap=True, now=now)
        await world.later()
        assert ([], [1]) == (said["retried"], list(world.copies().values())), "it may be stored there"
        world.sound()


async def test_what_is_late_at_the_door_was_never_in_time(tmp_path: Path, windowed: Windowed) -> None:
    windowed()
    async with World(tmp_path) as world:
        await world.record(used("e1", timestamp=ago(61)))
        await world.now()
        (view,) = (await world.views()).values()
        assert ("rejected", "outside_time_window") == (view["status"], view["error"]["code"])


@pytest.mark.parametrize(("past", "code"), [(HOUR, "outside_time_window"), (4 * HOUR, "expired")])
async def test_what_may_have_been_sent_before_a_restore_and_comes_again_too_late_is_in_doubt(
    tmp_path: Path, windowed: Windowed, past: timedelta, code: str
) -> None:
    windowed(past=past)
    async with World(tmp_path) as world:
        await doubt(world.ledger, to_micros(START), to_micros(START))
        await world.lane._restored.read(world.ledger)
        world.clock.advance(2 * HOUR)
        await world.record(used("e1", timestamp=ago(60)), used("e2", timestamp=START + HOUR))
        world.clock.advance(HOUR + SECOND)
        await world.now()
        views = await world.views()
        assert ("unknown", code) == (views["e1"]["status"], views["e1"]["error"]["code"])
        assert "may have stored it" in views["e1"]["error"]["message"]
        assert views["e2"]["status"] == ("accepted" if past > HOUR else "dead"), "it happened since"
        world.sound()


async def test_the_window_is_what_it_was_when_the_event_was_stored(tmp_path: Path, windowed: Windowed) -> None:
    windowed(past=2 * HOUR)
    async with World(tmp_path) as world:
        await world.record(used("e1", timestamp=ago(90)))
        windowed(past=100 * HOUR)
        await world.restart()
        world.vendor.fail("refused", times=None)
        assert START + 30 * MINUTE < await ended(world) < START + 30 * MINUTE + SECOND
        assert {"e1": "dead"} == await world.statuses()


async def test_an_expired_delivery_that_is_tried_again_as_it_was_expires_again(
    tmp_path: Path, windowed: Windowed
) -> None:
    windowed()
    async with World(tmp_path) as world:
        world.vendor.fail("refused", times=None)
        await world.record("e1")
        await world.later()
        world.vendor.clear()
        await retry(world.ledger, ACTOR, ["e1"], remap=False, now=to_micros(world.clock.now()))
        await world.later()
        assert ({"e1": "dead"}, {}) == (await world.statuses(), dict(world.copies()))
        windowed(past=None)
        await world.restart()
        await retry(world.ledger, ACTOR, ["e1"], remap=True, now=to_micros(world.clock.now()))
        await world.later()
        assert {"e1": 1} == dict(world.copies()), "today's declaration has no window"


async def test_an_unknown_that_is_sent_again_keeps_its_deadline(tmp_path: Path, windowed: Windowed) -> None:
    windowed("wingback")
    async with World(tmp_path, "wingback") as world:
        world.vendor.fail("timeout", stored=False)
        world.vendor.fail("refused", times=None, after=1)
        await world.record("e1")
        await world.now()
        assert {"e1": "unknown"} == await world.statuses()
        await resolve(world.ledger, ACTOR, "e1", "it", "resend", to_micros(world.clock.now()))
        assert START + HOUR < await ended(world) < START + HOUR + SECOND
        assert {"e1": "dead"} == await world.statuses()


async def test_the_first_answer_has_the_deadline_of_each_event(tmp_path: Path, windowed: Windowed) -> None:
    windowed()
    async with World(tmp_path) as world:
        event = used("e1", timestamp=ago(30))
        (plan,) = world.catalogue.plans("default", [event], START)
        _, shown = fresh(plan, {"it": "flexprice"})
        assert "2026-11-23T12:30:00Z" == closing(shown, plan, event, to_micros(START))["it"].get("deadline")
        assert "deadline" not in shown["it"]


async def test_what_may_be_there_is_in_doubt_where_it_was_stored_before_there_was_a_window(
    tmp_path: Path, windowed: Windowed
) -> None:
    async with World(tmp_path) as world:
        await world.record("e1")
        await doubt(world.ledger, to_micros(START), to_micros(START))
        windowed()
        await world.restart()
        world.clock.advance(2 * HOUR)
        await world.now()
        assert {"e1": "unknown"} == await world.statuses()
