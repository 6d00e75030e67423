"""Two vendors held against each other: what one of them alone was meant to have is no difference that nobody knows."""

from datetime import timedelta
from typing import Any

import pytest

from tests.gateway.conftest import Asking, House, MovableClock
from tests.gateway.reconciling.test_planted import HOUR, Day, reasons

pytestmark = pytest.mark.anyio


@pytest.fixture
def day(clock: MovableClock) -> Day:
    return Day(clock)


async def correct(asking: Asking, event_id: str, quantity: int) -> None:
    body = {"quantity": quantity, "reason": "a test"}
    answer = await asking.client.post(f"/v1/events/{event_id}/correct", json=body)
    assert 200 == answer.status_code, answer.text


async def test_a_corrected_event_that_one_of_two_alone_has_counts_as_it_is_there(asking: Asking, day: Day) -> None:
    await asking.send([day.event("e1", meter="jobs", quantity=5), day.event("e2")], query="?ack=all")
    await correct(asking, "e1", 7)
    day.later()
    report = await day.reconcile(asking, destinations=["flexprice"], against="flowglad")
    assert {("acme", "unmapped"): ("-7", ["e1"])} == reasons(report, "flowglad", "flexprice")
    assert 0 == report["unexplained"]


async def test_a_correction_that_two_carry_out_otherwise_is_of_both(house: House, day: Day) -> None:
    route: dict[str, Any] = {"destination": "paygentic", "from": (day.start + 2 * HOUR).isoformat()}
    async with house({"routes": [route]}) as asking:
        early = day.event("early", day.start + timedelta(hours=1), quantity=4)
        await asking.send([day.event("e1"), early], query="?ack=all")
        await correct(asking, "e1", 9)
        day.later()
        report = await day.reconcile(asking, destinations=["flexprice"], against="paygentic", meter="api_calls")
    assert {("acme", "only_here"): ("-4", ["early"])} == reasons(report, "paygentic", "flexprice")
