"""A backlog of any size: what is asked every second, or before each request, does not read it through."""

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.ledger import Code, Plan, SqliteLedger, WorkState
from tests.gateway.ledger.conftest import ERROR, TENANT, SqliteStore, change, event, opened, sending

LOOKS: dict[str, Callable[[SqliteLedger], Awaitable[object]]] = {
    "depth": lambda ledger: ledger.depth(),
    "letters": lambda ledger: ledger.in_state([WorkState.DEAD], None),
    "letters of one": lambda ledger: ledger.in_state([WorkState.DEAD], "a"),
    "next due": lambda ledger: ledger.next_due("a"),
    "take": lambda ledger: ledger.take("a", 9000, 10),
    "overdue": lambda ledger: ledger.overdue("a", 9000, 10),
}
FEW, MANY = 50, 1000


class Steps:
    """Counts what SQLite does, in steps of its own machine."""

    def __init__(self) -> None:
        self.taken = 0

    def step(self) -> int:
        self.taken += 1
        return 0


async def counted(ledger: SqliteLedger) -> Steps:
    steps = Steps()
    ledger._reader.set_progress_handler(steps.step, 1)
    await ledger._writer.do(lambda connection: connection.set_progress_handler(steps.step, 1))
    return steps


async def fill(ledger: SqliteLedger, first: int, last: int) -> None:
    for number in range(first, last):
        await ledger.record(
            TENANT, 1000 + number, [event(f"e{number}")], [Plan(live=("a", "b"), windows=(("a", 8000),))]
        )


async def test_no_look_reads_a_backlog_through(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path)) as ledger:
        assert isinstance(ledger, SqliteLedger)
        await fill(ledger, 0, FEW)
        steps, took = await counted(ledger), dict[str, list[int]]()
        for size in (FEW, MANY):
            await fill(ledger, FEW, size)
            for name, look in LOOKS.items():
                before = steps.taken
                await look(ledger)
                took.setdefault(name, []).append(steps.taken - before)
        assert {name for name, (few, many) in took.items() if many > 1.2 * few} == set(), took


async def test_what_waits_is_counted_again_when_the_file_is_opened(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    async with opened(store) as ledger:
        await ledger.record(TENANT, 3000, [event("e0"), event("e1")], [Plan(live=("a",))] * 2)
        await sending(ledger, [1])
        before = await ledger.depth()
    async with opened(store) as ledger:
        assert before == await ledger.depth()
        assert (1, 1, 3000) == (before["a"].ready, before["a"].sending, before["a"].oldest)


async def test_a_count_is_taken_back_with_what_it_counts(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path)) as ledger:
        assert isinstance(ledger, SqliteLedger)
        await ledger.record(TENANT, 3000, [event("e0")], [Plan(live=("a",))])
        before = await ledger.depth()

        def fails(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM work")
            raise ValueError("taken back")

        with pytest.raises(ValueError, match="taken back"):
            await ledger._writer.do(fails)
        assert before == await ledger.depth()


async def test_the_oldest_is_told_though_what_is_older_is_done(tmp_path: Path) -> None:
    minute = 60_000_000
    async with opened(SqliteStore(tmp_path)) as ledger:
        await ledger.record(TENANT, 3000, [event("e0")], [Plan(live=("a",))])
        work, held_by = await sending(ledger)
        for number in (2, 3):
            await ledger.record(TENANT, minute * number, [event(f"e{number}")], [Plan(live=("a",))])
        assert 3000 == (await ledger.depth())["a"].oldest
        await ledger.record(TENANT, 2000, [event("earlier")], [Plan(shadow=("b",))])
        await ledger.record(TENANT, 1000, [event("earliest")], [Plan(shadow=("b",))])
        assert 1000 == (await ledger.depth())["b"].oldest
        await ledger.settle([change(work, held_by, [0], Code.ACCEPTED)], [])
        assert 2 * minute == (await ledger.depth())["a"].oldest
        await ledger.hold("a", ERROR)
        depth = (await ledger.depth())["a"]
        assert (0, 2, 2 * minute) == (depth.ready, depth.blocked, depth.oldest)
