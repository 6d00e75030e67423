"""Connections: which are used again, what comes over them unasked, and that nothing is sent twice by them alone."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from adapters import Fault, Reply, Request
from gateway.transport import Transport
from tests.gateway.sockets import NEVER_LEFT, NO_ANSWER, adapter, answered, head, reset, scripted, sent, serving


@pytest.mark.parametrize(("name", "connections"), [("wingback", 3), ("flexprice", 1), ("flowglad", 1)])
async def test_only_a_vendor_that_tells_repeats_is_met_on_a_used_connection(name: str, connections: int) -> None:
    made = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal made
        made += 1
        while await head(reader):
            writer.write(answered("200 OK", body=b"[]"))
            await writer.drain()

    async with serving(serve) as url:
        replies = await sent(url, name=name, times=3)
    assert [200] * 3 == [reply.status for reply in replies if isinstance(reply, Reply)]
    assert connections == made


async def test_what_comes_unasked_is_no_answer_to_the_next_request() -> None:
    """A second 202 on an idle connection would have the next row accepted, which is refused here."""
    heard, spoken = list[int](), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await head(reader):
            heard.append(len(heard))
            writer.write(answered("503 Unavailable" if heard[-1] else "202 Accepted", body=b"{}"))
            if not heard[-1]:
                await asyncio.sleep(0.01)  # until the answer was read, and the connection lies idle
                writer.write(answered("202 Accepted", body=b"{}"))
                await writer.drain()
                spoken.set()

    async with serving(serve) as url:
        one = adapter("flexprice", url)
        transport = Transport(one, timeout=timedelta(seconds=5), connections=1)
        try:
            first = await transport.send(one.request([b'{"a":1}']))
            await spoken.wait()
            await asyncio.sleep(0.01)  # until it came
            second = await transport.send(one.request([b'{"a":2}']))
        finally:
            await transport.close()
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert (202, 503, [0, 1]) == (first.status, second.status, heard)


async def test_a_stale_connection_is_a_lost_answer_and_the_row_goes_out_once() -> None:
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await head(reader))
        writer.write(answered("200 OK", body=b"[]"))
        await writer.drain()
        bodies.append(await head(reader))
        reset(writer)

    async with serving(serve) as url:
        first, second = await sent(url, name="flexprice", times=2)
    assert isinstance(first, Reply)
    assert isinstance(second, Fault)
    assert (NO_ANSWER, 2) == (second.kind, len(bodies))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "put"])
@pytest.mark.parametrize("breaks", [reset, lambda writer: writer.close()], ids=["reset", "closed"])
@pytest.mark.parametrize(("name", "before"), [("wingback", False), ("flexprice", False), ("flexprice", True)])
async def test_nothing_but_a_read_is_repeated_by_the_transport_itself(
    name: str, method: str, breaks: Callable[[asyncio.StreamWriter], None], *, before: bool
) -> None:
    """Not on a fresh connection, and not on one that was used `before`."""
    came = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        while await head(reader):
            came += 1
            if came > before:
                return breaks(writer)
            writer.write(answered("200 OK"))
            await writer.drain()
        return None

    async with serving(serve) as url:
        transport = Transport(adapter(name, url), timeout=timedelta(seconds=5), connections=1)
        request = Request(method=method, url=url, headers={}, body=b"{}")
        for _ in range(before):
            assert isinstance(await transport.send(request), Reply)
        found = await transport.send(request)
        await transport.close()
    assert isinstance(found, Fault)
    assert (NO_ANSWER, before + 1) == (found.kind, came)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_a_refused_connection_never_left_whatever_the_method(method: str) -> None:
    async with serving(scripted()) as url:
        pass
    transport = Transport(adapter("wingback", url), timeout=timedelta(seconds=5), connections=1)
    found = await transport.send(Request(method=method, url=url, headers={}, body=b"{}"))
    await transport.close()
    assert Fault(kind=NEVER_LEFT, name="ClientConnectorError") == found


async def test_what_is_sent_while_it_is_cancelled_leaves_the_pool_whole() -> None:
    serve = scripted(then="hang")
    async with serving(serve) as url:
        one = adapter("wingback", url)
        transport = Transport(one, timeout=timedelta(seconds=0.3), connections=1)
        try:
            for _ in range(3):
                sending = asyncio.ensure_future(transport.send(one.request([b"{}"])))
                await asyncio.sleep(0.05)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
            found = await transport.send(one.request([b"{}"]))
        finally:
            await transport.close()
    assert isinstance(found, Fault)
    assert NO_ANSWER is found.kind, "it got a connection"
