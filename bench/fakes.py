"""Fast providers: correct answers for the cheapest price, and a list of every row that came."""

import asyncio
import re
import time
from collections.abc import Callable
from typing import cast

__all__ = ["FastProviders"]

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def _found(name: bytes) -> Callable[[bytes], list[bytes]]:
    # From the quote: `gateway_event_id` ends as `event_id` does.
    return re.compile(rb'"' + name + rb'":"([^"]*)"').findall


def _flowglad(keys: list[bytes]) -> bytes:
    rows = b",".join(b'{"id":"usage_event_' + key + b'","transactionId":"' + key + b'"}' for key in keys)
    return b'{"usageEvents":[' + rows + b"]}"


def _paygentic(keys: list[bytes]) -> bytes:
    rows = b",".join(b'{"id":"usg_' + key + b'","idempotencyKey":"' + key + b'"}' for key in keys)
    return b'{"object":"batchUsageEvents","successful":[' + rows + b'],"failed":[]}'


def _flexprice(_: list[bytes]) -> bytes:
    return b'{"message":"Events accepted for processing"}'


_Maker = tuple[int, Callable[[bytes], list[bytes]], Callable[[list[bytes]], bytes]]
_MAKERS: dict[str, _Maker] = {
    "flowglad": (200, _found(b"transactionId"), _flowglad),
    "paygentic": (201, _found(b"idempotencyKey"), _paygentic),
    "paygentic_events": (202, _found(b"idempotencyKey"), lambda keys: b'{"object":"event","id":"event_%b"}' % keys[0]),
    "flexprice": (202, _found(b"event_id"), _flexprice),
    "wingback": (200, _found(b"gateway_event_id"), lambda _: b"[]"),
}


class FastProviders:
    """All of them behind one port, told apart by the first step of the path."""

    def __init__(self, *, silent: str | None = None) -> None:
        """`silent`: one that takes every request, and answers none."""
        self.stored: dict[str, list[bytes]] = {name: [] for name in _MAKERS}
        self.came: dict[str, dict[bytes, float]] = {name: {} for name in _MAKERS}
        """When each row came first, by `time.perf_counter`."""
        self._silent = None if silent is None else silent.encode()
        self.requests = 0
        self.timed = False
        """Whether `came` is kept."""
        self.delay = 0.0
        """Seconds that every answer takes."""
        self.url = ""
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    def check(self, wanted: dict[str, set[bytes]], times: int = 1) -> None:
        """Hold what arrived against what was sent so many times, and forget it.

        Raises AssertionError where an event is missing, came again, or was not asked for.
        """
        stored = self.forget()
        for name, came in stored.items():
            ids, found = wanted.get(name, set()), set(came)
            if len(came) != len(ids) * times or found != ids:
                lost, strange, more = len(ids - found), len(found - ids), len(came) - len(found) * times
                raise AssertionError(f"{name}: of {len(ids)}: {lost} lost, {more} came again, {strange} unasked for")

    def forget(self) -> dict[str, list[bytes]]:
        """Return what is stored, and store from nothing."""
        stored, self.stored = self.stored, {name: [] for name in _MAKERS}
        self.came = {name: {} for name in _MAKERS}
        return stored

    def hears(self, path: bytes) -> bool:
        """Return whether a request to this path is ever answered."""
        return self._silent is None or path.split(b"/", 2)[1] != self._silent

    def answer(self, path: bytes, body: bytes) -> bytes:
        """Store a request's rows and return the whole response."""
        name = path.split(b"/", 2)[1].decode()
        status, keys_of, render = _MAKERS[name]
        keys = keys_of(body)
        self.stored[name] += keys
        if self.timed:
            self.came[name].update(dict.fromkeys(keys, time.perf_counter()))
        self.requests += 1
        said = render(keys)
        return b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            status,
            len(said),
            said,
        )


class _Connection(asyncio.Protocol):
    def __init__(self, providers: FastProviders) -> None:
        self._providers = providers
        self._chunks: list[bytes] = []
        self._missing = -1
        """Bytes of the body still to come; -1: the head is not whole."""
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            head, end, rest = (b"".join(self._chunks) + data).partition(b"\r\n\r\n")
            if not end:
                self._chunks.append(data)
                return
            length = _LENGTH.search(head)
            assert length is not None, head
            self._path = head.split(b" ", 2)[1]
            self._missing, self._chunks, data = int(length[1]), [], rest
        self._chunks.append(data)
        self._missing -= len(data)
        if self._missing > 0 or not self._providers.hears(self._path):
            return
        said = self._providers.answer(self._path, b"".join(self._chunks))
        self._chunks, self._missing = [], -1
        if self._providers.delay:
            asyncio.get_running_loop().call_later(self._providers.delay, self._write, said)
        else:
            self._transport.write(said)

    def _write(self, said: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(said)
