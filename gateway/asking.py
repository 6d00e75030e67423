"""Asks a provider what its adapter knows how to ask: one request at a time over the destination's transport."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from adapters import Ask, Fault, FaultKind, Reply, Request
from gateway.errors import GatewayError

__all__ = ["STEPS", "AskFailed", "Asker", "Sends", "ask"]

T = TypeVar("T")

STEPS = 40
"""Requests that one ask may make. What it yields beyond comes back as a fault that never left."""
_WARNINGS = 3
_ENOUGH = Fault(kind=FaultKind.NEVER_LEFT, name="TooManyRequests")


class Sends(Protocol):
    """What carries an ask's requests: a destination's transport."""

    async def send(self, request: Request) -> Reply | Fault:
        """Send one request. Never raises for what a network or a provider does."""
        ...


class AskFailed(GatewayError):
    """Raised when an adapter stumbles over an answer, or does not end: a bug in the adapter, never shown the data."""


class Asker(Protocol):
    """Where a destination is asked: its lane, which keeps the rate limits."""

    async def ask(self, asked: Ask[T]) -> T:
        """Return the answer of something that the adapter can ask. Raises AskFailed for a bug of the adapter."""
        ...


async def ask(
    transport: Sends, asked: Ask[T], *, turn: Callable[[], Awaitable[None]] | None = None, steps: int = STEPS
) -> T:
    """Return the answer of one ask. `turn` is awaited before each request: the rate limits' word.

    Whatever a network or a provider does comes to the ask as a reply or a fault. After `steps` requests
    nothing more is sent, which the ask hears as a fault too. Raises AskFailed for the adapter's own bugs.
    """
    sent = 0
    answer: Reply | Fault | None = None
    try:
        while sent < steps + _WARNINGS:
            try:
                request = next(asked) if answer is None else asked.send(answer)
            except StopIteration as ended:
                return ended.value
            except Exception as error:  # noqa: BLE001  whatever the adapter's bug, the lane that asks goes on
                raise AskFailed(f"the adapter stumbled over an answer: {type(error).__name__}") from None
            sent += 1
            if sent > steps:
                answer = _ENOUGH
                continue
            if turn is not None:
                await turn()
            answer = await transport.send(request)
    finally:
        asked.close()
    raise AskFailed(f"the adapter goes on asking after {steps} requests")
