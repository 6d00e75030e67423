"""`usage-gateway serve`: the service, until it is told to stop."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import structlog
import uvloop
from cyclopts import Parameter, validators

from gateway import logs
from gateway.app import create_app
from gateway.cli._out import CommandFailed, ConfigFile, Exit, Json, complain, machine, say
from gateway.cli._server import Server, address, listen
from gateway.cli._workers import supervised
from gateway.configuration import Configuration
from gateway.configuration.file import load
from gateway.errors import ConfigurationError, GatewayError, LedgerUnavailable
from gateway.garbage import collect_rarely
from gateway.opening import ledger_of
from gateway.service import Gateway

__all__ = ["serve"]

log = structlog.get_logger()

AGAIN = 1.0
"""Seconds until a configuration is read again that could not be held against the ledger."""
REMEMBERED = 8
"""How many readings of the file are kept for workers that are started again."""


def serve(
    *,
    config: ConfigFile,
    workers: Annotated[
        int, Parameter(validator=validators.Number(gte=1, lte=64), help="Processes; several need a Redis ledger.")
    ] = 1,
    as_json: Json = False,
) -> int:
    """Run the service. Logs are JSON lines on standard error.

    SIGTERM and Ctrl-C stop it once requests in flight are done; SIGHUP reads the configuration again.
    With --json, one line on standard output says where it listens as soon as it does.
    """
    configuration = load(config, os.environ)
    logs.configure()
    with listen(configuration.listen.host, configuration.listen.port) as listener:
        if workers == 1:
            return uvloop.run(_serve(config, configuration, listener, as_json=as_json))
        if configuration.ledger.address is None:
            raise CommandFailed("--workers: a ledger in a file is for one process; several need ledger.url redis://...")
        listener.settimeout(0)  # one of them gets a connection, and the others must not wait for it
        used = _Used(config, configuration)

        def worker(index: int) -> int:
            return used.ended(lambda one: uvloop.run(_serve(config, one, listener, as_json=as_json and index == 0)))

        return supervised(workers, worker, used.read)


class _Used:
    """What workers use, so that one that is started again is configured as the others are, not as they once were."""

    def __init__(self, path: Path, configuration: Configuration) -> None:
        self._path = path
        self._read = [configuration]
        """The newest first: what a file says may be right, and refused by what stands in the ledger."""

    def read(self) -> None:
        """Read the file again, as each worker does; one that is wrong changes nothing, and they say why."""
        with contextlib.suppress(GatewayError):
            read, first = load(self._path, os.environ), self._read[-1]
            if (read.ledger, read.listen) == (first.ledger, first.listen):
                others = [one for one in self._read if one != read]  # some tools say SIGHUP every hour
                self._read = [read, *others][:REMEMBERED]

    def ended(self, run: Callable[[Configuration], int]) -> int:
        """Run a worker with the newest that is not refused; return how it ended, and say why it could not begin."""
        *newer, last = self._read
        try:
            for configuration in newer:
                with contextlib.suppress(ConfigurationError):
                    return run(configuration)
            return run(last)
        except GatewayError as error:
            complain(str(error))
            return Exit.FAILED


async def _serve(path: Path, configuration: Configuration, listener: socket.socket, *, as_json: bool) -> Exit:
    gateway = Gateway(configuration, ledger_of(configuration.ledger, configuration.delivery.timeout))
    grace = configuration.delivery.grace
    # Who waits for an answer has half of it at most: the rest is the lanes'.
    door = max(1, int(grace.total_seconds() / 2))
    server = Server(create_app(gateway), grace=door, dismiss=gateway.board.dismiss)
    with _reloading(path, gateway) as begun:
        await gateway.start()
        begun.set()
        collect_rarely()
        try:
            _announce(gateway, address(listener), as_json=as_json)
            await server.serve([listener])
        finally:
            spent = timedelta(seconds=0 if server.told is None else time.monotonic() - server.told)
            await gateway.stop(max(timedelta(0), grace - spent))
    log.info("gateway.stopped")
    return server.exit_code


def _announce(gateway: Gateway, url: str, *, as_json: bool) -> None:
    ledger, durability = gateway.configuration.ledger.shown, gateway.ledger.durability
    log.info("gateway.listening", url=url, ledger=ledger, durability=durability)
    if sys.stderr.isatty():
        say(f"Usage Gateway listens on {url}; events are kept in {ledger} (durability: {durability})", "bold")
    if as_json:
        machine({"object": "listening", "url": url, "ledger": ledger, "durability": durability})


@contextlib.contextmanager
def _reloading(path: Path, gateway: Gateway) -> Generator[asyncio.Event]:
    """Read the configuration again at each SIGHUP; one that is wrong changes nothing.

    Before what is given is set it waits, and after a SIGTERM it changes nothing either: it never ends the process.
    Where the ledger is away it waits for it. One reading comes after the other, so that what was written last is used.
    """
    loop, begun, turn = asyncio.get_running_loop(), asyncio.Event(), asyncio.Lock()
    tasks: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        await begun.wait()
        async with turn:
            while True:
                if await read():
                    return
                await asyncio.sleep(AGAIN)

    async def read() -> bool:
        try:
            await gateway.reload(await asyncio.to_thread(load, path, os.environ), actor="SIGHUP")
        except LedgerUnavailable as error:
            log.error("configuration.waits", error=str(error), hint="the one before stays in use meanwhile")
            return False
        except GatewayError as error:
            log.error("configuration.refused", error=str(error), hint="the one before stays in use")
        return True

    def hear() -> None:
        task = loop.create_task(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, hear)
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield begun
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        loop.remove_signal_handler(signal.SIGHUP)
