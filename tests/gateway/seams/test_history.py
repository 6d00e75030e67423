"""History that was corrected, filled in: each event where it belongs, once, as what it says now."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard

from canonical_schema import fingerprint
from gateway.cli.backfill import outcome
from gateway.ledger import split_ref
from gateway.stored import stored
from tests.gateway.conftest import Asking, House, MovableClock, event
from tests.gateway.seams.conftest import APART, OLD, REASON, corrected, filled, moved, posted, standing

pytestmark = pytest.mark.anyio


async def test_a_correction_that_its_vendor_refused_is_not_billed_by_the_next_one(
    house: House, clock: MovableClock
) -> None:
    async with house(OLD) as asking:
        await asking.send(event("e1", meter="calls"))
        assert "failed" == (await corrected(asking, "e1", quantity=2))["status"]
    async with house(moved(clock)) as asking:
        assert {"billed_elsewhere": 2} == await filled(asking)
        assert {} == asking.vendors["flexprice"].billed()
        assert {("sub_acme", "calls"): 3} == asking.vendors["flowglad"].billed()


async def test_what_a_correction_billed_in_place_of_its_event_is_not_filled_in_as_the_event(
    house: House, clock: MovableClock
) -> None:
    unlinked = {**OLD, "customers": {"acme": None}}
    async with house(unlinked) as asking:
        await asking.send(event("e1", meter="calls"))
        assert "blocked" == (await standing(asking, "e1", "flowglad"))["status"]
        await corrected(asking, "e1", quantity=5)
    async with house(OLD) as asking:
        await asking.settled("e1~c1")
        assert {("sub_acme", "calls"): 5} == asking.vendors["flowglad"].billed()
    async with house(moved(clock)) as asking:
        assert {"billed_elsewhere": 2} == await filled(asking)
        assert {} == asking.vendors["flexprice"].billed()


async def test_what_was_voided_before_it_left_is_filled_in_nowhere(house: House, sums: Callable[[], None]) -> None:
    async with house({**OLD, "customers": {"acme": None}}) as asking:
        await asking.send([event("e1", meter="calls"), event("e2", meter="calls", customer="other")])
        await corrected(asking, "e1")
    async with house(OLD) as asking:
        await asking.send(event("e3", meter="calls"))
    apart = {**OLD, "destinations": {**OLD["destinations"], "flexprice": {}}}
    async with house(apart) as asking:
        assert {"fed": 3, "corrected": 1, "there_already": 1} == await filled(asking)
        await asking.settled("e3")
        await asking.settled("e1~c1")
        assert {("acme", "calls"): 3, ("other", "calls"): 3} == asking.vendors["flexprice"].billed()
        assert {"e2", "e3"} == {row.key for row in asking.vendors["flexprice"].stored}
        sums()


async def test_what_was_replaced_is_filled_in_as_it_says_now_and_can_be_corrected_there(
    house: House, sums: Callable[[], None]
) -> None:
    async with house(OLD) as asking:
        await asking.send(event("e1", meter="calls"))
        await corrected(asking, "e1", quantity=9)
    amends = {"settings": {"allow_amend": True}}
    async with house({**OLD, "destinations": {**OLD["destinations"], "flexprice": amends}}) as asking:
        for _ in range(2):  # again: nothing is left to do
            await filled(asking)
            await asking.settled("e1~c1")
            assert {("acme", "calls"): 9} == asking.vendors["flexprice"].billed()
        await corrected(asking, "e1", quantity=11)
        assert {("acme", "calls"): 11} == asking.vendors["flexprice"].billed()
        assert {("sub_acme", "calls"): 11} == asking.vendors["flowglad"].billed()
        sums()


async def test_a_job_that_was_cancelled_stays_cancelled_whatever_it_was_at(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(OLD) as asking:
        for number in range(3):
            await asking.send(event(f"e{number}", meter="calls"))
    async with house({**OLD, "destinations": {**OLD["destinations"], "flexprice": {}}}) as asking:
        extend, at_it, may_go = asking.gateway.ledger.extend, asyncio.Event(), asyncio.Event()

        async def slow(*args: Any) -> int:
            at_it.set()
            await may_go.wait()
            return await extend(*args)

        monkeypatch.setattr(asking.gateway.ledger, "extend", slow)
        job = await posted(asking, "/v1/backfills", to="flexprice", source="ledger")
        await at_it.wait()
        cancelling = asyncio.create_task(posted(asking, f"/v1/backfills/{job['id']}/cancel"))
        for _ in range(20):
            await asyncio.sleep(0)
        may_go.set()
        assert "cancelled" == (await cancelling)["state"]
        await asking.settled("e0")
        for _ in range(100):
            await asyncio.sleep(0)
        assert "cancelled" == (await asking.get(f"/v1/backfills/{job['id']}"))["state"]


async def test_what_was_voided_stays_void_however_old_it_grows(house: House, clock: MovableClock) -> None:
    trims = {**OLD, "retention": {"trim": "always"}}
    async with house({**trims, "customers": {"acme": None}}) as asking:  # one batch, which is kept for what is blocked
        await asking.send([event("e1", meter="calls"), event("e2", meter="calls", quantity="2.5")])
        await corrected(asking, "e1")
        for days in (40, 500):
            clock.ahead = timedelta(days=days)
            for _ in range(3):
                await asking.gateway.keeper.step()
        assert {"void": True} == (await asking.get("/v1/events/e1"))["current"]
    async with house({**trims, **APART}) as asking:
        assert 1 == (await filled(asking))["corrected"]
        await asking.settled("e2")
        assert {"e2"} == {row.key for row in asking.vendors["flexprice"].stored}


async def test_what_was_corrected_and_nobody_can_say_how_is_filled_in_nowhere(house: House) -> None:
    async with house({**OLD, "customers": {"acme": None}}) as asking:
        await asking.send([event("e1", meter="calls"), event("e2", meter="calls")])
        await corrected(asking, "e1")
        ref = await asking.gateway.ledger.find("default", "e1~c1")
        assert ref is not None
        batch, _ = split_ref(ref)  # as an older version did
        events = (await asking.gateway.ledger.snapshots([batch]))[batch].events
        assert [] == await asking.gateway.ledger.trim({batch: b"".join(map(fingerprint, events))}, None, None)
        answer = await asking.client.post("/v1/events/e1/correct", json={**REASON, "quantity": 7})
        assert (404, "not_found") == (answer.status_code, answer.json()["code"])
    async with house(APART) as asking:
        preflight = await asking.client.post("/v1/preflights", json={"to": "flexprice"})
        assert (1, "3") == (preflight.json()["ready"]["events"], preflight.json()["ready"]["quantity"])
        assert {"fed": 1, "correction_not_kept": 1} == await filled(asking)
        await asking.settled("e2")
        assert {"e2"} == {row.key for row in asking.vendors["flexprice"].stored}


async def test_a_correction_that_is_being_recorded_does_not_outlive_the_customer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    amends = {**OLD, "destinations": {**OLD["destinations"], "flexprice": {"settings": {"allow_amend": True}}}}
    alone = {"meters": {**OLD["meters"], "more": {"bindings": {"flexprice": {}}}}}
    async with house({**amends, **alone}) as asking:
        await asking.send(event("e1", meter="more"))
        ledger = asking.gateway.ledger
        record, at_it, may_go = ledger.record, asyncio.Event(), asyncio.Event()

        async def slow(*args: Any) -> Any:
            at_it.set()
            await may_go.wait()
            return await record(*args)

        monkeypatch.setattr(ledger, "record", slow)
        correcting = asyncio.create_task(corrected(asking, "e1", quantity=5))
        await at_it.wait()
        erasing = asyncio.create_task(asking.client.post("/v1/customers/acme/erase", json=REASON))
        for _ in range(200):
            await asyncio.sleep(0.001)
        may_go.set()
        assert "delivered" == (await correcting)["status"]
        answer = await erasing
        if answer.status_code == 409:  # it was on its way
            answer = await asking.client.post("/v1/customers/acme/erase", json=REASON)
        assert answer.is_success, answer.text
        named = [one async for view in stored(ledger, "default") for one in view.snapshot.events]
        assert ["erased", "erased"] == [one.customer[:6] for one in named]


@pytest.mark.parametrize("rate", ["1e-300", "1e999"])
@pytest.mark.parametrize("path", ["/v1/backfills", "/v1/preflights"])
async def test_a_rate_that_is_none_is_refused(asking: Asking, path: str, rate: str) -> None:
    more = '"source": "ledger", "reason": "x", ' if path == "/v1/backfills" else ""
    body = f'{{"to": "flexprice", {more}"rate": {rate}}}'
    answer = await asking.client.post(path, content=body, headers={"content-type": "application/json"})
    assert (400, "invalid_request") == (answer.status_code, answer.json()["code"])


async def test_a_preflight_counts_what_is_corrected_once_as_it_says_now(house: House) -> None:
    async with house(OLD) as asking:
        await asking.send([event("e1", meter="calls"), event("e2", meter="calls"), event("e3", meter="calls")])
        await corrected(asking, "e1", quantity=9)
        await corrected(asking, "e1", quantity=7)
        await corrected(asking, "e2")
    async with house({**OLD, "destinations": {**OLD["destinations"], "flexprice": {}}}) as asking:
        said = await asking.client.post("/v1/preflights", json={"to": "flexprice"})
        assert [] == said.json()["refused"]
        assert (2, "10") == (said.json()["ready"]["events"], said.json()["ready"]["quantity"])


@pytest.mark.parametrize(
    ("state", "counts", "code"),
    [
        ("done", {"fed": 3, "there_already": 1, "corrected": 2, "erased": 1}, 0),
        ("done", {"fed": 3, "correction_not_kept": 1}, 4),
        ("done", {}, 0),
        ("failed", {"fed": 1}, 1),
    ],
)
def test_history_that_is_filled_in_as_it_says_now_is_filled_in_whole(
    state: str, counts: dict[str, int], code: int
) -> None:
    assert code == outcome({"state": state, "counts": counts})


@pytest.mark.parametrize("timed", [True, False])
async def test_what_was_trimmed_is_filled_in_from_the_archive(
    house: House, clock: MovableClock, tmp_path: Path, sums: Callable[[], None], *, timed: bool
) -> None:
    keeps = {"retention": {"archive": str(tmp_path / "archive")}}
    when = clock.now().isoformat() if timed else None
    async with house({**OLD, **keeps, "customers": {"acme": None}}) as asking:
        await asking.send(event("e4", meter="calls", timestamp=when))
        await corrected(asking, "e4", quantity=7)
    async with house({**OLD, **keeps}) as asking:
        await asking.send([event(f"e{n}", meter="calls", quantity=n, timestamp=when) for n in range(1, 4)])
        await asking.settled("e4~c1")
        clock.ahead = timedelta(days=40)
        await asking.gateway.keeper.step()
        assert (await asking.get("/v1/events/e1"))["trimmed"]
    (segment,) = (tmp_path / "archive").glob("segment-*")
    lines = zstandard.ZstdDecompressor().stream_reader(segment.read_bytes()).read().splitlines()
    events = [one for one in (json.loads(line)["event"] for line in lines) if "corrects" not in one]
    events[-1] |= {"quantity": 99}  # which the ledger knows better
    async with house({**APART, **keeps}) as asking:
        assert {} == await filled(asking), "the ledger has none of it any more"
        expected = {"fed": 2, "conflict": 1, "correction_not_kept": 1}
        for turn in range(3):  # of the same events, again
            counts = await told(asking, "flexprice", f"{turn}", events)
            assert (expected if not turn else {**expected, "there_already": 2, "fed": 0}) == {"fed": 0, **counts}
            await asking.settled("e1~f1")
            assert {("acme", "calls"): 3} == asking.vendors["flexprice"].billed()
        assert {"there_already": 2, "conflict": 1, "correction_not_kept": 1} == await told(
            asking, "flowglad", "x", events
        )
        sums()


async def told(asking: Asking, to: str, digest: str, events: list[dict[str, Any]]) -> dict[str, int]:
    """Fill events of a file in; return what was counted."""
    job = await posted(asking, "/v1/backfills", to=to, source="file", digest=digest)
    path = f"/v1/backfills/{job['id']}/events?first=0&last=true"
    body = "\n".join(map(json.dumps, events))
    answer = await asking.client.post(path, content=body, headers={"content-type": "application/x-ndjson"})
    assert answer.is_success, answer.text
    return answer.json()["counts"]
