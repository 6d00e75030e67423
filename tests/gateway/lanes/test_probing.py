"""While a vendor is down it is asked with a read that changes nothing, and no delivery is risked before an answer."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import Ask, CanProbe, Door, Fault, Rate, Reply, Request, TakeBack, encode_row, provider, providers
from adapters.flexprice import Flexprice
from canonical_schema import DeliveryStatus
from gateway.lanes import lane
from gateway.lanes.pace import OPENS_AFTER, Breaker, Heard
from gateway.ledger import WorkState
from gateway.simulator import SimulatedProvider
from tests.adapters.worlds import DOORS, adapter_of, every_door, usage_of
from tests.gateway.lanes.test_pace import START, pace
from tests.gateway.lanes.world import World, gated, names, passes
from tests.waiting import until

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
RETRY = {"first": "1s", "max": "15m"}
every_probe = pytest.mark.parametrize(
    ("name", "profile"), [(name, profile) for name, profile in DOORS if provider(name).spec.doors[profile].probe]
)


def asked(name: str, profile: str) -> list[Request]:
    """Return what a door's probe asks, whatever it is answered."""
    adapter = adapter_of(name, profile)
    assert isinstance(adapter, CanProbe)
    ask, requests = adapter.probe(), list[Request]()
    try:
        requests.append(next(ask))
        while True:
            requests.append(ask.send(Reply(status=503)))
    except StopIteration:
        return requests


# Laws.


@every_door
def test_a_probe_is_declared_where_it_can_be_asked_and_nowhere_else(name: str, profile: str) -> None:
    door = provider(name).spec.doors[profile]
    assert (door.probe is not None) == issubclass(provider(name), CanProbe)


@every_probe
def test_a_probe_is_one_authorized_request_to_no_door_that_takes_anything(name: str, profile: str) -> None:
    (request,) = asked(name, profile)
    adapter = adapter_of(name, profile)
    path = request.url.removeprefix(adapter.base_url).partition("?")[0]
    doors = [door for kind in adapter.spec.doors.values() for door in (kind, *_ways_back(kind))]
    assert path not in {door.path for door in doors}
    assert dict(adapter.credentials[0]).items() <= dict(request.headers).items()


def _ways_back(door: Door) -> list[Door]:
    return [door.corrections.door] if isinstance(door.corrections, TakeBack) else []


@every_probe
def test_a_simulated_vendor_answers_the_probe_and_is_as_it_was(name: str, profile: str) -> None:
    vendor = SimulatedProvider(name)
    adapter = adapter_of(name, profile)
    for _ in range(2):  # without any usage, and with some
        before, billed = list(vendor.stored), vendor.billed()
        for request in asked(name, profile):
            path, _, query = request.url.removeprefix(adapter.base_url).partition("?")
            answer = vendor.handle(request.method, path, request.headers, request.body, query)
            assert answer.reply is not None
            assert 200 == answer.reply.status
        assert (before, billed) == (vendor.stored, vendor.billed())
        send = adapter.request([encode_row(adapter.encode(usage_of(adapter)))])
        vendor.handle(send.method, send.url.removeprefix(adapter.base_url), send.headers, send.body)
        assert vendor.stored


@given(st.lists(st.sampled_from(Heard), max_size=40))
def test_what_a_probe_hears_never_closes_a_breaker_and_never_blocks(heard: list[Heard]) -> None:
    one = pace(probes=True)
    now = START
    for _ in range(OPENS_AFTER):
        now = max(now, one.not_before or now)
        one.heard(Heard.FAULT, now, now, busy=False)
    for what in heard:
        now = max(now, one.not_before or now)
        one.probed(what, now)
        answered = what in {Heard.FINE, Heard.REFUSED}
        assert (Breaker.PROBING if answered else Breaker.OPEN) is one.breaker
        assert (not answered, False) == (one.shut, one.refused)
        assert answered or one.not_before is not None
    one.probed(Heard.FINE, now)
    now = max(now, one.not_before or now)
    one.heard(Heard.FINE, now, now, busy=False)
    assert (Breaker.CLOSED, False) == (one.breaker, one.shut)


# A lane whose vendor is down.


def tried(world: World) -> int:
    """Return how many requests had deliveries in them."""
    return sum(bool(call.rows) for call in world.vendor.calls)


async def attempts(world: World) -> int:
    works = [work for state in WorkState for work in await world.ledger.held("it", state)]
    return sum(work.group.attempts * len(work.members) for work in works)


@pytest.mark.parametrize("name", [name for name, kind in providers().items() if issubclass(kind, CanProbe)])
@pytest.mark.parametrize("fault", ["refused", "timeout", "proxy_error", "throttled"])
async def test_a_day_of_outage_spends_no_attempt_once_the_breaker_is_open(
    tmp_path: Path, name: str, fault: str
) -> None:
    async with World(tmp_path, name, delivery={"retry": RETRY}) as world:
        world.vendor.fail(fault, times=None, stored=False if fault == "timeout" else None)
        await world.record(*names(8))
        while not world.lane.pace.shut:
            due = await world.now()
            assert due is not None
            world.clock.advance_to(due)
        spent, requests, at_first = await attempts(world), world.vendor.requests, tried(world)
        for hour in range(24):
            await world.record(*names(3, 100 + 3 * hour))
            await passes(world, timedelta(hours=1))
        assert (spent, at_first) == (await attempts(world), tried(world))
        asked = world.vendor.requests - requests
        assert 24 * 60 / 15 <= asked <= 2 * 24 * 60 / 7.5, "pauses go up to the longest, half of it on average"
        world.vendor.clear()
        await world.later()
        told = Counter((await world.statuses()).values())
        assert 80 == told["accepted"] + told["unknown"]
        assert told["unknown"] <= (8 if fault in {"timeout", "proxy_error"} else 0), "what was tried, and no more"
        assert {1} == set(world.copies().values())
        world.sound()


async def test_what_cannot_be_sent_twice_is_parked_only_where_it_was_in_flight(tmp_path: Path) -> None:
    """Each request of the outage would otherwise leave one more delivery that nobody can vouch for."""
    world, gate = gated(tmp_path, "wingback", delivery={"retry": RETRY, "max_in_flight": 4})
    doors = cast("dict[str, Door]", provider("wingback").spec.doors)
    async with world:
        for start in range(0, 40, 10):
            await world.record(*names(10, start))
        world.lane._adapter.door = replace(doors["bulk"], max_rows=10)
        await world.lane.step()
        await until(lambda: gate.waiting == 4)
        world.vendor.fail("timeout", times=None, stored=True)
        gate.open.set()
        await world.lane.idle()
        await world.record(*names(200, 1000))
        await passes(world, timedelta(days=1))
        assert 40 == (await world.counted())[DeliveryStatus.UNKNOWN]
        assert 4 == tried(world)
        world.vendor.clear()
        await world.later()
        told = Counter((await world.statuses()).values())
        assert {"accepted": 200, "unknown": 40} == dict(told)
        assert {1} == set(world.copies().values())
        world.sound()


async def test_an_answer_is_followed_by_one_delivery_and_then_by_everything(tmp_path: Path) -> None:
    async with World(tmp_path, "wingback", delivery={"retry": RETRY}) as world:
        world.vendor.fail("refused", times=3)
        await world.record(*names(50))
        await world.later()
        assert [50, 0, 0, 0, 1, 49] == [len(call.rows) for call in world.vendor.calls]
        assert {"accepted"} == set((await world.statuses()).values())
        assert Breaker.CLOSED is world.lane.pace.breaker


async def test_where_writing_fails_and_reading_does_not_each_pause_risks_one(tmp_path: Path) -> None:
    async with World(tmp_path, "wingback", delivery={"retry": RETRY}) as world:
        world.vendor.fail("lost_answer", times=3, when=lambda _: True)
        await world.record(*names(20))
        await world.record(*names(20, 20))
        world.lane._adapter.door = replace(world.lane._adapter.door, max_rows=10)
        await world.later()
        calls = [len(call.rows) for call in world.vendor.calls]
        assert {0: 3, 1: 3} == {size: count for size, count in Counter(calls).items() if size < 2}
        assert {1} == set(world.copies().values())


@pytest.mark.parametrize("status", [401, 403, 404, 418])
async def test_a_refusal_to_read_is_an_answer_and_blocks_nothing(tmp_path: Path, status: int) -> None:
    """A key that may write need not be allowed to read."""

    async def refusing(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/customers/search":
            return httpx.Response(status, json={"error": "Access denied"})
        return await inner.handle_async_request(request)

    world = World(tmp_path, "flexprice", mount=httpx.MockTransport(refusing), delivery={"retry": RETRY})
    inner = world.vendor.transport()
    async with world:
        world.vendor.fail("unavailable", times=OPENS_AFTER)
        await world.record(*names(3))
        await world.later()
        assert {"accepted"} == set((await world.statuses()).values())
        assert not world.lane.pace.refused


async def test_the_servers_own_word_to_a_probe_is_a_floor(tmp_path: Path) -> None:
    async with World(tmp_path, "wingback", delivery={"retry": RETRY}) as world:
        world.vendor.fail("refused")
        world.vendor.fail("unavailable", retry_after=3600)
        await world.record("e1")
        world.clock.advance_to(await world.now() or START)
        due = await world.now()
        assert world.clock.now() + timedelta(hours=1) == due
        world.clock.advance(timedelta(minutes=59))
        await world.now()
        assert 2 == world.vendor.requests
        await world.later()
        assert {"e1": "accepted"} == await world.statuses()


async def test_a_probe_counts_against_the_rate_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doors = cast("dict[str, Door]", provider("wingback").spec.doors)
    limit = Rate(requests=10, per=timedelta(hours=10))
    monkeypatch.setitem(doors, "bulk", replace(doors["bulk"], rates=(limit,)))
    async with World(tmp_path, "wingback", rate="vendor", delivery={"retry": {"first": "1s", "max": "1s"}}) as world:
        world.vendor.fail("refused", times=None)
        await world.record(*names(2))
        await passes(world, timedelta(hours=20))
        times = sorted(call.at for call in world.vendor.calls)
        assert 10 < len(times)
        assert max(sum(start <= at < start + timedelta(hours=10) for at in times) for start in times) <= 10


async def test_a_probe_that_hangs_holds_up_no_stop(tmp_path: Path) -> None:
    world, gate = gated(tmp_path, "wingback", delivery={"retry": RETRY})
    async with world:
        gate.open.set()
        world.vendor.fail("refused")
        await world.record(*names(2))
        world.clock.advance_to(await world.now() or START)
        gate.open.clear()
        await world.lane.step()
        await until(lambda: gate.waiting == 1)
        await asyncio.wait_for(world.lane.stop(timedelta(milliseconds=10)), 5)
        assert (1, {DeliveryStatus.RETRYING: 2}) == (gate.cancelled, await world.counted())


async def test_an_adapter_that_stumbles_over_its_probe_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbling(self: Flexprice) -> Ask[Reply | Fault]:
        raise KeyError("a value of the customer")
        yield

    monkeypatch.setattr(Flexprice, "probe", stumbling)
    async with World(tmp_path, delivery={"retry": RETRY}) as world:
        world.vendor.fail("unavailable", times=OPENS_AFTER)
        await world.record(*names(3))
        await world.later()
        assert {"accepted"} == set((await world.statuses()).values())


async def test_nothing_is_asked_where_nothing_waits(tmp_path: Path) -> None:
    async with World(tmp_path, "wingback", delivery={"retry": RETRY}) as world:
        world.vendor.fail("lost_answer")
        await world.record("e1")
        await world.later()
        world.clock.advance(timedelta(days=1))
        assert await world.now() is None
        assert 1 == world.vendor.requests
        await world.record("e2")
        await world.later()
        assert {"e1": "unknown", "e2": "accepted"} == await world.statuses()


async def test_one_that_cannot_be_asked_is_tried_with_one_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "CanProbe", type(None))  # as of an adapter that has none
    async with World(tmp_path, delivery={"retry": RETRY}) as world:
        world.vendor.fail("refused", times=8)
        await world.record(*names(30))
        await world.later()
        assert [30] + [1] * 8 + [29] == [len(call.rows) for call in world.vendor.calls]


@pytest.mark.parametrize("seed", range(4))
async def test_each_outage_of_many_costs_no_more_than_was_in_flight_when_it_began(tmp_path: Path, seed: int) -> None:
    dice, most, count, outages = Random(seed), 4, 0, 0
    async with World(tmp_path, "wingback", delivery={"retry": RETRY, "max_in_flight": most}) as world:
        world.lane._adapter.door = replace(world.lane._adapter.door, max_rows=3)
        for _ in range(40):
            size = dice.randrange(12)
            await world.record(*names(size, count))
            count += size
            before = sum(bool(call.rows and call.fault) for call in world.vendor.calls)
            down = dice.random() < 0.5
            if down:
                fault = dice.choice(["timeout", "lost_answer", "reset_before", "refused", "unavailable", "throttled"])
                world.vendor.fail(fault, times=None)
                outages += 1
            await passes(world, timedelta(seconds=dice.choice([1, 30, 2000])))
            met = sum(bool(call.rows and call.fault) for call in world.vendor.calls) - before
            assert met <= most, "requests of the outage that had deliveries in them"
            world.vendor.clear()
            if down:  # long enough to be found well again
                await passes(world, timedelta(hours=2))
        await world.later()
        told = Counter((await world.statuses()).values())
        assert {"accepted", "unknown"} >= told.keys()
        assert told["unknown"] <= outages * most * 3
        assert count == told.total()
        assert {1} == set(world.copies().values())
        world.sound()
