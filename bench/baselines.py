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

__all__ = ["IN_FLIGHT", "Loop", "Sender", "Sending"]

IN_FLIGHT = 8


def _ready(catalogue: Catalogue, prefix: str, events: int, rows: int | None) -> dict[str, list[Request]]:
    """Return the requests that the gateway would make of a set of events, `rows` rows in each, or as many as go in."""
    now = datetime.now(UTC)
    read = [read_event(text.encode()) for text in texts(prefix, events)]
    requests: dict[str, list[Request]] = {}
    for name, destination in catalogue.destinations.items():
        adapter = destination.adapter
        made: list[bytes] = []
        for event in read:
            rendered = render(catalogue, name, DEFAULT_TENANT, event, now, now)
            if isinstance(rendered, Turned):
                raise RuntimeError(f"{name} takes no such event: {rendered.error}")
            made += [part.row for part in encoded(rendered)]
        step = rows or adapter.door.max_rows
        requests[name] = [adapter.request(made[at : at + step]) for at in range(0, len(made), step)]
    return requests


class Sending:
    """aiohttp and nothing else, a session for each destination."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.catalogue = Catalogue(configuration(given["url"], Path("unused.db"), given["destinations"]))

    async def open(self) -> dict[str, Any]:
        self.sessions = {
            name: aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=IN_FLIGHT), cookie_jar=aiohttp.DummyCookieJar()
            )
            for name in self.catalogue.destinations
        }
        return {}

    async def close(self) -> None:
        for session in self.sessions.values():
            await session.close()

    async def sent(self, name: str, request: Request) -> None:
        """Send a request, and read its answer as bytes. Raises aiohttp.ClientResponseError where it is no success."""
        async with self.sessions[name].post(request.url, data=request.body, headers=request.headers) as response:
            await response.read()
            response.raise_for_status()


class Sender(Sending):
    """Ready bodies to every destination at once, eight requests in flight to each."""

    async def do_prepare(self, prefix: str, events: int, rows: int | None) -> None:
        """Make the requests of a set of events."""
        self._requests = _ready(self.catalogue, prefix, events, rows)

    async def do_send(self, times: int) -> dict[str, Any]:
        """Send everything so many times over; tell how long that took."""
        began, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for name, requests in self._requests.items():
                waiting = deque(requests * times)
                for _ in range(IN_FLIGHT):
                    group.create_task(self._emptied(name, waiting))
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}

    async def _emptied(self, name: str, waiting: deque[Request]) -> None:
        while waiting:
            await self.sent(name, waiting.popleft())


class Loop:
    """One event after the other, a call to each provider; the bodies are ready, which flatters it."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._catalogue = Catalogue(configuration(given["url"], Path("unused.db"), given["destinations"]))

    async def open(self) -> dict[str, Any]:
        return {}

    async def close(self) -> None:
        pass

    async def do_prepare(self, prefix: str, events: int, rows: int | None) -> None:
        """Make the requests of a set of events."""
        self._requests = _ready(self._catalogue, prefix, events, rows)

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
