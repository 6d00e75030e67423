"""The only module that talks to providers: one request out, one reply or one fault back."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

import aiohttp
import httpx
import structlog
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from adapters import AnyAdapter, Fault, FaultKind, Reply, Request
from gateway import __version__
from gateway.times import Clock, SystemClock

__all__ = ["Mounted", "Network", "Transport"]

log = structlog.get_logger()

FIRST_AGAIN = timedelta(minutes=5)
"""While the previous key is used, how often the new one is tried."""
MAX_REPLY = 16 * 2**20
"""Bytes of a reply that are read; more makes it unreadable."""
_PIECE = 2**14
"""Bytes of a compressed reply that are decoded at a time, to at most a thousand times as many."""

_HEADERS = {"user-agent": f"usage-gateway/{__version__}", "accept-encoding": "gzip, deflate"}


class Transport:
    """The connections of one destination.

    A provider that cannot tell repeats gets a fresh connection each time: a stale one that breaks
    while we write cannot be told from a lost answer.
    """

    def __init__(
        self,
        adapter: AnyAdapter,
        *,
        timeout: timedelta,
        connections: int,
        mount: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._credentials = adapter.credentials
        self._provider = adapter.spec.name
        self._using = 0
        self._clock = clock or SystemClock()
        self._first_again = datetime.max.replace(tzinfo=UTC)
        seconds = timeout.total_seconds()
        self._total = seconds * 2
        self._end: _End = (
            Network(connections, seconds, reuse=adapter.door.dedupe is not None)
            if mount is None
            else Mounted(mount, seconds)
        )

    @property
    def key(self) -> Literal["api_key", "previous_api_key"] | None:
        """Which of two keys is used; `None` where there is one."""
        if len(self._credentials) == 1:
            return None
        return "previous_api_key" if self._using else "api_key"

    async def send(self, request: Request) -> Reply | Fault:
        """Send one request. Never raises for what a network or a provider does.

        Where there are two keys and one is refused, the request goes again with the other: a vendor that refuses
        who asks has not read what was asked.
        """
        if len(self._credentials) == 1:
            return await self._send(request)
        now = self._clock.now()
        if now >= self._first_again:  # the new key may have become good
            self._first_again = now + FIRST_AGAIN
            chosen = 0
        else:
            chosen = self._using
        reply = await self._send(self._with(request, chosen))
        if _refused(reply):
            other = await self._send(self._with(request, 1 - chosen))
            if _refused(other):
                return reply
            reply, chosen = other, 1 - chosen
        if isinstance(reply, Reply) and chosen != self._using:
            self._using = chosen
            self._first_again = now + FIRST_AGAIN if chosen else datetime.max.replace(tzinfo=UTC)
            log.warning("credentials.switched", provider=self._provider, using=self.key)
        return reply

    def _with(self, request: Request, chosen: int) -> Request:
        return replace(request, headers={**request.headers, **self._credentials[chosen]})

    async def _send(self, request: Request) -> Reply | Fault:
        try:
            async with asyncio.timeout(self._total):
                return await self._end.exchange(request)
        except (
            aiohttp.ClientError,
            httpx.HTTPError,
            httpx.InvalidURL,
            httpx.StreamError,
            OSError,
            UnicodeError,
        ) as error:
            return _fault(error)

    async def close(self) -> None:
        """Close every connection."""
        await self._end.close()


class _End(Protocol):
    """What requests go through. Raises what aiohttp, httpx or the machine do."""

    async def exchange(self, request: Request) -> Reply | Fault: ...

    async def close(self) -> None: ...


class Network:
    """The connections themselves.

    By aiohttp alone: httpx's pool costs milliseconds a request at 64 in flight and leaks slots under cancellation,
    and its requests and replies cost as much as all that aiohttp does.
    """

    def __init__(self, connections: int, seconds: float, *, reuse: bool) -> None:
        self._connections = connections
        self._reuse = reuse
        self._timeout = aiohttp.ClientTimeout(
            connect=seconds,  # until a connection is free
            sock_connect=min(10.0, seconds),
            sock_read=seconds,
        )
        self._session: aiohttp.ClientSession | None = None
        self._url = "", yarl.URL()
        """The last address, and that parsed: nearly all requests have one."""
        self._headers: tuple[Mapping[str, str], Mapping[str, str]] = {}, {}
        """The last headers, and those with ours."""

    async def exchange(self, request: Request) -> Reply | Fault:
        """Send a request, and read the answer up to the bound."""
        if self._session is None:  # not before there is an event loop
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=self._connections, force_close=not self._reuse, resolver=_Resolver()),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        if request.url != self._url[0]:
            # Written out as httpx does: yarl would quote a path and a query its own way.
            self._url = request.url, yarl.URL(str(httpx.URL(request.url)), encoded=True)
        if request.headers is not self._headers[0]:
            # Nobody has agreed on another encoding, and aiohttp would take UTF-8.
            "".join(request.headers.values()).encode("ascii")
            self._headers = request.headers, {**_HEADERS, **request.headers}
        async with self._session.request(
            request.method,
            self._url[1],
            headers=self._headers[1],
            data=request.body or None,
            allow_redirects=False,
            auto_decompress=False,
            timeout=self._timeout,
            middlewares=None if request.method in _PLAIN else (_once,),
        ) as response:
            pieces = response.content.iter_any()
            if _asked_for(",".join(response.headers.getall("content-encoding", ()))):
                raw = response.content.iter_chunked(_PIECE)
                pieces = httpx.Response(response.status, headers=response.raw_headers, content=raw).aiter_bytes()
            return await _whole(response.status, _headers(response.raw_headers), pieces)

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()


class _Connector(aiohttp.TCPConnector):
    """Connections of which none is used again once something came that nobody had asked for.

    aiohttp would take it for the answer to the next request: a proxy's 408 to one that was idle, or a second 202 to
    what was taken before. https://www.rfc-editor.org/rfc/rfc9112.html#section-9.2
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  aiohttp's own
    ) -> Connection:
        for _ in range(self.limit):  # as many as may have been idle
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()
        return await super().connect(req, traces, timeout)


class _Resolver(AbstractResolver):
    """Looks names up in a thread for each look-up, of which a destination makes one at a time.

    The loop's own threads are two for all destinations: of two names whose servers do not answer nobody else's would be
    looked up. They end with the process, whatever they wait for.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def tell(found: list[ResolveResult], failed: Exception | None) -> None:
            if told.done():  # nobody waits for it any more
                return
            if failed is None:
                told.set_result(found)
            else:
                told.set_exception(failed)

        def look() -> None:
            found, failed = list[ResolveResult](), None
            try:
                found = _looked_up(host, port, family)
            except Exception as error:  # noqa: BLE001  whatever it is, who waits has to hear of it
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(tell, found, failed)

        threading.Thread(target=look, name="resolver", daemon=True).start()
        return await told

    async def close(self) -> None:
        return


def _looked_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found: list[ResolveResult] = []
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    for kind, _, proto, _, address in socket.getaddrinfo(
        host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG
    ):
        # A link's own addresses name the link, which they do in words alone.
        where, service = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        found.append(
            ResolveResult(hostname=host, host=where, port=int(service), family=kind, proto=proto, flags=numeric)
        )
    return found


_PLAIN = frozenset({"GET", "POST"})
"""Methods that may go the usual way: a read may be repeated, and a POST never is."""


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request, and not again.

    aiohttp repeats what HTTP calls idempotent, a PUT say, when a connection breaks before the answer, on a fresh one
    too. Whether a row may be repeated the adapter declares, and the ledger has to know of it.
    https://www.rfc-editor.org/rfc/rfc9110.html#name-idempotent-methods
    """
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(*error.args) from error  # which it does not take for its own to mend


class Mounted:
    """An httpx transport in the place of the network: a simulated vendor, an application, a mock."""

    def __init__(self, transport: httpx.AsyncBaseTransport, seconds: float) -> None:
        self._transport = transport
        timeout = httpx.Timeout(connect=min(10.0, seconds), read=seconds, write=seconds, pool=seconds)
        self._extensions = {"timeout": timeout.as_dict()}

    async def exchange(self, request: Request) -> Reply | Fault:
        """Send a request, and read the answer up to the bound."""
        sent = httpx.Request(
            request.method,
            request.url,
            headers={**_HEADERS, **request.headers},
            content=request.body,
            extensions=self._extensions,
        )
        # Not through a client: its redirects, cookies, proxies and credentials are not wanted here.
        response = await self._transport.handle_async_request(sent)
        try:
            encoding = response.headers.get("content-encoding", "")
            pieces = response.aiter_raw() if encoding and not _asked_for(encoding) else response.aiter_bytes()
            return await _whole(response.status_code, dict(response.headers.items()), pieces)
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close what was mounted."""
        await self._transport.aclose()


async def _whole(status: int, headers: dict[str, str], pieces: AsyncIterator[bytes]) -> Reply | Fault:
    read, size = list[bytes](), 0
    async for piece in pieces:
        read.append(piece)
        size += len(piece)
        if size > MAX_REPLY:
            return Fault(kind=FaultKind.NO_ANSWER, name="ReplyTooLarge")
    return Reply(status=status, headers=headers, body=b"".join(read))


def _asked_for(encoding: str) -> bool:
    """Return whether a body is encoded in a way that we said we take, once.

    What is not stays as it is: a few bytes of another way, or of one around the other, may be gigabytes.
    """
    return encoding.strip().lower() in {"gzip", "deflate"}


def _headers(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by lower-case name; those that come several times joined."""
    try:
        pairs = [(name.decode("ascii").lower(), value.decode("ascii")) for name, value in raw]
    except UnicodeDecodeError:
        return dict(httpx.Headers(raw).items())
    headers: dict[str, str] = {}
    for name, value in pairs:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _refused(reply: Reply | Fault) -> bool:
    return isinstance(reply, Reply) and reply.status in {401, 403}


_NEVER_LEFT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)


def _fault(error: Exception) -> Fault:
    if type(error) is TimeoutError:  # those of aiohttp and of httpx say of what
        return Fault(kind=FaultKind.NO_ANSWER, name="Timeout", timeout=True)
    # A host that no name server can be asked for: `getaddrinfo` cannot write it in IDNA.
    unwritten = isinstance(error, UnicodeError) and not isinstance(error, UnicodeDecodeError)
    return Fault(
        kind=FaultKind.NEVER_LEFT if unwritten or isinstance(error, _NEVER_LEFT) else FaultKind.NO_ANSWER,
        name=type(error).__name__,
        timeout=isinstance(error, httpx.TimeoutException | TimeoutError),
    )
