"""What the parts of the Redis ledger stand on: its partitions, and how they are asked."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from canonical_schema import Event
from gateway.errors import LedgerUnavailable
from gateway.ledger._kept import Remains
from gateway.ledger._model import Moved
from gateway.ledger._redis.batches import Batch, Batches
from gateway.ledger._redis.layout import PARTITIONS, unpack_runs
from gateway.ledger._redis.link import Link
from gateway.ledger._redis.owners import Owners
from gateway.ledger._rows import unpack_events, unpack_times

__all__ = ["Base", "numbers", "pairs", "remains", "together"]

T = TypeVar("T")

PROMPT = 0.5
"""Seconds for which a partition is waited for where the others can do without it."""


class Base:
    """The partitions of a ledger that is open, what is at hand of its batches, and who shares it."""

    def __init__(self, owners: Owners) -> None:
        self._links: Sequence[Link] = ()
        self._batches = Batches(self._bodies)
        self._owners = owners
        self._calls: set[asyncio.Task[Any]] = set()
        self._alone: set[str] = set()
        """Destinations that the leading process alone sends to."""
        self._newer: int | None = None
        """The version that the ledger has, where another process made it newer than this one knows."""
        self._late: dict[tuple[str, Link], asyncio.Task[Any]] = {}
        """What partitions were asked and have not answered yet: none is asked that a second time meanwhile."""

    def _opened(self) -> Sequence[Link]:
        if not self._links:
            raise LedgerUnavailable("the ledger is closed")
        if self._newer is not None:
            raise LedgerUnavailable(f"the ledger has version {self._newer} by now: stop this gateway, install a newer")
        return self._links

    def _link(self, batch: int) -> Link | None:
        """Return the partition of a batch; `None` for a number that none can have."""
        links = self._opened()
        return links[batch % PARTITIONS] if batch % PARTITIONS < len(links) else None

    async def _everywhere(self, ask: Callable[[Link], Awaitable[T]]) -> list[T]:
        """Ask every partition, all at the same time."""
        return await together(ask(link) for link in self._opened())

    async def _reached(self, what: str, ask: Callable[[Link], Awaitable[T]]) -> tuple[list[T], bool]:
        """Return what those partitions answer that can be reached, and whether that is all of them.

        For what only reads, and is asked again and again: a master that is gone holds up nothing but its own part.
        Raises LedgerUnavailable where none can be reached.
        """
        links = self._opened()
        if len(links) == 1:
            return [await ask(links[0])], True
        known = [self._late.get((what, link)) for link in links]
        asked = [self._asked(what, link, ask) if one is None else one for one, link in zip(known, links, strict=True)]
        # Those that were late before get no more time; where all were asked a moment ago, their answers are shared.
        fresh = [task for task, one in zip(asked, known, strict=True) if one is None]
        await asyncio.wait(fresh or asked, timeout=PROMPT)
        if not any(task.done() and task.exception() is None for task in asked):
            await asyncio.wait(asked)
        failures = [failure for task in asked if task.done() and (failure := task.exception()) is not None]
        answers: list[T] = [task.result() for task in asked if task.done() and task.exception() is None]
        if not answers:
            raise failures[0]
        return answers, len(answers) == len(links)

    def _asked(self, what: str, link: Link, ask: Callable[[Link], Awaitable[T]]) -> asyncio.Task[T]:
        async def answer() -> T:
            try:
                return await ask(link)
            finally:
                del self._late[what, link]

        task = self._late[what, link] = asyncio.create_task(answer())
        self._calls.add(task)
        task.add_done_callback(self._ended)
        return task

    async def _whole(self, write: Coroutine[Any, Any, T]) -> T:
        """Finish what is begun, also where the one who wanted it goes away."""
        task = asyncio.ensure_future(write)
        self._calls.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # who wanted to know has gone

    async def _bodies(self, wanted: Sequence[int]) -> Mapping[int, Batch]:
        """Return what batches brought."""
        by_link: dict[Link, list[int]] = {}
        for number in wanted:
            if (link := self._link(number)) is not None:
                by_link.setdefault(link, []).append(number)
        found: dict[int, Batch] = {}
        for link, some in by_link.items():
            answer: list[bytes] = await link.run("bodies", len(some), *some)
            for number, row in zip(some, zip(*(answer[at::7] for at in range(7)), strict=True), strict=True):
                tenant, received, body, receipts, *left = row
                if received:
                    events: Sequence[Event] = unpack_events(body) if body else []
                    found[number] = Batch(
                        tenant.decode(), int(received), events, remains(*left), unpack_times(receipts)
                    )
        return found


async def together(asked: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all of them, also where one fails; then the first failure is raised."""
    wanted = list(asked)
    if len(wanted) == 1:
        return [await wanted[0]]
    ended = await asyncio.gather(*wanted, return_exceptions=True)
    found: list[T] = []
    for one in ended:
        if isinstance(one, BaseException):
            raise one
        found.append(one)
    return found


def remains(prints: bytes, erased: bytes, trimmed: bytes) -> Remains | None:
    """Return what is left of a batch whose content went, or some of it; `None` where all of it is there."""
    if not prints:
        return None
    segment = trimmed[1:].decode() or None
    return Remains(prints=prints, erased=frozenset(unpack_runs(erased)), trimmed=bool(trimmed), segment=segment)


def numbers(answer: Sequence[Any]) -> list[int]:
    """Return the numbers of an answer that begins with whether it was done. Raises Moved where it was not."""
    done, *found = answer
    if not done:
        raise Moved(f"work {int(found[0])} no longer holds what was to be changed")
    return [int(number) for number in found]


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return a flat list of names and values as a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
