"""Load: ready requests over raw keep-alive connections, as fast as the server answers."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

__all__ = ["Run", "as_requests", "closed"]

_PATH = "/v1/events?ack=stored"


@dataclass
class Run:
    """What one turn of load was."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter[int])
    latencies: list[float] = field(default_factory=list[float])
    """Seconds from when a request was due to its whole answer."""
    answered: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    """At a given pace: which request it was, and when it had its whole answer, by `time.perf_counter`."""

    def require(self, status: int) -> None:
        """Raise RuntimeError unless every answer had this status."""
        if set(self.statuses) != {status}:
            raise RuntimeError(f"expected only {status}, got {dict(self.statuses)}")


def as_requests(bodies: Sequence[bytes], path: str = _PATH) -> list[bytes]:
    """Return whole HTTP requests."""
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: "
    return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]


class _Connection(asyncio.Protocol):
    def __init__(self, done: Callable[["_Connection", int], None]) -> None:
        self._done = done
        self._head = b""
        self._missing = 0
        self._status = 0
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._done(self, 0)

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._missing == 0:
            self._head += data
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._status = int(head[9:12])
            self._missing = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]) - len(rest)
            self._head = b""
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._done(self, self._status)


class _Drive:
    """Hands requests to connections that are idle, and notes every answer."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self.run = Run()
        self.finished = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._next = 0
        self._due: deque[float] = deque()
        self._idle: list[_Connection] = []
        self._connections: list[_Connection] = []

    async def connect(self, port: int, connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, connection = await loop.create_connection(lambda: _Connection(self._answered), "127.0.0.1", port)
            self._connections.append(connection)
        self._idle = list(self._connections)

    def release(self, count: int) -> None:
        """Let so many more requests go."""
        self._due.extend([time.perf_counter()] * count)
        while self._due and self._idle:
            self._send(self._idle.pop())

    def close(self) -> None:
        self.finished.cancel()
        for connection in self._connections:
            connection.transport.close()

    def _send(self, connection: _Connection) -> None:
        request = self._requests[self._next]
        self._next += 1
        connection.send(request, self._due.popleft())

    def _answered(self, connection: _Connection, status: int) -> None:
        if self.finished.done():
            return
        self.run.statuses[status] += 1
        self.run.latencies.append(time.perf_counter() - connection.due)
        if status == 0 or len(self.run.latencies) == len(self._requests):
            self.finished.set_result(None)
        elif self._due:
            self._send(connection)
        else:
            self._idle.append(connection)


async def closed(port: int, requests: Sequence[bytes], connections: int, patience: float = 60.0) -> Run:
    """Send everything, each connection its next request as soon as it is answered.

    Raises TimeoutError where that takes longer than `patience` seconds.
    """
    drive = _Drive(requests)
    await drive.connect(port, connections)
    try:
        began = time.perf_counter()
        drive.release(len(requests))
        await asyncio.wait_for(asyncio.shield(drive.finished), patience)
        drive.run.seconds = time.perf_counter() - began
    finally:
        drive.close()
    return drive.run
