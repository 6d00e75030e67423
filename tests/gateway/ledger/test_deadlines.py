"""Windows that close: kept with the work, first in the queue, told when they are past. For every backend."""

from collections.abc import Mapping

import pytest

from canonical_schema import ErrorCode, ErrorItem
from gateway.ledger import Change, Code, Group, Ledger, Plan, Work, WorkState
from gateway.times import from_micros
from tests.gateway.ledger.conftest import TENANT, Store, batch_of, event, opened, recorded, rendered

ERROR = ErrorItem(code=ErrorCode.FORBIDDEN, message="held", retryable=True)
WINDOW = 5000
CLOSING = Plan(live=("a",), windows=(("a", WINDOW),))
ALL = 10_000


async def happened(ledger: Ledger, when: Mapping[str, int | None], plan: Plan = CLOSING, received: int = 1000) -> int:
    """Record events that happened at these instants; `None`: when they were received."""
    sent = [event(name, timestamp=None if at is None else from_micros(at)) for name, at in when.items()]
    return batch_of(await ledger.record(TENANT, received, sent, [plan] * len(sent)))


async def taken(ledger: Ledger, limit: int = ALL, now: int = 9000) -> list[Work]:
    return list(await ledger.take("a", now, limit))


def moved(work: Work, code: Code, group: Group | None) -> Change:
    return Change(
        work=work.id, batch=work.batch, destination="a", members=work.members, code=code, group=group, parts=None
    )


async def test_work_has_the_deadline_of_the_first_of_its_members_that_it_closes_for(ledger: Ledger) -> None:
    await happened(ledger, {"e1": 900, "e2": 300, "e3": None})
    (work,) = await taken(ledger)
    assert (WINDOW, 5300) == (work.group.window, work.group.deadline)


async def test_an_event_without_a_time_of_its_own_happened_when_it_was_received(ledger: Ledger) -> None:
    await happened(ledger, {"e1": None}, received=1234)
    (work,) = await taken(ledger)
    assert 6234 == work.group.deadline


async def test_what_happened_before_1970_closed_long_ago(ledger: Ledger) -> None:
    batch = await happened(ledger, {"e1": -(10**15)})
    mixed = await happened(ledger, {"e2": -1_000_000, "e3": 900})
    past, following = await ledger.overdue("a", 100, 10)
    assert ([batch, mixed], None) == ([work.batch for work in past], following)


async def test_a_destination_without_a_window_has_no_deadline(ledger: Ledger) -> None:
    await happened(ledger, {"e1": 10}, Plan(live=("a", "b"), windows=(("b", WINDOW),)))
    (work,) = await taken(ledger)
    assert (None, None) == (work.group.window, work.group.deadline)


async def test_what_closes_first_goes_first_and_what_never_closes_last(ledger: Ledger) -> None:
    free = await recorded(ledger, "e1", received=1000)
    late = await happened(ledger, {"e2": 4000}, received=4000)
    soon = await happened(ledger, {"e3": 300, "e4": 350}, received=5000)
    assert [soon, late, free] == [work.batch for work in await taken(ledger)]
    assert [(soon, [0, 1]), (late, [0])] == [(work.batch, work.members) for work in await taken(ledger, 3)]
    assert [late, free] == [work.batch for work in await taken(ledger, now=4500)], "and only what is due"


async def test_the_deadline_stays_through_splitting_settling_and_a_restart(store: Store) -> None:
    async with opened(store) as ledger:
        batch = await happened(ledger, {"e1": 900, "e2": 300, "e3": 500})
        (work,) = await taken(ledger)
        (going,) = await ledger.intend([rendered(work, [0])], 2000)
        (held,) = await ledger.held("a", WorkState.SENDING)
        assert (going, WINDOW, 5300) == (held.id, held.group.window, held.group.deadline)
        again = Group(state=WorkState.READY, due=2500, since=1000, attempts=1, window=WINDOW, deadline=5900)
        await ledger.settle([moved(held, Code.RETRYING, again)], [])
    async with opened(store) as ledger:
        assert [([1, 2], 5300), ([0], 5900)] == [(one.members, one.group.deadline) for one in await taken(ledger)]
        (track,) = (await ledger.snapshots([batch]))[batch].tracks
        assert {5300, 5900} == {group.deadline for group, _ in track.work}


async def test_events_that_find_a_way_later_have_their_deadline_from_when_they_happened(ledger: Ledger) -> None:
    batch = await happened(ledger, {"e1": 700, "e2": None}, Plan(), received=1000)
    await ledger.route(batch, [1], [CLOSING], 8000)
    await ledger.route(batch, [0], [CLOSING], 8000)
    assert {(1,): 6000, (0,): 5700} == {tuple(work.members): work.group.deadline for work in await taken(ledger)}


@pytest.mark.parametrize("state", [WorkState.READY, WorkState.BLOCKED, WorkState.HELD, WorkState.WAITING])
async def test_what_waits_past_its_deadline_is_told_with_when_the_next_is(ledger: Ledger, state: WorkState) -> None:
    for name, at in {"e1": 300, "e2": 200, "e3": 900}.items():
        await happened(ledger, {name: at})
    await recorded(ledger, "free")
    if state is WorkState.HELD:
        await ledger.hold("a", ERROR)
    elif state is not WorkState.READY:
        code = Code.PENDING if state is WorkState.WAITING else Code.BLOCKED
        for work in await taken(ledger):
            group = Group(state=state, due=1000, since=1000, window=work.group.window, deadline=work.group.deadline)
            await ledger.settle([moved(work, code, group)], [])
    assert ([], 5200) == await ledger.overdue("a", 5200, ALL)
    past, following = await ledger.overdue("a", 5301, ALL)
    assert (["e2", "e1"], 5900) == ([work.events[0].id for work in past], following)
    past, following = await ledger.overdue("a", 9999, 2)
    assert (["e2", "e1"], 5900) == ([work.events[0].id for work in past], following)
    past, following = await ledger.overdue("a", 9999, 3)
    assert (["e2", "e1", "e3"], None) == ([work.events[0].id for work in past], following)
    assert ([], None) == await ledger.overdue("b", 9999, ALL)


async def test_what_is_being_sent_is_not_overdue_and_counts_for_the_depth(ledger: Ledger) -> None:
    await happened(ledger, {"e1": 300})
    (work,) = await taken(ledger)
    await ledger.intend([rendered(work)], 2000)
    assert ([], None) == await ledger.overdue("a", 9999, ALL)
    assert 5300 == (await ledger.depth())["a"].deadline


async def test_the_depth_of_a_queue_without_windows_knows_no_deadline(ledger: Ledger) -> None:
    await recorded(ledger, "e1")
    assert (await ledger.depth())["a"].deadline is None
