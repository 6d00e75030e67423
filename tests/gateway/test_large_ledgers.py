"""However much a ledger holds: what goes through all of it has one batch in memory, and no more."""

import asyncio
import gc
import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.configuration.sections import Retention
from gateway.ledger import Code, Plan, SqliteLedger, _events
from gateway.retention import Keeper
from gateway.times import to_micros
from tests.gateway.clocks import START, ManualClock
from tests.gateway.ledger.conftest import TENANT, event

EACH = 2000
"""Events of a batch."""
SETTLED = Plan(filtered=(("it", Code.ZERO),))


async def test_to_trim_four_times_as_many_batches_takes_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_events, "CACHED_BYTES", 10_000)
    few, many = await peak(tmp_path / "few", 5), await peak(tmp_path / "many", 20)
    # Of each event a few bytes are in memory that are not its content: its fingerprint.
    assert many - few <= 50 * 15 * EACH, (few, many)


async def peak(folder: Path, batches: int) -> int:
    """Return the most bytes that were in use meanwhile, beyond those of the beginning."""
    await asyncio.to_thread(folder.mkdir)
    clock = ManualClock(START + timedelta(days=60))
    ledger = SqliteLedger(folder / "ledger.db")
    await ledger.open()
    for number in range(batches):
        await ledger.record(TENANT, to_micros(START), [event(f"e{number}-{n}") for n in range(EACH)], [SETTLED] * EACH)
    gc.collect()
    tracemalloc.start()
    try:
        await Keeper(ledger, Retention.model_validate({"trim": "always"}), clock).step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        await ledger.close()
