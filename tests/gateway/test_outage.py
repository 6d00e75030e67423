"""A vendor that is down for a day: few requests meanwhile, no more than needed afterwards, and nothing is lost."""

import asyncio
import gc
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from adapters import Door, Rate, provider
from gateway.app import create_app
from gateway.configuration_file import loads
from gateway.ledger import SqliteLedger, sqlite
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from tests.gateway.conftest import VENDORS, Asking, configured, event
from tests.gateway.lanes import World, names

DAY = timedelta(hours=24)
TICK = timedelta(minutes=6)
EACH = 20
"""Events that come at each tick: 4,800 in a day."""
LONGEST = timedelta(minutes=15)
"""The longest pause, which is the breaker's: at full jitter half of it on average."""


async def _passes(world: World, span: timedelta) -> None:
    """Let time pass, and the lane do what is due at each instant."""
    end = world.clock.now() + span
    while world.clock.now() < end:
        due = await world.now()
        world.clock.advance_to(end if due is None else min(due, end))


async def _day(world: World, span: timedelta, first: int = 0) -> int:
    """Let events come while the vendor is down; return how many there are then."""
    count = first
    for _ in range(int(span / TICK)):
        await world.record(*names(EACH, count))
        count += EACH
        await _passes(world, TICK)
    return count


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change what Flowglad's door declares, for this test."""

    def change(**facts: Any) -> None:
        doors = cast("dict[str, Door]", provider("flowglad").spec.doors)
        for profile, declared in doors.items():
            monkeypatch.setitem(doors, profile, replace(declared, **facts))

    return change


@pytest.mark.parametrize("fault", ["refused", "proxy_error"])
async def test_after_a_day_the_backlog_takes_no_more_requests_than_it_needs(tmp_path: Path, fault: str) -> None:
    async with World(tmp_path, "flowglad", delivery={"retry": {"first": "1s", "max": "15m"}}) as world:
        await world.record("before")
        await world.later()
        before = world.vendor.requests
        world.vendor.fail(fault, times=None)
        count = await _day(world, DAY)
        meanwhile = world.vendor.requests - before
        # Pauses double from a second up to the longest, each of them half as long on average.
        assert meanwhile <= 2 * (DAY / (LONGEST / 2)) + 20, meanwhile
        assert {"before"} == {row.key for row in world.vendor.stored}
        world.vendor.clear()
        recovering = world.vendor.requests
        await world.later()
        needed = ceil(count / 100)
        assert world.vendor.requests - recovering <= 1.1 * needed, (world.vendor.requests - recovering, needed)
        assert Counter({"accepted": count + 1}) == Counter((await world.statuses()).values())
        assert {1} == set(world.copies().values())
        world.sound()


async def test_what_the_vendor_takes_no_more_is_expired_and_all_else_is_delivered(
    tmp_path: Path, door: Callable[..., None]
) -> None:
    door(time=replace(provider("flowglad").spec.doors["bulk"].time, past=DAY / 2))
    async with World(tmp_path, "flowglad", delivery={"retry": {"first": "1s", "max": "15m"}}) as world:
        world.vendor.fail("refused", times=None)
        count = await _day(world, DAY)
        world.vendor.clear()
        await world.later()
        views = await world.views()
        told = Counter((one["status"], one.get("error", {}).get("code")) for one in views.values())
        assert {("accepted", None), ("dead", "expired")} == set(told)
        assert count == sum(told.values())
        # Half a day's worth came too early, give or take the pause in which the vendor came back.
        assert abs(told["dead", "expired"] - count / 2) <= EACH * (LONGEST / TICK + 1)
        assert told["accepted", None] == len(world.vendor.stored)
        world.sound()


async def test_the_backlog_is_sent_no_faster_than_the_vendor_allows(tmp_path: Path, door: Callable[..., None]) -> None:
    minute = timedelta(minutes=1)
    door(rates=(Rate(requests=10, per=minute),))
    async with World(tmp_path, "flowglad", rate="vendor") as world:
        world.vendor.fail("refused", times=None)
        await _day(world, DAY / 4)
        world.vendor.clear()
        before = len(world.vendor.calls)
        await world.later()
        times = sorted(call.at for call in world.vendor.calls[before:])
        assert len(times) > 10, "not enough to say anything"
        assert max(sum(start <= when < start + minute for when in times) for start in times) <= 10


async def test_a_longer_outage_takes_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "CACHED_EVENTS", 200)
    async with World(tmp_path, "flowglad", delivery={"retry": {"first": "1s", "max": "15m"}}) as world:
        world.vendor.fail("refused", times=None)
        count = await _day(world, DAY / 4)
        gc.collect()
        tracemalloc.start()
        held: list[int] = []
        try:
            for hours in (6, 12):
                count = await _day(world, timedelta(hours=hours), count)
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
            assert held[1] < 1.5 * held[0] + 200_000, held
        finally:
            tracemalloc.stop()


async def test_one_that_takes_connections_and_never_answers_holds_up_nobody(
    tmp_path: Path, vendors: dict[str, SimulatedProvider]
) -> None:
    taken: list[asyncio.StreamWriter] = []

    async def hole(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)
        await asyncio.Event().wait()

    server = await asyncio.start_server(hole, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    hole_at = {"provider": "flexprice", "required": False, "settings": {"api_key": "k", "base_url": url}}
    changes = {
        "destinations": {"hole": hole_at},
        "meters": {"api_calls": {"bindings": {"hole": {"event_name": "api_call"}}}},
        "delivery": {"timeout": "300s"},
    }
    configuration = loads(configured(changes), {})
    mounts = {name: vendor.transport() for name, vendor in vendors.items()}  # the hole is on the network
    gateway = Gateway(configuration, SqliteLedger(tmp_path / "ledger.db"), mounts=mounts)
    await gateway.start()
    transport = httpx.ASGITransport(create_app(gateway), raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            asking = Asking(gateway, client, vendors)
            for number in range(20):  # each answer waits for the others, while the hole has the first of them
                sent = await asking.one(event(f"e{number}"), query="?ack=required")
                told = {name: one["status"] for name, one in sent["deliveries"].items()}
                assert dict.fromkeys(VENDORS, "accepted") | {"hole": "pending"} == told
            assert taken, "it was never asked"
    finally:
        await gateway.stop(timedelta(0))
        for writer in taken:
            writer.close()
        server.close()
