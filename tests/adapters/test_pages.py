"""Listings are read to the end that the vendor itself gives them; a page that breaks off is no end."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from adapters import AnyAdapter, CanReadUsage, Read, Reply, Unread, UnreadKind, UsageRow, Wanted, Window
from adapters._inventory import CanListCustomers, CanListMeters
from adapters._readback import listed
from tests.adapters.worlds import NOW, adapter_of, bound

NOVEMBER = Window(start=datetime(2026, 11, 1, tzinfo=UTC), end=datetime(2026, 12, 1, tzinfo=UTC))
V0 = adapter_of("paygentic", "usage-v0")
EVENTS = adapter_of("paygentic", "events", merchant_id="org_1")
FLOWGLAD = adapter_of("flowglad", "bulk")
FLEXPRICE = adapter_of("flexprice", "bulk")


def told(question: Any, pages: Iterable[Any]) -> tuple[Any, int]:
    """Return what an ask comes to over these pages, and how many it asked for; more are empty."""
    waiting, asked = [*pages], 0
    next(question)
    while True:
        asked += 1
        page = waiting.pop(0) if waiting else {}
        try:
            question.send(Reply(status=200, body=json.dumps(page).encode()))
        except StopIteration as ended:
            return ended.value, asked


def read(adapter: AnyAdapter, pages: Iterable[Any], before: Iterable[Any] = ()) -> tuple[Read | Unread, list[str]]:
    """Return what reading usage comes to, and the keys of what was found."""
    assert isinstance(adapter, CanReadUsage)
    binding, link = bound(adapter, 0)
    rows: list[UsageRow] = []
    wanted = Wanted(window=NOVEMBER, bindings={"m": binding}, link=link, now=NOW)
    outcome, _ = told(adapter.read_usage(wanted, rows.append), [*before, *pages])
    return outcome, [row.key for row in rows]


def usage(*keys: str) -> list[dict[str, Any]]:
    measured = [{"billableMetricId": bound(V0, 0)[0].model_dump()["billable_metric_id"], "quantity": 1}]
    at = {"timestamp": "2026-11-23T00:00:00Z", "properties": measured}
    return [{"id": f"usg_{key}", "idempotencyKey": key, "customerId": "cus_customerone", **at} for key in keys]


def counted(total: object, under: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {under: rows, "pagination": {"limit": 2, "offset": 0, "total": total}}


@pytest.mark.parametrize("status", [302, 404, 429, 503])
def test_an_empty_page_that_comes_with_a_refusal_is_no_end(status: int) -> None:
    refused = Reply(status=status, body=b'{"data": []}')
    assert Unread(kind=UnreadKind.TROUBLE, why=f"events: HTTP {status}") == listed(refused, "events", "data")


@pytest.mark.parametrize("total", [3, "3", 3.0])
def test_pages_that_are_smaller_than_was_asked_for_are_read_to_the_end(total: object) -> None:
    pages = [counted(total, "data", usage("a", "b")), counted(total, "data", usage("c"))]
    outcome, keys = read(V0, pages)
    assert isinstance(outcome, Read)
    assert ["a", "b", "c"] == keys


@pytest.mark.parametrize("total", [None, "many", True, -1, [], 2])
def test_a_count_that_says_nothing_more_ends_with_a_short_page(total: object) -> None:
    outcome, keys = read(V0, [counted(total, "data", usage("a", "b"))])
    assert isinstance(outcome, Read)
    assert ["a", "b"] == keys


def test_a_listing_that_breaks_off_is_unread() -> None:
    outcome, _ = read(V0, [counted(3, "data", usage("a", "b")), counted(3, "data", [])])
    assert Unread(kind=UnreadKind.TROUBLE, why="usage: 3 are promised, and after 2 there are no more") == outcome


def test_events_of_a_metric_are_read_to_the_end_as_well() -> None:
    kind = bound(EVENTS, 0)[0].model_dump()
    metric = {"id": "bm_1", "eventType": kind["event_type"], "valueProperty": "$." + kind["quantity_field"]}
    at = {"time": "2026-11-23T00:00:00Z", "data": {}, "externalSubject": "customer-one"}
    events = [{"id": f"e{key}", "idempotencyKey": key, **at} for key in "abc"]
    metrics = [counted(1, "data", [metric])]
    outcome, keys = read(EVENTS, [counted(3, "events", events[:2]), counted(3, "events", events[2:])], metrics)
    assert isinstance(outcome, Read)
    assert ["a", "b", "c"] == keys
    outcome, _ = read(EVENTS, [counted(3, "events", events[:2]), counted(3, "events", [])], metrics)
    assert isinstance(outcome, Unread)


def test_an_inventory_is_read_to_the_end_as_well() -> None:
    assert isinstance(EVENTS, CanListMeters)
    assert isinstance(FLEXPRICE, CanListCustomers)
    metrics = [{"id": f"bm_{name}", "eventType": name} for name in "abc"]
    pages = [counted(3, "data", metrics[:2]), counted(3, "data", metrics[2:])]
    meters, _ = told(EVENTS.list_meters(), pages)
    assert ["a", "b", "c"] == [meter.binding["event_type"] for meter in meters]
    people = [{"external_id": name} for name in "ab"]
    pages = [counted(3, "items", people), counted(3, "items", [])]
    unread, _ = told(FLEXPRICE.list_customers(), pages)
    assert Unread(kind=UnreadKind.TROUBLE, why="customers: 3 are promised, and after 2 there are no more") == unread


# Flowglad and Flexprice go on by cursor.


def flowglad_events(*keys: str) -> list[dict[str, Any]]:
    at = {"usageDate": 1795400000000, "amount": 1, "subscriptionId": "sub_customerone", "priceId": "price_1"}
    return [{"id": f"ue_{key}", "transactionId": key, **at} for key in keys]


PRICES = {"data": [{"id": "price_1", "slug": bound(FLOWGLAD, 0)[0].model_dump()["price_slug"]}], "hasMore": False}


@pytest.mark.parametrize("more", [{"hasMore": True}, {}, {"hasMore": None}])
@pytest.mark.parametrize("empty", [False, True])
def test_flowglad_is_read_for_as_long_as_it_gives_a_cursor(more: dict[str, Any], empty: bool) -> None:
    first = {"data": [] if empty else flowglad_events("a"), "nextCursor": "c1", **more}
    outcome, keys = read(FLOWGLAD, [first, {"data": flowglad_events("b"), "hasMore": False}], [PRICES])
    assert isinstance(outcome, Read)
    assert (["b"] if empty else ["a", "b"]) == keys


def test_flowglads_absence_is_not_proven_by_a_page_that_promises_more() -> None:
    outcome, _ = read(FLOWGLAD, [{"data": [], "hasMore": True}], [PRICES])
    why = "usage events: more is promised, and no cursor to it given"
    assert Unread(kind=UnreadKind.TROUBLE, why=why) == outcome
    outcome, _ = read(FLOWGLAD, [{"data": [], "hasMore": True}])
    assert Unread(kind=UnreadKind.TROUBLE, why="prices: more is promised, and no cursor to it given") == outcome


def test_a_price_on_a_later_page_is_found_and_one_of_an_older_server_too() -> None:
    first: dict[str, Any] = {"items": [], "hasMore": True, "nextCursor": "c1"}
    last = {"data": flowglad_events("a"), "hasMore": False}
    outcome, keys = read(FLOWGLAD, [last], [first, {"items": PRICES["data"]}])
    assert isinstance(outcome, Read)
    assert ["a"] == keys


def test_flexprice_is_not_at_its_end_where_it_promises_more() -> None:
    outcome, _ = read(FLEXPRICE, [{"events": [], "has_more": True}])
    why = "events: more is promised, and no cursor to it given"
    assert Unread(kind=UnreadKind.TROUBLE, why=why) == outcome
