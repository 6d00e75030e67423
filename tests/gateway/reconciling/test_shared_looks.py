"""Two gateways on one Redis server: what was parked or queued is looked for by one of them, and seen by both."""

from datetime import timedelta
from typing import Any

import pytest

from gateway.lanes.doubts import FIRST
from gateway.reconciling.confirming import Confirming
from gateway.reconciling.finding import Finding
from gateway.reconciling.receipts import Receipts
from tests.gateway.conftest import Asking, MovableClock, event
from tests.gateway.seams.test_shared import Sharing, sharing

__all__ = ["sharing"]

pytestmark = pytest.mark.anyio

CHANGES = {
    "destinations": {"paygentic": {"settings": {"dedupe_window": "1ms"}}},
    "delivery": {"confirm_receipts": True},
}


async def standing(asking: Asking, name: str) -> Any:
    return (await asking.get("/v1/events/e1"))["deliveries"][name]


async def test_what_one_parked_it_looks_for_alone(sharing: Sharing, clock: MovableClock) -> None:
    async with sharing(CHANGES) as both:
        for one in both:
            one.gateway.doubts.wake = None  # their own chores sleep
        one, other = both
        vendor = one.vendors["paygentic"]
        vendor.fail("lost_answer")
        await one.send(event("e1"), query="?ack=stored")
        await one.settled("e1")
        assert "unknown" == (await standing(other, "paygentic"))["status"]
        looks = [Finding(each.gateway, Confirming(each.gateway)) for each in both]
        holds = [each for each in both if each.gateway.doubts.destinations]
        assert 1 == len(holds)
        clock.ahead += 2 * FIRST
        before = vendor.requests
        for look in looks:
            await look.step()
        assert 1 == vendor.requests - before
        assert ["accepted"] * 2 == [(await standing(each, "paygentic"))["status"] for each in both]


async def test_one_of_them_confirms_at_night(sharing: Sharing, clock: MovableClock) -> None:
    clock.ahead += (clock.now() + timedelta(days=1)).replace(hour=12) - clock.now()
    async with sharing(CHANGES) as both:
        one, other = both
        nights = [Receipts(each.gateway, Confirming(each.gateway)) for each in both]
        await one.send(event("e1"), query="?ack=all")
        assert "queued" == (await standing(other, "flexprice"))["receipt"]
        vendor = one.vendors["flexprice"]
        before = vendor.requests
        clock.ahead += timedelta(hours=14)
        for night in nights:
            while (due := await night.step()) is not None and due <= clock.now():
                pass
        assert 1 == vendor.requests - before
        assert ["confirmed"] * 2 == [(await standing(each, "flexprice"))["receipt"] for each in both]
