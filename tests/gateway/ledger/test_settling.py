"""Settle: each delivery goes its own way, whole or not at all, and nothing is lost or doubled. For every backend."""

import asyncio

import pytest

from canonical_schema import DeliveryStatus
from gateway.errors import LedgerUnavailable
from gateway.ledger import AttemptRow, Code, Group, Ledger, Moved, Part, Plan, WorkState
from tests.gateway.ledger.conftest import (
    ERROR,
    Store,
    again,
    change,
    codes,
    opened,
    part,
    places,
    recorded,
    rendered,
    sending,
    taken,
    totals,
)


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


async def test_what_stands_between_goes_its_own_way_later_and_nothing_is_left_of_the_piece(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1", "e2")
    work, held_by = await sending(ledger)
    await ledger.settle([change(work, held_by, [0, 2], Code.ACCEPTED)], [])
    assert [Code.ACCEPTED, Code.PENDING, Code.ACCEPTED] == await codes(ledger, batch)
    assert {WorkState.SENDING: [1]} == await places(ledger, batch)
    other = await recorded(ledger, "f0", "f1", "f2")
    work, held_by = await sending(ledger)
    answers = [change(work, held_by, [0, 2], Code.ACCEPTED), change(work, held_by, [1], Code.DUPLICATE)]
    await ledger.settle(answers, [])
    assert [Code.ACCEPTED, Code.DUPLICATE, Code.ACCEPTED] == await codes(ledger, other)
    assert [batch] == [found.batch for found in await ledger.held("a", WorkState.SENDING)]


async def test_what_is_being_sent_is_not_sent_a_second_time(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e1", "e2")
    (work,) = await taken(ledger)
    await ledger.intend([rendered(work, [0, 1])], 5)
    for members in ([0, 1], [1]):
        with pytest.raises(Moved):
            await ledger.intend([rendered(work, members)], 6)
    assert {WorkState.SENDING: [0, 1]} == await places(ledger, batch)


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


async def test_what_is_to_be_rendered_anew_has_none_of_its_rows_any_more(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1")
    work, held_by = await sending(ledger)
    made = change(work, held_by, [0, 1], Code.REJECTED, Group(state=WorkState.REJECTED, due=1, since=1, error=ERROR))
    made.parts = [[Part(name, f"{name}{index}", b"{}", Code.REJECTED) for name in ("in", "out")] for index in range(2)]
    await ledger.settle([made], [])
    (letter,) = await ledger.held("a", WorkState.REJECTED)
    going = change(work, letter.id, [1], Code.PENDING, again())
    going.anew = True
    await ledger.settle([going], [])
    assert {0: made.parts[0]} == (await ledger.snapshots([batch]))[batch].tracks[0].parts


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
