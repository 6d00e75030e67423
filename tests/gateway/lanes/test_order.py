"""Order: running values of one customer and meter arrive in the order they came in, whatever befalls them."""

import asyncio
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from canonical_schema import ErrorItem, Kind
from gateway.lanes.order import Order
from gateway.ledger import Change, SqliteLedger, WorkState, split_ref
from gateway.repair import Actor, resolve
from gateway.simulator.faults import FAULTS
from gateway.times import to_micros
from tests.gateway.clocks import START
from tests.gateway.lanes.world import CONTRACT, World, gated, used
from tests.waiting import until

ACTOR = Actor(tenant="default", name="op", reason="as it stands at the vendor")
CUSTOMERS = {"acme": CONTRACT, "globex": CONTRACT.replace("0", "1")}


class Sent(NamedTuple):
    """Events that come together: whose they are, and whether they say how much there is in all."""

    customers: Sequence[tuple[str, Kind]]
    fault: str | None


steps = st.builds(
    Sent,
    customers=st.lists(st.tuples(st.sampled_from(sorted(CUSTOMERS)), st.sampled_from(Kind)), min_size=1, max_size=4),
    fault=st.sampled_from([None, "lost_answer", "refused", "throttled", "reset_after", "unavailable"]),
) | st.sampled_from(["work", "wait", "restart", "crash", "resolve"])


class Told:
    """A lane to the vendor that bills every repeat, and what it was given, in order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.came: dict[str, tuple[str, Kind, int]] = {}
        """Whose each event is, of what kind, and its ref."""

    async def send(self, step: Sent) -> None:
        events = [
            used(f"e{number:03}", customer=customer, kind=kind)
            for number, (customer, kind) in enumerate(step.customers, len(self.came))
        ]
        claims = await self.world.record(*events)
        for event, claim in zip(events, claims, strict=True):
            self.came[event.id] = event.customer, event.kind, claim.ref
        if step.fault is not None:
            self.world.vendor.fail(step.fault, times=1)

    def arrived(self) -> list[str]:
        """Return what the vendor stored, in order."""
        calls = [one for one in self.world.vendor.calls if one.fault is None or FAULTS[one.fault].stores]
        rows: list[Any] = [row for call in calls for row in call.rows]
        return [row["metadata"]["gateway_event_id"] for row in rows]

    async def resolve(self) -> None:
        """Decide what is unknown, as a person who looks at the vendor would."""
        for event_id, status in (await self.world.statuses()).items():
            if status == "unknown":
                how: Literal["accepted", "resend"] = "accepted" if event_id in self.arrived() else "resend"
                now = to_micros(self.world.clock.now())
                await resolve(self.world.ledger, ACTOR, event_id, "it", how, now)
                if how == "accepted":
                    batch, index = split_ref(self.came[event_id][2])
                    await self.world.lane.settled(batch, [index])

    def holds(self) -> None:
        """Hold what arrived against the order in which it came: nothing twice, and no value before an earlier one."""
        arrived = self.arrived()
        assert len(arrived) == len(set(arrived)), f"billed twice: {arrived}"
        for customer in CUSTOMERS:
            values = [one for one in arrived if self.came[one][:2] == (customer, Kind.ABSOLUTE)]
            wanted = [one for one, came in self.came.items() if came[:2] == (customer, Kind.ABSOLUTE)]
            assert wanted[: len(values)] == values, f"{customer}: came {wanted}, arrived {values}"


async def lived(folder: Path, given: Sequence[Sent | str]) -> None:
    linked = {name: {"it": {"customer_id": theirs}} for name, theirs in CUSTOMERS.items()}
    async with World(folder, "wingback", settings={"allow_absolute": True}, customers=linked) as world:
        told = Told(world)
        for step in given:
            match step:
                case Sent():
                    await told.send(step)
                case "work":
                    await world.now()
                case "wait":
                    world.vendor.clear()
                    await world.later()
                    for event_id, status in (await world.statuses()).items():
                        held = told.came[event_id][1] is Kind.ABSOLUTE
                        assert held or status in {"accepted", "unknown"}, f"{event_id} is additive, and is {status}"
                case "restart":
                    await world.restart()
                case "crash":
                    await world.crash()
                case _:
                    await told.resolve()
            told.holds()
        world.vendor.clear()
        for _ in range(len(told.came) + 1):  # each that is decided may let one more go
            await world.later()
            await told.resolve()
        await world.later()
        told.holds()
        assert dict.fromkeys(told.came, "accepted") == await world.statuses()
        assert sorted(told.came) == sorted(told.arrived())


ONE = [("acme", Kind.ABSOLUTE)]


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, min_size=1, max_size=8))
@example([Sent(ONE, "unavailable"), "work", "restart", Sent(ONE, None), "wait", "resolve"])
@example([Sent(ONE, "unavailable"), "work", "crash", Sent(ONE, None), "wait", "resolve"])
def test_running_values_arrive_in_order_and_once_and_additive_usage_waits_for_none(given: list[Sent | str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(lived(Path(folder), given))


async def test_one_that_is_told_to_wait_while_what_it_waits_for_ends_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer comes after the lane saw that another must go first, and before it wrote down that this one waits."""
    world, gate = gated(tmp_path, "wingback", settings={"allow_absolute": True})
    settle, seen = SqliteLedger.settle, list[str]()

    async def late(ledger: SqliteLedger, changes: Sequence[Change], *more: Any) -> None:
        if any(change.group is not None and change.group.state is WorkState.WAITING for change in changes):
            gate.open.set()
            await world.lane.idle()
            seen.append("late")
        await settle(ledger, changes, *more)

    async with world:
        await world.record(used("e1", kind=Kind.ABSOLUTE))
        await world.lane.step()
        await until(lambda: gate.waiting == 1)
        await world.record(used("e2", kind=Kind.ABSOLUTE))
        monkeypatch.setattr(SqliteLedger, "settle", late)
        await world.later()
        assert ["late"] == seen
        assert {"e1": "accepted", "e2": "accepted"} == await world.statuses()


async def test_a_clock_that_is_set_back_turns_no_order_round(tmp_path: Path) -> None:
    """Or another machine's that is behind: the later value is due first."""
    async with World(tmp_path, "wingback", settings={"allow_absolute": True}) as world:
        told = Told(world)
        await told.send(Sent(ONE, None))
        world.clock.advance(timedelta(minutes=-1))
        await told.send(Sent(ONE, None))
        await world.later()
        told.holds()
        assert ["e000", "e001"] == told.arrived()


async def test_what_came_while_all_was_held_does_not_overtake_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, "wingback", settings={"allow_absolute": True}) as world:
        told, hold = Told(world), SqliteLedger.hold
        world.vendor.api_key = "another"
        await world.record(used("first"))
        await world.now()
        await told.send(Sent(ONE, None))

        async def held(ledger: SqliteLedger, destination: str, error: ErrorItem) -> Any:
            found = await hold(ledger, destination, error)
            if len(told.came) == 1 and not world.lane.pace.shut:  # before the last time that anything is held
                world.vendor.api_key = "k"
                await told.send(Sent(ONE, None))
                world.clock.advance(timedelta(seconds=1))
            return found

        monkeypatch.setattr(SqliteLedger, "hold", held)
        world.clock.advance(timedelta(minutes=16))
        await world.later()
        assert ["first", "e000", "e001"] == [row.key for row in world.vendor.stored]


async def test_of_a_backlog_those_alone_are_let_go_whose_turn_it_is(tmp_path: Path) -> None:
    linked = {name: {"it": {"customer_id": theirs}} for name, theirs in CUSTOMERS.items()}
    async with World(tmp_path, "wingback", settings={"allow_absolute": True}, customers=linked) as world:
        for number in range(40):
            await world.record(*(used(f"{name}{number:02}", kind=Kind.ABSOLUTE, customer=name) for name in CUSTOMERS))
        await world.later()
        for name in CUSTOMERS:
            assert [f"{name}{number:02}" for number in range(40)] == [
                row.key for row in world.vendor.stored if row.key.startswith(name)
            ]
        await world.record(used("last"))
        (last,) = await world.ledger.take("it", 2**62, 10)
        assert last.id < 12 * 40, "each was put somewhere else a few times, however many waited with it"
        world.sound()


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=20))
def test_of_each_key_the_oldest_that_is_not_settled_may_go_and_no_other(added: list[tuple[str, int]]) -> None:
    order, keys = Order(), dict[int, str]()
    for key, ref in added:
        keys.setdefault(ref, key)
        may = order.add(("default", keys[ref], "calls"), ref)
        assert may == (ref == min(other for other, its in keys.items() if its == keys[ref]))
    for ref in sorted(keys):
        following = [other for other, its in keys.items() if its == keys[ref] and other > ref]
        assert sorted(following)[:1] == order.settled([ref])
    assert not order.awaited


async def test_a_value_that_has_no_link_yet_holds_back_those_after_it(tmp_path: Path) -> None:
    linked: dict[str, Any] = {"customer_id": CONTRACT, "from": START.isoformat()}
    customers = {"acme": {"it": [linked]}}
    async with World(tmp_path, "wingback", settings={"allow_absolute": True}, customers=customers) as world:
        before = START - timedelta(hours=1)
        await world.record(used("a0", kind=Kind.ABSOLUTE, timestamp=before), used("a1", kind=Kind.ABSOLUTE))
        await world.now()
        assert {"a0": "blocked", "a1": "pending"} == await world.statuses()
        await world.restart(customers={"acme": {"it": {"customer_id": CONTRACT}}})
        await world.later()
        assert ["a0", "a1"] == [row.key for row in world.vendor.stored]
