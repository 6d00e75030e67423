"""How many are let in at a time."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.lanes.slots import Slots
from tests.waiting import until


class Crowd:
    """Tasks that go in, stay until they are told to leave, and note who is in."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.slots = Slots(lambda: self.room)
        self.inside: list[int] = []
        self._may_leave: dict[int, asyncio.Event] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def come(self, number: int) -> None:
        self._may_leave[number] = asyncio.Event()
        self._tasks[number] = asyncio.create_task(self._stay(number))

    async def _stay(self, number: int) -> None:
        async with self.slots:
            self.inside.append(number)
            try:
                await self._may_leave[number].wait()
            finally:
                self.inside.remove(number)

    async def leave(self, number: int) -> None:
        self._may_leave[number].set()
        await self._tasks.pop(number)
        await self.rest()

    async def give_up(self, number: int) -> None:
        task = self._tasks.pop(number)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await self.rest()

    async def rest(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self) -> None:
        for number in list(self._tasks):
            await self.give_up(number)


@contextlib.asynccontextmanager
async def crowd(room: int, count: int = 0) -> AsyncGenerator[Crowd]:
    made = Crowd(room)
    for number in range(count):
        made.come(number)
    await made.rest()
    try:
        yield made
    finally:
        await made.end()


async def test_as_many_go_in_as_there_is_room_for_and_the_others_in_their_order() -> None:
    async with crowd(2, 5) as made:
        assert [0, 1] == made.inside
        await made.leave(1)
        assert [0, 2] == made.inside
        await made.leave(0)
        assert [2, 3] == made.inside


async def test_more_room_lets_more_in_when_one_leaves() -> None:
    async with crowd(1, 5) as made:
        made.room = 3
        await made.leave(0)
        assert [1, 2, 3] == made.inside


async def test_less_room_turns_nobody_out_and_lets_nobody_in() -> None:
    async with crowd(3, 5) as made:
        made.room = 1
        await made.leave(0)
        await made.leave(1)
        assert [2] == made.inside
        await made.leave(2)
        assert [3] == made.inside


async def test_who_gives_up_while_waiting_takes_nobody_s_turn() -> None:
    async with crowd(1, 3) as made:
        await made.give_up(1)
        await made.leave(0)
        assert [2] == made.inside


async def test_a_turn_that_comes_with_the_end_of_patience_goes_to_the_next() -> None:
    async with crowd(1, 3) as made:
        made._may_leave[0].set()
        await until(lambda: 0 not in made.inside)
        await made.give_up(1)
        await made.rest()
        assert [2] == made.inside


@given(moves=st.lists(st.tuples(st.sampled_from(["come", "leave", "give up", "room"]), st.integers(0, 9)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_nobody_is_kept_out_while_there_is_room(moves: list[tuple[str, int]]) -> None:
    asyncio.run(_moved(moves))


async def _moved(moves: list[tuple[str, int]]) -> None:
    async with crowd(2) as made:
        count = 0
        for move, what in moves:
            before, there = list(made.inside), sorted(made._tasks)
            match move:
                case "come":
                    made.come(count)
                    count += 1
                    await made.rest()
                    assert len(made.inside) <= max(len(before), made.room)
                case "leave" if before:
                    await made.leave(before[what % len(before)])
                    assert len(made.inside) >= min(made.room, len(made._tasks))
                case "give up" if there:
                    await made.give_up(there[what % len(there)])
                case _:
                    made.room = 1 + what % 4
            assert made.slots.taken == len(made.inside)
