"""Walking the work of one state a page at a time. For every backend."""

from gateway.ledger import Change, Code, Group, Ledger, Plan, WorkState
from tests.gateway.ledger.conftest import events, recorded

PLAN = Plan(live=("a", "b"))


async def blocked(ledger: Ledger, *ids: str) -> int:
    """Record events in one batch and block them at `a`; return the number of the work."""
    batch = await recorded(ledger, *ids, plan=PLAN)
    (work,) = [one for one in await ledger.pieces(batch, "a") if one.group.state is WorkState.READY]
    group = Group(state=WorkState.BLOCKED, due=1000, since=1000)
    one = Change(work=work.id, batch=batch, destination="a", members=work.members, code=Code.BLOCKED, group=group)
    await ledger.settle([one], [])
    (held,) = await ledger.pieces(batch, "a")
    return held.id


async def test_work_of_a_state_is_walked_by_number_a_page_at_a_time(ledger: Ledger) -> None:
    numbers = [await blocked(ledger, f"x{index}", f"y{index}") for index in range(7)]
    await recorded(ledger, "ready", plan=PLAN)
    seen: list[int] = []
    after = 0
    while page := await ledger.walk("a", WorkState.BLOCKED, after, 3):
        assert len(page) <= 3
        seen += [work.id for work in page]
        after = page[-1].id
    assert sorted(numbers) == seen
    (first, *_) = await ledger.walk("a", WorkState.BLOCKED, 0, 1)
    assert (events("x0", "y0"), [0, 1], WorkState.BLOCKED) == (first.events, first.members, first.group.state)


async def test_what_left_is_not_met_and_what_came_meanwhile_is(ledger: Ledger) -> None:
    first, second = await blocked(ledger, "x"), await blocked(ledger, "y")
    (work,) = await ledger.walk("a", WorkState.BLOCKED, 0, 1)
    assert first == work.id
    third = await blocked(ledger, "z")
    assert await ledger.release("a", WorkState.BLOCKED, 2000, 2)
    assert [third] == [one.id for one in await ledger.walk("a", WorkState.BLOCKED, first, 10)]
    assert second != third


async def test_other_destinations_and_states_are_not_walked(ledger: Ledger) -> None:
    await blocked(ledger, "x")
    assert [] == list(await ledger.walk("b", WorkState.BLOCKED, 0, 10))
    assert [] == list(await ledger.walk("a", WorkState.DEAD, 0, 10))


async def test_what_is_recorded_later_comes_after_where_the_ledger_says_so(ledger: Ledger) -> None:
    """Whatever it is due by; and on a cluster nobody says so."""
    after = 0
    for number in range(20):
        await recorded(ledger, f"e{number}", plan=PLAN)
        if ledger.in_line:
            (work,) = await ledger.walk("a", WorkState.READY, after, 10)
            assert events(f"e{number}") == work.events
            after = work.id
    assert 20 == len(await ledger.walk("a", WorkState.READY, 0, 100))
