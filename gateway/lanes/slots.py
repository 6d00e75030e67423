"""Requests that may be on their way at a time: as many as the pace allows at that moment."""

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Slots"]


class Slots:
    """Lets in first who came first, while there is room; how much there is may change at any time."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.taken = 0

    async def __aenter__(self) -> None:
        if self._waiting or self.taken >= max(1, self._most()):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn  # taken in our name by who let us in
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()
                raise
        else:
            self.taken += 1

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self.taken -= 1
        while self._waiting and self.taken < max(1, self._most()):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self.taken += 1
