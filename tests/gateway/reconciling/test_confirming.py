"""Deliveries in doubt are settled by what a vendor lists, and by nothing else."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gateway.reconciling.confirming import Confirming
from gateway.simulator import StoredRow
from gateway.simulator.world import Stock
from tests.gateway.conftest import Asking, House, event

pytestmark = pytest.mark.anyio

SHORT = {"destinations": {"paygentic": {"settings": {"dedupe_window": "1ms"}}}}
"""So short a memory for repeats that a lost answer leaves a delivery in doubt."""


async def doubted(asking: Asking, event_id: str = "doubt") -> None:
    asking.vendors["paygentic"].fail("lost_answer")
    await asking.send(event(event_id, quantity=5), query="?ack=stored")
    await asking.settled(event_id)
    assert "unknown" == (await standing(asking, event_id))["status"]


async def standing(asking: Asking, event_id: str = "doubt") -> Any:
    return (await asking.get(f"/v1/events/{event_id}"))["deliveries"]["paygentic"]


async def test_what_is_listed_arrived(house: House) -> None:
    async with house(SHORT) as asking:
        await doubted(asking)
        assert 1 == await Confirming(asking.gateway).confirm("paygentic")
        assert "accepted" == (await standing(asking))["status"]
        (row,) = [row for row in (await asking.get("/v1/audit"))["data"] if row["action"] == "resolve"]
        assert ("read-back", "unknown", "accepted") == (row["actor"], row["before"], row["after"])
        assert 0 == await Confirming(asking.gateway).confirm("paygentic")


def lost(stock: Stock) -> None:
    stock.forget(lambda _: True)


def another(stock: Stock) -> None:
    def less(row: StoredRow) -> StoredRow:
        return replace(row, charges=tuple(one._replace(quantity=one.quantity - 1) for one in row.charges))

    stock.change(less)


@pytest.mark.parametrize("tampered", [lost, another])
async def test_what_is_not_listed_or_says_something_else_stays_in_doubt(house: House, tampered: Any) -> None:
    async with house(SHORT) as asking:
        await doubted(asking)
        asking.vendors["paygentic"].tamper(tampered)
        assert 0 == await Confirming(asking.gateway).confirm("paygentic")
        assert "unknown" == (await standing(asking))["status"]


async def test_a_vendor_that_does_not_answer_settles_nothing(house: House) -> None:
    async with house(SHORT) as asking:
        await doubted(asking)
        asking.vendors["paygentic"].api_key = "another"
        assert 0 == await Confirming(asking.gateway).confirm("paygentic")
        assert "unknown" == (await standing(asking))["status"]


async def test_it_is_done_when_the_day_begins(house: House, clock: Any) -> None:
    async with house(SHORT) as asking:
        await doubted(asking)
        confirming = Confirming(asking.gateway)
        due = await confirming.step()
        assert due is not None
        midnight = (clock.now() + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        assert midnight == due
        assert "unknown" == (await standing(asking))["status"]
        clock.ahead = due - clock.now() + timedelta(seconds=1)
        assert midnight + timedelta(days=1) == await confirming.step()
        assert "accepted" == (await standing(asking))["status"]
