"""The queue's fullness: looked at beside the requests, and never believed for long."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from gateway.errors import LedgerUnavailable
from gateway.fullness import Fullness
from gateway.ledger import Ledger, QueueDepth

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Depths:
    """A ledger that answers how full it is when it is let."""

    def __init__(self) -> None:
        self.ready = 0
        self.is_gone = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def depth(self) -> Mapping[str, QueueDepth]:
        await self.may_answer.wait()
        if self.is_gone:
            raise LedgerUnavailable("the ledger is gone")
        return {"lago": QueueDepth(ready=self.ready)}


@pytest.fixture
def depths() -> Depths:
    return Depths()


@pytest.fixture
def fullness(depths: Depths) -> Fullness:
    return Fullness(cast("Ledger", depths))


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


async def a_look_has_ended(fullness: Fullness) -> None:
    assert fullness._looking is not None
    await fullness._looking


async def test_no_request_waits_for_a_look_a_second_later(depths: Depths, fullness: Fullness) -> None:
    await fullness.check(NOON, 3)
    depths.ready = 3
    depths.may_answer.clear()
    await fullness.check(after(1), 3)
    depths.may_answer.set()
    await a_look_has_ended(fullness)
    with pytest.raises(LedgerUnavailable, match="3 deliveries wait"):
        await fullness.check(after(1.5), 3)


async def test_after_a_pause_it_is_looked_before_anything_is_said(depths: Depths, fullness: Fullness) -> None:
    depths.ready = 3
    with pytest.raises(LedgerUnavailable):
        await fullness.check(NOON, 3)
    depths.ready = 0
    await fullness.check(after(60), 3)


async def test_a_look_that_fails_is_told_to_the_next_request(depths: Depths, fullness: Fullness) -> None:
    await fullness.check(NOON, 3)
    depths.is_gone = True
    await fullness.check(after(1), 3)
    await a_look_has_ended(fullness)
    with pytest.raises(LedgerUnavailable, match="the ledger is gone"):
        await fullness.check(after(1), 3)


async def test_a_clock_that_is_set_back_closes_no_door(depths: Depths, fullness: Fullness) -> None:
    depths.ready = 3
    with pytest.raises(LedgerUnavailable):
        await fullness.check(NOON, 3)
    depths.ready = 0
    await fullness.check(after(-3600), 3)
