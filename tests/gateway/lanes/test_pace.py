"""A lane's pace: no window of time ever holds more than the vendor allows, and trouble slows everything down."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import Rate
from gateway.configuration.sections import Retry
from gateway.lanes.pace import OPENS_AFTER, Breaker, Heard, Pace

START = datetime(2026, 11, 23, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def pace(*rates: Rate, max_in_flight: int = 8, probes: bool = False) -> Pace:
    return Pace(rates, max_in_flight, Retry(), lambda ceiling: ceiling, probes=probes)


def taken(one: Pace, rows: int, now: datetime) -> timedelta:
    """Return how long a request has to wait; one that has not is counted. Counted here, nothing is waited for."""
    asked = one.take(rows, now)
    try:
        asked.send(None)
    except StopIteration as answered:
        return answered.value
    raise AssertionError("it waited for somebody")


def told(one: Pace, now: datetime) -> None:
    """Have it look at the clock, as every step does."""
    one.see(now)
    with pytest.raises(StopIteration):
        one.agree(now).send(None)


@given(st.integers(1, 200), st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 50)), min_size=1, max_size=120))
def test_no_window_holds_more_requests_or_rows_than_the_vendor_allows(limit: int, asked: list[tuple[int, int]]) -> None:
    rows_limit = limit * 20
    one = pace(Rate(requests=limit, per=MINUTE, rows=rows_limit))
    now, left = START, list[tuple[datetime, int]]()
    for idle_ms, rows in asked:
        now += timedelta(milliseconds=idle_ms)
        rows = min(rows, max(1, rows_limit // 10))
        now += one.wait(rows, now) + timedelta(microseconds=1)
        assert not taken(one, rows, now)
        left.append((now, rows))
    for start, _ in left:
        inside = [rows for when, rows in left if start <= when < start + MINUTE]
        assert len(inside) <= limit
        assert sum(inside) <= rows_limit


def test_a_lane_without_limits_never_waits_for_one() -> None:
    one = pace()
    assert timedelta(0) == taken(one, 10_000, START)
    assert timedelta(0) == one.wait(10_000, START)


@given(st.lists(st.sampled_from(Heard), max_size=60), st.integers(1, 64))
def test_the_window_stays_between_one_and_the_configured_most(heard: list[Heard], most: int) -> None:
    one = pace(max_in_flight=most)
    now = START
    for what in heard:
        began, now = now, now + timedelta(seconds=1)
        one.heard(what, began, now, busy=True)
        assert 1.0 <= one.window <= max(1.0, most)


def test_success_under_load_widens_the_window_and_idle_success_does_not() -> None:
    busy, idle = pace(max_in_flight=64), pace(max_in_flight=64)
    for tick in range(100):
        began = START + timedelta(seconds=tick)
        busy.heard(Heard.FINE, began, began + timedelta(milliseconds=20), busy=True)
        idle.heard(Heard.FINE, began, began + timedelta(milliseconds=20), busy=False)
    assert busy.window > 12
    assert idle.window == 4.0


def test_rising_latency_narrows_the_window_before_anything_fails() -> None:
    one = pace(max_in_flight=8)
    for tick in range(20):
        began = START + timedelta(seconds=tick)
        one.heard(Heard.FINE, began, began + timedelta(milliseconds=20), busy=False)
    began = START + timedelta(seconds=30)
    one.heard(Heard.FINE, began, began + timedelta(milliseconds=800), busy=True)
    assert one.window < 4.0


def test_what_was_in_flight_together_fails_once() -> None:
    one = pace()
    for _ in range(8):
        one.heard(Heard.FAULT, START, START + timedelta(seconds=1), busy=True)
    assert (1, 2.0) == (one.faults, one.window)


def test_a_success_that_was_on_its_way_does_not_end_a_pause() -> None:
    one = pace()
    one.heard(Heard.THROTTLED, START, START, busy=False, retry_after=timedelta(minutes=7))
    one.heard(Heard.FINE, START - timedelta(seconds=1), START + timedelta(seconds=1), busy=False)
    assert START + timedelta(minutes=7) == one.not_before


def test_refusals_in_flight_together_count_once() -> None:
    one = pace()
    for what in (Heard.THROTTLED, Heard.THROTTLED, Heard.REFUSED):
        one.heard(what, START, START + timedelta(seconds=1), busy=False)
    assert (1, True) == (one.faults, one.refused)


def test_the_servers_own_word_is_a_floor() -> None:
    one = pace()
    one.heard(Heard.THROTTLED, START, START, busy=False, retry_after=timedelta(minutes=7))
    assert START + timedelta(minutes=7) == one.not_before
    assert 0 == one.room(0, START + timedelta(minutes=6))
    assert 1 == one.room(0, START + timedelta(minutes=7))


def test_faults_in_a_row_open_the_breaker_and_one_success_closes_it() -> None:
    one = pace()
    now = START
    for _ in range(OPENS_AFTER):
        assert one.breaker is Breaker.CLOSED
        now = max(now, one.not_before or now)
        one.heard(Heard.FAULT, now, now, busy=False)
    assert one.breaker is Breaker.OPEN
    now = one.not_before or now
    one.heard(Heard.FINE, now, now, busy=False)
    assert (Breaker.CLOSED, 0, None) == (one.breaker, one.faults, one.not_before)


def test_pauses_grow_up_to_the_longest_retry() -> None:
    one = pace()
    now, pauses = START, list[timedelta]()
    for _ in range(14):
        one.heard(Heard.FAULT, now, now, busy=False)
        assert one.not_before is not None
        pauses.append(one.not_before - now)
        now = one.not_before
    assert sorted(pauses) == pauses
    assert Retry().max == pauses[-1]


@given(st.integers(2, 10_000))
def test_a_clock_that_is_set_back_stops_no_lane_until_it_is_then_again(minutes: int) -> None:
    one = pace(Rate(requests=100, per=MINUTE))
    told(one, START)
    while not taken(one, 1, START):
        pass
    one.heard(Heard.THROTTLED, START, START, busy=False, retry_after=timedelta(minutes=7))
    now = START - minutes * MINUTE
    told(one, now)
    assert now + timedelta(minutes=7) == one.not_before
    assert taken(one, 1, now) < timedelta(seconds=1)
    assert not taken(one, 1, now + timedelta(seconds=1))
    window = one.window
    one.heard(Heard.FINE, now + timedelta(minutes=8), now, busy=True)
    one.heard(Heard.FINE, now + timedelta(minutes=8), now + timedelta(minutes=8, seconds=0.02), busy=True)
    assert one.window >= window, "an answer before its request says nothing of how long answers take"
