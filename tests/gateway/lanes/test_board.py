"""The board: who waits hears of every end, whenever it comes, and of nothing else."""

import asyncio
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from gateway.lanes.board import Board

FAR = 60.0


async def soon(waiting: "asyncio.Future[bool]") -> bool:
    """Return whether it ends by itself, now."""
    for _ in range(10):
        await asyncio.sleep(0)
    return waiting.done()


async def test_what_ends_while_one_waits_ends_the_wait() -> None:
    board = Board()
    with board.watch() as watch:
        waiting = asyncio.ensure_future(watch.until_ended([(1, 0, "a"), (1, 1, "a"), (2, 0, "b")], FAR))
        for batch, name, members in ((1, "a", [0]), (2, "a", [0]), (1, "b", [1]), (1, "a", [5, 1])):
            board.post(batch, name, members)
            assert not await soon(waiting)
        board.post(2, "b", [0])
        assert await soon(waiting)


async def test_what_ended_before_one_waits_is_not_missed() -> None:
    board = Board()
    with board.watch() as watch:
        board.post(1, "a", [0, 1])
        assert await soon(asyncio.ensure_future(watch.until_ended([(1, 0, "a"), (1, 1, "a")], FAR)))


async def test_the_wait_is_over_when_the_time_is_up() -> None:
    board = Board()
    with board.watch() as watch:
        assert not await watch.until_ended([(1, 0, "a")], 0.01)
        assert await watch.until_ended([], FAR)


async def test_who_is_dismissed_waits_no_longer_nor_does_who_comes_later() -> None:
    board = Board()
    with board.watch() as watch:
        waiting = asyncio.ensure_future(watch.until_ended([(1, 0, "a")], FAR))
        assert not await soon(waiting)
        board.dismiss()
        assert await soon(waiting)
    with board.watch() as watch:
        assert await soon(asyncio.ensure_future(watch.until_ended([(1, 0, "a")], FAR)))


async def test_nobody_waits_after_leaving() -> None:
    board = Board()
    with board.watch(), board.watch():
        assert 2 == len(board._waits)
    assert set() == board._waits
    board.post(1, "a", [0])


async def test_each_hears_for_itself() -> None:
    board = Board()
    with board.watch() as one, board.watch() as two:
        first = asyncio.ensure_future(one.until_ended([(1, 0, "a")], FAR))
        second = asyncio.ensure_future(two.until_ended([(1, 0, "a"), (1, 1, "a")], FAR))
        await asyncio.sleep(0)
        board.post(1, "a", [0])
        assert (True, False) == (await soon(first), await soon(second))
        board.post(1, "a", [1])
        assert await soon(second)


deliveries = st.tuples(st.integers(1, 3), st.integers(0, 3), st.sampled_from("ab"))


@given(st.sets(deliveries), st.lists(deliveries), st.integers(0, 20))
async def test_the_wait_ends_exactly_when_everything_has(
    awaited: set[tuple[int, int, str]], ended: list[tuple[int, int, str]], before: int
) -> None:
    board = Board()
    with board.watch() as watch:
        for batch, index, name in ended[:before]:
            board.post(batch, name, [index])
        waiting = asyncio.ensure_future(watch.until_ended(awaited, FAR))
        await asyncio.sleep(0)
        for batch, index, name in ended[before:]:
            board.post(batch, name, [index])
        for _ in range(5):
            await asyncio.sleep(0)
        assert waiting.done() is (awaited <= set(ended))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_post_that_nobody_waits_for_costs_nobody_its_size() -> None:
    board = Board()
    with board.watch() as watch:
        waiting = asyncio.ensure_future(watch.until_ended([(1, 0, "a")], FAR))
        await asyncio.sleep(0)
        board.post(2, "a", Unread())
        board.post(1, "b", Unread())
        board.post(1, "a", [0])
        assert await soon(waiting)


class Unread(list[int]):
    """Members that nobody may look at."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("looked at")
