"""From Paygentic's older door to Wingback, who cannot tell repeats: there, with a lost answer, and back."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.ledger import Code
from gateway.simulator import SimulatedProvider
from gateway.stored import stored
from tests.gateway.conftest import CONTRACT, Asking, House, MovableClock, event
from tests.gateway.conftest import clock as clock
from tests.gateway.conftest import house as house

MARCH = datetime(2027, 3, 1, tzinfo=UTC)
BACK = datetime(2027, 3, 4, tzinfo=UTC)
REASON = "we move"


@pytest.fixture
def vendors() -> dict[str, SimulatedProvider]:
    return {name: SimulatedProvider(name) for name in ("paygentic", "wingback")}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def moved(*routes: dict[str, str]) -> dict[str, Any]:
    grouped = {name: {"group": "billing"} for name in ("paygentic", "wingback")}
    return {"destinations": {"flowglad": None, "flexprice": None, **grouped}, "routes": list(routes), **ONLY}


ONLY: dict[str, Any] = {
    "meters": {
        "api_calls": {"bindings": {"flowglad": None, "flexprice": None}},
        "jobs": None,
        "logins": None,
        "llm_call": None,
    },
    "customers": {"acme": {"flowglad": None}},
}
THERE = moved(
    {"destination": "paygentic", "until": MARCH.isoformat()}, {"destination": "wingback", "from": MARCH.isoformat()}
)
THERE_AND_BACK = moved(
    {"destination": "paygentic", "until": MARCH.isoformat()},
    {"destination": "wingback", "from": MARCH.isoformat(), "until": BACK.isoformat()},
    {"destination": "paygentic", "from": BACK.isoformat()},
)


async def test_a_move_to_a_vendor_without_repeats_bills_each_event_once(
    house: House, clock: MovableClock, vendors: dict[str, SimulatedProvider]
) -> None:
    sent: dict[str, datetime] = {}

    def at(when: datetime) -> None:
        clock.ahead = when - datetime.now(UTC)

    async def use(asking: Asking, name: str, when: datetime, status: str = "delivered") -> None:
        result = await asking.one(event(name, timestamp=when.isoformat()))
        assert status == result["status"], result
        sent[name] = when

    async with house(THERE) as asking:  # the routes are there long before they matter
        for day in range(1, 29):
            at(when := datetime(2027, 2, day, 12, tzinfo=UTC))
            await use(asking, f"feb{day}", when - timedelta(hours=1))
        assert [] == vendors["wingback"].stored
        for day in (1, 2, 3):
            at(when := datetime(2027, 3, day, 12, tzinfo=UTC))
            await use(asking, f"mar{day}", when - timedelta(hours=1))
            await use(asking, f"late-feb{day}", MARCH - timedelta(hours=day))
        vendors["wingback"].fail("lost_answer")
        await use(asking, "lost", when, "unknown")

    async with house(THERE_AND_BACK) as asking:
        for day in (4, 5):
            at(when := datetime(2027, 3, day, 12, tzinfo=UTC))
            await use(asking, f"mar{day}", when - timedelta(hours=1))
            await use(asking, f"late-mar{day}", BACK - timedelta(hours=day))
        repeat = await asking.one(event("lost", timestamp=sent["lost"].isoformat()))
        assert ("unknown", True) == (repeat["status"], repeat["replayed"]), "in doubt, and not sent to either again"
        february = await asking.client.post("/v1/periods/2027-02/close", json={"reason": REASON})
        assert (True, 0) == (february.json()["complete"], february.json()["billed_twice_count"])
        asked = {"from": "2027-02-01T00:00:00Z", "to": "2027-03-01T00:00:00Z", "destinations": ["paygentic"]}
        compared = (await asking.client.post("/v1/reconciliations", json=asked)).json()
        assert ("done", 0) == (compared["state"], compared["report"]["unexplained"]), compared
        (figure,) = compared["report"]["comparisons"][0]["figures"]
        assert "93" == figure["left"] == figure["right"], figure
        assert [] == [
            event.id
            async for view in stored(asking.gateway.ledger, "default")
            for index, event in enumerate(view.snapshot.events)
            if sum(code.status.success or code is Code.UNKNOWN for code in view.live(index).values()) != 1
        ], "each event has one that bills it"
    due = {name: "wingback" if MARCH <= when < BACK else "paygentic" for name, when in sent.items()}
    count = {vendor: list(due.values()).count(vendor) for vendor in vendors}
    assert {row.key for row in vendors["paygentic"].stored} == {name for name, who in due.items() if who == "paygentic"}
    assert count == {name: len(vendor.stored) for name, vendor in vendors.items()}
    assert {("cus_acme", "bm_calls"): 3 * count["paygentic"]} == vendors["paygentic"].billed()
    assert {(CONTRACT, "API_CALLS"): 3 * count["wingback"]} == vendors["wingback"].billed()
