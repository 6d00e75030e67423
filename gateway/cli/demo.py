"""`usage-gateway demo`: the whole thing on loopback, from a door to four bills."""

import asyncio
import contextlib
import logging
import socket
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
from cyclopts import Parameter

from canonical_schema import BatchResult
from gateway import demo as world
from gateway import logs
from gateway.app import create_app
from gateway.cli._out import CommandFailed, Exit, Json, hint, machine, people, say
from gateway.cli._server import Server, address, listen
from gateway.configuration import Configuration
from gateway.ledger import SqliteLedger
from gateway.service import Gateway
from gateway.simulator import running

__all__ = ["demo", "door"]

PORT = 8080
RESOLVE = '{"id": "evt_0200", "destination": "wingback", "resolution": "accepted", "reason": "seen there"}'
EVENT = '{"id": "my_1", "customer": "acme", "meter": "api_calls", "quantity": 3}'
FINE = frozenset({"total", "delivered", "pending"})


def demo(
    *,
    once: Annotated[bool, Parameter(negative="", help="Print the merged result as JSON, and end.")] = False,
    as_json: Json = False,
) -> int:
    """Run a gateway with four simulated vendors, send it 200 events of an AI product, and show what became of them.

    Everything is on loopback and in a temporary folder; nothing is left behind. It keeps serving until Ctrl-C.
    The vendors have a bad day, so some events fail: with --once the exit code is then 4.
    """
    logs.configure(level=logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="usage-gateway-demo-") as folder, door(quiet=once) as listener:
        return asyncio.run(_demo(Path(folder), listener, once=once, as_json=as_json or once))


def door(*, quiet: bool) -> socket.socket:
    """Take the usual port, or any free one."""
    if not quiet:
        with contextlib.suppress(CommandFailed):
            return listen("127.0.0.1", PORT)
        hint(f"Port {PORT} is in use, so another one is taken.")
    return listen("127.0.0.1", 0)


async def _demo(folder: Path, listener: socket.socket, *, once: bool, as_json: bool) -> Exit:
    vendors = world.vendors()
    url = address(listener)
    async with running(vendors) as vendors_at:
        configuration = world.configuration(vendors_at, folder)
        gateway = Gateway(configuration, SqliteLedger(configuration.ledger.path))
        await gateway.start()
        try:
            async with _serving(Server(create_app(gateway), grace=2), listener) as (server, serving):
                lines = world.batches(datetime.now(UTC))
                _welcome(configuration, url, vendors_at)
                began = time.perf_counter()
                sending = asyncio.create_task(_send(url, lines))
                if not await _sent(sending, server, serving):
                    return server.exit_code
                result = world.merged(sending.result())
                seconds = time.perf_counter() - began
                if as_json:
                    machine(result)
                sent = [line for batch in lines for line in batch]
                say(f"\n{len(sent)} events in {len(lines)} requests of {world.BATCH}, answered in {seconds:.1f} s.")
                hint("A second of that is Paygentic's: it said 429, come back in 1 s.")
                figures = world.settled(configuration, sent, result, vendors)
                world.report(people(), result, world.needs_attention(result), figures)
                if once:
                    clean = all(name in FINE or not count for name, count in result["summary"].items())
                    return Exit.OK if clean else Exit.PARTIAL
                _invite(url, vendors_at)
                await serving
                return server.exit_code
        finally:
            await gateway.stop()


@contextlib.asynccontextmanager
async def _serving(server: Server, listener: socket.socket) -> AsyncGenerator[tuple[Server, asyncio.Task[None]]]:
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield server, serving
    finally:
        server.should_exit = True
        await serving


async def _sent(sending: asyncio.Task[list[BatchResult]], server: Server, serving: asyncio.Task[None]) -> bool:
    """Wait until all is sent, and return whether it was. Where the service ends first, the rest would find nobody."""
    ended = True
    try:
        await asyncio.wait({sending, serving}, return_when=asyncio.FIRST_COMPLETED)
        ended = server.should_exit or serving.done()
    finally:
        if ended:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    return not ended


async def _send(url: str, batches: Sequence[Sequence[bytes]]) -> list[BatchResult]:
    """Send every batch as a client would, each when the one before is answered."""
    read = msgspec.json.Decoder(BatchResult)
    headers = {"content-type": "application/x-ndjson", "prefer": "wait=60"}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=90) as client:
        answers = [await client.post("/v1/events", content=b"\n".join(batch), headers=headers) for batch in batches]
    return [read.decode(answer.content) for answer in answers]


def _welcome(configuration: Configuration, url: str, vendors_at: str) -> None:
    say("Usage Gateway · demo", "bold")
    say(f"  gateway     {url}   (ledger: SQLite in a temporary folder)")
    for name in configuration.destinations:
        say(f"  {name:<11} {vendors_at}/{name}   (simulated)")


def _invite(url: str, vendors_at: str) -> None:
    say("\nTry", "bold")
    for what, command in (
        ("one event, with every attempt", f"curl -s {url}/v1/events/evt_0036"),
        ("what is in doubt", f"curl -s '{url}/v1/events?status=unknown'"),
        ("decide it", f"curl -s {url}/v1/deliveries/resolve -d '{RESOLVE}'"),
        ("send your own", f"curl -s {url}/v1/events -H 'content-type: application/json' -d '{EVENT}'"),
        ("what a vendor would bill", f"curl -s {vendors_at}/_control/wingback/billed"),
    ):
        hint(f"  # {what}")
        say(f"  {command}")
    say(f"\nServing at {url}. Ctrl-C ends it; nothing is left behind.", "bold")
