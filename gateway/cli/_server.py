"""A web server that stops when it is told to, and says how it was."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from gateway.cli._out import CommandFailed, Exit

__all__ = ["Server", "address", "listen"]

BACKLOG = 2048
KEPT = 75
"""Seconds that an idle connection is kept. Clients and load balancers keep theirs for 5 to 60, and who ends first must
be the one that sends: a request on a connection that ends just then fails, and nobody knows whether it arrived."""


def listen(host: str, port: int) -> socket.socket:
    """Take a port; 0 is any free one. Raises CommandFailed where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        # Python adds the address to the words of some errors, which stands there already.
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno and error.errno > 0 else error
        raise CommandFailed(f"cannot listen on {host}:{port}: {why}") from None


def address(listener: socket.socket) -> str:
    """Return the URL at which a socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Serves until a signal comes; then lets requests in flight finish. A second Ctrl-C does not wait for them.

    Who only waits is sent off by `dismiss` when half of the grace is over: what is cut off when all of it is hears
    nothing of what was stored for it.
    """

    def __init__(self, app: ASGIApp, *, grace: int = 30, dismiss: Callable[[], None] | None = None) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=grace,
            timeout_keep_alive=KEPT,
        )
        super().__init__(config)
        self._dismiss = dismiss
        self._patience = grace / 2
        self.told: float | None = None
        """When it was told to stop, by `time.monotonic`."""
        self.interrupted = False
        """Whether it was a Ctrl-C."""

    @property
    def exit_code(self) -> Exit:
        """How the command ends: SIGTERM is a wish, Ctrl-C an interruption."""
        return Exit.INTERRUPTED if self.interrupted else Exit.OK

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # uvicorn raises the signal again when it is done, which would end the process before the ledger is closed.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._dismiss is not None:
            asyncio.get_running_loop().call_later(self._patience, self._dismiss)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.told = self.told or time.monotonic()
        self.interrupted = self.interrupted or sig == signal.SIGINT
        super().handle_exit(sig, frame)
