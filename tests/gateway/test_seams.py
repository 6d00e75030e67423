"""Where two features meet: what one of them promises holds while the other is at work."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard

from canonical_schema import fingerprint
from gateway.cli._asking import ask
from gateway.cli._out import CommandFailed
from gateway.cli.backfill import outcome
from gateway.configuration.file import loads
from gateway.configuration.keys import sha256
from gateway.errors import ConfigurationError
from gateway.ledger import Plan, WorkState, split_ref
from gateway.ledger.check import add_up
from gateway.moving.closing import Closing
from gateway.periods import Period
from gateway.reconciling.confirming import Confirming, Doubt
from gateway.stored import stored
from gateway.times import to_micros
from tests.gateway.conftest import Asking, House, MovableClock, configured, event
from tests.gateway.lanes.world import until

pytestmark = pytest.mark.anyio

REASON = {"reason": "we look"}
SHORT = {"destinations": {"paygentic": {"settings": {"dedupe_window": "1ms"}}}}


def bound(*names: str) -> dict[str, Any]:
    """Return a vendor of one row a request, whose memory for repeats is short, with a meter of several rows."""
    rows = [{"event_type": name, "quantity": name} for name in names]
    return {
        "destinations": {"paygentic": {"settings": {"profile": "events", "dedupe_window": "1ms"}}},
        "meters": {"api_calls": None, "trio": {"bindings": {"paygentic": rows}}},
    }


def trio(event_id: str, **quantities: int) -> dict[str, Any]:
    return event(event_id, meter="trio", quantity=None, quantities=quantities)


async def posted(asking: Asking, path: str, **body: Any) -> Any:
    answer = await asking.client.post(path, json={**REASON, **body})
    assert answer.is_success, answer.text
    return answer.json()


async def standing(asking: Asking, event_id: str, name: str = "paygentic") -> Any:
    return (await asking.get(f"/v1/events/{event_id}"))["deliveries"][name]


async def filled(asking: Asking, to: str = "flexprice") -> dict[str, int]:
    """Fill a destination in from the ledger; return what was counted."""
    job = await posted(asking, "/v1/backfills", to=to, source="ledger")
    for _ in range(2000):
        found = await asking.get(f"/v1/backfills/{job['id']}")
        if found["state"] != "running":
            assert "done" == found["state"]
            return found["counts"]
        await asyncio.sleep(0.002)
    raise AssertionError("the backfill does not end")


@pytest.fixture
def sums(tmp_path: Path) -> Callable[[], None]:
    """Add the ledger up: every delivery has exactly one status."""

    def added() -> None:
        assert [] == add_up(tmp_path / "ledger.db")["problems"]

    return added


# Deliveries of several rows, and what is found out about some of them.


async def test_a_refused_row_is_not_forgotten_when_its_neighbour_is_resolved_as_arrived(
    house: House, sums: Callable[[], None]
) -> None:
    async with house(bound("one", "two")) as asking:
        vendor = asking.vendors["paygentic"]
        vendor.known_meters = {"one"}
        vendor.fail("lost_answer")
        await asking.send(trio("p", one=3, two=5), query="?ack=stored")
        await asking.settled("p")
        assert "unknown" == (await standing(asking, "p"))["status"]
        said = await posted(asking, "/v1/deliveries/resolve", id="p", destination="paygentic", resolution="accepted")
        assert "rejected" == said["status"]
        parts = (await standing(asking, "p"))["parts"]
        assert ("accepted", "rejected") == (parts["one"]["status"], parts["two"]["status"])
        sums()
        vendor.known_meters = None
        assert 1 == len((await posted(asking, "/v1/deliveries/retry", ids=["p"]))["retried"])
        await asking.settled("p")
        assert "accepted" == (await standing(asking, "p"))["status"]
        assert {("cus_acme", "one"): 3, ("cus_acme", "two"): 5} == vendor.billed()
        sums()


async def test_reading_back_looks_for_every_row_that_was_sent_and_not_for_those_of_today(house: House) -> None:
    async with house(bound("one", "two", "three")) as asking:
        for fault in ("lost_answer", "lost_answer", "reset_before"):
            asking.vendors["paygentic"].fail(fault)
        await asking.send(trio("p", one=3, two=4, three=5), query="?ack=stored")
        await asking.settled("p")
        assert "unknown" == (await standing(asking, "p"))["status"]
    async with house(bound("one", "two")) as asking:
        assert 0 == await Confirming(asking.gateway).confirm("paygentic")
        assert "unknown" == (await standing(asking, "p"))["status"]
    async with house(bound("one", "two", "three")) as asking:
        assert 0 == await Confirming(asking.gateway).confirm("paygentic"), "the third is not there"


async def test_a_running_value_that_is_found_to_have_arrived_lets_the_next_one_go(house: House) -> None:
    async with house({"destinations": {"wingback": {"settings": {"allow_absolute": True}}}}) as asking:
        asking.vendors["wingback"].fail("lost_answer")
        for number in range(2):
            await asking.send(event(f"a{number}", kind="absolute"), query="?ack=stored")
        for _ in range(2000):
            if "unknown" == (await standing(asking, "a0", "wingback"))["status"]:
                break
            await asyncio.sleep(0.001)
        assert "pending" == (await standing(asking, "a1", "wingback"))["status"]
        ref = await asking.gateway.ledger.find("default", "a0")
        assert ref is not None
        (work,) = await asking.gateway.ledger.walk("wingback", WorkState.UNKNOWN, 0, 1)
        doubt = Doubt("default", work.events[0], {}, asking.gateway.clock.now())
        assert await Confirming(asking.gateway).settle("wingback", doubt)
        await asking.settled("a1")
        assert "accepted" == (await standing(asking, "a1", "wingback"))["status"]


# Corrections, and who has taken their ids, or closed their month.


async def test_an_id_that_is_taken_leaves_one_event_out_and_every_other_on_record(asking: Asking) -> None:
    await asking.send([event("e1"), event("e2")])
    await asking.send(event("e1~c1", meter="logins", quantity=None))
    said = await posted(asking, "/v1/corrections", filter={"meter": "api_calls"}, action="void")
    assert (1, ["e1"]) == (said["corrected"], [one["id"] for one in said["skipped"]])
    assert [1] == [one["events"] for one in said["impact"]]
    trail = [(row["action"], row["target"]) for row in (await asking.get("/v1/audit"))["data"]]
    assert [("void", "e2")] == trail
    assert {"void": True} == (await asking.get("/v1/events/e2"))["current"]


async def test_a_refund_is_held_as_late_as_any_other_row(house: House, clock: MovableClock) -> None:
    held = {"destinations": {"paygentic": {"late": "hold"}}}
    first = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    async with house(held) as asking:
        await asking.send(event("e1", timestamp=(first - timedelta(hours=2)).isoformat()))
        assert (await posted(asking, f"/v1/periods/{first - timedelta(days=1):%Y-%m}/close"))["closed"]
        said = await posted(asking, "/v1/events/e1/void")
        refund = said["deliveries"]["paygentic"]
        assert ("blocked", "outside_time_window") == (refund["status"], refund["error"]["code"])
        assert {("cus_acme", "bm_calls"): 3} == asking.vendors["paygentic"].billed()
    async with house() as asking:  # it goes where it may
        await asking.settled("e1~c1")
        assert "accepted" == (await standing(asking, "e1~c1"))["status"]
        assert not any(asking.vendors["paygentic"].billed().values())


DELTAS: dict[str, Any] = {
    "destinations": {"flowglad": None, "wingback": None, "paygentic": {"settings": {"profile": "events"}},
                     "flexprice": {"settings": {"allow_amend": True}}},
    "meters": {"api_calls": {"bindings": {"flowglad": None, "wingback": None, "paygentic": {"event_type": "calls",
               "billable_metric_id": None}}}, "logins": None, "llm_call": None},
    "customers": {"acme": {"flowglad": None, "wingback": None}},
}  # fmt: skip
OTHER = {"links": {"paygentic": [{"customer_id": "cus_new"}], "flexprice": [{"external_customer_id": "new"}]}}


def bills(asking: Asking) -> dict[str, Any]:
    names = ("paygentic", "flexprice")
    return {name: {key: one for key, one in asking.vendors[name].billed().items() if one} for name in names}


async def refused_there(asking: Asking, **asked: Any) -> None:
    """Correct an event, and find that nothing was sent for it, and why."""
    before = bills(asking)
    foreseen = await posted(asking, f"/v1/events/e1/{'correct' if asked else 'void'}", **asked, dry_run=True)
    assert {"unsupported"} == {one["does"] for one in foreseen["deliveries"].values()}
    said = await corrected(asking, "e1", **asked)
    assert {"rejected"} == {one["status"] for one in said["deliveries"].values()}
    messages = [one["error"]["message"] for one in said["deliveries"].values()]
    assert all("it was sent under other names of its meter or customer" in one for one in messages)
    assert before == bills(asking)


@pytest.mark.parametrize("asked", [{}, {"quantity": 5}])
async def test_what_was_sent_under_other_names_of_its_customer_is_not_corrected_under_todays(
    house: House, asked: dict[str, int]
) -> None:
    async with house(DELTAS) as asking:
        await asking.send(event("e1"))
        assert (await asking.client.put("/v1/customers/acme", json=OTHER)).is_success
        await refused_there(asking, **asked)
        await asking.send(event("e2"))
        said = await corrected(asking, "e2", quantity=5)  # sent under those of today
        assert {"accepted"} == {one["status"] for one in said["deliveries"].values()}
        assert 5 == bills(asking)["paygentic"]["cus_new", "calls"] == bills(asking)["flexprice"]["new", "api_call"]


@pytest.mark.parametrize("again", [False, True])
async def test_what_was_sent_under_other_names_of_its_meter_is_not_corrected_under_todays(
    house: House, *, again: bool
) -> None:
    names = {"flowglad": None, "wingback": None, "flexprice": {"event_name": "calls2"},
             "paygentic": {"event_type": "calls2", "billable_metric_id": None}}  # fmt: skip
    renamed = {**DELTAS, "meters": {**DELTAS["meters"], "api_calls": {"bindings": names}}}
    async with house(DELTAS) as asking:
        await asking.send(event("e1"))
    async with house(renamed) as asking:
        if again:
            await asking.send(event("e2"))
        else:
            await refused_there(asking, quantity=5)
    async with house(DELTAS if again else renamed) as asking:
        await refused_there(asking, quantity=6)


async def test_links_that_change_from_some_time_on_leave_what_was_before_to_be_corrected(
    house: House, clock: MovableClock
) -> None:
    cut = (clock.now() + timedelta(days=1)).isoformat()
    rows = {"paygentic": "customer_id", "flexprice": "external_customer_id"}
    async with house(DELTAS) as asking:
        await asking.send(event("e1"))
        old = {"paygentic": "cus_acme", "flexprice": "acme"}
        links = {
            name: [{field: old[name], "until": cut}, {field: "cus_b", "from": cut}] for name, field in rows.items()
        }
        assert (
            await asking.client.put("/v1/customers/acme", json={"links": {"paygentic": links["paygentic"]}})
        ).is_success
        said = await corrected(asking, "e1", quantity=5)
        assert {"accepted"} == {one["status"] for one in said["deliveries"].values()}
        assert {("cus_acme", "calls"): 5} == bills(asking)["paygentic"]


# History that was corrected, filled in.

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


async def corrected(asking: Asking, event_id: str, **asked: Any) -> Any:
    what = "correct" if asked else "void"
    return await posted(asking, f"/v1/events/{event_id}/{what}", **asked)


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


# The report of a month, and events that were corrected in it.


async def test_a_report_says_what_each_vendor_has_of_a_replacement(house: House, clock: MovableClock) -> None:
    when = clock.now().isoformat()
    async with house({**OLD, "customers": {"acme": None}}) as asking:
        await asking.send([event("e1", meter="calls", timestamp=when), event("e2", meter="calls", timestamp=when)])
        await corrected(asking, "e1", quantity=5)
    async with house(OLD) as asking:
        await asking.settled("e1~c1")
        await asking.settled("e2")
        await corrected(asking, "e2", quantity=4)
        assert {("sub_acme", "calls"): 9} == asking.vendors["flowglad"].billed()
        settled = (await asking.get(f"/v1/periods/{clock.now():%Y-%m}"))["settled"]
        assert ["9"] == [one["quantities"]["quantity"] for one in settled if one["status"] == "accepted"]


async def test_what_comes_while_a_month_is_closed_is_in_its_report(
    house: House, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    when = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(hours=2)
    async with house(OLD) as asking:
        await asking.send(event("e1", meter="calls", timestamp=when.isoformat()))
        report, more = Closing.report, ["e2"]

        async def slow(self: Closing, tenant: str, period: Period) -> dict[str, Any]:
            made = await report(self, tenant, period)
            if more:
                await asking.send(event(more.pop(), meter="calls", timestamp=when.isoformat()))
            return made

        monkeypatch.setattr(Closing, "report", slow)
        closed = await posted(asking, f"/v1/periods/{when:%Y-%m}/close")
        assert (True, 2) == (closed["closed"], sum(one["events"] for one in closed["settled"]))
        assert {("sub_acme", "calls"): 6} == asking.vendors["flowglad"].billed()


async def test_a_report_counts_what_it_does_not_name_and_sums_up_everything(house: House, clock: MovableClock) -> None:
    when = clock.now().isoformat()
    meters = {f"m{number}": {"bindings": {"flowglad": {"price_slug": "calls"}}} for number in range(1001)}
    async with house({**OLD, "meters": {**OLD["meters"], **meters}}, running=False) as asking:
        await asking.send([event(f"e{n}", customer=f"c{n}", meter="unheard", timestamp=when) for n in range(1001)])
        sent = [event(f"z{n}", meter=f"m{n}", quantity=0, timestamp=when) for n in range(1001)]
        await asking.send(sent, query="?ack=stored")
        report = await asking.get(f"/v1/periods/{clock.now():%Y-%m}")
        assert (1000, 1001) == (len(report["unrouted"]), report["unrouted_count"])
        assert (1000, 1001) == (len(report["open"]), report["open_count"])
    async with house({**OLD, "meters": {**OLD["meters"], **meters}}) as asking:
        await asking.settled("z1000")
        report = await asking.get(f"/v1/periods/{clock.now():%Y-%m}")
        assert 1001 == sum(one["events"] for one in report["settled"])


async def test_a_report_finds_an_event_that_one_vendor_bills_and_its_correction_that_another_does(
    house: House, clock: MovableClock
) -> None:
    when = (clock.now() - timedelta(minutes=1)).isoformat()
    async with house(OLD) as asking:
        await asking.send(event("e1", meter="calls", timestamp=when))
        await corrected(asking, "e1", quantity=2)
    async with house(moved(clock)) as asking:  # as by hand, past all that keeps it from happening
        ref = await asking.gateway.ledger.find("default", "e1~c1")
        assert ref is not None
        batch, index = split_ref(ref)
        await asking.gateway.ledger.extend(batch, [index], [Plan(live=("flexprice",))], to_micros(clock.now()))
        asking.gateway.wake("flexprice")
        await asking.settled("e1~c1")
        assert {("acme", "calls"): 2} == asking.vendors["flexprice"].billed()
        report = await asking.get(f"/v1/periods/{clock.now():%Y-%m}")
        (twice,) = report["billed_twice"]
        assert ("e1~c1", ["flexprice", "flowglad"]) == (twice["id"], twice["destinations"])


async def test_an_erased_customer_is_named_in_no_report(house: House, clock: MovableClock) -> None:
    when = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(hours=2)
    stock = {**OLD, "customers": {"acme": None}}
    async with house(stock) as asking:
        sent = [event(f"e{n}", customer='Ac "me"', meter="calls", timestamp=when.isoformat()) for n in range(2)]
        await asking.send(sent, query="?ack=stored")
        await posted(asking, f"/v1/periods/{when:%Y-%m}/close", accept_open=True)
        window = {"from": (when - timedelta(days=1)).isoformat(), "to": clock.now().isoformat()}
        assert (await asking.client.post("/v1/reconciliations", json={**window, "customer": 'Ac "me"'})).is_success
    async with house({**stock, "destinations": {**OLD["destinations"], "flexprice": {}}}) as asking:
        await posted(asking, "/v1/backfills", to="flexprice", source="ledger", filter={"customer": 'Ac "me"'})
        before = await asking.get(f"/v1/periods/{when:%Y-%m}")
        assert ['Ac "me"'] == [one["customer"] for one in before["open"]]
        answer = await asking.client.post("/v1/customers/Ac%20%22me%22/erase", json={**REASON, "unsettled": "abandon"})
        assert answer.is_success, answer.text
        alias = answer.json()["pseudonym"]
        after = await asking.get(f"/v1/periods/{when:%Y-%m}")
        unnamed = {name: [{**one, "customer": alias} for one in before[name]] for name in ("open", "late")}
        assert {**before, **unnamed} == after
        ledger, found = asking.gateway.ledger, list[bytes]()
        for kind in ("backfill", "reconciliation", "reconciliation report", "period"):
            found += [one.body or b"" for one in await ledger.documents(kind, "default", None, 10)]
        assert ([4], []) == ([len(found)], [body for body in found if b"Ac " in body])


# Several tenants, and a configuration that changes under what is going on.

OURS, THEIRS = (f"ugw_{name}_{'x' * 40}" for name in ("ours", "theirs"))
TWO: dict[str, Any] = {"auth": {"keys": [
    {"name": "ours", "sha256": sha256(OURS), "scopes": ["admin"]},
    {"name": "theirs", "sha256": sha256(THEIRS), "scopes": ["admin"], "tenant": "theirs"},
]}}  # fmt: skip
ONE = {"auth": {"keys": TWO["auth"]["keys"][:1]}}


def as_key(asking: Asking, key: str) -> Asking:
    asking.client.headers["authorization"] = f"Bearer {key}"
    return asking


async def test_history_of_one_tenant_is_filled_in_whole_whatever_lies_between(house: House) -> None:
    async with house({**OLD, **TWO}) as asking:
        for number in range(3):
            await as_key(asking, OURS).send(event(f"e{number}", meter="calls"), query="?ack=stored")
            await as_key(asking, THEIRS).send(event(f"e{number}", meter="calls"), query="?ack=stored")
    async with house({**APART, **TWO}) as asking:
        for key in (OURS, THEIRS):
            assert {"fed": 3} == await filled(as_key(asking, key))


async def test_a_backfill_whose_tenant_is_gone_ends_and_says_why(house: House) -> None:
    async with house({**OLD, **TWO}) as asking:
        for number in range(3):
            await as_key(asking, THEIRS).send(event(f"e{number}", meter="calls"), query="?ack=stored")
    async with house({**APART, **TWO}) as asking:
        job = await posted(as_key(asking, THEIRS), "/v1/backfills", to="flexprice", source="ledger", rate=0.001)
        for _ in range(2000):
            if (await asking.get(f"/v1/backfills/{job['id']}"))["counts"]:
                break
            await asyncio.sleep(0.002)
        await asking.gateway.reload(loads(configured({**APART, **ONE}), {}))
        for _ in range(2000):
            body = await asking.gateway.ledger.document("backfill", "theirs", job["id"])
            if b"running" not in (body or b""):
                break
            await asyncio.sleep(0.002)
    async with house({**APART, **TWO}) as asking:
        found = await as_key(asking, THEIRS).get(f"/v1/backfills/{job['id']}")
        assert ("failed", {"fed": 1}) == (found["state"], found["counts"])
        assert "no API key is of tenant theirs any more" in found["why"]
        assert {"fed": 2, "there_already": 1} == await filled(asking), "begun again it goes on"


async def test_a_backfill_whose_destination_is_gone_says_what_it_waits_for(house: House) -> None:
    async with house(OLD) as asking:
        await asking.send([event("e1", meter="calls"), event("e2", meter="calls")])
    async with house(APART) as asking:
        job = await posted(asking, "/v1/backfills", to="flexprice", source="ledger", rate=0.001)
        await asking.gateway.reload(loads(configured(OLD), {}))
        assert "it waits: flexprice is switched off or removed" == await why_changes(asking, job["id"], None)
        await asking.gateway.reload(loads(configured(APART), {}))
        assert await why_changes(asking, job["id"], "it waits: flexprice is switched off or removed") is None


async def why_changes(asking: Asking, job_id: str, before: str | None) -> str | None:
    """Return what a job that goes on says next."""
    for _ in range(2000):
        found = await asking.get(f"/v1/backfills/{job_id}")
        assert "running" == found["state"]
        if found["why"] != before:
            return found["why"]
        await asyncio.sleep(0.002)
    raise AssertionError("it says nothing else")


async def test_what_was_being_sent_to_a_destination_that_is_gone_is_shown_as_blocked_and_goes_on_in_doubt(
    house: House, sums: Callable[[], None]
) -> None:
    hasty = {**APART, "delivery": {"grace": "1ms"}}
    async with house(hasty) as asking:
        for name in ("flowglad", "flexprice"):
            asking.vendors[name].fail("latency", seconds=60)
        await asking.send(event("e1", meter="calls"), query="?ack=stored")
        for name in ("flowglad", "flexprice"):
            await until(lambda name=name: asking.vendors[name].requests > 0)
    for name in ("flowglad", "flexprice"):
        asking.vendors[name].clear()
    gone = {**hasty, "destinations": {**OLD["destinations"], "flowglad": None},
            "meters": {**OLD["meters"], "calls": {"bindings": {"flexprice": {}}}},
            "customers": {"acme": None}}  # fmt: skip
    async with house(gone) as asking:
        for name in ("flowglad", "flexprice"):
            shown = await standing(asking, "e1", name)
            assert "blocked" == shown["status"]
            assert f"destination {name} is switched off or removed" in shown["error"]["message"]
            assert [2] == [work.group.doubt for work in await asking.gateway.ledger.held(name, WorkState.HELD)]
        sums()
    async with house(APART) as asking:
        await asking.settled("e1")
        assert {("acme", "calls"): 3} == asking.vendors["flexprice"].billed()
        assert {("sub_acme", "calls"): 3} == asking.vendors["flowglad"].billed()
        sums()


async def test_another_vendor_under_the_name_of_one_that_has_deliveries_is_refused(house: House) -> None:
    flowglad = {**OLD["destinations"], "flexprice": None}
    there = {**OLD, "destinations": flowglad, "meters": {**OLD["meters"], "calls": {"bindings": {"flowglad": {}}}}}
    other = {**there, "destinations": {**flowglad, "flowglad": {"provider": "flexprice"}}, "customers": {"acme": None}}
    async with house(other):
        pass  # nothing was ever sent there
    async with house(there) as asking:
        asking.vendors["flowglad"].fail("unavailable", times=None)
        await asking.send(event("e1", meter="calls"), query="?ack=stored")
        with pytest.raises(ConfigurationError, match="is flexprice, and 1 deliveries of the ledger"):
            await asking.gateway.reload(loads(configured(other), {}))
        assert 1 == asking.gateway.generation.number
        asking.vendors["flowglad"].clear()
        await asking.settled("e1")
    with pytest.raises(ConfigurationError, match="give flexprice a name of its own"):
        async with house(other):
            pass
    async with house(there) as asking:  # and nobody has the ledger
        assert {("sub_acme", "calls"): 3} == asking.vendors["flowglad"].billed()


async def test_a_reload_changes_when_usage_is_read_back(house: House, clock: MovableClock) -> None:
    async with house({**SHORT, "delivery": {"read_back": "365d"}}) as asking:
        asking.vendors["paygentic"].fail("lost_answer")
        await asking.send(event("doubt"), query="?ack=stored")
        await asking.settled("doubt")
        assert "unknown" == (await standing(asking, "doubt"))["status"]
        await asking.gateway.reload(loads(configured({**SHORT, "delivery": {"read_back": "1d"}}), {}))
        for _ in range(20):
            await asyncio.sleep(0)
        clock.ahead = timedelta(days=1)
        asking.gateway._chores["read back"].wake()
        await asking.settled("doubt")
        for _ in range(2000):
            if "accepted" == (await standing(asking, "doubt"))["status"]:
                break
            await asyncio.sleep(0.001)
        assert "accepted" == (await standing(asking, "doubt"))["status"]


# What nobody means.


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/events/e1/correct", "[" * 100_000),
        ("GET", "/v1/periods/0001-01?timezone=Asia/Tokyo", ""),
        ("GET", "/v1/usage?customer=acme&meter=api_calls&from=0001-01-01&to=9999-12-31", ""),
        ("POST", "/v1/reconciliations", '{"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T00:00:00Z"}'),
        ("PUT", "/v1/customers/", '{"links": {"flowglad": [{"subscription_id": "s"}]}}'),
    ],
)
async def test_what_makes_no_sense_is_refused_in_words(asking: Asking, method: str, path: str, body: str) -> None:
    answer = await asking.client.request(method, path, content=body, headers={"content-type": "application/json"})
    assert (400, "invalid_request") == (answer.status_code, answer.json()["code"])
    assert "application/problem+json" == answer.headers["content-type"]


@pytest.mark.parametrize("body", ["<html>Bad Gateway", "[]", '{"error": "no"}'])
def test_a_proxy_that_answers_in_the_gateways_place_is_named(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx, "request", lambda *_, **__: httpx.Response(502, text=body))  # type: ignore[misc]
    with pytest.raises(CommandFailed, match="http://proxy: 502"):
        ask("http://proxy", None, "GET", "/v1/backfills")
