"""A window of which the ledger has only ids left in part: what only the vendor has may be of that, and nobody errs."""

from datetime import timedelta
from typing import Any

import pytest

from canonical_schema import fingerprint
from gateway.ledger import split_ref
from tests.gateway.conftest import VENDORS, Asking, MovableClock, event
from tests.gateway.reconciling.test_meanwhile import month
from tests.gateway.reconciling.test_planted import keyed

pytestmark = pytest.mark.anyio


async def trim(asking: Asking, event_id: str) -> None:
    """Drop the record of an event, as happens once it is old, whatever the month is."""
    ledger = asking.gateway.ledger
    ref = await ledger.find("default", event_id)
    assert ref is not None
    batch, _ = split_ref(ref)
    events = (await ledger.snapshots([batch]))[batch].events
    assert [] == list(await ledger.trim({batch: b"".join(map(fingerprint, events))}, None, None))
    assert (await asking.get(f"/v1/events/{event_id}"))["trimmed"]


def told(report: dict[str, Any]) -> list[tuple[str, str, bool, list[tuple[str, str]]]]:
    (comparison,) = report["comparisons"]
    return [
        (one["left"], one["right"], one["explained"], [(why["class"], why["quantity"]) for why in one["reasons"]])
        for one in comparison["figures"]
    ]


@pytest.mark.parametrize("name", VENDORS)
async def test_usage_that_is_trimmed_here_is_not_only_there(asking: Asking, clock: MovableClock, name: str) -> None:
    await asking.send(event("e1"), query="?ack=all")
    await trim(asking, "e1")
    await asking.send(event("e2", quantity=4), query="?ack=all")
    clock.ahead += timedelta(minutes=90)
    report = await month(asking, clock, destinations=[name])
    assert [("4", "7", True, [("trimmed", "3")])] == told(report)
    assert (0, False) == (report["unexplained"], report["complete"])
    if name != "wingback":  # its counter does not tell what is lost from what is trimmed
        asking.vendors[name].tamper(lambda stock: stock.forget(keyed("e2")))
        report = await month(asking, clock, destinations=[name])
        assert [("4", "3", False, [("only_here", "-4"), ("trimmed", "3")])] == told(report)


async def test_a_correction_of_what_is_trimmed_is_not_only_here(asking: Asking, clock: MovableClock) -> None:
    await asking.send(event("e1", meter="jobs"), query="?ack=all")
    answer = await asking.client.post("/v1/events/e1/correct", json={"quantity": 9, "reason": "a test"})
    assert 200 == answer.status_code, answer.text
    await trim(asking, "e1")
    clock.ahead += timedelta(minutes=90)
    report = await month(asking, clock, destinations=["flexprice"], meter="jobs")
    assert [("6", "9", True, [("trimmed", "3")])] == told(report)
