"""Stored events: what was written, looked at one by one, in parts, or all of it."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canonical_schema import Event, encode_events
from gateway.ledger import StoredEvents, _events
from gateway.ledger._events import EventCache, some_events
from gateway.ledger._kept import Remains
from gateway.ledger._redis.batches import Batch, Batches
from tests.gateway.lanes.world import used

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
batches = st.lists(
    st.builds(used, st.uuids().map(str), customer=texts, properties=st.dictionaries(texts, texts | st.integers())),
    min_size=1,
    max_size=6,
)


@given(batches, st.data())
def test_they_are_what_was_written_however_they_are_looked_at(events: list[Event], data: st.DataObject) -> None:
    stored, places = StoredEvents(encode_events(events)), st.sampled_from(range(len(events)))
    place, some, end = data.draw(places), data.draw(st.lists(places)), data.draw(places)
    assert len(events) == len(stored)
    assert (events[place], events[-1]) == (stored[place], stored[-1])
    assert events[place:end] == stored[place:end]
    assert [events[one] for one in some] == stored.some(some)
    assert events == [*stored]
    assert (events[place], events[-1]) == (stored[place], stored[-1]), "after all of them were looked at, too"
    with pytest.raises(IndexError):
        stored[len(events)]


@given(batches, st.data())
def test_some_of_them_are_these_whether_stored_or_at_hand(events: list[Event], data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from(range(len(events)))))
    assert (
        [events[one] for one in some]
        == some_events(events, some)
        == some_events(StoredEvents(encode_events(events)), some)
    )


@given(batches, st.integers(0, 9))
def test_a_member_that_is_said_to_be_lacking_is(events: list[Event], first: int) -> None:
    stored = StoredEvents(encode_events(events))
    for some in (stored.some(range(min(first, len(events)), len(events))), stored):  # the part asks the whole
        for member in ("corrects", "quantities", "quantity", "timestamp"):
            assert not some.lacks(member) or all(getattr(event, member) is None for event in some)
    assert stored.lacks("corrects") or any(map(len, (event.properties for event in events)))


def test_all_of_them_in_order_stay_the_ones_that_every_lane_is_given() -> None:
    stored = StoredEvents(encode_events([used("e1"), used("e2")]))
    assert some_events(stored, [0, 1]) is stored
    assert [used("e2"), used("e1")] == some_events(stored, [1, 0])


def test_no_value_of_theirs_is_shown() -> None:
    assert "StoredEvents(of 1)" == repr(StoredEvents(encode_events([used("e1", properties={"secret": "s"})])))


def test_the_newest_are_at_hand_by_their_bytes_whatever_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    large = StoredEvents(encode_events([used("e1", properties={"text": "x" * 500})]))
    small = [StoredEvents(encode_events([used(f"s{number}")])) for number in range(9)]
    monkeypatch.setattr(_events, "CACHED_BYTES", sum(len(one.text) + _events.EACH for one in small))
    cache = EventCache()
    for number, one in enumerate([large, *small]):
        cache.put(number, one)
    assert cache.get(0) is None
    assert small == [cache.get(number) for number in range(1, 10)]
    cache.put(10, small[0])
    assert [None, small[0]] == [cache.get(1), cache.get(10)], "each takes some, however short its text"


async def test_of_batches_that_were_trimmed_as_few_are_at_hand_as_of_others() -> None:
    async def load(numbers: Sequence[int]) -> Mapping[int, Batch]:
        left = Remains(prints=bytes(8 * 50), trimmed=True)
        return {number: Batch("default", 1, [], left) for number in numbers}

    held = Batches(load)
    await held.get(range(50_000))
    assert _events.CACHED_BYTES // (_events.EACH + 400) >= len(held._held)
    assert 49_999 in held


def test_what_is_about_to_change_is_not_kept_at_hand_again() -> None:
    cache, one = EventCache(), StoredEvents(encode_events([used("e1")]))
    cache.put(1, one)
    cache.bar(1)
    cache.put(1, one)
    assert cache.get(1) is None
