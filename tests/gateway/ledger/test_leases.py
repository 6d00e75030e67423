"""What one process alone does at a time: nobody else gets it until it is given back, or its owner is gone."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import pytest

from gateway import turns
from gateway.errors import LedgerUnavailable
from gateway.ledger import Ledger
from gateway.ledger._redis.address import Address
from gateway.ledger.redis import RedisLedger
from gateway.turns import Turn
from tests.redis_servers import Server
from tests.waiting import until

LEASE = timedelta(seconds=1)


@contextlib.asynccontextmanager
async def sharing(folder: Path, count: int) -> AsyncGenerator[list[RedisLedger]]:
    server = Server(folder / "redis")
    ledgers = [RedisLedger(Address.read(f"redis://127.0.0.1:{server.port}/0"), lease=LEASE) for _ in range(count)]
    try:
        for one in ledgers:
            await one.open()
        yield ledgers
    finally:
        for one in ledgers:
            await one.close()
        server.kill()


async def test_one_alone_has_it_and_may_keep_it(ledger: Ledger) -> None:
    assert [True, True] == [await ledger.lease("a") for _ in range(2)]
    await ledger.give_back("a")
    await ledger.give_back("a")
    assert await ledger.lease("a")


async def test_others_get_it_when_it_is_given_back(tmp_path: Path) -> None:
    async with sharing(tmp_path, 2) as (first, second):
        assert [True, False, True] == [await first.lease("a"), await second.lease("a"), await second.lease("b")]
        await second.give_back("a")  # which it does not have
        assert not await second.lease("a")
        await first.give_back("a")
        assert [True, False] == [await second.lease("a"), await first.lease("a")]


async def test_others_get_it_when_its_owner_is_not_heard_of_any_more(tmp_path: Path) -> None:
    async with sharing(tmp_path, 2) as (first, second):
        assert await first.lease("a")
        assert first._beating is not None
        first._beating.cancel()
        await until(lambda: second.lease("a"), "it is never let go")
        assert first.fenced, "by then it knows that it does not have it"
        with pytest.raises(LedgerUnavailable):
            await first.lease("a")


async def test_others_get_it_when_its_owner_ends(tmp_path: Path) -> None:
    async with sharing(tmp_path, 2) as (first, second):
        assert await first.lease("a")
        await first.close()
        assert await second.lease("a")


async def test_turns_are_taken_one_after_the_other(tmp_path: Path) -> None:
    async with sharing(tmp_path, 3) as ledgers:
        turns = [Turn(one, "a") for one in ledgers]
        at_it, most = 0, 0

        async def work(turn: Turn) -> None:
            nonlocal at_it, most
            async with turn:
                at_it += 1
                most = max(most, at_it)
                await asyncio.sleep(0.001)
                at_it -= 1

        await asyncio.gather(*(work(turn) for turn in turns * 5))
        assert (0, 1) == (at_it, most)


async def test_a_turn_that_nobody_waits_for_any_more_is_given_back(tmp_path: Path) -> None:
    async with sharing(tmp_path, 2) as (first, second):
        mine, theirs = Turn(first, "a"), Turn(second, "a")

        async def turn(one: Turn) -> None:
            async with one:
                await asyncio.sleep(0)

        for after in (0.0, 0.0005, 0.001, 0.002):  # wherever it is
            going = asyncio.create_task(turn(mine))
            await asyncio.sleep(after)
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)
            await asyncio.wait_for(turn(theirs), 10)


async def test_a_turn_is_given_back_when_the_ledger_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "AGAIN", 0.01)
    async with sharing(tmp_path, 2) as (first, second):
        give_back, silent = first.give_back, 3

        async def deaf(name: str) -> None:
            nonlocal silent
            silent -= 1
            if silent > 0:
                raise LedgerUnavailable("no answer")
            await give_back(name)

        monkeypatch.setattr(first, "give_back", deaf)
        async with Turn(first, "a"):
            pass
        assert not await second.lease("a")
        await until(lambda: second.lease("a"), "it is never given back")


@pytest.mark.parametrize("here", [True, False])
async def test_whoever_waits_for_long_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, here: bool
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.2)
    async with sharing(tmp_path, 2) as (first, second):
        mine = Turn(first, "a")
        other = mine if here else Turn(second, "a")
        async with mine:
            with pytest.raises(LedgerUnavailable, match="others are a for long"):
                async with other:
                    raise AssertionError("it is not its turn")
        async with other:
            assert not await (second if here else first).lease("a")
