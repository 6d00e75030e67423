"""Calls to the server: those that wait while others are on their way share the next trip; what is lost is repeated.

A script that ran and whose answer was lost is asked for again with the same token, and answers the same.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import structlog
from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import TimeoutError as TimedOut

from gateway.errors import LedgerUnavailable
from gateway.ledger._redis.line import Command, Line
from gateway.ledger._redis.scripts import Script, script
from gateway.ledger._redis.topology import Topology

__all__ = ["BRIEF", "LONG", "Argument", "Link", "Replicas"]

log = structlog.get_logger()

Argument = bytes | str | int
BRIEF, LONG = 2.0, 15.0
"""Seconds for which trouble is waited out: by what can be refused, and by what must not be lost."""
TOGETHER = 64
"""Calls that share a trip at most."""
SKIPPED = 10_000
"""Numbers that are passed over where lost batches may have had them: as many as of ten seconds."""
HEAVY = 16 * 2**20
"""Bytes that share a trip at most, unless one call alone is more."""

_ELSEWHERE = (
    *(MovedError, AskError, TryAgainError, ClusterDownError, MasterDownError, ReadOnlyError, BusyLoadingError),
    NoScriptError,  # though it was brought: another server has taken the place of that one
)
_PASSING = (
    *("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "BUSY", "UNBLOCKED"),
    *("NOREPLICAS", "MISCONF"),
)
_PASSING_WORDS = ("non local key", "in a cluster node", "replica instances")


class Replicas(NamedTuple):
    """How many copies a write waits for."""

    copies: int
    synced: bool
    """Until it is on their disks, where the server can tell (WAITAOF), not in their memory alone (WAIT)."""
    milliseconds: int


class Trouble(Exception):
    """Raised within: it may pass, and the call may or may not have run."""


class _Call(NamedTuple):
    script: Script | None
    """`None`: the arguments are a command of the server's own, that may run twice."""
    arguments: Sequence[Argument]
    answer: asyncio.Future[Any]

    def command(self, tag: bytes) -> tuple[Argument, ...]:
        if self.script is None:
            return (*self.arguments,)
        return ("EVALSHA", self.script.sha, 1, tag, *self.arguments)


class Link:
    """One partition's way to the server that answers for it at the moment."""

    def __init__(
        self, topology: Topology, tag: bytes, *, brief: float = BRIEF, connected: Callable[[], None] = lambda: None
    ) -> None:
        """`brief`: seconds for which trouble is waited out by what can be refused.

        `connected` is told before anything is asked over a new connection: the server may be another one by now.
        """
        self.tag = tag
        self._connected = connected
        self._brief = brief
        self.replicas: Replicas | None = None
        self._topology = topology
        self._waiting: dict[bool, deque[_Call]] = {True: deque(), False: deque()}
        self._trips: dict[bool, asyncio.Task[None] | None] = {True: None, False: None}
        self._lines: dict[bool, Line] = {}
        self._astray: set[bool] = set()
        """Which of them lead to a server that is no master any more: its name may be another's by now."""

    async def run(self, name: str, *arguments: Argument, patience: float | None = None) -> Any:
        """Return what a script answers. Tries again for `patience` seconds, or a brief while, while trouble may pass.

        Raises LedgerUnavailable where it cannot be done, or nobody can tell whether it was.
        """
        one = script(name)
        return await self._patiently(one, arguments, self._brief if patience is None else patience, writes=one.writes)

    async def ask(self, command: str, key: str, *arguments: Argument, writes: bool = False) -> Any:
        """Return what a plain command answers about a key of this partition, named without its tag."""
        return await self._patiently(None, (command, self.tag + key.encode(), *arguments), self._brief, writes=writes)

    async def _patiently(
        self, one: Script | None, arguments: Sequence[Argument], patience: float, *, writes: bool
    ) -> Any:
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + patience, 0.02
        while True:
            seen = self._topology.looked
            try:
                return await self._once(one, arguments, writes=writes)
            except Trouble as trouble:
                if loop.time() + pause >= end:
                    raise LedgerUnavailable(f"the ledger cannot be reached: {trouble}") from None
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, 0.5)
            try:
                await self._topology.look_again(seen)
            except LedgerUnavailable:
                if loop.time() >= end:
                    raise

    async def close(self) -> None:
        """Return when nothing is on its way."""
        for trip in self._trips.values():
            if trip is not None:
                await trip
        for line in self._lines.values():
            await line.close()
        self._lines.clear()

    async def _once(self, one: Script | None, arguments: Sequence[Argument], *, writes: bool) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # What only reads is not kept waiting by what is being made durable.
        self._waiting[writes].append(_Call(one, arguments, answer))
        trip = self._trips[writes]
        if trip is None or trip.done():
            self._trips[writes] = asyncio.create_task(self._travel(writes=writes))
        return await answer

    async def _travel(self, *, writes: bool) -> None:
        waiting = self._waiting[writes]
        while waiting:
            calls: list[_Call] = []
            weight = 0
            while waiting and len(calls) < TOGETHER and (weight < HEAVY or not calls):
                call = waiting.popleft()
                weight += sum(len(one) for one in call.arguments if isinstance(one, bytes))
                calls.append(call)
            try:
                answers: Sequence[Any] = await self._trip(calls, writes=writes)
            except Exception as error:  # noqa: BLE001  those who wait must hear, whatever it is
                answers = [_judged(error, "")] * len(calls)
            for call, found in zip(calls, answers, strict=True):
                if call.answer.done():
                    continue
                if isinstance(found, BaseException):
                    call.answer.set_exception(found)
                else:
                    call.answer.set_result(found)

    async def _trip(self, calls: Sequence[_Call], *, writes: bool) -> Sequence[Any]:
        client = await self._topology.master(self.tag)
        answers = await self._sent(client, calls, writes=writes)
        unknown = [place for place, found in enumerate(answers) if isinstance(found, NoScriptError)]
        if unknown:  # the server was started anew, or is another one
            missing = dict.fromkeys(one for place in unknown if (one := calls[place].script) is not None)
            loads = [("SCRIPT", "LOAD", one.text) for one in missing]
            line = await self._line(client, writes=writes)  # another connection may lead to another server
            for loaded in await line.ask(loads, self._anew() if writes else ()):
                if isinstance(loaded, Exception):
                    raise loaded
            again = await self._sent(client, [calls[place] for place in unknown], writes=writes)
            for place, found in zip(unknown, again, strict=True):
                answers[place] = found
        return [
            _judged(found, call.script.name if call.script else "") if isinstance(found, Exception) else found
            for call, found in zip(calls, answers, strict=True)
        ]

    async def _line(self, client: Redis, *, writes: bool) -> Line:
        """Return the connection to a server that this kind of calls has for itself."""
        line = self._lines.get(writes)
        if line is None or line.client is not client or writes in self._astray:
            self._astray.discard(writes)
            if line is not None:
                await line.close()
            line = self._lines[writes] = Line(client, self._connected)
        return line

    def _anew(self) -> Sequence[Command]:
        one = script("skip")
        skip = ("EVALSHA", one.sha, 1, self.tag, time.time_ns() // 1_000_000, SKIPPED)
        return [("SCRIPT", "LOAD", one.text), skip]

    async def _sent(self, client: Redis, calls: Sequence[_Call], *, writes: bool) -> list[Any]:
        commands = [call.command(self.tag) for call in calls]
        wait = self.replicas if writes else None
        if wait is not None:
            # Replicas are asked about the last write of this very connection. There must be one: a script that
            # ran before, and whose answer was lost, writes nothing when it is asked for again.
            commands.append(("SET", self.tag + b":w", b""))
            commands.append(("WAIT", wait.copies, wait.milliseconds))
            if wait.synced:
                # A replica tells of its disk as it was a moment ago. Asked again once it has all of it, it knows.
                commands.append(("WAITAOF", 1, wait.copies, wait.milliseconds))
        line = await self._line(client, writes=writes)
        answers = await line.ask(commands, self._anew() if writes else ())
        if any(isinstance(one, ReadOnlyError) for one in answers):
            self._astray = {True, False}
        if wait is None:
            return answers
        acknowledged = answers[-1]
        answers = answers[: len(calls)]
        if isinstance(acknowledged, Exception):
            return [acknowledged] * len(calls)
        reached = acknowledged[1] if wait.synced else acknowledged
        if reached < wait.copies:
            known = f"{reached} of {wait.copies} replicas have it after {wait.milliseconds} ms"
            short = Trouble(f"{known}, and ledger.replicas waits for {wait.copies}")
            return [found if isinstance(found, Exception) else short for found in answers]
        return answers


def _judged(error: Exception, name: str) -> Exception:
    """Return an error as what it means here."""
    text = str(error)[:200]
    if isinstance(error, LedgerUnavailable | Trouble):
        return error
    if isinstance(error, AuthenticationError):
        return LedgerUnavailable(f"the Redis server refuses the user or the password: {text}")
    if isinstance(error, OutOfMemoryError):
        return LedgerUnavailable("the Redis server has no room: raise maxmemory, or let the queue drain")
    if isinstance(error, _ELSEWHERE) or (
        isinstance(error, ResponseError)
        and (text.startswith(_PASSING) or any(words in text for words in _PASSING_WORDS))
    ):
        return Trouble(f"{type(error).__name__}: {text}")
    if isinstance(error, Unconnected | TimedOut | OSError | asyncio.TimeoutError):
        return Trouble(f"{type(error).__name__}: {text}")
    if isinstance(error, RedisError):
        if "OOM" in text:
            return LedgerUnavailable("the Redis server has no room: raise maxmemory, or let the queue drain")
        log.error("ledger.refused", script=name, error=text)
        return LedgerUnavailable(f"the Redis server refuses: {text}")
    return error
