"""What holds for every history that nobody tampered with: nothing is unexplained, and reasons add up."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.app import create_app
from gateway.configuration.file import loads
from gateway.ledger import SqliteLedger
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from tests.gateway.conftest import VENDORS, Asking, MovableClock, configured, event

FAULTS = ("lost_answer", "reset_before", "reset_after", "refused", "throttled", "unavailable")
Sent = tuple[str, str, Decimal, int]

sent = st.lists(
    st.tuples(
        st.sampled_from(["acme", "acme", "stranger"]),
        st.sampled_from(["api_calls", "jobs", "logins", "llm_call"]),
        st.integers(1, 9).map(Decimal) | st.decimals("0.001", 9, places=3),
        st.integers(0, 30 * 60),
    ),
    min_size=1,
    max_size=12,
)
faults = st.lists(st.tuples(st.sampled_from(VENDORS), st.sampled_from(FAULTS)), max_size=3)
corrections = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=3)


def made(number: int, one: Sent, now: datetime) -> dict[str, Any]:
    customer, meter, quantity, minutes = one
    when = (now - timedelta(minutes=minutes)).isoformat()
    says: dict[str, Any] = {"customer": customer, "meter": meter, "quantity": str(quantity), "timestamp": when}
    if meter == "logins":
        says["quantity"] = None
    if meter == "llm_call":
        says |= {"quantity": None, "quantities": {"input": str(quantity), "output": "1"}}
    return event(f"e{number}", **says)


async def live(
    folder: Path,
    batches: Sequence[Sequence[Sent]],
    going: Sequence[tuple[str, str]],
    corrected: Sequence[tuple[int, int]],
) -> Mapping[str, Any]:
    """Send a history, correct some of it, and reconcile all of it."""
    clock = MovableClock()
    vendors = {name: SimulatedProvider(name, clock=clock.now) for name in VENDORS}
    mounts = {name: vendor.transport() for name, vendor in vendors.items()}
    changes = {"destinations": {"wingback": {"settings": {"allow_negative": True}}}}
    gateway = Gateway(loads(configured(changes), {}), SqliteLedger(folder / "l.db"), clock=clock, mounts=mounts)
    await gateway.start()
    try:
        transport = httpx.ASGITransport(create_app(gateway), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            asking = Asking(gateway, client, vendors)
            for vendor, fault in going:
                vendors[vendor].fail(fault)
            now, count = datetime.now(UTC), 0
            for batch in batches:
                await asking.send(
                    [made(count + number, one, now) for number, one in enumerate(batch)], query="?ack=stored"
                )
                count += len(batch)
            for number in range(count):
                await asking.settled(f"e{number}")
            if not going:  # a correction of what is in doubt waits for a person
                for index, quantity in corrected:
                    what, said = ("correct", {"quantity": quantity}) if quantity else ("void", {})
                    await client.post(f"/v1/events/e{index}/{what}", json={"reason": "a law", **said})
            clock.ahead = timedelta(hours=3)
            start, end = now.replace(day=1, hour=0, minute=0) - timedelta(days=2), now + timedelta(days=32)
            asked = {"from": start.isoformat(), "to": end.isoformat()}
            told = (await client.post("/v1/reconciliations", json=asked)).json()
            assert "done" == told["state"], told
            return told["report"]
    finally:
        await gateway.stop()


@pytest.mark.parametrize("faulty", [False, True])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(sent, min_size=1, max_size=2), going=faults, corrected=corrections)
@example(batches=[[("acme", "api_calls", Decimal(3), 5)]], going=[("wingback", "lost_answer")], corrected=[])
@example(batches=[[("acme", "api_calls", Decimal(3), 5)]], going=[], corrected=[(0, 5), (0, 2), (0, 0)])
@example(batches=[[("acme", "llm_call", Decimal("0.5"), 5)]], going=[], corrected=[])
def test_a_history_without_tampering_has_nothing_unexplained(
    batches: list[list[Sent]], going: list[tuple[str, str]], corrected: list[tuple[int, int]], faulty: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(live(Path(folder), batches, going if faulty else [], corrected))
    assert 0 == report["unexplained"], report
    for comparison in report["comparisons"]:
        for figure in comparison["figures"]:
            if "difference" in figure:
                reasons = sum((Decimal(one["quantity"]) for one in figure["reasons"]), Decimal(0))
                assert Decimal(figure["difference"]) == reasons, (comparison["right"], figure)
