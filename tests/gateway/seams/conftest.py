"""What the tests of seams share: a configuration before and after a move, and what is asked of a gateway."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.check import add_up
from tests.gateway.conftest import Asking, MovableClock
from tests.waiting import until

REASON = {"reason": "we look"}
CALLS = {"bindings": {"flowglad": {"price_slug": "calls"}, "flexprice": {}}}
OLD: dict[str, Any] = {
    "destinations": {"paygentic": None, "wingback": None, "flexprice": {"mode": "off"}},
    "meters": {"api_calls": None, "jobs": None, "logins": None, "llm_call": None, "calls": CALLS},
    "customers": {"acme": {"paygentic": None, "wingback": None}},
}
APART = {**OLD, "destinations": {**OLD["destinations"], "flexprice": {}}}


def moved(clock: MovableClock) -> dict[str, Any]:
    """Return the configuration after a move: one group, and the new vendor takes what is of the last day."""
    cut = (clock.now() - timedelta(days=1)).isoformat()
    group = {"group": "billing"}
    return {
        **OLD,
        "destinations": {"paygentic": None, "wingback": None, "flowglad": group, "flexprice": group},
        "routes": [{"destination": "flowglad", "until": cut}, {"destination": "flexprice", "from": cut}],
    }


async def posted(asking: Asking, path: str, **body: Any) -> Any:
    answer = await asking.client.post(path, json={**REASON, **body})
    assert answer.is_success, answer.text
    return answer.json()


async def standing(asking: Asking, event_id: str, name: str = "paygentic") -> Any:
    return (await asking.get(f"/v1/events/{event_id}"))["deliveries"][name]


async def filled(asking: Asking, to: str = "flexprice", **asked: Any) -> dict[str, int]:
    """Fill a destination in from the ledger; return what was counted."""
    job = await posted(asking, "/v1/backfills", to=to, source="ledger", **asked)

    async def ended() -> Any:
        found = await asking.get(f"/v1/backfills/{job['id']}")
        return None if found["state"] == "running" else found

    found = await until(ended, "the backfill does not end")
    assert "done" == found["state"]
    return found["counts"]


async def corrected(asking: Asking, event_id: str, **asked: Any) -> Any:
    what = "correct" if asked else "void"
    return await posted(asking, f"/v1/events/{event_id}/{what}", **asked)


@pytest.fixture
def sums(tmp_path: Path) -> Callable[[], None]:
    """Add the ledger up: every delivery has exactly one status."""

    def added() -> None:
        assert [] == add_up(tmp_path / "ledger.db")["problems"]

    return added
