"""Three gateways on one Redis and a vendor that counts: what one may not, all of them together do not."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adapters import provider
from gateway.lanes.pace import BURST
from tests.redis_servers import Server, free_port
from tests.scenarios.conftest import served, serving
from tests.waiting import until

CONTRACT = "Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670"
CONFIGURATION = """
listen: {{port: {port}}}
ledger: {{url: "redis://127.0.0.1:{redis}/0"}}
delivery: {{timeout: 5s, max_in_flight: 2, retry: {{first: 200ms, max: 400ms}}}}
destinations:
  wingback:
    provider: wingback
    rate: {rate}
    settings: {{api_key: k, base_url: "http://127.0.0.1:{vendor}"}}
meters: {{calls: {{}}}}
customers: {{acme: {{wingback: {{customer_id: {contract}}}}}}}
"""


class Vendor:
    """A Wingback that writes down when it was asked, and is up or down as it is told."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.up = True
        self.taken: Counter[str] = Counter()
        self.writes: list[float] = []
        self.reads: list[float] = []
        self.reading = self.most_reading = 0

    async def bulk(self, request: Request) -> Response:
        self.writes.append(time.monotonic())
        rows = await request.json()
        if not self.up:
            return Response(b"down", 503)
        self.taken.update(row["metadata"]["gateway_event_id"] for row in rows)
        return Response(b"[]", 200, media_type="application/json")

    async def customers(self, request: Request) -> Response:
        self.reads.append(time.monotonic())
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        await asyncio.sleep(0.1)
        self.reading -= 1
        return Response(b'{"hits": []}', 200 if self.up else 503, media_type="application/json")

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        routes = [
            Route("/v1/c/usage/bulk", self.bulk, methods=["POST"]),
            Route("/v1/c/customer", self.customers, methods=["GET"]),
        ]
        async with serving(Starlette(routes=routes), self._listener):
            yield


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path / "redis", {"appendfsync": "everysec"})
    yield one
    one.kill()


@asynccontextmanager
async def gateway(folder: Path, redis: Server, vendor: Vendor, rate: str) -> AsyncGenerator[httpx.AsyncClient]:
    """Run one process of its own, on its own port."""
    file = folder / f"{free_port()}.yaml"
    places = {"port": free_port(), "redis": redis.port, "vendor": vendor.port}
    file.write_text(CONFIGURATION.format(**places, rate=rate, contract=CONTRACT), "utf-8")
    async with served(file) as (told, _), httpx.AsyncClient(base_url=told["url"], timeout=60) as client:
        yield client


@asynccontextmanager
async def three(folder: Path, redis: Server, vendor: Vendor, rate: str) -> AsyncGenerator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(vendor.serving())
        yield [await stack.enter_async_context(gateway(folder, redis, vendor, rate)) for _ in range(3)]


@asynccontextmanager
async def streaming(clients: list[httpx.AsyncClient], sent: list[str], each: float) -> AsyncGenerator[None]:
    """Have events come to each of them all the while."""
    numbers = count(len(sent))

    async def stream(client: httpx.AsyncClient) -> None:
        while True:
            names = [f"e{next(numbers)}" for _ in range(3)]
            batch = [{"id": name, "customer": "acme", "meter": "calls", "quantity": 1} for name in names]
            answer = await client.post("/v1/events?ack=stored", json=batch)
            assert 202 == answer.status_code, answer.text
            sent.extend(names)
            await asyncio.sleep(each)

    tasks = [asyncio.create_task(stream(client)) for client in clients]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended


async def standing(client: httpx.AsyncClient) -> Any:
    return (await client.get("/v1/destinations/wingback")).json()


async def parked(client: httpx.AsyncClient) -> set[str]:
    """Return what is in doubt."""
    found: set[str] = set()
    cursor = ""
    while True:
        page = (await client.get(f"/v1/events?status=unknown&limit=1000{cursor}")).json()
        found.update(one["id"] for one in page["data"])
        if "next_cursor" not in page:
            return found
        cursor = f"&cursor={page['next_cursor']}"


async def test_while_a_vendor_is_down_one_of_three_asks_at_a_time_and_none_sends(tmp_path: Path, redis: Server) -> None:
    vendor, sent = Vendor(), list[str]()
    async with three(tmp_path, redis, vendor, "none") as clients:
        async with streaming(clients, sent, 0.02):
            await until(lambda: len(vendor.taken) > 100)
            vendor.up, down = False, time.monotonic()
            await asyncio.sleep(2)
            writes, reads = len([at for at in vendor.writes if at > down]), len(vendor.reads)
            assert reads, "nobody asks"
            await asyncio.sleep(3)
            assert writes == len([at for at in vendor.writes if at > down])
            assert writes <= 3 * 2, "what was in flight, at each of them"
            assert len(vendor.reads) > reads
            for client in clients:
                told = await standing(client)
                assert ("open", "failing") == (told["breaker"], told["health"]), told
            vendor.up = True
            await until(lambda: len(vendor.writes) - writes > 50)
        doubtful = await parked(clients[0])
        await until(lambda: set(sent) - vendor.taken.keys() <= doubtful)  # nothing is lost
        assert 1 == vendor.most_reading
        assert {1} == set(vendor.taken.values()), "nothing is billed twice"


async def test_three_gateways_together_keep_a_vendor_s_rate(tmp_path: Path, redis: Server) -> None:
    vendor, sent = Vendor(), list[str]()
    (rate,) = provider("wingback").spec.doors["bulk"].rates
    capacity = rate.requests // BURST
    flow = (rate.requests - capacity + 1) / rate.per.total_seconds()
    async with three(tmp_path, redis, vendor, "vendor") as clients:
        async with streaming(clients, sent, 0.01):
            await until(lambda: len(vendor.writes) >= capacity)
            await asyncio.sleep(6)
            told = [await standing(client) for client in clients]
        times = sorted(vendor.writes)
        for first, began in enumerate(times):
            for place, at in enumerate(times[first:]):
                # A request may be on its way for a while, so that the next comes closer to it than it left.
                assert place <= capacity + flow * (at - began + 3), (place, at - began)
        assert len(times) >= capacity + flow * 4, "and what is allowed is used"
        assert all("last_success_at" in one for one in told), "by all of them"
        assert {1} == set(vendor.taken.values())
