"""Order: running values whose work changes hands while a lane takes notice of what comes first."""

from collections.abc import Sequence
from pathlib import Path

from canonical_schema import ErrorCode, ErrorItem, Kind
from gateway.ledger import SqliteLedger, Work, WorkState
from gateway.times import to_micros
from tests.gateway.clocks import START
from tests.gateway.lanes.world import World, used

AWAY = ErrorItem(code=ErrorCode.PROVIDER_UNAVAILABLE, message="configure it again", retryable=True)


class LetGo(SqliteLedger):
    """A ledger in which what is held is let go by somebody else after the first look at a destination's work."""

    looked = False

    async def walk(self, destination: str, state: WorkState, after: int, limit: int) -> Sequence[Work]:
        found = await super().walk(destination, state, after, limit)
        if not self.looked:
            self.looked = True
            await self.release(destination, WorkState.HELD, to_micros(START))
        return found


async def test_a_value_that_is_let_go_while_the_lane_looks_is_not_overtaken(tmp_path: Path) -> None:
    ledger = LetGo(tmp_path / "ledger.db")
    ledger.looked = True
    async with World(tmp_path, "wingback", settings={"allow_absolute": True}, ledger=ledger) as world:
        await world.record(used("a0", kind=Kind.ABSOLUTE))
        await ledger.hold("it", AWAY)
        await world.record(used("a1", kind=Kind.ABSOLUTE))
        ledger.looked = False
        await world.later()
        assert ["a0", "a1"] == [row.key for row in world.vendor.stored]
