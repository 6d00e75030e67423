"""Links put and taken away while the gateway runs, and what goes on because of them: of the configuration in use."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from adapters import Link
from gateway.asking import Asker
from gateway.chores import Chore, Step
from gateway.configuration import Configuration
from gateway.ledger import Ledger
from gateway.links.book import Book, Change
from gateway.links.lookups import Key, Lookups
from gateway.links.unblocking import Unblocking
from gateway.times import Clock
from gateway.turns import Turns

__all__ = ["Linking", "Running"]


class Running(Protocol):
    """What links need of a gateway that runs. Book, look-ups and lanes are those of the configuration in use."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def turns(self) -> Turns: ...
    @property
    def configuration(self) -> Configuration: ...
    @property
    def book(self) -> Book: ...
    @property
    def lookups(self) -> Lookups: ...
    @property
    def lanes(self) -> Mapping[str, Asker]: ...

    def wake(self, destination: str) -> None:
        """Tell a lane that there may be work."""

    def chore(self, name: str, step: Step) -> Chore:
        """Have something done in the background."""
        ...


class Linking:
    """Changes the links of a gateway, one change after the other, and lets go what waited for them."""

    def __init__(self, gateway: Running) -> None:
        self._gateway = gateway
        self._turn = gateway.turns.linking
        self.unblocking = Unblocking(gateway.ledger, gateway.clock, gateway.wake)
        self.unblocking.chore = gateway.chore("unblock", self.unblocking.step)
        self._looking = gateway.chore("look up", self.look_up)

    async def put(self, tenant: str, changes: Sequence[Change], actor: str, reason: str, *, whole: bool) -> int:
        """Put links, and let go what was blocked for want of them; return how many customers have other ones now.

        As `Book.put`: `whole` says whether destinations that a change does not name lose what they had.
        """
        async with self._turn:
            moved = await self._put(tenant, changes, actor, reason, whole=whole)
        return self._free(tenant, moved)

    async def take_away(self, tenant: str, customer: str, destination: str | None, actor: str, reason: str) -> bool:
        """Take away what was put for a customer, at one destination or everywhere; return whether there was any."""
        async with self._turn:
            stored = await self._gateway.book.stored(tenant, customer)
            if not stored or (destination is not None and destination not in stored):
                return False
            configured = self._gateway.configuration.destinations
            kept = configured.keys() - {destination} if destination is not None else ()
            left = {name: rows for name, rows in stored.items() if name in kept}
            change = Change(customer=customer, links=left)
            moved = await self._put(tenant, [change], actor, reason, whole=True)
        self._free(tenant, moved)
        return True

    async def _put(
        self, tenant: str, changes: Sequence[Change], actor: str, reason: str, *, whole: bool
    ) -> set[tuple[str, str]]:
        book = self._gateway.book
        moved = await book.put(tenant, changes, actor, reason, whole=whole)
        if self._gateway.book is not book:  # a reload came in between, and may have read what was before
            for customer, _ in moved:
                self._gateway.book.drop(tenant, customer)
        return moved

    def _free(self, tenant: str, moved: Collection[tuple[str, str]]) -> int:
        for name in {name for _, name in moved}:
            if name in self._gateway.lanes:
                self.unblocking.free(name, [(tenant, customer) for customer, at in moved if at == name])
        return len({customer for customer, _ in moved})

    async def look_up(self) -> datetime | None:
        """Look some customers up that are wanted; return when to go on."""
        self._gateway.lookups.wake = self._looking.wake  # those of the configuration in use
        return await self._gateway.lookups.step(self._gateway.lanes, self.unblocking.free, self._note)

    async def _note(self, key: Key, rows: Sequence[Link], before: Sequence[Link]) -> None:
        other = bool(before) and [*before] != [*rows]
        life = self._gateway.configuration.destinations[key[0]].lookup if self._gateway.ledger.shared else None
        async with self._turn:
            if not self._gateway.lookups.rows(*key):  # the customer was erased meanwhile
                return
            now = self._gateway.clock.now()
            until = now + (life or timedelta(0))
            await self._gateway.book.naming.answered(*key, rows, other=other, now=now, until=until)
