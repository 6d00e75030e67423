"""Asking a provider: whatever comes back is told to the ask, which always ends."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from adapters import AnyAdapter, Ask, Fault, FaultKind, Reply, Request, provider
from gateway.asking import STEPS, AskFailed, ask
from gateway.transport import Transport
from tests.gateway.lanes.world import World


def adapter() -> AnyAdapter:
    kind = provider("flexprice")
    return kind(kind.Settings.model_validate({"api_key": "sk_hidden", "base_url": "https://vendor.example/v1"}))


class Vendor(httpx.AsyncBaseTransport):
    """Answers with a page of one item, or as it is told."""

    def __init__(self) -> None:
        self.heard: list[httpx.Request] = []
        self.raises: Exception | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.heard.append(request)
        if self.raises is not None:
            raise self.raises
        return httpx.Response(200, json={"page": len(self.heard)}, request=request)


@asynccontextmanager
async def connected(vendor: Vendor) -> AsyncGenerator[Transport]:
    transport = Transport(adapter(), timeout=timedelta(seconds=5), connections=1, mount=vendor)
    try:
        yield transport
    finally:
        await transport.close()


def pages(most: int) -> Ask[list[Reply | Fault]]:
    seen: list[Reply | Fault] = []
    for page in range(most):
        seen.append((yield adapter().reading("/events", {"page": page})))  # noqa: PERF401  a comprehension cannot yield
    return seen


async def test_an_ask_is_sent_the_answer_to_each_of_its_requests() -> None:
    async with connected(vendor := Vendor()) as transport:
        seen = await ask(transport, pages(3))
        assert [{"page": 1}, {"page": 2}, {"page": 3}] == [one.json for one in seen if isinstance(one, Reply)]
        assert ["/v1/events?page=0", "/v1/events?page=1", "/v1/events?page=2"] == [
            one.url.raw_path.decode() for one in vendor.heard
        ]


async def test_a_read_without_a_body_is_a_get_that_says_nothing_of_a_body() -> None:
    async with connected(vendor := Vendor()) as transport:
        await ask(transport, pages(1))
        (heard,) = vendor.heard
        assert ("GET", b"", "sk_hidden") == (heard.method, heard.content, heard.headers["x-api-key"])
        assert not {"content-length", "content-type", "transfer-encoding"} & set(heard.headers)


async def test_an_ask_hears_of_a_fault_and_ends_in_its_own_way() -> None:
    async with connected(vendor := Vendor()) as transport:
        vendor.raises = httpx.ReadTimeout("")
        assert [Fault(kind=FaultKind.NO_ANSWER, name="ReadTimeout", timeout=True)] == await ask(transport, pages(1))


async def test_an_ask_that_reads_for_ever_is_told_that_it_is_enough() -> None:
    def until_refused() -> Ask[int]:
        count = 0
        while isinstance((yield adapter().reading("/events")), Reply):
            count += 1
        return count

    async with connected(vendor := Vendor()) as transport:
        assert STEPS == await ask(transport, until_refused()) == len(vendor.heard)


async def test_an_ask_that_never_ends_is_ended() -> None:
    closed: list[bool] = []

    def endless() -> Ask[None]:
        try:
            while True:
                yield adapter().reading("/events")
        finally:
            closed.append(True)

    async with connected(vendor := Vendor()) as transport:
        with pytest.raises(AskFailed):
            await ask(transport, endless(), steps=5)
        assert (5, [True]) == (len(vendor.heard), closed)


async def test_an_adapter_that_stumbles_is_named_without_the_data() -> None:
    def stumbling() -> Ask[None]:
        yield adapter().reading("/events")
        raise KeyError("jane@example.org")

    async with connected(Vendor()) as transport:
        with pytest.raises(AskFailed, match="KeyError") as raised:
            await ask(transport, stumbling())
        assert "jane" not in str(raised.value)
        assert (None, True) == (raised.value.__cause__, raised.value.__suppress_context__)


async def test_a_lane_asks_no_faster_than_it_delivers(tmp_path: Path) -> None:
    vendor = Vendor()
    async with World(tmp_path, mount=vendor, rate="vendor") as world:
        asking = asyncio.ensure_future(world.lane.ask(pages(30)))
        began = world.clock.now()
        while not asking.done():
            for _ in range(200):
                await asyncio.sleep(0)
            world.clock.advance(timedelta(milliseconds=100))
        assert 30 == len(await asking)
        # 100 a minute, of which 10 at once: the other 20 come at 91 a minute.
        assert timedelta(seconds=13) < world.clock.now() - began < timedelta(seconds=14)


def test_a_request_shows_no_header_and_no_body() -> None:
    assert "sk_hidden" not in repr(Request(method="GET", url="u", headers={"x-api-key": "sk_hidden"}))
