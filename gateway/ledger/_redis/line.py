"""A connection of its own to one server: several commands at once, and their answers in order."""

import asyncio
import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as TimedOut

__all__ = ["Command", "Line", "resets_told"]

Command = tuple[bytes | str | int, ...]
# What redis-py packs with is written in Python, and takes ten times as long.
_packed: Callable[[Command], bytes] = cast("Any", hiredis).pack_command


@contextlib.contextmanager
def resets_told() -> Generator[None]:
    """Raise what comes of a connection that was reset since it was last used as what comes of any that is lost.

    Uvloop refuses to write to one with a RuntimeError, where asyncio raises an OSError, and redis-py lets it through.
    https://github.com/MagicStack/uvloop/blob/v0.21.0/uvloop/handles/handle.pyx
    """
    try:
        yield
    except RuntimeError as error:
        raise Unconnected(f"the connection was lost: {error}") from error


class Line:
    """One connection, for one trip at a time. Nothing is asked twice: what to do about trouble is the caller's.

    It takes a third of the processor time that a pipeline over redis-py's pool takes, which sends in a task of its own
    and sets a timer for each answer.
    """

    def __init__(self, client: Redis, connected: Callable[[], None]) -> None:
        """`client` says where the server is, and how it is spoken to; `connected` is told of each new connection."""
        self.client = client
        self._connected = connected
        self._connection = cast("Any", client.connection_pool).make_connection()
        self._timeout: float = self._connection.socket_timeout

    async def ask(self, commands: Sequence[Command], first: Sequence[Command] = ()) -> list[Any]:
        """Return what the server answers to each, an error where it refuses one.

        `first` is asked before that over a connection that is new, and over the next one where any of it is refused.

        Raises RedisError or OSError where an answer is missing: then nobody knows what was done.
        """
        connection = self._connection
        answers: list[Any] = []
        before = 0
        try:
            if (
                not connection.is_connected or await connection.can_read()
            ):  # closed meanwhile, or somebody else's answer
                await self._connect()
                commands, before = [*first, *commands], len(first)
            async with asyncio.timeout(self._timeout) as limit:
                with resets_told():
                    await connection.send_packed_command([_packed(one) for one in commands], check_health=False)
                for _ in commands:
                    if answers:
                        limit.reschedule(asyncio.get_running_loop().time() + self._timeout)
                    try:
                        answers.append(await connection.read_response())
                    except ResponseError as error:
                        answers.append(error)
        except BaseException as error:
            await connection.disconnect(nowait=True)  # what comes over it yet would be taken for another's answer
            if isinstance(error, TimeoutError):
                raise TimedOut(f"no answer within {self._timeout} s") from None
            raise
        if any(isinstance(one, ResponseError) for one in answers[:before]):
            await connection.disconnect(nowait=True)
        return answers[before:]

    async def _connect(self) -> None:
        connection = self._connection
        await connection.disconnect(nowait=True)
        connection.socket_timeout = self._timeout  # for each step of introducing itself
        await connection.connect()
        connection.socket_timeout = None  # a trip has one timer
        self._connected()

    async def close(self) -> None:
        """Let go of the connection."""
        await self._connection.disconnect()
