"""Writes that share a write: each caller hears of its own, and one that fails alone fails nobody else."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.errors import LedgerUnavailable
from gateway.lanes.joining import Joined
from gateway.ledger import AttemptRow, Change, Code, Moved


def change(work: int) -> Change:
    return Change(work=work, batch=1, destination="it", members=[work], code=Code.ACCEPTED, group=None)


class Book:
    """Takes writes one at a time, when it is let; refuses some works in the ledger's ways."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.open = asyncio.Event()
        self.refused: dict[int, Exception] = {}

    async def write(self, changes: Sequence[Change], attempts: Sequence[AttemptRow]) -> None:
        await self.open.wait()
        works = [one.work for one in changes]
        for work in works:
            if work in self.refused:
                raise self.refused[work]
        self.written.append(works)


async def started(joined: Joined, works: Sequence[int]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(joined([change(work)], [])) for work in works]
    await asyncio.sleep(0)
    return tasks


async def test_what_comes_while_a_write_is_on_its_way_shares_the_next_one() -> None:
    book = Book()
    joined = Joined(book.write)
    tasks = await started(joined, [1])
    await asyncio.sleep(0)
    tasks += await started(joined, [2, 3, 4])
    assert not any(task.done() for task in tasks), "nothing is written yet"
    book.open.set()
    await asyncio.gather(*tasks)
    assert [[1], [2, 3, 4]] == book.written


async def test_whoever_lost_its_work_to_a_person_is_told_and_the_others_are_written() -> None:
    book = Book()
    book.refused[2] = Moved("work 2 is gone")
    book.open.set()
    said = await asyncio.gather(*await started(Joined(book.write), [1, 2, 3]), return_exceptions=True)
    assert [None, book.refused[2], None] == said
    assert [[1], [3]] == book.written


async def test_where_nothing_can_be_written_everyone_is_told_and_the_next_write_is_tried_anew() -> None:
    book = Book()
    book.refused[2] = LedgerUnavailable("disk full")
    book.open.set()
    joined = Joined(book.write)
    said = await asyncio.gather(*await started(joined, [1, 2]), return_exceptions=True)
    assert [book.refused[2]] * 2 == said
    del book.refused[2]
    await joined([change(2)], [])
    assert [[2]] == book.written


async def test_a_caller_that_goes_away_takes_nobody_with_it() -> None:
    book = Book()
    joined = Joined(book.write)
    first, second = await started(joined, [1, 2])
    first.cancel()
    await asyncio.sleep(0)
    book.open.set()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert [[1, 2]] == book.written, "what it brought was true all the same"
