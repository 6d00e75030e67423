"""Load at a given pace: requests go out when they are due, whether or not the server keeps up."""

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Sequence

from bench.load import Run

__all__ = ["paced"]


def paced(port: int, requests: Sequence[bytes], rate: float, connections: int, patience: float = 60.0) -> Run:
    """Send `rate` requests a second, evenly, and note how long each took from when it was due to its whole answer.

    A request that finds every connection busy goes out late, and that counts: nothing is left out because the server
    was slow. To be run in a thread of its own: an event loop's timers are a millisecond coarse, which is more than
    an answer takes. Raises TimeoutError where all takes more than `patience` seconds longer than it should.
    """
    drive = _Drive(port, requests, rate, connections)
    try:
        return drive.run(patience)
    finally:
        drive.close()


class _Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self.number = 0
        self.unsent = memoryview(b"")
        self.status = 0
        self._head = b""
        self._missing = 0

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def receive(self) -> bool:
        """Read what is there; return whether the answer is whole. Raises ConnectionError where there will be none."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server closed a connection in the midst of a request")
        if self._missing:
            self._missing -= len(data)
            return self._missing == 0
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return False
        self.status = int(head[9:12])
        self._missing = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]) - len(rest)
        self._head = b""
        return self._missing == 0


class _Drive:
    def __init__(self, port: int, requests: Sequence[bytes], rate: float, connections: int) -> None:
        self._requests = requests
        self._rate = rate
        self._open = [_Connection(port) for _ in range(connections)]
        self._idle = deque(self._open)
        self._busy: dict[socket.socket, _Connection] = {}

    def close(self) -> None:
        for connection in self._open:
            connection.socket.close()

    def run(self, patience: float) -> Run:
        run, requests, rate = Run(), self._requests, self._rate
        began, following = time.perf_counter(), 0
        until = began + len(requests) / rate + patience
        while following < len(requests) or self._busy:
            now = time.perf_counter()
            if now > until:
                raise TimeoutError(f"{len(self._busy)} requests are not answered")
            while following < len(requests) and self._idle and (due := began + following / rate) <= now:
                self._send(due, following)
                following += 1
            pause = until - now
            if following < len(requests) and self._idle:
                pause = began + following / rate - time.perf_counter()
            writing = [one.socket for one in self._busy.values() if one.unsent]
            readable, writable, _ = select.select(list(self._busy), writing, [], max(0.0, pause))
            for each in writable:
                self._busy[each].send()
            for each in readable:
                self._read(each, run)
        run.seconds = time.perf_counter() - began
        return run

    def _send(self, due: float, number: int) -> None:
        connection = self._idle.popleft()  # the one that rested longest
        connection.due, connection.number, connection.unsent = due, number, memoryview(self._requests[number])
        self._busy[connection.socket] = connection
        connection.send()

    def _read(self, readable: socket.socket, run: Run) -> None:
        connection = self._busy[readable]
        if connection.receive():
            run.answered.append((connection.number, now := time.perf_counter()))
            run.latencies.append(now - connection.due)
            run.statuses[connection.status] += 1
            del self._busy[readable]
            self._idle.append(connection)
