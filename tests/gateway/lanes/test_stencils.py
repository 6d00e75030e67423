"""Stencils: whatever an event holds, its row is the one that the adapter says, byte for byte, or is left to it."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import Adapter, provider
from adapters._values import JsonValue
from canonical_schema import Event, Kind, decode_event, encode_event, encode_events
from gateway.catalogue import Catalogue
from gateway.configuration.file import loads
from gateway.lanes import columns, stencils
from gateway.lanes.rendering import Turned, encoded, render
from gateway.lanes.stencils import Stencils
from gateway.ledger import Part, StoredEvents
from gateway.periods import Periods, period_of
from tests.gateway.clocks import START
from tests.gateway.lanes.vendors import LINKS, SETTINGS, catalogue
from tests.gateway.lanes.world import CONTRACT, used

BINDINGS: dict[str, dict[str, Any]] = {
    "flowglad": {"price_slug": "a%sb"},
    "events": {"event_type": 'c"d', "quantity_field": "n"},
    "usage": {"billable_metric_id": "bm_1", "price": "0.001"},
    "flexprice": {"event_name": "calls", "quantity_property": "n"},
    "wingback": {"feature_slug": "calls"},
}
LINKED = {name: catalogue(name, BINDINGS[name]) for name in SETTINGS}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = (
    texts
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3)
    | st.sampled_from([Decimal("1E+5"), Decimal("0E-9"), Decimal("-0"), Decimal("0.50"), Decimal("1E-7"), "4000000020"])
)
events = st.builds(  # as they are read back: what could not be in JSON is not asked for
    lambda *given, **members: decode_event(encode_event(used(*given, **members))),
    st.from_regex(r"[!-~]{1,40}", fullmatch=True) | st.sampled_from(["ugw_" + "0" * 32, "a::b", 'a"b', "a\\b", "é"]),
    quantity=st.none()
    | st.integers(-5, 2**33).map(Decimal)
    | st.decimals(-10, 10**6, places=3)
    | st.sampled_from([Decimal("1E+3"), Decimal("5.0"), Decimal("0.10"), Decimal("0E-3"), Decimal("1E-9")]),
    timestamp=st.none()
    | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  made aware
    | st.integers(0, 999).map(lambda ms: START - timedelta(milliseconds=ms)),
    source=st.sampled_from([None, None, "s%s", "é"]),
    subscription=st.sampled_from([None, "s1"]),
    kind=st.sampled_from([Kind.DELTA, Kind.DELTA, Kind.ABSOLUTE]),
    customer=st.sampled_from(["acme", "acme", "other", 'x"y']),
    properties=st.dictionaries(st.sampled_from(["n", "a", "b%", 'c"', "gateway_event_id", "é"]), scalars, max_size=4),
)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look be worth it from the first event on."""
    monkeypatch.setattr(columns, "FEW", -1)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no stencil be held against the adapter but by the test."""
    monkeypatch.setattr(stencils, "CHECKED", 0)


def filled(made: Stencils, *events: Event) -> Sequence[bytes | None]:
    """Return the rows of events that are at hand, which are those of the same events as they are stored."""
    rows, stored = (
        made.rows("default", some, [START] * len(events), START)
        for some in (events, StoredEvents(encode_events(events)))
    )
    assert rows == stored
    return rows.split(b"\n") if isinstance(rows, bytes) else rows


def said(name: str, event: Event) -> object:
    """Return what the adapter says: the row of a plain delivery."""
    made = render(LINKED[name], name, "default", event, START, START)
    parts = [] if isinstance(made, Turned) else encoded(made)
    return parts[0].row if parts == [Part("", event.id, part.row) for part in parts[:1]] else None


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.usefixtures("unchecked")
def test_a_filled_stencil_is_what_the_adapter_says_byte_for_byte_whatever_else_is_in_the_batch(name: str) -> None:
    made, count = Stencils(LINKED[name], name), 0

    @settings(max_examples=300, deadline=None)
    @given(st.lists(events, min_size=1, max_size=6))
    def law(batch: list[Event]) -> None:
        nonlocal count
        for event, row in zip(batch, filled(made, *batch), strict=True):
            assert row is None or row == said(name, event)
            count += row is not None

    law()
    assert count > 20, "most plain events are filled in"


@pytest.mark.parametrize("name", SETTINGS)
def test_plain_events_are_filled_and_the_adapter_is_asked_for_the_first_of_them_only(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Stencils(LINKED[name], name)
    kind, asked = type(LINKED[name].destinations[name].adapter), list[str]()
    encode = kind.encode

    def counted(adapter: Any, usage: Any) -> Any:
        asked.append(usage.event_id)
        return encode(adapter, usage)

    monkeypatch.setattr(kind, "encode", counted)
    batch: list[Event] = []
    for number in range(50):
        properties = {"region": f"r{number}", "status": 200 + number, "cached": True, "cost": Decimal(f"{number}.25")}
        when = START - timedelta(milliseconds=number)
        batch.append(used(f"e{number}", timestamp=when, properties=properties))
    assert None not in filled(made, *batch)
    assert ["e0", "e1", "e2"] == asked[2:], "two stand-ins, then the first three events"


class Odd(provider("flexprice")):  # type: ignore[misc]
    """An adapter that says it puts values in places, and does not."""

    def encode(self, usage: Any) -> Mapping[str, JsonValue]:
        row = dict(super().encode(usage))
        return row | {"big": True} if usage.quantity > 10**6 else row


def odd(monkeypatch: pytest.MonkeyPatch, **members: Any) -> Stencils:
    found = catalogue("flexprice", {})
    monkeypatch.setattr(found.destinations["flexprice"].adapter, "__class__", type("Other", (Odd,), members))
    return Stencils(found, "flexprice")


def test_a_stencil_that_an_event_does_not_bear_out_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    made = odd(monkeypatch)
    assert [None, None] == filled(made, used("e1"), used("e2"))
    assert [None] == filled(made, used("e3"))


@pytest.mark.parametrize("members", [{"by_place": False}, {"wire_time": lambda _, when: str(when)}])  # type: ignore[misc]
def test_an_adapter_that_declares_nothing_or_writes_its_own_way_is_asked_for_every_row(
    members: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [None] == filled(odd(monkeypatch, **members), used("e1"))


class Typed(provider("flexprice")):  # type: ignore[misc]
    """An adapter that writes numbers with a point as text, and others as they are."""

    def encode(self, usage: Any) -> Mapping[str, JsonValue]:
        told = {name: str(one) if isinstance(one, Decimal) else one for name, one in usage.properties.items()}
        return dict(super().encode(usage)) | {"told": told}


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_two_kinds_under_one_name_are_each_written_as_the_adapter_writes_its_kind() -> None:
    found = catalogue("flexprice", {})
    found.destinations["flexprice"].adapter.__class__ = Typed
    made = Stencils(found, "flexprice")
    rows = filled(made, *(used(f"e{place}", properties={"n": n}) for place, n in enumerate([Decimal("1.5"), 2, 3])))
    assert ["1.5", 2, 3] == [json.loads(row)["told"]["n"] for row in rows if row is not None]


def test_nobody_is_vouched_for_unseen() -> None:
    assert not Adapter.by_place


def test_a_link_for_another_time_or_customer_is_another_name() -> None:
    found = LINKED["flexprice"]
    made = Stencils(found, "flexprice")
    for customer in ("acme", "other", "acme"):
        (row,) = filled(made, used("e1", customer=customer))
        assert row is not None
        assert f'"external_customer_id":"{customer}"'.encode() in row
    assert "flexprice" not in LINKS


@pytest.mark.parametrize("name", SETTINGS)
def test_another_tenants_events_are_left_to_the_adapter_as_their_ids_are_somebody_elses_keys(name: str) -> None:
    made = Stencils(LINKED[name], name)
    batch = [used(f"e{number}") for number in range(5)]
    assert None not in filled(made, *batch)
    assert [None] * 5 == made.rows("blue", StoredEvents(encode_events(batch)), [START] * 5, START)


MOVED = datetime(2026, 11, 1, tzinfo=UTC)
"""When links change, and the month that is closed has ended."""
NAMED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "flowglad": ({"subscription_id": "sub_1"}, {"subscription_id": "sub_2"}),
    "events": ({"external_subject": "one"}, {"customer_id": "cus_2"}),
    "usage": ({"customer_id": "cus_1"}, {"customer_id": "cus_2"}),
    "flexprice": ({"external_customer_id": "one"}, {"external_customer_id": "two"}),
    "wingback": ({"customer_id": CONTRACT}, {"customer_id": f"{CONTRACT[:-1]}f"}),
}


def moving(name: str, late: str) -> Catalogue:
    """Return a catalogue in which customers change their names with time, or have one for each subscription."""
    one, other = NAMED[name]
    links: dict[str, list[dict[str, Any]]] = {
        "acme": [one],
        "other": [other],
        "moves": [one | {"until": str(MOVED)}, other | {"since": str(MOVED)}],
        "comes": [one | {"since": str(MOVED)}],
        "parts": [one, other | {"subscription": "s1"}],
    }
    whole = {
        "destinations": {name: SETTINGS[name] | {"late": late}},
        "meters": {"calls": {"bindings": {name: BINDINGS[name]}}},
        "customers": {customer: {name: rows} for customer, rows in links.items()},
    }
    closed = Periods()
    closed.use("default", [period_of("2026-10", "UTC")])
    return Catalogue(loads(yaml.safe_dump(whole), {}), closed)


@pytest.mark.parametrize("late", ["send", "hold"])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.usefixtures("unchecked")
def test_whoever_an_event_is_billed_to_and_whenever_it_was_it_goes_as_it_would_alone(name: str, late: str) -> None:
    found = moving(name, late)
    made, count = Stencils(found, name), 0
    whens = st.sampled_from([MOVED, START]).flatmap(
        lambda when: st.integers(-1, 1).map(lambda step: when + step * timedelta(microseconds=1000))
    )
    some = st.builds(
        lambda number, **members: decode_event(encode_event(used(f"e{number}", **members))),
        st.integers(0, 99),
        customer=st.sampled_from(["acme", "other", "moves", "comes", "parts", "nobody"]),
        timestamp=st.none() | whens,
        subscription=st.sampled_from([None, "s1", "s2"]),
    )

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(some, whens), min_size=1, max_size=8))
    def law(batch: list[tuple[Event, datetime]]) -> None:
        nonlocal count
        events, receipts = zip(*batch, strict=True)
        rows = made.rows("default", StoredEvents(encode_events(events)), receipts, START)
        for event, received, row in zip(
            events, receipts, rows.split(b"\n") if isinstance(rows, bytes) else rows, strict=True
        ):
            alone = render(found, name, "default", event, received, START)
            assert row is None or (not isinstance(alone, Turned) and encoded(alone) == [Part("", event.id, row)])
            count += row is not None

    law()
    assert count > 100, "most of them are filled in"
