"""Take, intend, settle, hold, release, route: work is split and moved, and never lost or doubled. For every backend."""

import asyncio

import pytest

from canonical_schema import DeliveryStatus, ErrorCode, ErrorItem
from gateway.errors import LedgerUnavailable
from gateway.ledger import AttemptRow, Change, Code, Group, Ledger, Moved, Part, Plan, Portion, Work, WorkState
from tests.gateway.ledger.conftest import Store, codes, event, opened, part, places, recorded, rendered, totals

ERROR = ErrorItem(code=ErrorCode.UNAUTHORIZED, message="refused", retryable=True)
ALL = 10_000


async def taken(ledger: Ledger, limit: int = ALL, now: int = 5000, destination: str = "a") -> list[Work]:
    return list(await ledger.take(destination, now, limit))


async def sending(ledger: Ledger, members: list[int] | None = None, now: int = 5000) -> tuple[Work, int]:
    """Intend to send the only piece of ready work, or some of it; return it and where it is now."""
    (work,) = await taken(ledger)
    (held_by,) = await ledger.intend([rendered(work, members)], now)
    return work, held_by


def change(
    work: Work, held_by: int, members: list[int], code: Code, group: Group | None = None, *, parts: bool = False
) -> Change:
    return Change(
        work=held_by,
        batch=work.batch,
        destination=work.destination,
        members=members,
        code=code,
        group=group,
        parts=[[part(work.batch, index)] for index in members] if parts else None,
    )


def again(due: int = 9000, *, attempts: int = 0, doubt: int = 0) -> Group:
    return Group(state=WorkState.READY, due=due, since=1000, attempts=attempts, doubt=doubt)


async def test_work_is_taken_oldest_due_first_and_only_what_is_due(ledger: Ledger) -> None:
    late = await recorded(ledger, "e1", "e2", received=3000)
    early = await recorded(ledger, "e3", received=2000)
    never = await recorded(ledger, "e4", received=9000)
    assert [early, late] == [work.batch for work in await taken(ledger)]
    assert [early, late, never] == [work.batch for work in await taken(ledger, now=9000)]
    assert 2000 == await ledger.next_due("a")
    assert await ledger.next_due("nowhere") is None
    assert [] == await taken(ledger, destination="nowhere")


async def test_no_more_than_the_limit_is_taken_and_the_last_piece_may_be_a_part(ledger: Ledger) -> None:
    await recorded(ledger, "e1", "e2", received=2000)
    await recorded(ledger, "e3", "e4", "e5", received=3000)
    first, second = await taken(ledger, 4)
    assert ([0, 1], [0, 1]) == (first.members, second.members)
    assert ["e3", "e4"] == [one.id for one in second.events]
    assert ("default", 3000, None) == (second.tenant, second.received, second.parts)


async def test_what_is_being_sent_is_neither_taken_nor_due(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e1", "e2")
    work, held_by = await sending(ledger)
    assert ([], None) == (await taken(ledger), await ledger.next_due("a"))
    assert {WorkState.SENDING: [0, 1]} == await places(ledger, batch)
    (found,) = await ledger.held("a", WorkState.SENDING)
    assert (held_by, [0, 1], [[part(batch, 0)], [part(batch, 1)]]) == (found.id, found.members, found.parts)
    assert (5000, WorkState.SENDING) == (found.group.sent, found.group.state)
    assert work.events == found.events


@pytest.mark.parametrize("members", [[0], [1, 3], [2, 3], [4], [0, 1, 2, 3, 4]])
async def test_a_portion_splits_work_and_takes_its_rows_along(ledger: Ledger, members: list[int]) -> None:
    batch = await recorded(ledger, "e0", "e1", "e2", "e3", "e4")
    _, held_by = await sending(ledger, members)
    (going,) = await ledger.held("a", WorkState.SENDING)
    assert (held_by, members) == (going.id, going.members)
    assert [f"e{index}" for index in members] == [one.id for one in going.events]
    assert [[part(batch, index)] for index in members] == going.parts
    left = [index for work in await taken(ledger) for index in work.members]
    assert [index for index in range(5) if index not in members] == left


async def test_rows_stay_with_their_events_however_often_work_is_split(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1", "e2", "e3", "e4", "e5")
    work, held_by = await sending(ledger)
    await ledger.settle(
        [
            change(work, held_by, [1, 4, 5], Code.RETRYING, again(attempts=1, doubt=2), parts=True),
            change(work, held_by, [0, 3], Code.RETRYING, again(8000, attempts=1), parts=True),
            change(work, held_by, [2], Code.ACCEPTED),
        ],
        [],
    )
    first, second = await taken(ledger, now=9000)
    assert ([0, 3], [1, 4, 5]) == (first.members, second.members)
    await ledger.intend([rendered(first, [3]), Portion(work=second, members=[4], parts=[[part(batch, 4)]])], 9000)
    for state in (WorkState.READY, WorkState.SENDING):
        for piece in await ledger.held("a", state):
            assert [[part(batch, index)] for index in piece.members] == piece.parts
    assert {WorkState.READY: [0, 1, 5], WorkState.SENDING: [3, 4]} == await places(ledger, batch)


async def test_when_it_was_first_sent_is_kept_through_splitting(ledger: Ledger) -> None:
    await recorded(ledger, "e0", "e1")
    work, held_by = await sending(ledger, now=5000)
    doubtful = again(6000, attempts=1, doubt=2)
    doubtful.sent = 5000
    await ledger.settle([change(work, held_by, [0, 1], Code.RETRYING, doubtful, parts=True)], [])
    (work,) = await taken(ledger, now=7000)
    await ledger.intend([rendered(work, [1])], 7000)
    (going,) = await ledger.held("a", WorkState.SENDING)
    assert (5000, 2, 1) == (going.group.sent, going.group.doubt, going.group.attempts)


async def test_two_portions_of_one_piece_go_one_after_the_other(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1", "e2")
    (work,) = await taken(ledger)
    await ledger.intend([rendered(work, [0])], 5000)
    await ledger.intend([rendered(work, [1, 2])], 5000)
    assert {WorkState.SENDING: [0, 1, 2]} == await places(ledger, batch)
    assert [] == await taken(ledger)


async def test_what_is_not_ready_cannot_be_intended(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1")
    (work,) = await taken(ledger)
    await ledger.intend([rendered(work)], 5000)
    for portion in (rendered(work), rendered(work, [1])):
        with pytest.raises(Moved):
            await ledger.intend([portion], 5000)
    assert {WorkState.SENDING: [0, 1]} == await places(ledger, batch)


async def test_settling_takes_each_its_own_way(ledger: Ledger) -> None:
    batch = await recorded(ledger, *(f"e{index}" for index in range(7)))
    work, held_by = await sending(ledger)
    parked = {
        state: Group(state=state, due=1, since=1, error=ERROR)
        for state in (WorkState.UNKNOWN, WorkState.REJECTED, WorkState.DEAD, WorkState.HELD)
    }
    await ledger.settle(
        [
            change(work, held_by, [0], Code.ACCEPTED),
            change(work, held_by, [1], Code.DUPLICATE),
            change(work, held_by, [2], Code.UNKNOWN, parked[WorkState.UNKNOWN], parts=True),
            change(work, held_by, [3], Code.REJECTED, parked[WorkState.REJECTED], parts=True),
            change(work, held_by, [4], Code.DEAD, parked[WorkState.DEAD]),
            change(work, held_by, [5], Code.BLOCKED, parked[WorkState.HELD]),
            change(work, held_by, [6], Code.RETRYING, again()),
        ],
        [],
    )
    names = ["ACCEPTED", "DUPLICATE", "UNKNOWN", "REJECTED", "DEAD", "BLOCKED", "RETRYING"]
    assert names == [code.name for code in await codes(ledger, batch)]
    assert {
        WorkState.UNKNOWN: [2],
        WorkState.REJECTED: [3],
        WorkState.DEAD: [4],
        WorkState.HELD: [5],
        WorkState.READY: [6],
    } == await places(ledger, batch)
    assert dict.fromkeys((DeliveryStatus(name.lower()) for name in names), 1) == (await totals(ledger))["a"]
    (found,) = await ledger.held("a", WorkState.REJECTED)
    assert (ERROR, [[part(batch, 3)]]) == (found.group.error, found.parts)


async def test_a_change_that_comes_too_late_changes_nothing(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1")
    work, held_by = await sending(ledger)
    await ledger.settle([change(work, held_by, [0], Code.ACCEPTED)], [])
    attempt = AttemptRow(
        batch=batch, destination="a", members=[0, 1], at=1, duration_ms=1, http_status=200, outcome="accepted"
    )
    for late in ([0], [0, 1]):
        with pytest.raises(Moved):
            await ledger.settle([change(work, held_by, late, Code.REJECTED)], [attempt])
    assert [Code.ACCEPTED, Code.PENDING] == await codes(ledger, batch)
    assert [] == (await ledger.snapshots([batch]))[batch].tracks[0].attempts


async def test_what_was_decided_of_waiting_work_is_not_written_once_it_is_being_sent(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e1", "e2")
    (seen,) = await taken(ledger)
    held_by = (await ledger.intend([rendered(seen)], 5000))[0]  # another process of those that share it
    decided = change(seen, seen.id, [0], Code.VOIDED)
    decided.waiting = True
    with pytest.raises(Moved):
        await ledger.settle([decided], [])
    assert {WorkState.SENDING: [0, 1]} == await places(ledger, batch)
    await ledger.settle([change(seen, held_by, [0, 1], Code.ACCEPTED)], [])
    assert [Code.ACCEPTED, Code.ACCEPTED] == await codes(ledger, batch)


async def test_single_rows_of_several_batches_go_together_and_each_its_own_way(ledger: Ledger) -> None:
    size = 75
    batches = [await recorded(ledger, *(f"{name}{index}" for index in range(size))) for name in "xy"]
    works = await taken(ledger)
    portions = [rendered(work, [index]) for work in works for index in work.members]
    numbers = await ledger.intend(portions, 5000)
    held = {work.id: (work.batch, work.members, work.parts) for work in await ledger.held("a", WorkState.SENDING)}
    wanted = [(one.work.batch, one.members, [[part(one.work.batch, one.members[0])]]) for one in portions]
    assert wanted == [held[number] for number in numbers]
    sent = [(one.work, number, one.members) for one, number in zip(portions, numbers, strict=True)]
    made = [
        AttemptRow(
            batch=work.batch,
            destination="a",
            members=members,
            at=5000 + members[0],
            duration_ms=3,
            http_status=200,
            outcome="accepted",
            error=None,
            others={},
            provider_event_ids={members[0]: f"their {work.batch}-{members[0]}"},
        )
        for work, _, members in sent
    ]
    ways = {0: Code.ACCEPTED, 1: Code.RETRYING, 2: Code.UNKNOWN}
    groups = {1: again(), 2: Group(state=WorkState.UNKNOWN, due=1, since=1, doubt=2)}
    said = [
        change(work, number, members, ways[members[0] % 3], groups.get(members[0] % 3), parts=members[0] % 3 > 0)
        for work, number, members in sent
    ]
    await ledger.settle(said, made)
    with pytest.raises(Moved):
        await ledger.settle(said[:3], [])
    for batch in batches:
        assert [ways[index % 3] for index in range(size)] == await codes(ledger, batch)
        assert {WorkState.READY: list(range(1, size, 3)), WorkState.UNKNOWN: list(range(2, size, 3))} == await places(
            ledger, batch
        )
        assert [one for one in made if one.batch == batch] == (await ledger.snapshots([batch]))[batch].tracks[
            0
        ].attempts
    for piece in [*await taken(ledger, now=9000), *await ledger.held("a", WorkState.UNKNOWN)]:
        assert [[part(piece.batch, index)] for index in piece.members] == piece.parts


async def test_attempts_are_kept_in_order(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1")
    work, held_by = await sending(ledger)
    made = [
        AttemptRow(
            batch=batch,
            destination="a",
            members=[0, 1],
            at=at,
            duration_ms=3,
            http_status=None,
            outcome="unknown",
            error=ERROR,
            others={1: ("accepted", None)},
            provider_event_ids={1: "usage_1"},
        )
        for at in (5000, 6000)
    ]
    await ledger.settle([], made[:1])
    await ledger.settle([change(work, held_by, [0, 1], Code.ACCEPTED)], made[1:])
    assert made == (await ledger.snapshots([batch]))[batch].tracks[0].attempts


async def test_the_rows_of_a_delivery_in_parts_can_be_looked_at(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1")
    work, held_by = await sending(ledger)
    rows = [
        Part("input", "k1", b"{}", Code.ACCEPTED, "usage_1"),
        Part("output", "k2", b"{}", Code.REJECTED, None, ERROR),
    ]
    group = Group(state=WorkState.REJECTED, due=1, since=1, error=ERROR)
    made = change(work, held_by, [0, 1], Code.REJECTED, group)
    made.parts = [rows, [part(batch, 1)]]
    await ledger.settle([made], [])
    assert {0: rows} == (await ledger.snapshots([batch]))[batch].tracks[0].parts


async def test_holding_stops_what_is_ready_and_nothing_else(ledger: Ledger) -> None:
    one, two = await recorded(ledger, "e0", "e1"), await recorded(ledger, "e2", plan=Plan(live=("a", "b")))
    (work, _) = await taken(ledger)
    (held_by,) = await ledger.intend([rendered(work, [0])], 5000)
    held = await ledger.hold("a", ERROR)
    assert {one: [1], two: [0]} == {batch: list(members) for batch, members in held.items()}
    assert ([Code.PENDING, Code.BLOCKED], [Code.BLOCKED]) == (await codes(ledger, one), await codes(ledger, two))
    assert [Code.PENDING] == await codes(ledger, two, "b")
    assert ([], {}) == (await taken(ledger), await ledger.hold("a", ERROR))
    await ledger.settle([change(work, held_by, [0], Code.RETRYING, again(attempts=1))], [])
    assert {WorkState.READY: [0], WorkState.HELD: [1]} == await places(ledger, one)


async def test_releasing_lets_go_what_was_held_and_says_what_it_was(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1")
    work, held_by = await sending(ledger, [0])
    await ledger.settle([change(work, held_by, [0], Code.RETRYING, again(2000, attempts=1))], [])
    await ledger.hold("a", ERROR)
    assert 1 == await ledger.release("a", WorkState.HELD, 7000, pieces=1)
    assert 1 == len(await ledger.held("a", WorkState.HELD))
    assert 1 == await ledger.release("a", WorkState.HELD, 7000)
    assert 0 == await ledger.release("a", WorkState.HELD, 7000)
    assert [Code.RETRYING, Code.PENDING] == await codes(ledger, batch)
    assert 7000 == await ledger.next_due("a")


async def test_all_is_let_go_however_much_that_is(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ledger.sqlite.RELEASED", 2)
    batches = [await recorded(ledger, f"e{number}") for number in range(7)]
    await ledger.hold("a", ERROR)
    assert 3 == await ledger.release("a", WorkState.HELD, 7000, pieces=3)
    assert 4 == await ledger.release("a", WorkState.HELD, 7000)
    assert [[Code.PENDING]] * 7 == [await codes(ledger, batch) for batch in batches]


async def test_events_without_a_way_are_routed_once_there_is_one(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1", "e2", plan=Plan(filtered=(("x", Code.NO_BINDING),)))
    ((found, tenant, some, members),) = await ledger.unrouted()
    assert (batch, "default", [0, 1, 2]) == (found, tenant, list(members))
    assert [event(f"e{index}") for index in range(3)] == list(some)
    await ledger.route(batch, [0, 2], [Plan(live=("a",), shadow=("s",)), Plan()], 8000)
    assert [Code.PENDING, Code.NONE, Code.NONE] == await codes(ledger, batch)
    assert [Code.PENDING, Code.NONE, Code.NONE] == await codes(ledger, batch, "s")
    assert [Code.NO_BINDING] * 3 == await codes(ledger, batch, "x")
    ((_, _, _, members),) = await ledger.unrouted()
    assert [1, 2] == list(members)
    await ledger.route(batch, [1, 2], [Plan(live=("x",))] * 2, 8000)
    assert [] == list(await ledger.unrouted())
    assert [Code.NO_BINDING, Code.PENDING, Code.PENDING] == await codes(ledger, batch, "x")


async def test_routing_twice_delivers_once(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1", plan=Plan())
    for _ in range(2):
        await ledger.route(batch, [0], [Plan(live=("a",))], 8000)
    await ledger.route(batch, [0, 1], [Plan(live=("a", "b"))] * 2, 8000)
    await ledger.route(batch, [0, 1], [Plan(live=("a", "b"))] * 2, 8000)
    await ledger.route(batch + 1, [0], [Plan(live=("a",))], 8000)
    assert {WorkState.READY: [0, 1]} == await places(ledger, batch)
    assert {WorkState.READY: [1]} == await places(ledger, batch, "b")


async def test_a_shadow_delivery_is_not_sent_again_when_its_destination_goes_live(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", plan=Plan(shadow=("a",)))
    work, held_by = await sending(ledger)
    await ledger.settle([change(work, held_by, [0], Code.ACCEPTED)], [])
    await ledger.route(batch, [0], [Plan(live=("a", "b"))], 8000)
    assert ({}, [Code.ACCEPTED]) == (await places(ledger, batch), await codes(ledger, batch))
    assert {WorkState.READY: [0]} == await places(ledger, batch, "b")
    assert [False, False] == [track.shadow for track in (await ledger.snapshots([batch]))[batch].tracks]
    assert [] == list(await ledger.unrouted())


async def test_what_one_event_of_a_batch_counts_on_stays_live(ledger: Ledger) -> None:
    claims = await ledger.record("default", 1000, [event("e0"), event("e1")], [Plan(live=("a",)), Plan()])
    assert 2 == len(claims)
    ((batch, _, _, members),) = await ledger.unrouted()
    await ledger.route(batch, members, [Plan(live=("b",), shadow=("a",))], 8000)
    assert {"a": [1], "b": []} == await looking_on(ledger, batch)


async def looking_on(ledger: Ledger, batch: int) -> dict[str, list[int]]:
    """Return by destination whose deliveries are part of nobody's outcome."""
    tracks = (await ledger.snapshots([batch]))[batch].tracks
    return {
        track.destination: [index for index, code in enumerate(track.codes) if code and track.looks_on(index)]
        for track in tracks
    }


async def test_each_delivery_of_a_batch_looks_on_for_itself(store: Store, ledger: Ledger) -> None:
    trial, looks, both = Plan(live=("b",), shadow=("a",)), Plan(shadow=("a",)), Plan(live=("a", "b"))
    batch = await recorded(ledger, "e0", "e1", plan=trial)
    await ledger.extend(batch, [0, 1], [Plan(shadow=("c",))] * 2, 8000)
    assert {"a": [0, 1], "b": [], "c": [0, 1]} == await looking_on(ledger, batch)
    assert 0 == await ledger.extend(batch, [1], [Plan(live=("a",))], 8000)  # it is there, and counts from now on
    assert {"a": [0], "b": [], "c": [0, 1]} == await looking_on(ledger, batch)
    other = await recorded(ledger, "e2", "e3", "e4", plan=Plan())
    await ledger.extend(other, [0, 1], [both, looks], 8000)
    await ledger.extend(other, [2], [looks], 8000)
    assert {"a": [1, 2], "b": []} == await looking_on(ledger, other)
    await ledger.route(other, [1, 2], [both, both], 8000)
    assert {"a": [], "b": []} == await looking_on(ledger, other)
    async with opened(store.cut()) as again:
        assert {"a": [0], "b": [], "c": [0, 1]} == await looking_on(again, batch)


async def test_the_depth_says_what_waits_and_since_when(ledger: Ledger) -> None:
    await recorded(ledger, "e0", "e1", "e2", received=3000)
    await sending(ledger, [1])
    await recorded(ledger, "e3", received=2000, plan=Plan(live=("b",)))
    await ledger.hold("b", ERROR)
    depths = await ledger.depth()
    assert (2, 1, 0, 3000) == (depths["a"].ready, depths["a"].sending, depths["a"].blocked, depths["a"].oldest)
    assert (0, 0, 1, 2000) == (depths["b"].ready, depths["b"].sending, depths["b"].blocked, depths["b"].oldest)


async def test_destinations_remember_their_provider(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", plan=Plan(live=("a", "b")))
    await ledger.name({"a": "flexprice"})
    await ledger.name({"a": "flowglad", "b": "wingback"})
    assert ["flowglad", "wingback"] == [track.provider for track in (await ledger.snapshots([batch]))[batch].tracks]


async def test_a_look_at_a_batch_is_of_one_moment(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0")

    async def turn() -> None:
        for _ in range(60):
            (work,) = await taken(ledger, now=9000)
            (held_by,) = await ledger.intend([rendered(work)], 5000)
            await ledger.settle([change(work, held_by, [0], Code.RETRYING, again(attempts=1), parts=True)], [])
            await ledger.hold("a", ERROR)
            await ledger.release("a", WorkState.HELD, 8000)

    async def look() -> None:
        while not turning.done():
            track = (await ledger.snapshots([batch]))[batch].tracks[0]
            ((group, members),) = track.work
            assert [0] == members
            assert (track.codes[0] == Code.BLOCKED) is (group.state is WorkState.HELD)

    turning = asyncio.ensure_future(turn())
    await asyncio.gather(turning, look(), look())


async def test_a_settlement_without_room_is_made_whole_or_not_at_all_and_then_again(
    store: Store, ledger: Ledger
) -> None:
    batch = await recorded(ledger, "e0")
    work, held_by = await sending(ledger)
    noise = "".join(chr(33 + (index * index * 7) % 90) for index in range(20_000))
    group = Group(state=WorkState.REJECTED, due=1, since=1, error={**ERROR, "message": noise})
    settlement = [change(work, held_by, [0], Code.REJECTED, group)]
    async with store.full(ledger):
        try:
            await ledger.settle(settlement, [])
            made = True  # what makes room need not wait for room
        except LedgerUnavailable:
            made = False
    assert {WorkState.REJECTED if made else WorkState.SENDING: [0]} == await places(ledger, batch)
    if not made:
        await ledger.settle(settlement, [])
    assert {WorkState.REJECTED: [0]} == await places(ledger, batch)


async def test_a_loss_of_power_leaves_the_intent_and_no_verdict(store: Store, ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1")
    work, held_by = await sending(ledger, [1])
    left = store.cut()
    await ledger.settle([change(work, held_by, [1], Code.ACCEPTED)], [])
    async with opened(left) as after:
        assert {WorkState.READY: [0], WorkState.SENDING: [1]} == await places(after, batch)
        (found,) = await after.held("a", WorkState.SENDING)
        assert [[part(batch, 1)]] == found.parts


async def test_stored_events_are_given_deliveries_that_they_do_not_have(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1", "e2", plan=Plan(live=("a",), filtered=(("b", Code.NO_ROUTE),)))
    assert 2 == await ledger.extend(batch, [0, 2], [Plan(live=("b",))] * 2, 8000)
    assert [Code.PENDING, Code.NO_ROUTE, Code.PENDING] == await codes(ledger, batch, "b")
    assert [0, 2] == (await places(ledger, batch, "b"))[WorkState.READY]
    assert 1 == await ledger.extend(batch, [0, 1, 2], [Plan(live=("b",))] * 3, 9000), "one had none"
    assert 0 == await ledger.extend(batch, [0, 1, 2], [Plan(live=("a", "b"))] * 3, 9000), "all have one"
    assert 3 == await ledger.extend(batch, [0, 1, 2], [Plan(shadow=("s",))] * 3, 9000)
    assert [] == list(await ledger.unrouted()), "a shadow delivery takes no event's way"


async def test_what_ended_at_a_destination_is_not_begun_again(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", plan=Plan(live=("a",)))
    (work,) = await ledger.take("a", 5000, 10)
    (held,) = await ledger.intend([rendered(work)], 5000)
    await ledger.settle(
        [Change(work=held, batch=batch, destination="a", members=[0], code=Code.ACCEPTED, group=None)], []
    )
    assert 0 == await ledger.extend(batch, [0], [Plan(live=("a",))], 8000)
    assert [Code.ACCEPTED] == await codes(ledger, batch)


async def test_a_way_is_found_for_what_had_none_by_extending_too(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1", plan=Plan())
    await ledger.extend(batch, [0, 1], [Plan(live=("a",)), Plan(shadow=("a",))], 8000)
    ((_, _, _, members),) = await ledger.unrouted()
    assert [1] == list(members)


async def test_what_is_queued_is_confirmed_and_nothing_else(ledger: Ledger, store: Store) -> None:
    batch = await recorded(ledger, "e1", "e2", "e3", "e4")
    work, held_by = await sending(ledger)
    await ledger.settle(
        [
            change(work, held_by, [0, 2], Code.ACCEPTED_QUEUED),
            change(work, held_by, [1], Code.ACCEPTED),
            change(work, held_by, [3], Code.RETRYING, again(attempts=1)),
        ],
        [],
    )
    before = await totals(ledger)
    assert 1 == await ledger.confirm("a", batch, [3, 2, 1])
    assert [Code.ACCEPTED_QUEUED, Code.ACCEPTED, Code.ACCEPTED_CONFIRMED, Code.RETRYING] == await codes(ledger, batch)
    assert 1 == await ledger.confirm("a", batch, [0, 1, 2, 3])
    assert 0 == await ledger.confirm("a", batch, [0, 1, 2, 3])
    assert 0 == await ledger.confirm("b", batch, [0])
    assert 0 == await ledger.confirm("a", batch + 1600, [0])
    assert ["confirmed", None, "confirmed", None] == [code.receipt for code in await codes(ledger, batch)]
    assert before == await totals(ledger)
    assert [3] == (await places(ledger, batch))[WorkState.READY]
    await ledger.close()
    assert [] == await store.problems()
    await ledger.open()
