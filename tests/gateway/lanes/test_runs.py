"""Runs: pieces of work that are looked at together become what they become one by one."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canonical_schema import Event, encode_events
from gateway.lanes import runs
from gateway.lanes.absolutes import Absolutes
from gateway.lanes.preparing import Preparer
from gateway.lanes.runs import runs_of
from gateway.ledger import Group, Sheet, StoredEvents, Work, WorkState
from gateway.times import to_micros
from tests.gateway.clocks import START
from tests.gateway.lanes.test_stencils import LINKED, SETTINGS, events
from tests.gateway.lanes.world import used

NOW = to_micros(START)


class AnyTurn(Absolutes):
    """Holds no absolute value back."""

    def __init__(self) -> None:
        pass

    def may_go(self, work: Work, index: int, event: Event) -> bool:
        return True


def work(number: int, some: Sequence[Event], **members: Any) -> Work:
    given: dict[str, Any] = {
        "id": number,
        "destination": "it",
        "batch": number,
        "tenant": "default",
        "received": NOW + number,
        "group": Group(state=WorkState.READY, due=0, attempts=0, doubt=0, since=NOW),
        "members": [*range(len(some))],
        "events": StoredEvents(encode_events(some)),
        "parts": None,
    }
    return Work(**given | members)


def plain(number: int, count: int, **members: Any) -> Work:
    return work(number, [used(f"e{number}-{place}") for place in range(count)], **members)


def shape(works: Sequence[Work]) -> list[list[int]]:
    return [[one.id for one in run.works] for run in runs_of(works)]


pieces = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.sampled_from(["default"] * 4 + ["t2"]),
        st.sampled_from([False] * 4 + [True]),
        st.sampled_from([1, 1, 1, 60]),
    ),
    max_size=30,
)


@given(pieces)
def test_runs_are_the_work_in_its_order(given: list[tuple[int, str, bool, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "MOST", 12)
        patch.setattr(runs, "SMALL", 8)
        works: list[Work] = []
        numbers = accumulate(step for *_, step in given)
        for number, (count, tenant, rendered, _) in zip(numbers, given, strict=True):
            parts = Sheet(["k"] * count, [b"{}"] * count) if rendered else None
            works.append(plain(number, count, tenant=tenant, parts=parts))
        made = runs_of(works)
        assert works == [one for run in made for one in run.works]
        for run in made:
            assert [*run.events] == [event for one in run.works for event in one.events]
            assert {run.tenant} == {one.tenant for one in run.works}
            assert len(run.works) == 1 or not any(one.parts is not None for one in run.works)
            assert len(run.works) == 1 or len(run.events) <= 12


def test_small_pieces_go_together_and_large_ones_alone() -> None:
    assert [[1, 2, 3], [4], [5]] == shape([plain(1, 1), plain(2, 2), plain(3, 1), plain(4, 500), plain(5, 1)])
    assert [[1], [2, 3]] == shape([plain(1, 1, tenant="t2"), plain(2, 1), plain(3, 1)])
    assert [[1, 2, 3], [4]] == shape([plain(1, 400), plain(2, 400), plain(3, 200), plain(4, 1)])


def test_every_lane_gets_the_same_events_though_they_begin_at_other_places() -> None:
    works = [plain(number, 1) for number in range(60, 140)]
    one, other = runs_of(works), runs_of(works[30:])
    assert [[64, 127], [128, 139]] == [[run.works[0].id, run.works[-1].id] for run in one[1:]]
    assert one[2].events is other[1].events
    assert one[1].events is runs_of(works[4:68])[0].events


def test_a_part_of_a_batch_is_looked_at_as_such_and_the_rows_of_many_batches_together() -> None:
    def part(number: int, places: Sequence[int]) -> Work:
        whole = plain(number, 80)
        assert isinstance(whole.events, StoredEvents)
        return work(number, whole.events[:], members=places, events=whole.events.some(places))

    assert [[1], [2], [3, 4], [5]] == shape(
        [part(1, range(60, 80)), part(2, range(60)), part(3, [7]), part(4, [7]), part(5, range(40))]
    )
    assert [[1, 2]] == shape([part(1, [0, 2, 4, 6, 8, 10, 12, 14]), part(2, [0, 2, 4, 6, 8, 10, 12, 14])])


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_prepared_in_runs_is_what_is_prepared_one_by_one(name: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.lists(events, min_size=1, max_size=3), min_size=1, max_size=6), st.integers(1, 20))
    def law(batches: list[list[Event]], most: int) -> None:
        catalogue = LINKED[name]
        catalogue_rows = [work(number, some, destination=name) for number, some in enumerate(batches)]

        def prepared(together: bool) -> object:
            preparer = Preparer(name, catalogue, cast("Absolutes", AnyTurn()), lambda _: False)
            groups = [catalogue_rows] if together else [[one] for one in catalogue_rows]
            found = [run for some in groups for run in runs_of(some)]
            assert not together or len(found) == 1
            lots, turned = preparer.prepared(found, START, most, 2**31)
            return [(lot.work, lot.members, [*lot.parts]) for lot in lots], turned

        assert prepared(together=True) == prepared(together=False)

    law()
