"""What a correction takes back in the ledger, where that is written down in parts."""

import contextlib
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from canonical_schema import PLAIN, Correction
from gateway.errors import LedgerUnavailable
from gateway.ledger import AttemptRow, AuditRow, Change, SqliteLedger
from tests.gateway.lanes.world import World, used

VOID = Correction(
    of="e1", number=1, action="void", before={PLAIN: Decimal(2)}, after={}, reason="a meter ran twice", actor="ada"
)


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
