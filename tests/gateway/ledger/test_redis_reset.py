"""Connections to the server that are reset while nothing is on its way, on the loop that the service runs on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Unconnected

from gateway.ledger._redis.address import Address
from gateway.ledger._redis.topology import commanded
from gateway.ledger.redis import RedisLedger
from tests.gateway.ledger.conftest import recorded
from tests.gateway.ledger.test_redis_trouble import Wire
from tests.gateway.sockets import reset
from tests.redis_servers import Server
from tests.waiting import until


def on_uvloop(server: Server, act: Callable[[Wire], Awaitable[None]]) -> None:
    async def told() -> None:
        wire = Wire(server)
        await wire.begin()
        try:
            await act(wire)
        finally:
            await wire.cut()
            await until(lambda: not wire._open)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(told())


async def broken(wire: Wire, *connections: Any) -> None:
    """Reset every connection, and return when this end has heard of it."""
    for writer in tuple(wire._open):
        reset(writer)
    await until(lambda: all(one._writer.transport.is_closing() for one in connections))


def test_a_ledger_makes_them_anew_and_nobody_notices(server: Server) -> None:
    async def act(wire: Wire) -> None:
        ledger = RedisLedger(Address.read(f"redis://127.0.0.1:{wire.port}/0"))
        await ledger.open()
        for event_id in ("e1", "e2"):
            await recorded(ledger, event_id)
            await ledger.find("default", event_id)
            await broken(wire, *(line._connection for link in ledger._opened() for line in link._lines.values()))
            assert await ledger.find("default", event_id) is not None
        await ledger.close()

    on_uvloop(server, act)


def test_a_command_tells_of_one_as_of_any_that_is_lost(server: Server) -> None:
    async def act(wire: Wire) -> None:
        client = Redis(port=wire.port)
        await commanded(client, "PING")
        (connection,) = client.connection_pool._available_connections
        await broken(wire, connection)
        with pytest.raises(Unconnected, match="the connection was lost"):
            await commanded(client, "PING")
        await client.aclose()

    on_uvloop(server, act)
