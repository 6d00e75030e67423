"""What operators do now and then to a whole gateway: they forget customers, give up, rename, and restore backups."""

import contextlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from gateway.erasing import erase
from gateway.errors import RequestRefused
from gateway.ledger import NO_WAY, Code, Erasure
from gateway.ledger.backup import back_up, restore
from gateway.ledger.doubting import doubt
from gateway.links.book import Change
from gateway.reconciling.confirming import Confirming
from gateway.repair import resolve
from gateway.times import to_micros
from tests.gateway.ledger.conftest import RedisStore, SqliteStore
from tests.scenarios.books import Books, Stand
from tests.scenarios.setups import CUSTOMERS, VENDORS, link
from tests.scenarios.whole import ACTOR, Whole

__all__ = ["OnAServer", "Operated"]


class Backup(NamedTuple):
    """A copy of the ledger, and what was known then."""

    books: Books
    stands: Mapping[str, Mapping[str, Stand]]
    at: Path | RedisStore
    taken: int

    def fits(self, books: Books, stands: Mapping[str, Mapping[str, Stand]]) -> bool:
        """Return whether nothing was corrected or given a way since: that would have to be done again."""
        ways = {event_id: _ways(stands[event_id]) for event_id in self.stands}
        return books.corrections == self.books.corrections and ways == {
            event_id: _ways(at) for event_id, at in self.stands.items()
        }


def _ways(at: Mapping[str, Stand]) -> set[str]:
    return {name for name, stand in at.items() if stand.code not in NO_WAY}


class Operated(Whole):
    """Does what operators do seldom, too."""

    def __init__(self) -> None:
        super().__init__()
        self._backup: Backup | None = None
        self._copies = 0

    @rule(customer=st.sampled_from(CUSTOMERS), abandon=st.booleans())
    def forget(self, customer: str, abandon: bool) -> None:
        """Erase a customer, where nothing of it is being sent, and nothing is open that is not to be given up."""
        self._runner.run(self._forget(customer, abandon))

    async def _forget(self, customer: str, abandon: bool) -> None:
        stands = await self.books.hold(self._used)
        key = await self.gateway.ledger.secret("pseudonym")
        with contextlib.suppress(RequestRefused):
            await erase(self.gateway, ACTOR, customer, abandon=abandon)
            self.books.erase(Erasure(tenant="default", customer=customer, key=key), stands)
            self._backup = None

    @precondition(lambda self: self.books.sent)
    @rule(dice=st.randoms(use_true_random=False))
    def give_up(self, dice: Random) -> None:
        """Abandon one that is in doubt."""
        self._runner.run(self._give_up(dice))

    async def _give_up(self, dice: Random) -> None:
        found = [
            (event_id, name)
            for event_id, at in (await self.books.hold(self._used)).items()
            for name, stand in at.items()
            if stand.code is Code.UNKNOWN
        ]
        if found:
            event_id, name = dice.choice(found)
            await resolve(self.gateway.ledger, ACTOR, event_id, name, "abandon", to_micros(self.clock.now()))

    @rule(vendor=st.sampled_from(VENDORS))
    def read_back(self, vendor: str) -> None:
        """Have what the vendor lists settled."""
        if vendor in self.gateway.lanes:
            self._runner.run(Confirming(self.gateway).confirm(vendor))

    @rule(vendor=st.sampled_from(VENDORS), customer=st.sampled_from(CUSTOMERS), renamed=st.none() | st.integers(0, 1))
    def rename(self, vendor: str, customer: str, renamed: int | None) -> None:
        """Put another link for a customer, or take away what was put."""
        if vendor in self.gateway.lanes:
            self._runner.run(self._rename(vendor, customer, renamed))

    async def _rename(self, vendor: str, customer: str, renamed: int | None) -> None:
        linking = self.gateway.linking
        if renamed is None:
            await linking.take_away("default", customer, vendor, "ada", "it is another")
        else:
            change = Change(customer=customer, links={vendor: link(vendor, customer, renamed)})
            await linking.put("default", [change], "ada", "it is another", whole=False)

    @rule()
    def back_up(self) -> None:
        """Copy the ledger."""
        stands = self._runner.run(self.books.hold(self._used))
        now = to_micros(self.clock.now())
        if isinstance(self._store, SqliteStore):
            at: Path | RedisStore = self._store.path.with_name(f"copy{self._copies}.db")
            back_up(self._store.path, at, now)
        else:
            at = self._store.cut()
        self._copies += 1
        self._backup = Backup(self.books.copied(), stands, at, now)

    @precondition(lambda self: self._backup is not None)
    @rule()
    def restore(self) -> None:
        """Put the last copy in the ledger's place, and have senders send again what it does not know."""
        self._runner.run(self._restore())

    async def _restore(self) -> None:
        backup, self._backup = self._backup, None
        stands = await self.books.hold(self._used)
        if backup is None or not backup.fits(self.books, stands):
            return
        if len(backup.books.sent) < self.told_before:  # what was sent since would go other ways by this configuration
            return
        await self.gateway.stop()
        latest = max([self.clock.now(), *(event.timestamp for event in self.books.sent.values() if event.timestamp)])
        self.clock.advance_to(latest + timedelta(seconds=1))
        now = to_micros(self.clock.now())
        if isinstance(self._store, SqliteStore) and isinstance(backup.at, Path):
            for aside in self._store.path.parent.glob("*.before-*"):  # the clock may have been set back since
                aside.unlink()
            restore(self._store.path, backup.at, now)
        elif isinstance(backup.at, RedisStore):
            self._store = backup.at
            ledger = self.ledger()
            await ledger.open()
            await doubt(ledger, backup.taken, now)
            await ledger.close()
        await self._open()
        lost = self.books.put_back(backup.books, backup.stands)
        if lost:
            self.books.acknowledge(lost, await self._accepted(lost))

    @rule(status=st.sampled_from(["dead", "rejected"]), remap=st.booleans())
    def try_again(self, status: str, remap: bool) -> None:
        """What is put back from now on may be sent, and no copy knows of it."""
        self._backup = None
        super().try_again(status, remap)


class OnAServer(Operated):
    """The same on Redis; a power cut leaves what the server wrote down."""

    backend = RedisStore
