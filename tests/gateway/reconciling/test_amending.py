"""Corrections that are on their way: whether their answer was lost or nothing arrived, both sides are told apart."""

import pytest

from tests.gateway.conftest import Asking, House, MovableClock
from tests.gateway.reconciling.test_planted import Day, reasons
from tests.waiting import until

pytestmark = pytest.mark.anyio

WAITS = {"delivery": {"retry": {"first": "1h", "max": "1h"}}}


@pytest.fixture
def day(clock: MovableClock) -> Day:
    return Day(clock)


async def ask(asking: Asking, what: str, correction: str, destination: str, **said: int) -> None:
    """Have `e1` corrected, and wait until a destination has been asked for it once."""
    asked = {"reason": "a test", **said}
    answer = await asking.client.post(f"/v1/events/e1/{what}", json=asked, headers={"prefer": "respond-async"})
    assert answer.status_code in {200, 202}, answer.text

    async def asked_for() -> bool:
        made = (await asking.get(f"/v1/events/{correction}"))["deliveries"][destination]
        return made["attempts"] > 0 and made["status"] != "pending"

    await until(asked_for, f"{destination} is not asked for {correction}")


@pytest.mark.parametrize(("what", "said", "left"), [("correct", {"quantity": 9}, "9"), ("void", {}, "0")])
@pytest.mark.parametrize("arrived", [True, False])
async def test_an_amendment_that_is_tried_again_is_in_flight_until_it_is_seen(
    house: House, day: Day, what: str, said: dict[str, int], left: str, arrived: bool
) -> None:
    async with house(WAITS) as asking:
        await asking.send(day.event("e1", meter="jobs"), query="?ack=all")
        day.later()
        asking.vendors["flexprice"].fail("lost_answer" if arrived else "unavailable")
        await ask(asking, what, "e1~c1", "flexprice", **said)
        report = await day.reconcile(asking, destinations=["flexprice"], meter="jobs")
        step = str(3 - int(left))
        expected = {} if arrived else {("acme", "in_flight"): (step, ["e1~c1"])}
        assert expected == reasons(report, "flexprice")
        (figure,) = report["comparisons"][0]["figures"]
        assert (left, left if arrived else "3", True) == tuple(figure[name] for name in ("left", "right", "explained"))


async def test_a_difference_whose_answer_was_lost_is_found_by_its_key(house: House, day: Day) -> None:
    async with house(WAITS) as asking:
        await asking.send(day.event("e1"), query="?ack=all")
        day.later()
        asking.vendors["flowglad"].fail("lost_answer")
        await ask(asking, "correct", "e1~c2", "flowglad", quantity=9)
        report = await day.reconcile(asking, destinations=["flowglad"], meter="api_calls")
        assert {} == reasons(report, "flowglad")
        (figure,) = report["comparisons"][0]["figures"]
        assert ("9", "9") == (figure["left"], figure["right"])


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_refund_in_doubt_is_in_flight_until_it_is_seen(house: House, day: Day, arrived: bool) -> None:
    async with house(WAITS) as asking:
        await asking.send(day.event("e1"), query="?ack=all")
        day.later()
        asking.vendors["paygentic"].fail("lost_answer" if arrived else "unavailable")
        await ask(asking, "void", "e1~c1", "paygentic")
        report = await day.reconcile(asking, destinations=["paygentic"], meter="api_calls")
        expected = {} if arrived else {("acme", "in_flight"): ("3", ["e1~c1"])}
        assert expected == reasons(report, "paygentic")


async def test_a_refund_and_what_replaces_it_come_to_what_is_said_while_both_wait(house: House, day: Day) -> None:
    async with house(WAITS) as asking:
        await asking.send(day.event("e1"), query="?ack=all")
        day.later()
        asking.vendors["paygentic"].fail("unavailable")
        await ask(asking, "correct", "e1~c1", "paygentic", quantity=9)
        report = await day.reconcile(asking, destinations=["paygentic"], against="flexprice", meter="api_calls")
        (figure,) = report["comparisons"][0]["figures"]
        assert ("9", "3", True) == (figure["left"], figure["right"], figure["explained"])
        assert 0 == report["unexplained"]
