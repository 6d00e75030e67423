"""A harmless read, that tells whether a provider which was in trouble answers again."""

from adapters import AnyAdapter, CanProbe
from gateway.asking import AskFailed, ask
from gateway.lanes.hearing import Hearing
from gateway.times import Clock
from gateway.transport import Transport

__all__ = ["probed"]


async def probed(adapter: AnyAdapter, transport: Transport, clock: Clock, hearing: Hearing) -> None:
    """Ask: while that is not answered no delivery is risked, and none spends an attempt."""
    assert isinstance(adapter, CanProbe)
    began = clock.now()
    try:
        answer = await ask(transport, adapter.probe(), steps=1)
    except AskFailed as error:
        answer = error
    hearing.probe(answer, began, clock.now())
