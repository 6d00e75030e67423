"""Servers on loopback that say what a script says, and a transport that meets them."""

import asyncio
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from socket import SO_LINGER, SOL_SOCKET, socket

from adapters import AnyAdapter, Fault, FaultKind, Reply, provider
from gateway.transport import Transport

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NEVER_LEFT, NO_ANSWER = FaultKind.NEVER_LEFT, FaultKind.NO_ANSWER


def adapter(name: str, url: str) -> AnyAdapter:
    kind = provider(name)
    return kind(kind.Settings.model_validate({"api_key": "k", "base_url": url}))


async def head(reader: asyncio.StreamReader) -> bytes:
    """Read a whole request; return it, or nothing where the client went away."""
    try:
        lines = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in lines.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return lines + await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def answered(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset."""
    sock: socket = writer.get_extra_info("socket")
    sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def serving(serve: Serve) -> AsyncGenerator[str]:
    """Listen on loopback; every connection is led to `serve` and closed after it."""
    open_: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            open_.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for task in tuple(open_):
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)
        await server.wait_closed()


async def sent(
    url: str, *, name: str = "wingback", seconds: float = 5.0, times: int = 1, connections: int = 4
) -> list[Reply | Fault]:
    """Send a row so many times, one after the other, over one transport."""
    one = adapter(name, url)
    transport = Transport(one, timeout=timedelta(seconds=seconds), connections=connections)
    try:
        return [await transport.send(one.request([b'{"a":1}'])) for _ in range(times)]
    finally:
        await transport.close()


async def fault(url: str, *, seconds: float = 5.0, name: str = "wingback") -> Fault:
    (found,) = await sent(url, seconds=seconds, name=name)
    assert isinstance(found, Fault), found
    return found


def scripted(*pieces: bytes, read: bool = True, then: str = "close") -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if read:
            await head(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        match then:
            case "reset":
                reset(writer)
            case "hang":
                await asyncio.Event().wait()
            case _:
                return

    return serve
