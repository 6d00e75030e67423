"""Reads usage back from a destination: paced as its lane is, trouble tried again, and never taken for a zero."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from adapters import (
    Ask,
    Billed,
    Binding,
    CanReadCharges,
    CanReadUsage,
    Fault,
    Link,
    Read,
    Reply,
    Request,
    Take,
    Unread,
    UnreadKind,
    Wanted,
    Window,
    retry_after,
)
from gateway.asking import AskFailed, ask
from gateway.service import Gateway
from gateway.transport import Transport

__all__ = ["Reader", "name_of"]

T = TypeVar("T")

STEPS = 100_000
"""Requests of one read; a page is at least a hundred rows wherever there are pages."""
TRIES = 5
"""Of one request. A read changes nothing, so that it can always be tried again."""
PAUSE = timedelta(seconds=1)
LONGEST = timedelta(minutes=2)


class Reader:
    """Reads from one destination, over connections of its own."""

    def __init__(self, gateway: Gateway, destination: str) -> None:
        self._gateway = gateway
        self._clock = gateway.clock
        self.adapter = gateway.catalogue.destinations[destination].adapter
        self._destination = destination
        self._transport = gateway.reader(destination)
        self.requests = 0

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def usage(
        self, window: Window, bindings: Mapping[str, Binding], link: Link | None, take: Take, key: str | None = None
    ) -> Read | Unread:
        """Read some meters over a window, of one customer or of all, handing rows over as they come.

        `key`: no other row than this one's is needed.
        """
        if not isinstance(self.adapter, CanReadUsage) or self.adapter.door.read_back is None:
            title = self.adapter.spec.title
            return Unread(kind=UnreadKind.UNSUPPORTED, why=f"usage cannot be read back from {title}")
        if not bindings:
            return Read(window=window)
        wanted = Wanted(window=window, bindings=bindings, link=link, key=key, now=self._clock.now())
        return await self.ask(self.adapter.read_usage(wanted, take))

    async def charges(self, window: Window, link: Link) -> Billed | Unread | None:
        """Read what one customer will be charged; `None`: this provider cannot be asked."""
        if not isinstance(self.adapter, CanReadCharges):
            return None
        wanted = Wanted(window=window, bindings={}, link=link, now=self._clock.now())
        return await self.ask(self.adapter.read_charges(wanted, lifetime=False))

    async def ask(self, asked: Ask[T | Unread]) -> T | Unread:
        """Return the answer to anything that the adapter can ask."""
        lane = self._gateway.lanes.get(self._destination)  # whichever keeps to the limits by now
        steady = _Steady(self._transport, self._clock.now, self._pause)
        try:
            return await ask(steady, asked, turn=None if lane is None else lane.turn, steps=STEPS)
        except AskFailed as error:
            return Unread(kind=UnreadKind.TROUBLE, why=str(error))
        finally:
            self.requests += steady.sent

    async def _pause(self, span: timedelta) -> None:
        await self._clock.wait(asyncio.Event(), self._clock.now() + span)


class _Steady:
    """A transport that tries a read again where that may help."""

    def __init__(
        self, transport: Transport, now: Callable[[], datetime], pause: Callable[[timedelta], Awaitable[None]]
    ) -> None:
        self._transport = transport
        self._now = now
        self._pause = pause
        self.sent = 0

    async def send(self, request: Request) -> Reply | Fault:
        """Send one request; again after a pause where there was no usable answer."""
        pause = PAUSE
        for left in reversed(range(TRIES)):
            self.sent += 1
            answer = await self._transport.send(request)
            if not left or (isinstance(answer, Reply) and answer.status != 429 and answer.status < 500):
                return answer
            asked = None if isinstance(answer, Fault) else retry_after(answer, self._now())
            await self._pause(min(max(pause, asked or pause), LONGEST))
            pause *= 2
        raise AssertionError("unreachable")


def name_of(link: Link) -> str:
    """Return what a provider calls a customer."""
    return next((str(value) for name in link.names if (value := getattr(link, name)) is not None), "")
