"""Work is taken oldest due first, split without losing a row, held and let go."""

import pytest

from gateway.ledger import Code, Ledger, Moved, Plan, Portion, WorkState
from tests.gateway.ledger.conftest import ERROR, again, change, codes, part, places, recorded, rendered, sending, taken


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


async def test_lanes_share_what_is_at_hand_and_what_a_reader_decodes_goes_with_it(ledger: Ledger) -> None:
    """Decoded, all that is at hand would take several times its bytes, for whoever once listed it."""
    batch = await recorded(ledger, "e1", "e2", received=2000)
    (work,), (again_,) = await taken(ledger), await taken(ledger)
    assert work.events is again_.events
    shown = [(await ledger.snapshots([batch]))[batch].events for _ in range(2)]
    assert work.events == shown[0] == shown[1]
    assert 3 == len({id(work.events), id(shown[0]), id(shown[1])})


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


async def test_all_is_held_and_let_go_however_much_that_is(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ledger.sqlite.AT_ONCE", 2)
    batches = [await recorded(ledger, f"e{number}") for number in range(7)]
    held = await ledger.hold("a", ERROR)
    assert {batch: [0] for batch in batches} == {batch: list(members) for batch, members in held.items()}
    assert 3 == await ledger.release("a", WorkState.HELD, 7000, pieces=3)
    assert 4 == await ledger.release("a", WorkState.HELD, 7000)
    assert [[Code.PENDING]] * 7 == [await codes(ledger, batch) for batch in batches]


async def test_the_depth_says_what_waits_and_since_when(ledger: Ledger) -> None:
    await recorded(ledger, "e0", "e1", "e2", received=3000)
    await sending(ledger, [1])
    await recorded(ledger, "e3", received=2000, plan=Plan(live=("b",)))
    await ledger.hold("b", ERROR)
    depths = await ledger.depth()
    assert (2, 1, 0, 3000) == (depths["a"].ready, depths["a"].sending, depths["a"].blocked, depths["a"].oldest)
    assert (0, 0, 1, 2000) == (depths["b"].ready, depths["b"].sending, depths["b"].blocked, depths["b"].oldest)
