"""Configurations on record: one that took another's place is told of, also where the gateway was stopped between."""

from typing import Any

import pytest

from gateway.configuration.file import loads
from tests.gateway.conftest import Asking, House, configured, event

pytestmark = pytest.mark.anyio
SCALED = {"meters": {"api_calls": {"bindings": {"wingback": {"scale": "0.001"}}}}}


async def on_record(asking: Asking) -> list[Any]:
    rows = (await asking.get("/v1/audit"))["data"]
    return [
        {name: value for name, value in row.items() if name != "at"} for row in rows if row["action"] == "configure"
    ]


async def test_the_first_start_and_one_like_it_change_nothing(house: House) -> None:
    for _ in range(2):
        async with house() as asking:
            assert [] == await on_record(asking)


async def test_a_start_with_another_configuration_is_on_record_before_and_after(house: House) -> None:
    async with house() as asking:
        first = asking.gateway.generation.digest
    async with house(SCALED) as asking:
        second = asking.gateway.generation.digest
        assert first != second
        assert [
            {
                "number": 1,
                "actor": "start",
                "action": "configure",
                "target": "generation 1",
                "reason": "started with another configuration, or as another version",
                "before": first,
                "after": second,
            }
        ] == await on_record(asking)
        await asking.one(event())
    async with house(SCALED) as asking:
        assert 1 == len(await on_record(asking))


async def test_a_start_is_held_against_what_was_last_read_again(house: House) -> None:
    async with house() as asking:
        await asking.gateway.reload(loads(configured(SCALED), {}))
    async with house(SCALED) as asking:
        assert ["reload"] == [row["actor"] for row in await on_record(asking)]
    async with house() as asking:
        assert ["start", "reload"] == [row["actor"] for row in await on_record(asking)]
