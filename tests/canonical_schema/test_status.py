"""An event's status follows from its deliveries, first rule that fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canonical_schema import DeliveryStatus, EventStatus, event_status, worst

D = DeliveryStatus
FINAL = {D.ACCEPTED, D.DUPLICATE, D.REJECTED, D.UNKNOWN, D.DEAD, D.FILTERED}
LOST = {D.REJECTED, D.DEAD}

deliveries = st.lists(st.sampled_from(DeliveryStatus), max_size=6)
some = st.lists(st.sampled_from(DeliveryStatus), min_size=1, max_size=6)


@given(deliveries)
def test_an_event_has_the_first_status_that_fits(live: list[DeliveryStatus]) -> None:
    rules = [
        (EventStatus.UNROUTED, not live),
        (EventStatus.UNKNOWN, any(each is D.UNKNOWN for each in live)),
        (EventStatus.FAILED, all(each in LOST for each in live)),
        (EventStatus.PARTIAL, any(each in LOST for each in live)),
        (EventStatus.PENDING, any(each not in FINAL for each in live)),
        (EventStatus.DELIVERED, True),
    ]
    assert next(status for status, fits in rules if fits) is event_status(live)


@given(deliveries)
def test_order_and_repetition_of_deliveries_never_matter(live: list[DeliveryStatus]) -> None:
    assert event_status(live) is event_status([*reversed(live), *live])


@given(deliveries)
def test_an_event_is_delivered_only_where_nothing_is_open_or_lost(live: list[DeliveryStatus]) -> None:
    if event_status(live) is EventStatus.DELIVERED:
        assert {D.ACCEPTED, D.DUPLICATE, D.FILTERED} >= set(live)


def test_an_additive_zero_counts_as_delivered() -> None:
    assert EventStatus.DELIVERED is event_status([D.FILTERED])


def test_a_delivery_is_final_or_open_by_its_name() -> None:
    assert {each for each in DeliveryStatus if each.final} == FINAL


def test_only_accepted_and_duplicate_are_successes() -> None:
    assert {each for each in DeliveryStatus if each.success} == {D.ACCEPTED, D.DUPLICATE}


@given(some, some)
def test_the_worst_of_two_groups_is_the_worst_of_their_worsts(
    one: list[DeliveryStatus], other: list[DeliveryStatus]
) -> None:
    assert worst([worst(one), worst(other)]) is worst(one + other)


@given(some)
def test_the_worst_of_parts_makes_the_event_what_the_parts_make_it_unless_only_some_are_lost(
    parts: list[DeliveryStatus],
) -> None:
    of_parts = event_status(parts)
    expected = EventStatus.FAILED if of_parts is EventStatus.PARTIAL else of_parts
    assert expected is event_status([worst(parts)])


def test_nothing_has_no_worst() -> None:
    with pytest.raises(ValueError):
        worst([])
