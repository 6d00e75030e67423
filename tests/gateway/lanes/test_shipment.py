"""Shipments: packed to the limits, bisected to the culprits, and every row stored once."""

import asyncio
import sys
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters import Door, provider
from gateway.lanes.lots import FRAME, Lot, packed
from gateway.ledger import REFUSED_BATCH, Code, Group, Part, Sheet, WorkState
from gateway.times import to_micros
from tests.gateway.clocks import START
from tests.gateway.lanes.world import World, names, used

USAGE_V0 = {"profile": "usage-v0", "merchant_id": "org_1"}
DOORS: list[tuple[str, dict[str, Any]]] = [
    ("flowglad", {}),
    ("flexprice", {}),
    ("wingback", {}),
    ("paygentic", USAGE_V0),
    ("paygentic", {}),
]
each_door = pytest.mark.parametrize(
    ("provider", "chosen"), DOORS, ids=["atomic", "prefix", "indexed", "lists", "single"]
)
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


GROUP = Group(state=WorkState.READY, due=0, since=0)
sizes = st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=4), min_size=1, max_size=30)
singles = st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=1), min_size=1, max_size=30)


def lot(number: int, sizes: list[list[int]]) -> Lot:
    """Return deliveries of rows of some sizes; as a sheet where each is one row."""
    members = [*range(len(sizes))]
    if all(len(some) == 1 for some in sizes):
        keys, rows = [f"k{number}-{index}" for index in members], [b"x" * size for (size,) in sizes]
        return Lot(number, 1, members, GROUP, Sheet(keys, rows))
    parts = [
        [Part(f"p{place}", f"k{number}-{index}-{place}", b"x" * size) for place, size in enumerate(some)]
        for index, some in enumerate(sizes)
    ]
    return Lot(number, 1, members, GROUP, parts)


@given(
    st.lists(
        sizes | st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=1), min_size=1, max_size=30), max_size=5
    ),
    st.integers(1, 20),
    st.integers(0, 4000),
)
def test_packing_keeps_every_delivery_once_in_order_and_within_the_limits(
    sizes: list[list[list[int]]], max_rows: int, more: int
) -> None:
    lots = [lot(number, some) for number, some in enumerate(sizes)]
    largest = max((sum(size + 1 for size in some) for each in sizes for some in each), default=0)
    max_bytes = largest + FRAME + more
    requests = packed(lots, max_rows, max_bytes)
    was = [(one.work, one.index, one.parts) for each in lots for one in each.items()]
    assert was == [(one.work, one.index, one.parts) for request in requests for each in request for one in each.items()]
    for request in requests:
        assert request
        rows = [row for each in request for row in each.rows()]
        assert len(rows) <= max_rows or [1] == [len(each.members) for each in request]
        assert len(b'{"usageEvents":[' + b",".join(rows) + b"]}") <= max_bytes
    for left, right in pairwise(requests):
        first = [part.row for part in right[0].items()[0].parts]
        rows = [row for each in left for row in each.rows()] + first
        full = len(rows) > max_rows or sum(len(row) + 1 for row in rows) > max_bytes - FRAME
        assert full, "no request leaves before it is full"


def test_rows_that_ended_are_not_packed() -> None:
    one = lot(0, [[10, 10, 10]])
    one.parts[0][0].code, one.parts[0][2].code = Code.ACCEPTED, Code.ZERO
    assert ["k0-0-1"] == [part.key for item in one.items() for part in item.rows()]
    assert [b"x" * 10] == one.rows()
    assert [[one]] == packed([one], 1, 1000)


async def test_an_adapter_that_frames_rows_in_its_own_way_frames_each_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, framed = provider("flexprice"), list[int]()
    usual = kind.request

    def request(self: Any, rows: list[bytes]) -> Any:
        framed.append(len(rows))
        return usual(self, rows)

    monkeypatch.setattr(kind, "request", request)
    async with World(tmp_path, "flexprice") as world:
        await world.record(*names(20))
        await world.now()
        assert [20] == framed == [len(call.rows) for call in world.vendor.calls]


@each_door
@few
@given(poison=st.sets(st.integers(0, 15)), count=st.integers(1, 16))
async def test_exactly_the_culprits_are_refused_and_every_good_row_is_stored_once(
    tmp_path_factory: pytest.TempPathFactory, provider: str, chosen: dict[str, Any], poison: set[int], count: int
) -> None:
    bad = {f"e{index}" for index in poison if index < count}
    async with World(tmp_path_factory.mktemp("w"), provider, settings=chosen) as world:
        world.vendor.refuse(bad)
        await world.record(*names(count))
        await world.now()
        good = set(names(count)) - bad
        assert good == set(world.copies())
        assert good == {row.key for row in world.vendor.stored}
        assert len(good) == len(world.vendor.stored)
        statuses = await world.statuses()
        assert bad == {one for one, status in statuses.items() if status == "rejected"}
        assert good == {one for one, status in statuses.items() if status in {"accepted", "duplicate"}}
        world.sound()
        sent = sum(len(call.rows) for call in world.vendor.calls)
        history = [attempt for view in (await world.views()).values() for attempt in view["history"]]
        assert sent == len(history), "an attempt is logged for each row of each request"
        for one, view in (await world.views()).items():
            assert (one in bad) is (view["history"][-1]["outcome"] == "rejected")


@pytest.mark.parametrize("provider", ["flowglad", "flexprice"])
async def test_a_repeat_within_a_bisection_is_a_duplicate_that_was_expected(tmp_path: Path, provider: str) -> None:
    async with World(tmp_path, provider) as world:
        world.vendor.refuse("e5")
        await world.record(*names(8))
        await world.now()
        assert not any("unexpected" in view for view in (await world.views()).values())


async def test_culprits_that_are_named_one_at_a_time_are_taken_out_one_at_a_time(tmp_path: Path) -> None:
    async with World(tmp_path, "flowglad") as world:
        world.vendor.refuse([f"e{index}" for index in range(90)], code="unknown_subscription")
        await world.record(*names(100))
        await world.now()
        assert 91 == len(world.vendor.calls)
        assert {f"e{index}": 1 for index in range(90, 100)} == dict(world.copies())
        assert [1, 90] == [len((await world.views())[one]["history"]) for one in ("e0", "e89")]
        world.sound()


@pytest.mark.parametrize(
    ("provider", "chosen", "theirs"), [("paygentic", USAGE_V0, "usg"), ("flowglad", {}, "usage_event")]
)
async def test_each_delivery_keeps_the_providers_id_of_its_own_row_whatever_else_the_request_carried(
    tmp_path: Path, provider: str, chosen: dict[str, Any], theirs: str
) -> None:
    async with World(tmp_path, provider, settings=chosen) as world:
        await world.record(*names(3))
        await world.record(*names(4, start=3))
        await world.now()
        assert [7] == [len(call.rows) for call in world.vendor.calls]
        kept = {one: view["provider_event_id"] for one, view in (await world.views()).items()}
        assert {one: f"{theirs}_{one}" for one in names(7)} == kept


class Naming(httpx.AsyncBaseTransport):
    """A vendor that names the first row of every request as bad, and notes how deep the stack is."""

    def __init__(self) -> None:
        self.depths: list[int] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        frame, depth = sys._getframe(), 0
        while (frame := frame.f_back) is not None:
            depth += 1
        self.depths.append(depth)
        bad = {"path": ["usageEvents", 0, "amount"], "message": "bad"}
        return httpx.Response(400, json={"code": "BAD_REQUEST", "issues": [bad]})


async def test_the_stack_does_not_grow_with_the_culprits(tmp_path: Path) -> None:
    vendor = Naming()
    async with World(tmp_path, "flowglad", mount=vendor) as world:
        await world.record(*names(100))
        await world.now()
        assert {"rejected"} == set((await world.statuses()).values())
        assert 100 == len(vendor.depths)
        assert 1 == len(set(vendor.depths[1:])), "all after the first, which went as a whole"


@pytest.mark.parametrize(("provider", "chosen"), [DOORS[0], DOORS[4]], ids=["batch", "single"])
@few
@given(poison=st.sets(st.sampled_from(["in", "out"])), count=st.integers(1, 4))
async def test_an_event_of_two_rows_is_delivered_as_its_worst_row(
    tmp_path_factory: pytest.TempPathFactory, provider: str, chosen: dict[str, Any], poison: set[str], count: int
) -> None:
    async with World(tmp_path_factory.mktemp("w"), provider, settings=chosen) as world:
        halves = {"in": Decimal(1), "out": Decimal(2)}
        sent = [used(one, meter="halves", quantity=None, quantities=halves) for one in names(count)]
        world.vendor.refuse(lambda row: any(amount(row) == halves[name] for name in poison))
        await world.record(*sent)
        await world.now()
        for view in (await world.views()).values():
            assert {name: "rejected" if name in poison else "accepted" for name in halves} == {
                name: "accepted" if part["status"] == "duplicate" else part["status"]
                for name, part in view["parts"].items()
            }
            assert ("rejected" if poison else "accepted") == view["status"]
        assert count * (2 - len(poison)) == len(world.vendor.stored)
        world.sound()


def amount(row: Any) -> Decimal:
    return Decimal(str(row.get("amount") or row["data"]["quantity"]))


async def test_rows_of_one_event_are_sent_again_each_for_itself(tmp_path: Path) -> None:
    async with World(tmp_path, "paygentic", delivery={"max_in_flight": 1}) as world:
        halves = {"in": Decimal(1), "out": Decimal(2)}
        world.vendor.fail("lost_answer", when=lambda row: amount(row) == 2)
        await world.record(used("e1", meter="halves", quantity=None, quantities=halves))
        await world.now()
        view = (await world.views())["e1"]
        assert ("retrying", 2) == (view["status"], len(world.vendor.calls))
        await world.later()
        view = (await world.views())["e1"]
        assert ["accepted", "accepted"] == [part["status"] for part in view["parts"].values()]
        assert [1, 2] == sorted(world.copies().values())
        assert 3 == len(world.vendor.calls), "the row that was accepted stays out of it"


async def test_a_single_row_door_sends_rows_side_by_side_within_its_bound(tmp_path: Path) -> None:
    running = most = 0

    class Busy(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(20):
                await asyncio.sleep(0)
            running -= 1
            return httpx.Response(202, json={"object": "event", "id": "evt_1"})

    async with World(tmp_path, "paygentic", mount=Busy()) as world:
        await world.record(*names(30))
        await world.now()
        assert (4, {"accepted"}) == (most, set((await world.statuses()).values()))


async def test_once_a_single_row_door_is_in_trouble_the_rest_stays_here_as_it_was(tmp_path: Path) -> None:
    async with World(tmp_path, "paygentic") as world:
        world.vendor.fail("throttled", times=None, retry_after=60)
        claims = await world.record(*names(50))
        await world.now()
        assert len(world.vendor.calls) <= 4, "what was in flight together, and no more"
        views = await world.views()
        untouched = [view for view in views.values() if not view["history"]]
        assert len(untouched) >= 46
        assert {"pending"} == {view["status"] for view in untouched}
        world.sound()
        world.vendor.clear()
        world.clock.advance(timedelta(seconds=59))
        await world.now()
        assert len(world.vendor.calls) <= 4
        await world.later()
        assert {"accepted"} == set((await world.statuses()).values())
        assert {1} == set(world.copies().values())
        assert {Code.ACCEPTED_QUEUED} == {await world.code(claim.ref) for claim in claims}


async def test_what_shares_words_but_not_a_reason_keeps_its_own(tmp_path: Path) -> None:
    async with World(tmp_path, "wingback", mount=Two()) as world:
        await world.record("e0", "e1")
        await world.now()
        errors = [view["error"] for view in (await world.views()).values()]
        assert [400, 422] == [error["provider_status"] for error in errors]
        history = [view["history"][0]["error"] for view in (await world.views()).values()]
        assert errors == history


class Two(httpx.AsyncBaseTransport):
    """A vendor that refuses two rows in the same words and under different statuses."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        said = {"x": {"value": "no"}}
        return httpx.Response(
            200, json=[{"index": 0, "status": 400, "feedback": said}, {"index": 1, "status": 422, "feedback": said}]
        )


async def test_a_large_event_is_refused_here_and_leaves_its_neighbours_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors = cast("dict[str, Door]", provider("flexprice").spec.doors)
    monkeypatch.setitem(doors, "bulk", replace(doors["bulk"], max_bytes=2000))
    async with World(tmp_path) as world:
        await world.record("e0", used("e1", properties={"note": "x" * 3000}), *names(20, 2))
        await world.now()
        statuses = await world.statuses()
        assert "rejected" == statuses.pop("e1")
        assert {"accepted"} == set(statuses.values())
        assert all(len(msgspec.json.encode(call.rows)) < 2000 for call in world.vendor.calls)
        assert "payload_too_large" == (await world.views())["e1"]["error"]["code"]


async def test_what_a_refused_batch_may_have_stored_stays_in_doubt_until_it_is_heard_of(tmp_path: Path) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) > 1:
            raise httpx.ConnectError("nobody there")
        return httpx.Response(400, json={"code": "validation_error", "message": "Request validation failed"})

    asked: list[httpx.Request] = []
    async with World(tmp_path, mount=httpx.MockTransport(handle)) as world:
        await world.record(*names(4))
        await world.now()
        works = await world.ledger.held("it", WorkState.READY)
        assert [0, 1, 2, 3] == sorted(index for work in works for index in work.members)
        assert {REFUSED_BATCH} == {work.group.doubt for work in works}
        assert {to_micros(START)} == {work.group.sent for work in works}
