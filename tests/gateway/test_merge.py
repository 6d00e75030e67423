"""Many answers become one, in one shape; over a batch as the ledger keeps it."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from canonical_schema import ErrorCode, ErrorItem, Event, EventDetail, EventStatus
from gateway.ledger import AttemptRow, Code, Group, Part, Plan, Snapshot, Track, WorkState
from gateway.merge import View, batch_result, fresh, refused

NOW = 1_795_431_600_000_000
ERROR = ErrorItem(code=ErrorCode.UNKNOWN_CUSTOMER, message="Contract not found", retryable=False)
PROVIDERS = {"a": "flowglad", "b": "wingback", "c": "flexprice"}


def track(name: str, *codes: Code, shadow: bool = False, **members: Any) -> Track:
    made: dict[str, Any] = {"work": [], "attempts": [], "parts": {}, **members}
    return Track(destination=name, provider=PROVIDERS[name], shadow=shadow, codes=bytes(codes), **made)


def view(*tracks: Track, events: int = 1) -> View:
    made = [Event(id=f"e{index}", customer="acme", meter="calls", quantity=Decimal(1)) for index in range(events)]
    return View(Snapshot(batch=1, tenant="default", received=NOW, events=made, tracks=list(tracks)))


def attempt(*members: int, outcome: str = "accepted", **more: Any) -> AttemptRow:
    given: dict[str, Any] = {"at": NOW, "duration_ms": 12, "http_status": 200, **more}
    return AttemptRow(batch=1, destination="a", members=list(members), outcome=outcome, **given)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], EventStatus.UNROUTED),
        ([Code.NONE], EventStatus.UNROUTED),
        ([Code.NO_BINDING, Code.NO_ROUTE], EventStatus.UNROUTED),
        ([Code.ACCEPTED, Code.NO_BINDING], EventStatus.DELIVERED),
        ([Code.ZERO], EventStatus.DELIVERED),
        ([Code.ZERO, Code.REJECTED], EventStatus.PARTIAL),
        ([Code.ACCEPTED_QUEUED, Code.DUPLICATE_UNEXPECTED], EventStatus.DELIVERED),
        ([Code.UNKNOWN, Code.REJECTED, Code.PENDING], EventStatus.UNKNOWN),
        ([Code.REJECTED, Code.DEAD], EventStatus.FAILED),
        ([Code.REJECTED, Code.PENDING], EventStatus.PARTIAL),
        ([Code.ACCEPTED, Code.RETRYING], EventStatus.PENDING),
        ([Code.BLOCKED], EventStatus.PENDING),
    ],
)
def test_an_events_status_follows_from_its_live_deliveries(codes: Sequence[Code], expected: EventStatus) -> None:
    live = [track(name, code) for name, code in zip(PROVIDERS, codes, strict=False)]
    assert expected is view(*live).status(0)


@pytest.mark.parametrize("code", [Code.REJECTED, Code.UNKNOWN, Code.PENDING, Code.ACCEPTED])
def test_a_shadow_never_counts(code: Code) -> None:
    assert EventStatus.DELIVERED is view(track("a", Code.ACCEPTED), track("b", code, shadow=True)).status(0)
    assert EventStatus.UNROUTED is view(track("b", code, shadow=True)).status(0)


def test_what_is_open_is_live_and_not_blocked() -> None:
    one = view(track("a", Code.PENDING), track("b", Code.BLOCKED), track("c", Code.RETRYING, shadow=True))
    assert ["a"] == one.open(0)
    assert ["a"] == view(track("a", Code.RETRYING)).open(0)


def test_an_entry_says_what_happened_to_one_event_and_not_to_its_neighbours() -> None:
    failed = Group(state=WorkState.REJECTED, due=NOW, since=NOW, error=ERROR)
    again = Group(state=WorkState.READY, due=NOW + 1_500_000, attempts=2, since=NOW)
    shown = view(
        track(
            "a",
            *[Code.ACCEPTED, Code.REJECTED, Code.DUPLICATE_UNEXPECTED, Code.RETRYING],
            attempts=[attempt(0, 1, 2, 3, provider_event_ids={0: "their_0"}), attempt(3, http_status=None)],
            work=[(failed, [1]), (again, [3])],
        ),
        events=4,
    )
    assert [
        {"provider": "flowglad", "status": "accepted", "attempts": 1, "provider_event_id": "their_0"},
        {"provider": "flowglad", "status": "rejected", "attempts": 1, "error": ERROR},
        {"provider": "flowglad", "status": "duplicate", "attempts": 1, "unexpected": True},
        {"provider": "flowglad", "status": "retrying", "attempts": 2, "next_attempt_at": "2026-11-23T11:00:01.5Z"},
    ] == [shown.deliveries(index)["a"] for index in range(4)]


def test_a_filtered_delivery_says_why_and_was_never_tried() -> None:
    shown = view(track("a", Code.ZERO), track("b", Code.NO_BINDING), track("c", Code.NONE)).deliveries(0)
    assert {
        "a": {"provider": "flowglad", "status": "filtered", "attempts": 0, "reason": "zero"},
        "b": {"provider": "wingback", "status": "filtered", "attempts": 0, "reason": "no_binding"},
    } == shown


def test_the_parts_of_a_delivery_have_what_the_provider_said_of_each() -> None:
    parts = [
        Part("input", "k1", b"", Code.ACCEPTED_QUEUED, "their_1"),
        Part("output", "k2", b"", Code.REJECTED, None, ERROR),
        Part("zero", "k3", b"", Code.ZERO),
    ]
    shown = view(track("a", Code.REJECTED, parts={0: parts})).deliveries(0)["a"]
    assert {
        "input": {"status": "accepted", "provider_event_id": "their_1", "receipt": "queued"},
        "output": {"status": "rejected", "error": ERROR},
        "zero": {"status": "filtered", "reason": "zero"},
    } == shown.get("parts")


def test_the_history_has_every_attempt_with_this_events_own_outcome() -> None:
    attempts = [
        attempt(0, 1, outcome="unknown", http_status=None, others={1: ("rejected", ERROR)}),
        attempt(0, outcome="duplicate"),
    ]
    shown = view(track("a", Code.DUPLICATE, Code.REJECTED, attempts=attempts), events=2)
    detail = msgspec.convert(shown.detail(0), EventDetail)
    assert [("unknown", None), ("duplicate", 200)] == [
        (one["outcome"], one.get("http_status")) for one in detail["deliveries"]["a"]["history"]
    ]
    (one,) = shown.detail(1)["deliveries"]["a"]["history"]
    assert ("rejected", ERROR) == (one["outcome"], one.get("error"))


def test_an_event_without_a_time_is_shown_with_that_of_its_receipt() -> None:
    detail = view(track("a", Code.ACCEPTED)).detail(0)
    assert detail["received_at"] == detail.get("event", {})["timestamp"]


def test_what_was_stored_just_now_looks_as_it_will_from_the_ledger() -> None:
    plan = Plan(live=("a",), shadow=("b",), filtered=(("c", Code.NO_BINDING),))
    kept = view(track("a", Code.PENDING), track("b", Code.PENDING, shadow=True), track("c", Code.NO_BINDING))
    assert (kept.status(0), kept.deliveries(0)) == fresh(plan, PROVIDERS)


def test_a_summary_adds_up_and_its_entries_have_their_members_in_order() -> None:
    error = ErrorItem(code=ErrorCode.INVALID_EVENT, message="no")
    results = [
        refused(0, "x", EventStatus.INVALID, error),
        refused(1, None, EventStatus.CONFLICT, error),
        view(track("a", Code.ACCEPTED)).result(2, 0, "e0", replayed=False),
    ]
    result = batch_result("bat_1", results)
    told = {name: count for name, count in result["summary"].items() if count}
    assert {"total": 3, "delivered": 1, "invalid": 1, "conflict": 1} == told
    assert [
        ["index", "id", "status", "stored", "replayed", "deliveries", "error"],
        ["index", "status", "stored", "replayed", "deliveries", "error"],
        ["index", "id", "status", "stored", "replayed", "deliveries"],
    ] == [list(one) for one in result["results"]]
