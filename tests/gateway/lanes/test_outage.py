"""A vendor that is down for a day: few requests meanwhile, no more than needed afterwards, and nothing is lost."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import pytest

from adapters import Door, Rate, provider
from canonical_schema import BatchResult
from gateway.app import create_app
from gateway.configuration.file import loads
from gateway.lanes import columns, helping
from gateway.ledger import SqliteLedger, _events
from gateway.ledger.check import add_up
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from gateway.stored import stored
from tests.gateway.clocks import ManualClock
from tests.gateway.conftest import VENDORS, Asking, configured, event
from tests.gateway.days import Day, Slow, living
from tests.gateway.lanes.world import World, names, passes

DAY = timedelta(hours=24)
TICK = timedelta(minutes=12)
EACH = 10
"""Events that come at each tick: 1,200 in a day."""
ROWS = 25
"""Rows that the door for batches takes in a request."""
LONGEST = timedelta(minutes=15)
"""The longest pause, which is the breaker's: at full jitter half of it on average."""


async def _day(world: World, span: timedelta, first: int = 0) -> int:
    """Let events come while the vendor is down; return how many there are then."""
    count = first
    for _ in range(int(span / TICK)):
        await world.record(*names(EACH, count))
        count += EACH
        await passes(world, TICK)
    return count


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change what Flowglad's door declares, for this test."""

    def change(**facts: Any) -> None:
        doors = cast("dict[str, Door]", provider("flowglad").spec.doors)
        for profile, declared in doors.items():
            monkeypatch.setitem(doors, profile, replace(declared, **facts))

    return change


OTHERS = tuple(name for name in VENDORS if name != "paygentic")
BY_BOTH_DOORS = {
    "destinations": {
        "paygentic": {
            "provider": "paygentic",
            "required": False,
            "rate": "none",
            "settings": {"api_key": "k", "profile": "events", "merchant_id": None, "dedupe_window": "48h"},
        },
        "older": {
            "provider": "paygentic",
            "required": False,
            "rate": "none",
            "settings": {"api_key": "k", "profile": "usage-v0", "merchant_id": "org_1", "dedupe_window": "48h"},
        },
    },
    "meters": {
        "api_calls": {
            "bindings": {
                "paygentic": {"event_type": "calls", "billable_metric_id": None},
                "older": {"billable_metric_id": "bm_calls"},
            }
        }
    },
    "customers": {"acme": {"older": {"customer_id": "cus_acme"}}},
    "delivery": {"retry": {"first": "1s", "max": "15m"}},
}
"""Paygentic by both of its doors: one takes an event a request, the other takes them by the batch."""


@pytest.mark.parametrize("fault", ["refused", "proxy_error"])
async def test_a_day_without_one_vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """One of its doors takes what is half a day old, and nothing that is older; the other takes everything."""
    clock = ManualClock()
    vendors = {name: SimulatedProvider(name, clock=clock.now) for name in VENDORS}
    down = vendors["paygentic"]
    doors = cast("dict[str, Door]", down.spec.doors)
    batches = doors["usage-v0"]
    time = replace(batches.time, past=DAY / 2)
    monkeypatch.setitem(doors, "usage-v0", replace(batches, max_rows=ROWS, time=time))
    takes = {name: timedelta(milliseconds=100) for name in ("paygentic", "older")}
    async with living(tmp_path, vendors, clock, BY_BOTH_DOORS, slow=takes) as day:
        down.fail(fault, times=None)
        sent: dict[str, datetime] = {}
        for tick in range(int(DAY / TICK)):
            some = [event(f"e{tick}-{place}") for place in range(EACH)]
            sent |= dict.fromkeys((str(one["id"]) for one in some), clock.now())
            _hears_from_the_others(await day.asking.send(some, query="?ack=required"))
            await day.passes(TICK)
        # What came in left for the others at once, in one request each time, and they heard of it once.
        assert dict.fromkeys(OTHERS, (DAY / TICK, len(sent))) == _taken(vendors)
        meanwhile = len(down.calls)
        # Pauses double from a second up to the longest, each of them half as long on average; two lanes ask.
        assert meanwhile <= 2 * (2 * (DAY / (LONGEST / 2)) + 20), meanwhile

        down.clear()
        await day.ends("paygentic", "older", most=timedelta(hours=1))
        assert dict.fromkeys(OTHERS, (DAY / TICK, len(sent))) == _taken(vendors)
        _starts_small_and_grows(day.ways["paygentic"], [1] * len(sent))
        told = await _told(day)
        assert dict.fromkeys(sent, ("accepted", None, "")) == told["paygentic"]
        _what_was_too_old(day.ways["older"], sent, told["older"], in_doubt=fault == "proxy_error")
        assert {1} == {row.copies for row in down.stored}
        assert [] == add_up(tmp_path / "ledger.db")["problems"]


def _hears_from_the_others(answer: BatchResult) -> None:
    for one in answer["results"]:
        told = {name: delivery["status"] for name, delivery in one["deliveries"].items()}
        assert dict.fromkeys(OTHERS, "accepted") == {name: told[name] for name in OTHERS}
        assert {"pending", "retrying"} >= {told["paygentic"], told["older"]}


def _taken(vendors: Mapping[str, SimulatedProvider]) -> dict[str, tuple[float, int]]:
    return {name: (vendors[name].requests, len(vendors[name].stored)) for name in OTHERS}


def _starts_small_and_grows(way: Slow, needed: list[int]) -> None:
    """Hold what a vendor that came back was asked against the least that there was to ask it."""
    assert (0, 1) == (way.asked[0].rows, way.asked[0].beside)  # a read, which asks whether it is back
    replay = [one for one in way.asked if one.rows]  # others read, too: whether what is in doubt is there
    assert needed == [one.rows for one in replay]
    assert 1 + len(replay) <= 1.1 * ceil(sum(needed) / max(needed))
    # Never more at once than one more than there were answers before: a window that opens with what it hears.
    assert all(one.beside <= 1 + one.before for one in replay)
    peaks = [max(one.beside for one in replay[: place + 1]) for place in range(len(replay))]
    assert all(later - earlier <= 1 for earlier, later in pairwise(peaks))
    assert peaks[-1] >= 4, "it never grew"


def _what_was_too_old(
    way: Slow, sent: Mapping[str, datetime], told: Mapping[str, tuple[str, str | None, str]], *, in_doubt: bool
) -> None:
    """All that was half a day old by the time the vendor was back has ended, and says why; all else is there."""
    back = way.asked[0].at
    late = {event_id for event_id, when in sent.items() if back - when > DAY / 2}
    assert sent.keys() - late == {event_id for event_id, one in told.items() if one[0] == "accepted"}
    dead = {event_id: one for event_id, one in told.items() if one[0] == "dead"}
    assert {"expired"} == {code for _, code, _ in dead.values()}
    assert all("takes nothing older than 12:00:00, and the window closed" in why for _, _, why in dead.values())
    parked = {event_id: one for event_id, one in told.items() if one[0] == "unknown"}
    assert late == dead.keys() | parked.keys()
    # A proxy's word is no proof that nothing arrived: what was on its way then is for a person to decide.
    assert bool(parked) is in_doubt
    assert all("an earlier request may have stored it" in why for _, _, why in parked.values())
    full, rest = divmod(len(sent) - len(late) - 1, ROWS)
    _starts_small_and_grows(way, [1, *[ROWS] * full, *([rest] if rest else [])])


async def _told(day: Day) -> dict[str, dict[str, tuple[str, str | None, str]]]:
    """Return what became of every event, by destination: status, and the error's code and words."""
    found: dict[str, dict[str, tuple[str, str | None, str]]] = {}
    async for view in stored(day.asking.gateway.ledger, "default"):
        for index, one in enumerate(view.snapshot.events):
            for name, delivery in view.deliveries(index).items():
                error = delivery.get("error")
                code, why = (None, "") if error is None else (str(error["code"]), error["message"])
                found.setdefault(name, {})[one.id] = (str(delivery["status"]), code, why)
    return found


async def test_the_backlog_is_sent_no_faster_than_the_vendor_allows(tmp_path: Path, door: Callable[..., None]) -> None:
    minute = timedelta(minutes=1)
    door(rates=(Rate(requests=10, per=minute),))
    async with World(tmp_path, "flowglad", rate="vendor") as world:
        world.vendor.fail("refused", times=None)
        await _day(world, DAY)
        world.vendor.clear()
        before = len(world.vendor.calls)
        await world.later()
        times = sorted(call.at for call in world.vendor.calls[before:])
        assert len(times) > 10, "not enough to say anything"
        assert max(sum(start <= when < start + minute for when in times) for start in times) <= 10


@pytest.mark.parametrize("fault", ["refused", "unauthorized"])
async def test_four_times_the_outage_takes_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Callable[..., None], fault: str
) -> None:
    door(max_rows=ROWS)
    # What is kept at hand of the newest, and what is taken at a time, has bounds: here far below what comes.
    monkeypatch.setattr(_events, "CACHED_BYTES", 10_000)
    monkeypatch.setattr(columns, "BYTES", 10_000)
    monkeypatch.setattr(helping, "AT_ONCE", 100)
    monkeypatch.setattr("gateway.ledger.sqlite.AT_ONCE", 10)
    short, long = await _peaks(tmp_path / "short", DAY / 4, fault), await _peaks(tmp_path / "long", DAY, fault)
    more = 2 * EACH * (DAY - DAY / 4) / TICK
    # Of an event that waits nothing is in memory but its id, at eight bytes a slot. A lane that holds all that
    # waits takes several hundred bytes for each.
    assert long.meanwhile - short.meanwhile <= 200 * more, (short, long)
    assert long.afterwards - short.afterwards <= 200 * more, (short, long)


class Peaks(NamedTuple):
    """The most bytes that were in use beyond those of the beginning."""

    meanwhile: int
    afterwards: int


async def _peaks(folder: Path, span: timedelta, fault: str) -> Peaks:
    """Return how much memory an outage takes, and how much the replay of what waited."""
    await asyncio.to_thread(folder.mkdir)
    clock = ManualClock()
    vendors = {name: SimulatedProvider(name, clock=clock.now, keep=False) for name in VENDORS}
    changes = {"delivery": {"retry": {"first": "1s", "max": "15m"}, "max_in_flight": 2}}
    async with living(folder, vendors, clock, changes) as day:
        vendors["flowglad"].fail(fault, times=None)
        await _come(day, "before", 3 * TICK)
        gc.collect()
        tracemalloc.start()
        try:
            await _come(day, "e", span)
            meanwhile = tracemalloc.get_traced_memory()[1]
            vendors["flowglad"].clear()
            gc.collect()
            tracemalloc.reset_peak()
            await day.ends("flowglad", most=timedelta(hours=1))
            assert 2 * EACH * (span / TICK + 3) == vendors["flowglad"].rows_taken
            return Peaks(meanwhile, tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()


async def _come(day: Day, named: str, span: timedelta) -> None:
    """Let events come for so long."""
    for tick in range(int(span / TICK / 3)):
        await day.asking.send([event(f"{named}{tick}-{place}") for place in range(6 * EACH)], query="?ack=stored")
        await day.passes(3 * TICK)


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
