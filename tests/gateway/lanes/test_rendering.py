"""From an event to rows: exact or refused, floored and never rounded up, under keys that are the same for ever."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import Door, Row, provider
from adapters._facts import KeyRule
from canonical_schema import Event, Kind
from gateway.catalogue import Catalogue
from gateway.lanes.rendering import Turned, _floored, _key, _part_names, encoded, render
from gateway.ledger import Code
from tests.gateway.clocks import START
from tests.gateway.lanes.vendors import catalogue
from tests.gateway.lanes.world import used

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def turned_out(
    found: Catalogue, event: Event, *, tenant: str = "default", received: datetime = START, now: datetime = START
) -> list[tuple[str, str, Row | None]] | Turned:
    (name,) = found.destinations
    return render(found, name, tenant, event, received, now)


def rows(found: Catalogue, event: Event, **members: Any) -> list[tuple[str, str, Row | None]]:
    made = turned_out(found, event, **members)
    assert not isinstance(made, Turned), made
    return made


def one(found: Catalogue, event: Event, **members: Any) -> dict[str, Any]:
    ((_, _, row),) = rows(found, event, **members)
    assert row is not None
    return dict(row)


def away(found: Catalogue, event: Event, **members: Any) -> tuple[str, str, str]:
    """Return why an event is not sent: code, error code, words."""
    made = turned_out(found, event, **members)
    assert isinstance(made, Turned), made
    assert made.error is not None
    return made.code.name, made.error["code"].value, made.error["message"]


def measures(**quantities: int | str) -> Event:
    return used("e1", quantity=None, quantities={name: Decimal(value) for name, value in quantities.items()})


# Times.

resolutions = st.sampled_from([timedelta(microseconds=1), timedelta(milliseconds=1), timedelta(seconds=1)])
instants = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  made aware


@given(instants, resolutions)
def test_a_time_is_floored_and_never_rounded_up(when: datetime, resolution: timedelta) -> None:
    floored = _floored(when, resolution)
    assert floored <= when < floored + resolution
    assert timedelta(0) == (floored - EPOCH) % resolution
    assert floored == _floored(floored, resolution)


@pytest.mark.parametrize(
    ("name", "binding", "field", "said"),
    [
        ("flowglad", {"price_slug": "p"}, "usageDate", 1_798_761_599_999),
        ("flexprice", {}, "timestamp", "2026-12-31T23:59:59.999Z"),
        ("wingback", {}, "timestamp", "2026-12-31T23:59:59.999999Z"),
    ],
)
def test_the_last_instant_of_a_month_stays_in_it(name: str, binding: object, field: str, said: object) -> None:
    when = datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert said == one(catalogue(name, binding), used("e1", timestamp=when))[field]


def test_an_event_without_a_time_has_that_of_its_receipt_whenever_it_is_rendered() -> None:
    found = catalogue("flexprice", {})
    later = one(found, used("e1"), received=START, now=START + timedelta(days=3))
    assert one(found, used("e1"), received=START, now=START) == later
    assert "2026-11-23T12:00:00Z" == later["timestamp"]


# Keys.

RULES = [KeyRule(), KeyRule(max_length=36), KeyRule(forbidden=("::", "/")), KeyRule(pattern=r"[a-z0-9_]+")]
ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128)
tenants = st.sampled_from(["default", "blue", "red"])


@given(ids, st.sampled_from(RULES))
def test_an_id_that_fits_is_the_key_and_any_other_key_fits(event_id: str, rule: KeyRule) -> None:
    key = _key("default", event_id, "", rule)
    fits = (
        len(event_id) <= rule.max_length
        and not any(text in event_id for text in rule.forbidden)
        and (rule.pattern is None or re.fullmatch(rule.pattern, event_id) is not None)
    )
    assert (key == event_id) is fits
    assert len(key) <= rule.max_length
    assert not any(text in key for text in rule.forbidden)
    assert rule.pattern is None or re.fullmatch(rule.pattern, key)


@given(
    st.lists(st.tuples(tenants, ids, st.sampled_from(["", "in", "out", "in-2"])), min_size=2, max_size=6, unique=True),
    st.sampled_from(RULES),
)
def test_rows_of_different_tenants_events_or_parts_never_share_a_key(
    some: list[tuple[str, str, str]], rule: KeyRule
) -> None:
    keys = [_key(tenant, event_id, part, rule) for tenant, event_id, part in some]
    assert len(some) == len(set(keys))
    assert keys == [_key(tenant, event_id, part, rule) for tenant, event_id, part in some]


def test_a_key_is_the_same_for_ever() -> None:
    assert "ugw_c40d4e2fc6012df33f579d91bb9c26b3" == _key("blue", "e1", "in", KeyRule())


def test_an_id_that_looks_like_a_derived_key_is_not_sent_as_it_is() -> None:
    theirs = _key("blue", "e1", "", KeyRule())
    assert theirs != _key("default", theirs, "", KeyRule())
    assert "ugw_e1" == _key("default", "ugw_e1", "", KeyRule())


@given(st.lists(st.sampled_from(["", "a", "a-2", "a-3", "quantity", "quantity-2"]), min_size=1, max_size=8))
def test_no_two_parts_have_one_name(names: list[str]) -> None:
    made = _part_names(names)
    assert len(names) == len(set(made))
    assert [name or "quantity" for name in dict.fromkeys(names)] == [
        made[names.index(name)] for name in dict.fromkeys(names)
    ] or {"", "quantity"} <= set(names)


def test_the_part_of_a_row_makes_its_key() -> None:
    found = catalogue("flowglad", [{"price_slug": "i", "quantity": "in"}, {"price_slug": "o", "quantity": "out"}])
    both = rows(found, measures(**{"in": 1, "out": 2}))
    assert ["in", "out"] == [name for name, _, _ in both]
    assert 2 == len({key for _, key, _ in both})
    ((name, key, _),) = rows(found, measures(**{"in": 1}))
    assert ("in", both[0][1]) == (name, key)


# Quantities.


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=0, max_value=10**9),
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=Decimal("0.0001"), max_value=1000),
)
def test_a_scaled_quantity_is_exact_or_refused(quantity: Decimal, scale: Decimal) -> None:
    found = catalogue("flexprice", {"scale": str(scale)})
    made = turned_out(found, used("e1", quantity=quantity))
    exact = quantity * scale
    _, _, exponent = exact.normalize().as_tuple()
    assert isinstance(exponent, int)
    if isinstance(made, Turned):
        assert made.error is not None
        assert "quantity_not_representable" == made.error["code"].value
        assert -exponent > 8 or exact > Decimal("9999999999.99999999")
    else:
        ((_, _, row),) = made
        assert row is not None
        properties = row["properties"]
        assert isinstance(properties, dict)
        assert exact == Decimal(str(properties["quantity"]))
        assert "E" not in str(properties["quantity"])


@pytest.mark.parametrize(
    ("name", "binding", "quantity", "says"),
    [
        ("flowglad", {"price_slug": "p"}, "1.5", "quantity: Flowglad takes whole numbers only"),
        ("flowglad", {"price_slug": "p"}, "-1", "quantity: Flowglad takes nothing below 1"),
        ("flowglad", {"price_slug": "p"}, "2147483648", "quantity: Flowglad takes nothing above 2147483647"),
        ("flowglad", {"price_slug": "p", "scale": "0.1"}, "5", "quantity (after scale 0.1): Flowglad takes whole"),
        ("flexprice", {}, "-0.5", "quantity: Flexprice takes nothing below 0"),
        ("flexprice", {}, "0.000000001", "quantity: Flexprice takes at most 8 decimal places"),
        ("events", {}, "1234567890.1234567", "quantity: Paygentic takes at most 15 significant digits"),
        ("wingback", {}, "1e-13", "quantity: Wingback takes at most 12 decimal places"),
    ],
)
def test_what_a_vendor_cannot_hold_is_refused_with_the_reason(
    name: str, binding: object, quantity: str, says: str
) -> None:
    code, error, words = away(catalogue(name, binding), used("e1", quantity=Decimal(quantity)))
    assert ("REJECTED", "quantity_not_representable") == (code, error)
    assert words.startswith(says)


def test_trailing_zeros_are_no_decimal_places() -> None:
    assert 5 == one(catalogue("flowglad", {"price_slug": "p"}), used("e1", quantity=Decimal("5.000")))["amount"]
    assert 500 == one(catalogue("flowglad", {"price_slug": "p"}), used("e1", quantity=Decimal("5E+2")))["amount"]


def test_a_scale_that_cannot_be_kept_exactly_is_refused_and_stops_nothing() -> None:
    found = catalogue("flexprice", {"scale": "0." + "3" * 190})
    code, error, _ = away(found, used("e1", quantity=Decimal("1." + "7" * 37)))
    assert ("REJECTED", "quantity_not_representable") == (code, error)


def test_a_meter_that_counts_takes_one_where_nothing_is_given() -> None:
    found = catalogue("flexprice", {}, aggregation="count")
    assert {"quantity": "1"} == one(found, used("e1", quantity=None))["properties"]
    assert {"quantity": "1"} == one(found, used("e1", quantity=Decimal(1)))["properties"]


@pytest.mark.parametrize("name", ["flexprice", "events"])
def test_where_a_vendor_counts_each_row_as_one_no_other_quantity_is_said(name: str) -> None:
    found = catalogue(name, {}, aggregation="count")
    assert Turned(Code.ZERO) == turned_out(found, used("e1", quantity=Decimal(0)))
    for quantity in ("7", "0.5", "-1"):
        turned = turned_out(found, used("e1", quantity=Decimal(quantity)))
        assert isinstance(turned, Turned)
        assert turned.error is not None
        assert "quantity_not_representable" == turned.error["code"]
    assert "7" == one(catalogue("wingback", {}, aggregation="count"), used("e1", quantity=Decimal(7)))["units"]


# Zeros.


@pytest.mark.parametrize("zero", ["0", "0.00", "0E+5", "-0"])
def test_a_zero_is_filtered_where_it_cannot_be_told_and_sent_where_it_can(zero: str) -> None:
    event = used("e1", quantity=Decimal(zero))
    assert Turned(Code.ZERO) == turned_out(catalogue("flowglad", {"price_slug": "p"}), event)
    assert Turned(Code.ZERO) == turned_out(catalogue("usage", {"billable_metric_id": "bm"}), event)
    assert Decimal(0) == Decimal(one(catalogue("flexprice", {}), event)["properties"]["quantity"])
    assert Decimal(0) == Decimal(one(catalogue("wingback", {}), event)["units"])


def test_of_several_rows_only_the_zeros_are_left_out() -> None:
    found = catalogue("flowglad", [{"price_slug": "i", "quantity": "in"}, {"price_slug": "o", "quantity": "out"}])
    made = rows(found, measures(**{"in": 0, "out": 2}))
    assert [("in", True), ("out", False)] == [(name, row is None) for name, _, row in made]
    assert [Code.ZERO, Code.PENDING] == [part.code for part in encoded(made)]
    assert Turned(Code.ZERO) == turned_out(found, measures(**{"in": 0, "out": 0}))


def test_an_absolute_zero_is_a_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    doors = cast("dict[str, Door]", provider("wingback").spec.doors)
    monkeypatch.setitem(doors, "bulk", replace(doors["bulk"], zero="refused"))
    found = catalogue("wingback", {}, allow_absolute=True)
    row = one(found, used("e1", kind=Kind.ABSOLUTE, quantity=Decimal(0)))
    assert ("0", True) == (row["units"], row["is_absolute"])
    code, error, words = away(catalogue("wingback", {}), used("e1", kind=Kind.ABSOLUTE))
    assert ("REJECTED", "unsupported") == (code, error)
    assert "destinations.wingback.settings.allow_absolute" in words


# Quantities and binding rows.


def test_flexprice_takes_several_measures_in_one_row() -> None:
    found = catalogue("flexprice", {"quantity_properties": {"in": "tokens_in", "out": "tokens_out"}})
    ((name, key, row),) = rows(found, measures(**{"in": 3, "out": "4.5", "other": 9}))
    assert row is not None
    assert ("", "e1", {"tokens_in": "3", "tokens_out": "4.5"}) == (name, key, row["properties"])
    ((_, _, row),) = rows(found, measures(out=1))
    assert row is not None
    assert {"tokens_out": "1"} == row["properties"]


def test_paygentic_takes_several_metrics_in_one_row() -> None:
    binding = [
        {"billable_metric_id": "bm_in", "quantity": "in", "price": "0.001"},
        {"billable_metric_id": "bm_out", "quantity": "out"},
    ]
    ((name, key, row),) = rows(catalogue("usage", binding), measures(**{"in": 3, "out": 4}))
    assert row is not None
    assert ("", "e1") == (name, key)
    assert [
        {"billableMetricId": "bm_in", "quantity": 3, "price": "0.001"},
        {"billableMetricId": "bm_out", "quantity": 4},
    ] == row["properties"]


def test_metrics_of_different_entitlements_travel_apart() -> None:
    binding = [
        {"billable_metric_id": "bm_1", "quantity": "a", "entitlement_id": "com_1"},
        {"billable_metric_id": "bm_2", "quantity": "b", "entitlement_id": "com_2"},
        {"billable_metric_id": "bm_3", "quantity": "c", "entitlement_id": "com_1"},
    ]
    found = catalogue("usage", binding)
    made = rows(found, measures(a=1, b=2, c=3))
    assert [("a", "com_1", 2), ("b", "com_2", 1)] == [
        (name, row["entitlementId"], str(row["properties"]).count("billableMetricId"))
        for name, _, row in made
        if row is not None
    ]
    assert 2 == len({key for _, key, _ in made})
    ((name, _, _),) = rows(found, measures(a=1, c=3))
    assert "" == name


def test_one_quantity_may_be_billed_twice_by_one_binding() -> None:
    found = catalogue("flowglad", [{"price_slug": "x"}, {"price_slug": "y", "scale": "2"}])
    made = rows(found, used("e1", quantity=Decimal(3)))
    assert [("quantity", "x", 3), ("quantity-2", "y", 6)] == [
        (name, row["priceSlug"], row["amount"]) for name, _, row in made if row is not None
    ]


@pytest.mark.parametrize(
    ("binding", "event", "says"),
    [
        ({"price_slug": "p"}, measures(a=1), "the event gives quantities a, and the binding takes the plain quantity"),
        (
            {"price_slug": "p", "quantity": "a"},
            used("e1"),
            "the event gives the plain quantity, and the binding takes quantities a",
        ),
        (
            {"price_slug": "p", "quantity": "a"},
            measures(c=1, b=1),
            "the event gives quantities b, c, and the binding takes quantities a",
        ),
    ],
)
def test_an_event_that_brings_nothing_that_is_bound_is_refused(binding: object, event: Event, says: str) -> None:
    assert ("REJECTED", "unsupported", says) == away(catalogue("flowglad", binding), event)


def test_a_field_may_come_from_a_property() -> None:
    found = catalogue("usage", {"billable_metric_id": "bm", "price": {"property": "unit_price"}})
    row = one(found, used("e1", properties={"unit_price": Decimal("0.10")}))
    assert "0.10" == row["properties"][0]["price"]
    code, error, words = away(found, used("e1", properties={"unit_price": "a secret"}))
    assert ("REJECTED", "unsupported") == (code, error)
    assert "a secret" not in words
    assert "missing" in away(found, used("e1"))[2]


def test_properties_never_overwrite_a_quantity() -> None:
    row = one(catalogue("flexprice", {}), used("e1", properties={"quantity": "999", "region": "eu"}))
    assert {"quantity": "2", "region": "eu"} == row["properties"]


def test_an_aggregation_that_a_vendor_lacks_is_refused() -> None:
    code, error, words = away(catalogue("wingback", {}, aggregation="max"), used("e1"))
    assert ("REJECTED", "unsupported") == (code, error)
    assert "Wingback cannot aggregate by max" in words


# Links.


def test_a_customer_without_a_link_is_blocked_where_there_is_no_default() -> None:
    for name, binding in (("flowglad", {"price_slug": "p"}), ("wingback", {}), ("usage", {"billable_metric_id": "b"})):
        code, error, words = away(catalogue(name, binding), used("e1", customer="a stranger"))
        assert ("BLOCKED", "unmapped_customer") == (code, error)
        assert "a stranger" not in words


def test_the_canonical_id_serves_where_it_is_the_default_and_fits() -> None:
    assert "acme" == one(catalogue("flexprice", {}), used("e1"))["external_customer_id"]
    assert "acme" == one(catalogue("events", {}), used("e1"))["externalSubject"]
    code, error, words = away(catalogue("events", {}), used("e1", customer="jane@example.org"))
    assert ("BLOCKED", "unmapped_customer") == (code, error)
    assert "jane" not in words


def test_another_tenants_customer_has_no_link_of_ours() -> None:
    assert "BLOCKED" == away(catalogue("flowglad", {"price_slug": "p"}), used("e1"), tenant="blue")[0]


def test_a_meter_that_lost_its_binding_is_blocked() -> None:
    code, error, _ = away(catalogue("flexprice", {}), used("e1", meter="gone"))
    assert ("BLOCKED", "unknown_meter") == (code, error)


def test_rows_are_the_same_however_often_they_are_rendered() -> None:
    found = catalogue("flexprice", {})
    event = used("e1", properties={"b": "1", "a": Decimal("1.50"), "c": True})
    assert encoded(rows(found, event)) == encoded(rows(found, event))
