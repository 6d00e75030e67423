"""What the gateway answers: how long it waits, what a repeat is told, where events go after a restart."""

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest
import structlog

from gateway.configuration.file import loads
from gateway.configuration.generation import Generation
from gateway.intake import SLICE
from gateway.simulator import SimulatedProvider
from tests.gateway.conftest import Asking, House, MovableClock, configured, event


def statuses(result: dict[str, Any]) -> dict[str, str]:
    return {name: delivery["status"] for name, delivery in result["deliveries"].items()}


@pytest.fixture
async def patient(house: House) -> AsyncGenerator[Asking]:
    """A gateway whose second attempts are a long time off, so that what fails once is pending."""
    async with house({"delivery": {"retry": {"first": "1h", "max": "1h"}}}) as asking:
        yield asking


# How long an answer waits.


async def test_stored_waits_for_nobody(patient: Asking) -> None:
    for vendor in patient.vendors.values():
        vendor.fail("throttled", retry_after=3600, times=None)
    result = await patient.one(event(), query="?ack=stored")
    assert ("pending", True) == (result["status"], result["stored"])
    assert {"pending"} == set(statuses(result).values())


async def test_respond_async_is_stored_whatever_ack_says(patient: Asking) -> None:
    patient.vendors["flowglad"].fail("throttled", retry_after=3600, times=None)
    began = time.monotonic()
    assert "pending" == (await patient.one(event(), query="?ack=all", prefer="wait=200, respond-async"))["status"]
    assert time.monotonic() - began < 5


async def test_two_prefer_headers_are_one_list(patient: Asking) -> None:
    patient.vendors["flowglad"].fail("throttled", retry_after=3600, times=None)
    headers = [("prefer", "handling=lenient"), ("prefer", 'wait="0.01"; why=test')]
    began = time.monotonic()
    answer = await patient.client.post("/v1/events", json=event(), headers=headers)
    assert (202, True) == (answer.status_code, time.monotonic() - began < 5)


@pytest.mark.parametrize(
    ("ack", "late", "waits"),
    [
        ("required", "flowglad", True),
        ("required", "flexprice", False),
        ("required", "wingback", False),
        ("all", "flowglad", True),
        ("all", "flexprice", True),
        ("all", "wingback", False),
    ],
)
async def test_ack_says_who_is_waited_for(house: House, clock: MovableClock, ack: str, late: str, waits: bool) -> None:
    changes = {
        "destinations": {"flexprice": {"required": False}, "wingback": {"mode": "shadow"}},
        "delivery": {"retry": {"first": "1h", "max": "1h"}},
        "intake": {"ack": ack},
    }
    async with house(changes) as asking:
        vendor = asking.vendors[late]
        vendor.fail("throttled", retry_after=3600)
        asked = asyncio.create_task(asking.one(event(), prefer="wait=300"))
        if not waits:
            await asyncio.wait_for(asked, 60)
        while await _told(asking) != {name: "retrying" if name == late else "accepted" for name in asking.vendors}:
            pass
        if not waits:
            result = await asking.one(event(), query="?ack=stored")
        else:  # a second attempt is told of only where the answer was not given after the first
            clock.ahead = timedelta(hours=2)
            asking.gateway.wake(late)
            result = await asked
        assert ("accepted" if waits else "retrying") == statuses(result)[late]
        assert ("delivered" if waits or late == "wingback" else "pending") == result["status"]


async def _told(asking: Asking) -> dict[str, str] | None:
    await asyncio.sleep(0)
    found = await asking.gateway.event("default", "e1")
    return found and {name: str(one["status"]) for name, one in found["deliveries"].items()}


async def test_a_blocked_delivery_is_not_waited_for(patient: Asking) -> None:
    began = time.monotonic()
    result = await patient.one(event(customer="nobody"), prefer="wait=60")
    assert time.monotonic() - began < 10
    assert {"flowglad": "blocked", "paygentic": "blocked", "flexprice": "accepted", "wingback": "blocked"} == statuses(
        result
    )
    error = result["deliveries"]["flowglad"]["error"]
    assert ("unmapped_customer", True) == (error["code"], error["retryable"])
    assert "pending" == result["status"]


async def test_refused_credentials_end_the_wait(patient: Asking) -> None:
    patient.vendors["flowglad"].fail("unauthorized", times=None)
    began = time.monotonic()
    result = await patient.one(event(), prefer="wait=60")
    assert time.monotonic() - began < 10
    assert "blocked" == statuses(result)["flowglad"]


async def test_a_shadow_is_reported_and_never_counted(house: House) -> None:
    async with house({"destinations": {"wingback": {"mode": "shadow"}}}) as asking:
        asking.vendors["wingback"].refuse("e1")
        result = await asking.one(event(), query="?ack=all")
        assert "delivered" == result["status"]
        await asking.settled("e1")
        shadow = (await asking.get("/v1/events/e1"))["deliveries"]["wingback"]
        assert ("rejected", True) == (shadow["status"], shadow["shadow"])
        assert "delivered" == (await asking.get("/v1/events/e1"))["status"]


async def test_ten_thousand_events_leave_turns_to_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, sleep = 0, asyncio.sleep

    async def counted(seconds: float) -> None:
        nonlocal turns
        turns += 1
        await sleep(seconds)

    many = [event(f"e{index}") for index in range(10_000)]
    async with house(running=False) as asking:
        monkeypatch.setattr(asyncio, "sleep", counted)
        for steps, replayed in ((3, False), (3, True)):  # to parse, to admit, to answer
            turns = 0
            result = await asking.send(many, query="?ack=stored")
            assert (10_000, replayed) == (result["summary"]["pending"], result["results"][-1]["replayed"])
            assert turns >= steps * (10_000 // SLICE - 1)


# What a repeat is told.


async def test_a_repeat_is_told_what_became_of_the_first_and_sends_nothing(asking: Asking) -> None:
    first = await asking.one(event(quantity="1.0", timestamp=asking.gateway.clock.now().isoformat(), meter="jobs"))
    calls = asking.calls
    sent = event(quantity=1, meter="jobs", kind="delta", timestamp=first_time(await asking.get("/v1/events/e1")))
    assert {**first, "replayed": True} == await asking.one(sent)
    assert calls == asking.calls


def first_time(found: dict[str, Any]) -> str:
    return found["event"]["timestamp"].replace("Z", "+00:00")


async def test_a_repeat_of_what_is_pending_waits_like_a_first_one(house: House) -> None:
    async with house({"delivery": {"retry": {"first": "1h", "max": "1h"}}}) as asking:
        asking.vendors["flowglad"].fail("throttled", retry_after=3600, times=None)
        await asking.one(event(), query="?ack=stored")
        began = time.monotonic()
        result = await asking.one(event(), prefer="wait=0.3")
        assert (True, True) == (result["replayed"], time.monotonic() - began >= 0.3)
        assert "retrying" == statuses(result)["flowglad"]
        assert result["deliveries"]["flowglad"]["next_attempt_at"] > "2026"


async def test_a_repeat_waits_until_what_is_under_way_has_ended(house: House) -> None:
    async with house(running=False) as asking:
        await asking.one(event(), query="?ack=stored")
        repeat = asyncio.create_task(asking.one(event(), prefer="wait=60"))
        await asyncio.sleep(0.05)
        asking.gateway._run()
        result = await repeat
    assert ("delivered", True) == (result["status"], result["replayed"])


@pytest.mark.parametrize(
    ("changed", "fields", "words"),
    [
        ({"quantity": 4}, ["quantity"], "quantity differs"),
        ({"quantity": 4, "customer": "beta"}, ["customer", "quantity"], "customer and quantity differ"),
        (
            {"quantity": 4, "customer": "beta", "properties": {"a": 1}},
            ["customer", "quantity", "properties"],
            "customer, quantity and properties differ",
        ),
        ({"timestamp": "2026-11-23T00:00:00Z"}, ["timestamp"], "timestamp differs"),
    ],
)
async def test_other_content_under_a_known_id_is_a_conflict_that_names_the_fields(
    asking: Asking, changed: dict[str, Any], fields: list[str], words: str
) -> None:
    await asking.one(event())
    calls = asking.calls
    changed = {
        name: asking.gateway.clock.now().isoformat() if name == "timestamp" else v for name, v in changed.items()
    }
    result = await asking.one(event(**changed))
    assert {
        "code": "conflict",
        "message": f"id: came before with other content ({words}): send this under an id of its own",
        "field": "id",
        "fields": fields,
    } == result["error"]
    assert ("conflict", False, calls) == (result["status"], result["stored"], asking.calls)


async def test_in_one_batch_the_first_of_an_id_wins(asking: Asking) -> None:
    result = await asking.send([event(quantity="NaN"), event(), event(quantity=4), event(), event("e2")])
    assert [
        ("invalid", False),
        ("delivered", False),
        ("conflict", False),
        ("delivered", True),
        ("delivered", False),
    ] == [(one["status"], one["replayed"]) for one in result["results"]]
    assert [6] == list(asking.vendors["wingback"].billed().values())


async def test_a_repeat_is_not_refused_for_being_older_by_now(asking: Asking, clock: MovableClock) -> None:
    sent = event(timestamp=(clock.now() - timedelta(days=34)).isoformat())
    assert "delivered" == (await asking.one(sent))["status"]
    clock.ahead = timedelta(days=2)
    repeat, conflict, other = (
        await asking.send([sent, {**sent, "quantity": 4}, {**sent, "id": "e2"}], query="?ack=stored")
    )["results"]
    assert ("delivered", True, True) == (repeat["status"], repeat["stored"], repeat["replayed"])
    assert ("conflict", "invalid") == (conflict["status"], other["status"])


async def test_a_repeat_is_not_refused_for_a_meter_that_is_gone(house: House) -> None:
    async with house() as asking:
        await asking.one(event())
    async with house({"meters": {"api_calls": None}, "intake": {"unknown_meter": "refuse"}}) as asking:
        result = await asking.one(event())
        assert ("delivered", True) == (result["status"], result["replayed"])
        assert "unknown_meter" == (await asking.one(event("e2")))["error"]["code"]


# What an event's status follows from.


async def test_zero_counts_as_delivered_and_no_binding_does_not_count(asking: Asking) -> None:
    result = await asking.one(event(quantity=0))
    assert {
        "flowglad": "filtered",
        "paygentic": "filtered",
        "flexprice": "accepted",
        "wingback": "accepted",
    } == statuses(result)
    assert ("zero", "delivered") == (result["deliveries"]["flowglad"]["reason"], result["status"])
    result = await asking.one(event("e2", meter="logins", quantity=0))
    assert ("filtered", "no_binding") == (statuses(result)["wingback"], result["deliveries"]["wingback"]["reason"])
    assert "delivered" == result["status"]


async def test_all_zero_is_delivered(house: House) -> None:
    async with house({"destinations": {"flexprice": {"mode": "off"}, "wingback": {"mode": "off"}}}) as asking:
        result = await asking.one(event(quantity=0))
        assert ({"filtered"}, "delivered") == (set(statuses(result).values()), result["status"])
        assert (0, 0) == (asking.calls["flowglad"], asking.calls["paygentic"])


@pytest.mark.parametrize(("quantity", "at_flexprice"), [(1, "accepted"), (0, "filtered"), (5, "rejected")])
async def test_what_a_vendor_counts_as_one_is_one(asking: Asking, quantity: int, at_flexprice: str) -> None:
    asking.vendors["flexprice"].quantity_properties = {"logins": None}
    sent = [event(f"e{number}", meter="logins", quantity=quantity) for number in range(3)]
    for result in (await asking.send(sent))["results"]:
        told = result["deliveries"]
        assert ("filtered" if quantity == 0 else "accepted") == told["flowglad"]["status"]
        assert at_flexprice == told["flexprice"]["status"]
        if at_flexprice == "rejected":
            assert "counts each event as 1" in told["flexprice"].get("error", {}).get("message", "")
    counted = asking.vendors["flexprice"].billed().get(("acme", "logins"), 0)
    assert counted == (3 if quantity == 1 else 0)


async def test_a_count_meter_counts_one_where_nothing_is_said(asking: Asking) -> None:
    assert "delivered" == (await asking.one(event(meter="logins", quantity=None)))["status"]
    assert {("sub_acme", "logins"): 1} == asking.vendors["flowglad"].billed()


@pytest.mark.parametrize(
    ("refusing", "status"), [({"flowglad"}, "partial"), ({"flowglad", "paygentic", "flexprice", "wingback"}, "failed")]
)
async def test_what_is_refused_everywhere_has_failed_and_else_is_partial(
    asking: Asking, refusing: set[str], status: str
) -> None:
    for name in refusing:
        asking.vendors[name].refuse("e1")
    result = await asking.one(event())
    assert status == result["status"]
    assert {name: "rejected" if name in refusing else "accepted" for name in asking.vendors} == statuses(result)


async def test_an_event_with_quantities_has_its_parts_and_their_worst_status(asking: Asking) -> None:
    asking.vendors["flowglad"].known_meters = {"tokens_in"}
    sent = event(meter="llm_call", quantity=None, quantities={"input": 1200, "output": 300})
    result = await asking.one(sent)
    assert "partial" == result["status"]
    flowglad = result["deliveries"]["flowglad"]
    assert ("rejected", "unknown_binding") == (flowglad["status"], flowglad["error"]["code"])
    assert {"input": "accepted", "output": "rejected"} == {
        name: part["status"] for name, part in flowglad["parts"].items()
    }
    assert "parts" not in result["deliveries"]["flexprice"]


# Routing.


async def test_an_unrouted_event_is_stored_and_goes_on_by_itself_after_a_restart(
    house: House, vendors: dict[str, SimulatedProvider]
) -> None:
    async with house() as asking:
        result = await asking.one(event(meter="new_thing"), prefer="wait=60")
        assert ("unrouted", True, {}) == (result["status"], result["stored"], result["deliveries"])
    async with house({"meters": {"new_thing": {"bindings": {"flexprice": {}}}}}) as asking:
        await asking.routed("e1")
        result = await asking.one(event(meter="new_thing"))
        assert ("delivered", True) == (result["status"], result["replayed"])
        assert {"flexprice": "accepted"} == {n: s for n, s in statuses(result).items() if s != "filtered"}
    assert {("acme", "new_thing"): 3} == vendors["flexprice"].billed()


async def test_an_unrouted_event_goes_on_by_itself_after_a_reload(asking: Asking) -> None:
    with structlog.testing.capture_logs() as told:
        await asking.one(event(meter="new_thing"))
    (hint,) = [line["hint"] for line in told if line["event"] == "events.unrouted"]
    assert "SIGHUP" in hint
    await asking.gateway.reload(loads(configured({"meters": {"new_thing": {"bindings": {"flexprice": {}}}}}), {}))
    await asking.routed("e1")
    assert "delivered" == (await asking.one(event(meter="new_thing")))["status"]
    assert {("acme", "new_thing"): 3} == asking.vendors["flexprice"].billed()


async def test_an_event_recorded_while_a_reload_takes_its_destination_away_is_blocked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(running=False) as asking:
        gateway, record = asking.gateway, asking.gateway.ledger.record

        async def slow(*given: Any) -> Any:
            claims = await record(*given)
            gateway._use(loads(configured({"destinations": {"flexprice": {"mode": "off"}}}), {}))
            return claims

        monkeypatch.setattr(gateway.ledger, "record", slow)
        await asking.one(event(), query="?ack=stored")
        assert "blocked" == (await asking.get("/v1/events/e1"))["deliveries"]["flexprice"]["status"]


async def test_a_destination_switched_off_keeps_what_waits_as_blocked(house: House) -> None:
    async with house(running=False) as asking:
        await asking.one(event(), query="?ack=stored")
    async with house({"destinations": {"flexprice": {"mode": "off"}}}) as asking:
        result = await asking.one(event())
        assert "blocked" == statuses(result)["flexprice"]
        assert "configure it again" in result["deliveries"]["flexprice"]["error"]["message"]
    async with house() as asking:
        assert "delivered" == (await asking.one(event()))["status"]


async def test_what_was_stored_before_a_stop_is_sent_after_it(house: House) -> None:
    async with house(running=False) as asking:
        await asking.one(event(), query="?ack=stored")
        assert {0} == set(asking.calls.values())
    async with house() as asking:
        assert "delivered" == (await asking.one(event()))["status"]


def test_two_configurations_are_told_apart_and_one_is_itself() -> None:
    def digest(window: str) -> str:
        given = loads(configured({"destinations": {"paygentic": {"settings": {"dedupe_window": window}}}}), {})
        return Generation(given, 1, MovableClock().now()).digest

    assert digest("24h") == digest("24h")
    assert digest("24h") != digest("48h")
