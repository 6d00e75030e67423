"""A simulated vendor behind an httpx client, in process: faults become httpx's own exceptions, and nothing sleeps."""

from collections.abc import Mapping
from typing import Protocol, cast

import httpx

from gateway.simulator.faults import Answer

__all__ = ["SimulatedTransport", "Vendor", "respond"]


class Vendor(Protocol):
    """Whoever takes requests as a vendor does."""

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes, query: str = "") -> Answer:
        """Take one request. `path` is what follows the base URL; header names are lower case."""
        ...

    def relative(self, url: str, base_url: str | None = None) -> str | None:
        """Return what follows the base URL in an address, without its query; `None` where it is elsewhere."""
        ...


class SimulatedTransport(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """Leads every request of a client to one simulated vendor; for `AsyncClient` and `Client`."""

    def __init__(self, provider: Vendor, base_url: str | None) -> None:
        self._provider = provider
        self._base_url = base_url

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return respond(self._provider, request, self._base_url)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return respond(self._provider, request, self._base_url)


def respond(provider: Vendor, request: httpx.Request, base_url: str | None = None) -> httpx.Response:
    """Answer a request whose body is read, or raise what httpx would.

    A wait longer than the client's read time-out is a ReadTimeout at once; a shorter one is no wait at all.
    """
    path = provider.relative(str(request.url), base_url)
    headers = {name.lower(): value for name, value in request.headers.items()}
    query = request.url.query.decode("ascii")
    result = provider.handle(request.method, path or "", headers, request.content, query)
    timeouts = cast("Mapping[str, float | None]", request.extensions.get("timeout", {}))
    read = timeouts.get("read")
    late = read is not None and result.delay > read
    if result.how == "refused":
        raise httpx.ConnectError("All connection attempts failed", request=request)
    if result.how == "hang" or late:
        raise httpx.ReadTimeout("The read operation timed out", request=request)
    if result.how == "half":
        raise httpx.RemoteProtocolError("peer closed connection without sending complete message body", request=request)
    if result.reply is None:
        raise httpx.ReadError("Connection reset by peer", request=request)
    reply = result.reply
    return httpx.Response(reply.status, headers=dict(reply.headers), content=reply.body, request=request)
