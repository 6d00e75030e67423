"""The only module that talks to providers: one request out, one reply or one fault back."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import aiohttp
import httpx
import msgspec
import structlog
from httpx_aiohttp import AiohttpTransport

from adapters import AnyAdapter, Fault, FaultKind, Reply, Request
from gateway import __version__
from gateway.times import Clock, SystemClock

__all__ = ["Transport"]

log = structlog.get_logger("gateway.transport")

FIRST_AGAIN = timedelta(minutes=5)
"""While the previous key is used, how often the new one is tried."""
MAX_REPLY = 16 * 2**20
"""Bytes of a reply that are read; more makes it unreadable."""


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
        # Not through a client: nobody wants its redirects, cookies, proxies and credentials here, and over them it
        # takes as long as over all the rest of a request.
        self._http = mount or _pool(connections, reuse=adapter.door.dedupe is not None)
        timeouts = httpx.Timeout(connect=min(10.0, seconds), read=seconds, write=seconds, pool=seconds)
        self._extensions = {"timeout": timeouts.as_dict()}
        self._url = "", httpx.URL()
        """The last address, and that parsed: nearly all requests have one."""

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
                return await self._exchange(request)
        except TimeoutError:
            return Fault(kind=FaultKind.NO_ANSWER, name="Timeout", timeout=True)
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            httpx.StreamError,
            aiohttp.ClientError,
            OSError,
            UnicodeError,
        ) as error:
            return _fault(error)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def _exchange(self, request: Request) -> Reply | Fault:
        if request.url != self._url[0]:
            self._url = request.url, httpx.URL(request.url)
        sent = httpx.Request(
            request.method,
            self._url[1],
            headers={**_HEADERS, **request.headers},
            content=request.body,
            extensions=self._extensions,
        )
        response = await self._http.handle_async_request(sent)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_REPLY:
                    return Fault(kind=FaultKind.NO_ANSWER, name="ReplyTooLarge")
        finally:
            await response.aclose()
        try:
            decoded = msgspec.json.decode(body) if body else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded = None
        return Reply(
            status=response.status_code, headers=dict(response.headers.items()), body=bytes(body), json=decoded
        )


def _refused(reply: Reply | Fault) -> bool:
    return isinstance(reply, Reply) and reply.status in {401, 403}


def _pool(connections: int, *, reuse: bool) -> httpx.AsyncBaseTransport:
    # httpx's own pool costs milliseconds a request at 64 in flight and leaks slots under cancellation.
    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, force_close=not reuse),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    return AiohttpTransport(client=session)


_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)
_NEVER_LEFT_BELOW = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


def _fault(error: Exception) -> Fault:
    # httpx-aiohttp calls every ClientConnectionError a ConnectTimeout, a reset while waiting for the answer among
    # them. Such a request may have arrived, so the exception underneath decides.
    # https://github.com/karpetrosyan/httpx-aiohttp
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else None
    never_left = isinstance(error, _NEVER_LEFT) if cause is None else isinstance(cause, _NEVER_LEFT_BELOW)
    # A host that no name server can be asked for: `getaddrinfo` cannot write it in IDNA.
    never_left = never_left or (isinstance(error, UnicodeError) and not isinstance(error, UnicodeDecodeError))
    named = cause or error
    return Fault(
        kind=FaultKind.NEVER_LEFT if never_left else FaultKind.NO_ANSWER,
        name=type(named).__name__,
        timeout=isinstance(named, httpx.TimeoutException | TimeoutError),
    )
