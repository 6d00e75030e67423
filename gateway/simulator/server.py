"""The simulated vendors on a real socket, where a reset is a reset and half an answer is half an answer."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from threading import Event, Thread
from typing import cast

import anyio
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.simulator.app import CONNECTION, Sleep, create_app
from gateway.simulator.provider import SimulatedProvider

__all__ = ["running", "serve_in_thread"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing throws away what is unsent and resets the peer."""


class _Protocol(HttpToolsProtocol):
    """Hands the connection to the app, which may break it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        breaks: dict[str, Callable[[], None]] = {"reset": self._reset, "close": self.transport.close}
        self.scope["extensions"] = {CONNECTION: cast("dict[object, object]", breaks)}

    def _reset(self) -> None:
        connection = cast("socket.socket", self.transport.get_extra_info("socket"))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()


class _Server(uvicorn.Server):
    """A server inside another program: it leaves signals alone, and ends requests that would never end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


@contextlib.asynccontextmanager
async def running(
    providers: Sequence[SimulatedProvider],
    port: int = 0,
    *,
    host: str = "127.0.0.1",
    sleep: Sleep = anyio.sleep,
    hang: float = 3600.0,
) -> AsyncGenerator[str, None]:
    """Serve the vendors in this event loop; gives the base URL, `http://127.0.0.1:PORT`. Port 0 takes a free one.

    Raises OSError where the port is taken. Anyone who reaches the port can use the control API: keep it on loopback.
    """
    with socket.create_server((host, port), backlog=512) as listener:
        config = uvicorn.Config(
            create_app(providers, sleep=sleep, hang=hang),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve([listener]))
        ready = asyncio.create_task(server.ready.wait())
        try:
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            ready.cancel()
            await task


@contextlib.contextmanager
def serve_in_thread(
    providers: Sequence[SimulatedProvider], port: int = 0, *, host: str = "127.0.0.1", hang: float = 3600.0
) -> Generator[str, None, None]:
    """Serve the vendors from a thread of their own, for programs without an event loop; gives the base URL."""
    started: list[str | BaseException] = []
    stops: list[Callable[[], object]] = []
    ready = Event()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        async with running(providers, port, host=host, hang=hang) as url:
            started.append(url)
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001  whatever it is, it is raised again where the caller waits
            started.append(error)
            ready.set()

    thread = Thread(target=run, name="simulated-providers", daemon=True)
    thread.start()
    ready.wait()
    first = started[0]
    if isinstance(first, BaseException):
        thread.join()
        raise first
    try:
        yield first
    finally:
        stops[0]()
        thread.join()
