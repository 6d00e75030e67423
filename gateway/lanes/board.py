"""Where those who wait for deliveries are told that they ended."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Self

__all__ = ["Board", "Wait"]


class Board:
    """Lanes post what ended; requests that wait for it take notice."""

    def __init__(self) -> None:
        self._waits: set[Wait] = set()
        self._dismissed = False

    def post(self, batch: int, destination: str, members: Sequence[int]) -> None:
        """Tell that deliveries ended, or are blocked until an operator acts."""
        for wait in tuple(self._waits):
            wait.note(batch, destination, members)

    def watch(self) -> "Wait":
        """Begin to take notice; to be used as a context manager, opened before anything can end."""
        wait = Wait(self._waits)
        if self._dismissed:
            wait.dismiss()
        return wait

    def dismiss(self) -> None:
        """Have nobody wait any longer, now or later: the process ends, and who asked is to hear how things stand."""
        self._dismissed = True
        for wait in self._waits:
            wait.dismiss()


class Wait:
    """What one request waits for: nothing that ends between storing and waiting is missed."""

    def __init__(self, waits: "set[Wait]") -> None:
        self._waits = waits
        self._ended: list[tuple[int, str, Sequence[int]]] = []
        self._open: dict[tuple[int, str], set[int]] | None = None
        self._done = asyncio.Event()

    def __enter__(self) -> Self:
        self._waits.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._waits.discard(self)

    def note(self, batch: int, destination: str, members: Sequence[int]) -> None:
        """Take notice of deliveries that ended. Costs next to nothing where nobody here waits for them."""
        if self._open is None:
            self._ended.append((batch, destination, members))
            return
        waiting = self._open.get((batch, destination))
        if waiting is None:
            return
        waiting.difference_update(members)
        if not waiting:
            del self._open[batch, destination]
        if not self._open:
            self._done.set()

    def dismiss(self) -> None:
        """End the wait, whatever is still open."""
        self._done.set()

    async def until_ended(self, deliveries: Iterable[tuple[int, int, str]], seconds: float) -> bool:
        """Return when all of these (batch, index, destination) have ended, or the time is up: then it is False."""
        self._open = {}
        for batch, index, destination in deliveries:
            self._open.setdefault((batch, destination), set()).add(index)
        ended, self._ended = self._ended, []
        for batch, destination, members in ended:
            self.note(batch, destination, members)
        if not self._open:
            return True
        try:
            await asyncio.wait_for(self._done.wait(), seconds)
        except TimeoutError:
            return False
        return True
