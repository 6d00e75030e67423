"""Garbage: what a process starts with is never looked at again, and the rest seldom."""

import gc
from collections.abc import Generator

import pytest

from gateway.garbage import collect_rarely


@pytest.fixture
def collector() -> Generator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_what_a_process_starts_with_is_not_looked_at_again() -> None:
    held = [[each] for each in range(100)]
    collect_rarely()
    looked_at = {id(one) for one in gc.get_objects()}
    assert looked_at.isdisjoint(map(id, held))


@pytest.mark.usefixtures("collector")
def test_requests_in_flight_do_not_bring_a_look_about() -> None:
    collect_rarely()
    looks = gc.get_stats()[0]["collections"]
    in_flight = [[each] for each in range(5_000)]
    assert looks == gc.get_stats()[0]["collections"]
    del in_flight
