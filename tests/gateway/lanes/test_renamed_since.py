"""After a restore and with another name of a meter: where a repeat is told by it, nothing is sent under the new one."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.backup import back_up, restore
from gateway.times import to_micros
from tests.gateway.conftest import House, MovableClock, event

pytestmark = pytest.mark.anyio

OTHER: dict[str, Any] = {"meters": {"api_calls": {"bindings": {"flowglad": {"price_slug": "calls"}}}}}


@pytest.mark.parametrize(("open_", "back"), [(True, timedelta(0)), (False, timedelta(0)), (True, timedelta(hours=10))])
async def test_what_may_be_there_is_not_billed_again_under_another_meter(
    house: House, clock: MovableClock, tmp_path: Path, open_: bool, back: timedelta
) -> None:
    """Open at the backup, or lost by the restore and repeated by its sender; the clock may be set back by then."""
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    sent = event("e1", timestamp=clock.now().isoformat())
    async with house(running=False) as asking:
        await asking.send([sent, event("e2", meter="logins", quantity=None)][0 if open_ else 1 :], query="?ack=stored")
        back_up(path, copy, to_micros(clock.now()))
    async with house() as asking:
        await asking.send(sent, query="?ack=all")
        await asking.settled("e1")
        before = asking.vendors["flowglad"].billed()
    restore(path, copy, to_micros(clock.now()))
    clock.ahead -= back
    async with house(OTHER) as asking:
        await asking.send(sent, query="?ack=stored")
        for name in ("e1", "e2"):
            await asking.settled(name)
        assert "unknown" == (await asking.get("/v1/events/e1"))["deliveries"]["flowglad"]["status"]
        assert "duplicate" == (await asking.get("/v1/events/e2"))["deliveries"]["flowglad"]["status"]
        assert before == asking.vendors["flowglad"].billed()
