"""Customers looked up at their provider, where a destination says so: remembered for a while, asked for once.

What has no link is blocked like anything else; a chore asks, and what was found lets the deliveries go on. What
was not found says why under the blocked deliveries, and is asked again when its life is over.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
import structlog
from pydantic import ValidationError

from adapters import Link
from adapters._customers import CanLookUp, LookedUp, Match
from gateway.asking import Asker, AskFailed
from gateway.configuration import Configuration
from gateway.times import Clock

__all__ = ["Lookups"]

log = structlog.get_logger()

REMEMBERED = 20_000
"""Answers at hand."""
WAITING = 100_000
"""Customers that may wait to be asked for; of more, those come again whose deliveries are let go for another try."""
TOGETHER = 8
"""Customers that are asked for at a time."""
AGAIN = timedelta(seconds=30)
"""After an answer that told nothing."""

Key = tuple[str, str, str]
"""Destination, tenant, customer."""
Free = Callable[[str, Iterable[tuple[str, str]] | None], None]
"""Lets a destination's deliveries of some customers go, or all."""


class Note(Protocol):
    """Writes down an answer that is gone by from now on; `before` is what was gone by until now, as far as is known."""

    async def __call__(self, key: Key, rows: Sequence[Link], before: Sequence[Link]) -> None: ...


class _Answer(msgspec.Struct, frozen=True):
    rows: tuple[Link, ...]
    why: str
    at: datetime


class Lookups:
    """What was found out, and what is still to be asked."""

    def __init__(self, configuration: Configuration, clock: Clock) -> None:
        self._destinations = {
            name: one for name, one in configuration.destinations.items() if one.lookup and one.mode != "off"
        }
        self._clock = clock
        self._answers: OrderedDict[Key, _Answer] = OrderedDict()
        self._wanted: dict[Key, None] = {}
        self._asking: set[Key] = set()
        self._later: dict[Key, datetime] = {}
        """What told nothing, or not enough, and when it is asked again."""
        self._missed: set[str] = set()
        """Destinations with customers that found no room to wait."""
        self.wake: Callable[[], None] | None = None

    def rows(self, destination: str, tenant: str, customer: str) -> tuple[Link, ...]:
        """Return what was found, as long as it is fresh."""
        answer = self._fresh((destination, tenant, customer))
        return () if answer is None else answer.rows

    def why(self, destination: str, tenant: str, customer: str) -> str | None:
        """Return why a customer that was looked for has no link."""
        answer = self._fresh((destination, tenant, customer))
        return None if answer is None else answer.why

    def _fresh(self, key: Key) -> _Answer | None:
        answer, one = self._answers.get(key), self._destinations.get(key[0])
        if answer is None or one is None or one.lookup is None or self._clock.now() - answer.at >= one.lookup:
            return None
        return answer

    def use(self, destination: str, tenant: str, customers: Iterable[str]) -> None:
        """Ask anew, in time, for what is being used and past half its life."""
        one = self._destinations.get(destination)
        if one is None or one.lookup is None:
            return
        half = self._clock.now() - one.lookup / 2
        for customer in customers:
            answer = self._answers.get((destination, tenant, customer))
            if answer is not None and answer.rows and answer.at <= half:
                self._want((destination, tenant, customer))

    def miss(self, destination: str, tenant: str, customer: str) -> None:
        """Have a customer looked up that has no link, unless that was tried a moment ago."""
        key = (destination, tenant, customer)
        if destination in self._destinations and self._fresh(key) is None:
            self._want(key)

    def mistaken(self, destination: str, tenant: str, customer: str) -> None:
        """Forget what was found: the provider does not know it any more."""
        if self._answers.pop((destination, tenant, customer), None) is not None:
            self._want((destination, tenant, customer))

    def drop(self, tenant: str, customer: str) -> None:
        """Have nothing of a customer at hand, and hear no answer about it any more: it is erased."""
        for name in self._destinations:
            key = (name, tenant, customer)
            self._answers.pop(key, None)
            self._wanted.pop(key, None)
            self._later.pop(key, None)
            self._asking.discard(key)

    def _want(self, key: Key) -> None:
        if key in self._wanted or key in self._later:
            return
        if len(self._wanted) >= WAITING:
            self._missed.add(key[0])
            return
        self._wanted[key] = None
        if self.wake is not None:
            self.wake()

    async def step(self, lanes: Mapping[str, Asker], free: Free, note: Note) -> datetime | None:
        """Ask for some; return when to go on."""
        now = self._clock.now()
        due = [key for key, when in self._later.items() if when <= now]
        for key in due:
            del self._later[key]
            self._wanted[key] = None
        some = [key for key, _ in zip(list(self._wanted), range(TOGETHER), strict=False)]
        for key in some:
            del self._wanted[key]
        self._asking = {*some}
        answers = await asyncio.gather(*(self._ask(lanes, key) for key in some))
        for place, (key, answer) in enumerate(zip(some, answers, strict=True)):
            if key not in self._asking:
                continue
            before = self._answers.get(key)
            anew = self._learned(key, answer)
            rows = self.rows(*key) if answer.match is Match.FOUND else ()
            try:
                if rows:  # behind it: what goes by the answer before was begun before this one is said to hold
                    await note(key, rows, () if before is None else before.rows)
            except BaseException:
                self._answers.pop(key, None)  # nobody goes by what is not written down
                for left in some[place:]:
                    self._want(left)
                raise
            if anew:
                free(key[0], [(key[1], key[2])])
        if self._wanted:
            return self._clock.now()
        for name in self._missed:
            free(name, None)
        self._missed.clear()
        return min(self._later.values(), default=None)

    async def _ask(self, lanes: Mapping[str, Asker], key: Key) -> LookedUp:
        lane, adapter = lanes.get(key[0]), self._destinations[key[0]].adapter
        if lane is None or not isinstance(adapter, CanLookUp):
            return LookedUp(match=Match.UNTOLD)
        try:
            return await lane.ask(adapter.look_up(key[2]))
        except AskFailed as error:
            log.error("lookup.failed", destination=key[0], error=str(error))
            return LookedUp(match=Match.UNTOLD)

    def _learned(self, key: Key, found: LookedUp) -> bool:
        """Remember an answer; return whether deliveries that are blocked look different with it."""
        one, now = self._destinations[key[0]], self._clock.now()
        assert one.lookup is not None
        if found.match is Match.UNTOLD:
            self._later[key] = now + AGAIN
            return False
        rows, why = (), found.message
        if found.match is Match.FOUND:
            try:
                rows = one.links(key[2], dict(found.link))
            except ValidationError:
                why = "the provider's answer does not fit: put a link"
        before = self._answers.pop(key, None)
        self._answers[key] = _Answer(rows, why, now)
        if not rows:
            self._later[key] = now + one.lookup
        while len(self._answers) > REMEMBERED:
            dropped, _ = self._answers.popitem(last=False)
            self._later.pop(dropped, None)
        log.info("lookup.answered", destination=key[0], match=found.match.value)
        return bool(rows) or before is None or before.why != why
