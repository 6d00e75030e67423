"""Several gateway processes on one Redis server: each delivery is sent once, whoever is asked and whoever dies."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.redis_servers import Server
from tests.scenarios.conftest import served, serving
from tests.waiting import until

ROOT = Path(__file__).parents[2]
CONFIGURATION = """
listen: {{port: 0}}
ledger: {{url: "redis://127.0.0.1:{redis}/0"}}
delivery: {{timeout: 5s}}
destinations:
  flexprice:
    provider: flexprice
    rate: none
    settings: {{api_key: k, base_url: "http://127.0.0.1:{vendor}"}}
meters: {{calls: {{}}}}
"""


KILLS = int(os.environ.get("USAGE_GATEWAY_KILLS", "4"))
"""How often a worker is killed: few where time is short, 50 to be sure."""


class Vendor:
    """Takes everything, and counts each event that arrives."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen: Counter[str] = Counter()

    async def bulk(self, request: Request) -> Response:
        body = await request.json()
        self.seen.update(one["event_id"] for one in body["events"])
        await asyncio.sleep(0.02)
        return Response(b'{"message":"ok"}', 202, media_type="application/json")

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        app = Starlette(routes=[Route("/events/bulk", self.bulk, methods=["POST"])])
        async with serving(app, self._listener):
            yield


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path / "redis")
    yield one
    one.kill()


def configure(folder: Path, redis: Server, vendor: Vendor) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(CONFIGURATION.format(redis=redis.port, vendor=vendor.port), "utf-8")
    return file


@asynccontextmanager
async def gateways(
    folder: Path, redis: Server, vendor: Vendor, workers: int, *, tree: Path | None = None
) -> AsyncGenerator[tuple[str, int]]:
    """Run the command with several workers; give where it listens and the process that watches them.

    `tree`: a folder with another version of the gateway, instead of this one.
    """
    file = configure(folder, redis, vendor)
    async with served(file, "--workers", str(workers), tree=tree) as (told, process):
        assert "always" == told["durability"]
        yield told["url"], process


def batch(name: str, size: int = 50) -> list[dict[str, Any]]:
    return [{"id": f"{name}-{index}", "customer": "acme", "meter": "calls", "quantity": 1} for index in range(size)]


def children(parent: int) -> list[int]:
    """Return a process's children, the eldest first."""
    return [int(one) for one in Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split()]


def eldest(parent: int) -> int:
    """Return the first of a process's children."""
    return children(parent)[0]


async def living(redis: Server, count: int) -> None:
    """Return when so many processes have been heard of."""

    async def heard_of() -> bool:
        return count == await asyncio.to_thread(redis.command, "ZCARD", "{ug}:o")

    await until(heard_of, "they did not all begin")


def told(log: Path, event: str) -> int:
    """Return how often something stands in a log."""
    return log.read_text("utf-8").count(f'"event":"{event}"')


async def reads_again(parent: int, log: Path, event: str, count: int) -> None:
    """Have all workers read their configuration again; return when what became of it was told so often in all."""
    os.kill(parent, signal.SIGHUP)
    await until(lambda: count == told(log, event), f"{event} was not told {count} times")


async def test_of_96_repeats_at_three_processes_one_is_sent(tmp_path: Path, redis: Server) -> None:
    vendor = Vendor()
    async with vendor.serving(), AsyncExitStack() as stack:
        urls: list[str] = []
        for name in ("first", "second", "third"):
            (tmp_path / name).mkdir()
            url, _ = await stack.enter_async_context(gateways(tmp_path / name, redis, vendor, 1))
            urls.append(url)
        await living(redis, 3)
        sent = batch("e")
        clients = [httpx.AsyncClient(base_url=urls[index % 3], timeout=60) for index in range(12)]
        answers = await asyncio.gather(
            *(clients[index % 12].post("/v1/events?ack=required", json=sent) for index in range(96))
        )
        for client in clients:
            await client.aclose()
        bodies = [answer.json() for answer in answers]
        assert {200} == {answer.status_code for answer in answers}, [body for body in bodies if "summary" not in body]
        replayed = Counter(result["replayed"] for body in bodies for result in body["results"])
        assert {False: 50, True: 95 * 50} == replayed
        assert {f"e-{index}": 1 for index in range(50)} == vendor.seen


def other_version(folder: Path) -> Path:
    """Return a folder with a gateway whose scripts are others than this one's, to the server."""
    for package in ("adapters", "canonical_schema", "gateway"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    common = folder / "gateway" / "ledger" / "_redis" / "common.lua"
    common.write_text(f"-- Another version.\n{common.read_text('utf-8')}", "utf-8")
    return folder


def known_to(redis: Server, tree: Path) -> bool:
    """Return whether a server has been given the script by which a version takes events in."""
    command = [sys.executable, "-c", "from gateway.ledger._redis.scripts import script; print(script('record').sha)"]
    sha = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True).stdout.strip()
    return redis.command("SCRIPT", "EXISTS", sha) == [True]


async def test_two_versions_share_a_ledger_while_one_takes_the_place_of_the_other(
    tmp_path: Path, redis: Server
) -> None:
    vendor, older = Vendor(), other_version(tmp_path / "older")
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    async with vendor.serving(), gateways(folders[1], redis, vendor, 1) as (newer_url, _):
        async with gateways(folders[0], redis, vendor, 1, tree=older) as (older_url, _):
            await living(redis, 2)
            clients = [httpx.AsyncClient(base_url=url, timeout=60) for url in (newer_url, older_url)]
            sent = batch("e")
            answers = await asyncio.gather(
                *(clients[index % 2].post("/v1/events?ack=required", json=sent) for index in range(16))
            )
            assert {200} == {answer.status_code for answer in answers}
            redis.command("SCRIPT", "FLUSH")  # each brings its own again
            for number, client in enumerate(clients):
                answer = await client.post("/v1/events?ack=required", json=batch(f"alone{number}", 5))
                assert 200 == answer.status_code
            assert [True, True] == [await asyncio.to_thread(known_to, redis, tree) for tree in (ROOT, older)]
            # The older one is told to stop while events come in at it.
            answers = await asyncio.gather(
                *(clients[1].post("/v1/events?ack=stored", json=batch(f"last{number}", 10)) for number in range(8))
            )
            for client in clients:
                await client.aclose()
        last = {f"last{number}-{index}" for number in range(8) for index in range(10)}
        assert {202} == {answer.status_code for answer in answers}
        expected = {f"e-{index}" for index in range(50)} | {f"alone{n}-{index}" for n in range(2) for index in range(5)}
        await until(lambda: vendor.seen.keys() >= last, seconds=60)
        assert dict.fromkeys(expected | last, 1) == vendor.seen


async def test_what_a_killed_worker_took_in_is_sent_by_another(tmp_path: Path, redis: Server) -> None:
    vendor = Vendor()
    async with vendor.serving(), gateways(tmp_path, redis, vendor, 2) as (url, parent):
        await living(redis, 2)
        accepted: set[str] = set()
        for round_ in range(KILLS):
            for number in range(8):
                async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                    sent = batch(f"r{round_}n{number}", 20)
                    try:
                        answer = await client.post("/v1/events?ack=stored", json=sent)
                    except httpx.TransportError:
                        continue  # nothing was promised
                    if answer.status_code == 202:
                        accepted.update(one["id"] for one in sent)
            os.kill(await asyncio.to_thread(eldest, parent), signal.SIGKILL)
        assert len(accepted) > 20 * KILLS
        await until(lambda: accepted <= vendor.seen.keys(), "what was acknowledged does not arrive", seconds=60)


async def test_a_worker_that_is_started_again_is_configured_as_the_others_are(tmp_path: Path, redis: Server) -> None:
    old, new = Vendor(), Vendor()
    log = tmp_path / "gateway.log"
    async with old.serving(), new.serving(), gateways(tmp_path, redis, old, 2) as (url, parent):
        await living(redis, 2)
        file = configure(tmp_path, redis, new)
        await reads_again(parent, log, "configuration.reloaded", 2)
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            assert 200 == (await client.post("/v1/events", json=batch("before"))).status_code
        other = CONFIGURATION.replace("provider: flexprice", "provider: flowglad")
        file.write_text(other.format(redis=redis.port, vendor=old.port), "utf-8")  # what was delivered is flexprice's
        await reads_again(parent, log, "configuration.refused", 2)
        file.write_text("routes: {", "utf-8")
        await reads_again(parent, log, "configuration.refused", 4)
        for worker in children(parent):
            os.kill(worker, signal.SIGKILL)
        for number in range(10):
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                assert 200 == (await client.post("/v1/events", json=batch(f"after{number}", 5))).status_code
    assert (0, 100) == (old.seen.total(), new.seen.total())
