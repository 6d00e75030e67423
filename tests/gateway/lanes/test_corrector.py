"""What a correction takes back in the ledger, where that is written down in parts, or others send it meanwhile."""

import contextlib
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from canonical_schema import PLAIN, Correction
from gateway.errors import LedgerUnavailable
from gateway.ledger import LOST_ANSWER, AttemptRow, AuditRow, Change, Code, Part, Portion, SqliteLedger, Work, WorkState
from tests.gateway.lanes.world import World, used

VOID = Correction(
    of="e1", number=1, action="void", before={PLAIN: Decimal(2)}, after={}, reason="a meter ran twice", actor="ada"
)

FIVE = {PLAIN: Decimal(5)}


class InParts(SqliteLedger):
    """A ledger of several parts, as on a cluster, whose second part is away: what came last is in the first."""

    away = False

    async def settle(
        self, changes: Sequence[Change], attempts: Sequence[AttemptRow], audit: Sequence[AuditRow] = ()
    ) -> None:
        first = max((change.batch for change in changes), default=0)
        for change in sorted(changes, key=lambda change: -change.batch):
            if self.away and change.batch < first:
                raise LedgerUnavailable("a part of it is away")
            await super().settle([change], [], ())
        await super().settle([], attempts, audit)


async def test_nothing_is_void_before_what_never_left_is_taken_back(tmp_path: Path) -> None:
    ledger = InParts(tmp_path / "ledger.db")
    async with World(tmp_path, ledger=ledger) as world:
        await world.record("e1")
        await world.record(used("e1~c1", corrects=VOID))
        ledger.away = True
        with contextlib.suppress(LedgerUnavailable):
            await world.lane.step()
        ledger.away = False
        await world.later()
        assert {"e1": "filtered", "e1~c1": "filtered"} == await world.statuses()
        assert [] == world.vendor.stored


class Elsewhere(SqliteLedger):
    """A ledger that others share, who begin to send a delivery as it is about to be taken back."""

    held_by = 0
    late = False
    """Whether they do so only after it was looked at."""
    lost = False
    """Whether they heard no answer by then, and will send it again."""

    async def pieces(self, batch: int, destination: str) -> Sequence[Work]:
        found = await super().pieces(batch, destination)
        (work,) = found
        if self.held_by or work.group.state is not WorkState.READY:
            return found
        rows = [[Part("", work.events[0].id, b"{}")]]
        (self.held_by,) = await self.intend([Portion(work=work, members=work.members, parts=rows)], work.group.due)
        if self.lost:
            doubtful = msgspec.structs.replace(work.group, attempts=1, doubt=LOST_ANSWER, sent=work.group.due)
            again = became(work, self.held_by, Code.RETRYING)
            again.group, again.parts = doubtful, rows
            await self.settle([again], [])
        return found if self.late else await super().pieces(batch, destination)


def became(work: Work, held_by: int, code: Code) -> Change:
    return Change(work=held_by, batch=work.batch, destination="it", members=work.members, code=code, group=None)


@pytest.mark.parametrize(("late", "lost"), [(False, False), (True, False), (False, True)])
async def test_nothing_is_sent_in_the_place_of_what_leaves_elsewhere_meanwhile(
    tmp_path: Path, late: bool, lost: bool
) -> None:
    ledger = Elsewhere(tmp_path / "ledger.db")
    ledger.late, ledger.lost = late, lost
    async with World(tmp_path, ledger=ledger) as world:
        world.clock.advance(ahead := timedelta(seconds=1))
        await world.record("e1")
        world.clock.advance(-ahead)  # it is due by the clock of another machine, and not yet by this one's
        await world.record(used("e1~c1", corrects=msgspec.structs.replace(VOID, action="replace", after=FIVE)))
        await world.now()
        assert [] == world.vendor.stored
        held = await ledger.held("it", WorkState.READY if lost else WorkState.SENDING)
        (work,) = (one for one in held if one.events[0].id == "e1")
        await ledger.settle([became(work, work.id, Code.ACCEPTED)], [])
        await world.later()
        assert {"e1": "accepted", "e1~c1": "rejected"} == await world.statuses()
        assert [] == world.vendor.stored
