"""Where those who wait for deliveries are told that they ended."""

import asyncio
from collections.abc import Iterable
from typing import Self

__all__ = ["Board", "Wait"]


class Board:
    """Lanes post what ended; requests that wait for it take notice."""

    def __init__(self) -> None:
        self._waits: set[Wait] = set()

    def post(self, batch: int, destination: str, members: Iterable[int]) -> None:
        """Tell that deliveries ended, or are blocked until an operator acts."""
        if not self._waits:
            return
        ended = {(batch, index, destination) for index in members}
        for wait in tuple(self._waits):
            wait.note(ended)

    def watch(self) -> "Wait":
        """Begin to take notice; to be used as a context manager, opened before anything can end."""
        return Wait(self._waits)


class Wait:
    """What one request waits for: nothing that ends between storing and waiting is missed."""

    def __init__(self, waits: "set[Wait]") -> None:
        self._waits = waits
        self._ended: set[tuple[int, int, str]] = set()
        self._open: set[tuple[int, int, str]] | None = None
        self._done = asyncio.Event()

    def __enter__(self) -> Self:
        self._waits.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._waits.discard(self)

    def note(self, ended: set[tuple[int, int, str]]) -> None:
        """Take notice of deliveries that ended."""
        if self._open is None:
            self._ended |= ended
            return
        self._open -= ended
        if not self._open:
            self._done.set()

    async def until_ended(self, deliveries: Iterable[tuple[int, int, str]], seconds: float) -> None:
        """Return when all of these (batch, index, destination) have ended, or when the time is up."""
        self._open = set(deliveries) - self._ended
        if not self._open:
            return
        try:
            await asyncio.wait_for(self._done.wait(), seconds)
        except TimeoutError:
            return
