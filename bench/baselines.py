"""What the gateway is held against: a bare sender of ready bodies, and the loop that people write without a gateway."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from adapters import Request
from bench.events import texts
from bench.setting import configuration
from canonical_schema import read_event
from gateway.catalogue import DEFAULT_TENANT, Catalogue
from gateway.lanes.rendering import Turned, encoded, render

__all__ = ["Loop", "Sender"]

IN_FLIGHT = 8


class _Ready:
    """Requests as the gateway would make them, made beforehand."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._catalogue = Catalogue(configuration(given["url"], Path("unused.db"), given["destinations"]))
        self._requests: dict[str, list[Request]] = {}

    async def open(self) -> dict[str, Any]:
        return {}

    async def do_prepare(self, prefix: str, events: int, rows: int | None) -> None:
        """Make the requests of a set of events, `rows` rows in each, or as many as the door takes."""
        now = datetime.now(UTC)
        read = [read_event(text.encode()) for text in texts(prefix, events)]
        for name, destination in self._catalogue.destinations.items():
            adapter = destination.adapter
            made: list[bytes] = []
            for event in read:
                rendered = render(self._catalogue, name, DEFAULT_TENANT, event, now, now)
                if isinstance(rendered, Turned):
                    raise RuntimeError(f"{name} takes no such event: {rendered.error}")
                made += [part.row for part in encoded(rendered)]
            step = rows or adapter.door.max_rows
            self._requests[name] = [adapter.request(made[at : at + step]) for at in range(0, len(made), step)]


class Sender(_Ready):
    """aiohttp and nothing else: every destination at once, eight requests in flight to each, answers read as bytes."""

    async def open(self) -> dict[str, Any]:
        self._sessions = {
            name: aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=IN_FLIGHT), cookie_jar=aiohttp.DummyCookieJar()
            )
            for name in self._catalogue.destinations
        }
        return {}

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    async def do_send(self, times: int) -> dict[str, Any]:
        """Send everything so many times over; tell how long that took."""
        began, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for name, requests in self._requests.items():
                waiting = deque(requests * times)
                for _ in range(IN_FLIGHT):
                    group.create_task(_empty(self._sessions[name], waiting))
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


async def _empty(session: aiohttp.ClientSession, waiting: deque[Request]) -> None:
    while waiting:
        request = waiting.popleft()
        async with session.post(request.url, data=request.body, headers=request.headers) as response:
            await response.read()
            response.raise_for_status()


class Loop(_Ready):
    """One event after the other, a call to each provider; the bodies are ready, which flatters it."""

    async def close(self) -> None:
        pass

    async def do_send(self, way: str) -> dict[str, Any]:
        """Send everything `sequence` by sequence, or each event's calls by `gather`; tell how long that took."""
        events = list(zip(*self._requests.values(), strict=True))
        began, cpu = time.perf_counter(), time.process_time()
        if way == "sequence":
            _one_by_one(events)
        else:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
                for calls in events:
                    answers = await asyncio.gather(
                        *(client.post(call.url, content=call.body, headers=dict(call.headers)) for call in calls)
                    )
                    for answer in answers:
                        answer.raise_for_status()
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def _one_by_one(events: list[tuple[Request, ...]]) -> None:
    with httpx.Client(trust_env=False) as client:
        for calls in events:
            for call in calls:
                client.post(call.url, content=call.body, headers=dict(call.headers)).raise_for_status()
