"""Everything that is stored is given once, oldest first, whatever its tenant's neighbours do."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from gateway.ledger import Ledger, Plan, SqliteLedger
from gateway.stored import PAGE, stored
from tests.gateway.ledger.conftest import event


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncGenerator[Ledger]:
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.open()
    yield ledger
    await ledger.close()


async def _ids(ledger: Ledger, tenant: str, after: int = 0) -> list[str]:
    return [one.id async for view in stored(ledger, tenant, after) for one in view.snapshot.events]


async def test_each_event_of_a_tenant_comes_once_and_the_oldest_first(ledger: Ledger) -> None:
    for number in range(PAGE + 5):
        for tenant in ("ours", "theirs"):
            await ledger.record(tenant, 1000 + number, [event(f"{tenant}{number}")], [Plan(live=("a",))])
    assert [f"ours{number}" for number in range(PAGE + 5)] == await _ids(ledger, "ours")


async def test_it_goes_on_behind_a_batch_that_was_seen(ledger: Ledger) -> None:
    for number in range(3):
        await ledger.record("ours", 1000, [event(f"e{number}")], [Plan()])
    first, *_ = await ledger.batches_after(0, 1)
    assert ["e1", "e2"] == await _ids(ledger, "ours", first)
