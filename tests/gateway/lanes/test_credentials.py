"""A vendor's key is changed while events flow: both are tried, none blocks the lane, neither is ever shown."""

import json
import logging
from datetime import timedelta
from typing import Any

import pytest

from tests.gateway.conftest import Asking, House, MovableClock, event

OLD, NEW = "secret-old-key", "secret-new-key"
BOTH = {"destinations": {"flexprice": {"settings": {"api_key": NEW, "previous_api_key": OLD}}}, "meters": {"calls": {
    "bindings": {"flexprice": {}}}}}  # fmt: skip


async def status(asking: Asking, event_id: str) -> str:
    result = await asking.one(event(event_id, meter="calls"), query="?ack=all")
    return str(result["deliveries"]["flexprice"]["status"])


async def shown(asking: Asking) -> Any:
    return await asking.get("/v1/destinations/flexprice")


async def test_whichever_key_the_vendor_takes_is_used(house: House, clock: MovableClock) -> None:
    async with house(BOTH) as asking:
        vendor = asking.vendors["flexprice"]
        for taken, using in ((OLD, "previous_api_key"), (NEW, "api_key"), (OLD, "previous_api_key")):
            vendor.api_key = taken
            assert "accepted" == await status(asking, f"e-{taken}-{clock.ahead.days}")
            assert ({"using": using}, "ok") == ((await shown(asking))["credentials"], (await shown(asking))["health"])
            before = vendor.requests
            assert "accepted" == await status(asking, f"f-{taken}-{clock.ahead.days}")
            assert 1 == vendor.requests - before
            clock.ahead += timedelta(days=1 if taken == NEW else 0)
        # The old one works still, and after a while the new one is tried again.
        vendor.api_key = None
        assert "accepted" == await status(asking, "g1")
        assert {"using": "previous_api_key"} == (await shown(asking))["credentials"]
        clock.ahead += timedelta(minutes=6)
        assert "accepted" == await status(asking, "g2")
        assert {"using": "api_key"} == (await shown(asking))["credentials"]


async def test_where_both_are_refused_the_lane_is_blocked_as_ever(house: House) -> None:
    async with house(BOTH) as asking:
        asking.vendors["flexprice"].api_key = "another"
        assert "blocked" == await status(asking, "e1")
        assert "blocked" == (await shown(asking))["health"]
        asking.vendors["flexprice"].api_key = OLD


async def test_neither_key_is_ever_shown(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with house(BOTH) as asking:
        configuration = asking.gateway.configuration
        asking.vendors["flexprice"].api_key = OLD
        assert "accepted" == await status(asking, "e1")
        explained = await asking.client.post("/v1/explain", json=event("e2", meter="calls"))
        destination = configuration.destinations["flexprice"]
        assert {OLD, NEW} == set(destination.adapter.secrets)
        everything = f"{caplog.text} {configuration!r} {explained.text} {json.dumps(await shown(asking))}"
        assert "secret-" not in everything


async def test_with_one_key_there_is_nothing_to_tell(house: House) -> None:
    async with house() as asking:
        assert "credentials" not in await shown(asking)
