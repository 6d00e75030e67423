"""Rows of a binding: whole at once, or completed by an event's properties."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters import Binding, providers
from gateway.configuration.bindings import BindingRow, Unbindable, from_property

MODELS: dict[str, type[Binding]] = {
    f"{name}.{profile}": door.binding
    for name, adapter in providers().items()
    for profile, door in adapter.spec.doors.items()
}
METRIC, FLEXPRICE, FLOWGLAD = MODELS["paygentic.usage-v0"], MODELS["flexprice.bulk"], MODELS["flowglad.bulk"]


def findings(model: type[Binding], given: object) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        BindingRow.read(model, given, "api_calls")
    return [(".".join(map(str, detail["loc"])), detail["msg"]) for detail in caught.value.errors()]


@pytest.mark.parametrize(
    "model", [model for model in MODELS.values() if model.default], ids=lambda model: model.__name__
)
def test_nothing_written_is_the_meters_own_name(model: type[Binding]) -> None:
    row = BindingRow.read(model, None, "api_calls")
    assert "api_calls" == getattr(row.bind({}), str(model.default))
    assert ((), Decimal(1), None) == (row.takes(), row.scale, row.quantity)


def test_a_row_without_properties_is_built_once() -> None:
    row = BindingRow.read(FLOWGLAD, {"price_id": "p", "scale": "0.5", "quantity": "input"}, "api_calls")
    assert row.bind({}) is row.bind({"price_id": "other"})
    assert FLOWGLAD.model_validate({"price_id": "p", "scale": "0.5", "quantity": "input"}) == row.bind({})
    assert (("input",), Decimal("0.5"), "input") == (row.takes(), row.scale, row.quantity)


TWO_NAMES = "give exactly one of price_slug, price_id, usage_meter_id, usage_meter_slug, not price_slug and price_id"
PRICED = {"billable_metric_id": "bm_1", "quantity": "input", "scale": "0.001", "price": {"property": "unit_price"}}


@settings(deadline=None)
@given(st.decimals(min_value=0, max_value=10**9, allow_nan=False, places=9), st.booleans())
def test_a_field_takes_the_events_own_value_to_the_last_digit(price: Decimal, as_text: bool) -> None:
    row = BindingRow.read(METRIC, PRICED, "api_calls")
    bound = row.bind({"unit_price": f"{price:f}" if as_text else price, "other": 1})
    assert METRIC.model_validate({**PRICED, "price": price}) == bound


def test_what_does_not_depend_on_the_event_is_known_without_one() -> None:
    row = BindingRow.read(METRIC, PRICED, "api_calls")
    assert (("input",), Decimal("0.001"), "input") == (row.takes(), row.scale, row.quantity)
    assert {"price": "unit_price"} == row.properties


def test_several_quantities_are_known_without_an_event() -> None:
    named = {"event_name": {"property": "kind"}, "quantity_properties": {"input": "in", "output": "out"}}
    row = BindingRow.read(FLEXPRICE, named, "api_calls")
    assert ("input", "output") == row.takes()
    assert FLEXPRICE.model_validate({**named, "event_name": "chat"}) == row.bind({"kind": "chat"})


def test_a_name_may_come_from_a_property_and_then_the_meters_own_is_not_used() -> None:
    row = BindingRow.read(FLOWGLAD, {"price_slug": {"property": "plan"}}, "api_calls")
    assert "gold" == getattr(row.bind({"plan": "gold"}), "price_slug", None)


def test_a_property_named_property_is_no_reference_where_a_mapping_belongs() -> None:
    row = BindingRow.read(FLEXPRICE, {"quantity_properties": {"property": "tokens"}}, "api_calls")
    assert (("property",), {}) == (row.takes(), row.properties)


def test_an_absent_property_is_named() -> None:
    row = BindingRow.read(METRIC, PRICED, "api_calls")
    with pytest.raises(Unbindable) as caught:
        row.bind({"other": "1"})
    assert "price comes from the event's property 'unit_price', which is missing" == str(caught.value)
    assert ("price", "unit_price") == (caught.value.field, caught.value.property)


@pytest.mark.parametrize("value", ["s3cret", -33, True, "NaN", Decimal("Infinity"), ""])
def test_a_value_that_does_not_fit_is_named_but_not_shown(value: object) -> None:
    row = BindingRow.read(METRIC, PRICED, "api_calls")
    with pytest.raises(Unbindable) as caught:
        row.bind({"unit_price": value})
    assert "price comes from the event's property 'unit_price', which does not fit" == str(caught.value)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_of_several_properties_the_one_that_does_not_fit_is_named() -> None:
    both = {"billable_metric_id": {"property": "metric"}, "price": {"property": "unit_price"}}
    row = BindingRow.read(METRIC, both, "api_calls")
    with pytest.raises(Unbindable, match=r"^price comes from the event's property 'unit_price', which does not fit$"):
        row.bind({"metric": "bm_1", "unit_price": "free"})


@pytest.mark.parametrize(
    ("model", "given", "found"),
    [
        (FLOWGLAD, [], [("", "should be a mapping, or a list of mappings")]),
        (METRIC, {}, [("", "give billable_metric_id")]),
        (FLOWGLAD, {"price_slug": "a", "price_id": "b"}, [("", TWO_NAMES)]),
        (FLOWGLAD, {"price_slug": "a", "price_id": {"property": "b"}}, [("", TWO_NAMES)]),
        (
            FLEXPRICE,
            {"event_name": {"property": "p"}, "quantity": "input", "quantity_properties": {"input": "in"}},
            [("", "give quantity or quantity_properties, not both")],
        ),
        (METRIC, {"price": {"property": "p"}}, [("", "give billable_metric_id")]),
        (FLOWGLAD, {"price_slugg": "a"}, [("price_slugg", "unknown key; did you mean price_slug?")]),
        (
            METRIC,
            {"billable_metric_id": "", "prise": 1, "price": {"property": "p"}},
            [("billable_metric_id", "should not be empty"), ("prise", "unknown key; did you mean price?")],
        ),
        (METRIC, {"billable_metric_id": 7}, [("billable_metric_id", "should be text: write it in quotes")]),
        (METRIC, {"billable_metric_id": "b", "price": "x"}, [("price", "should be a number")]),
        (FLOWGLAD, {"scale": 0}, [("scale", "should be greater than 0")]),
        (FLOWGLAD, {"scale": {"property": "p"}}, [("scale", "cannot come from a property")]),
        (FLOWGLAD, {"quantity": {"property": "p"}}, [("quantity", "cannot come from a property")]),
        (FLOWGLAD, {"price_id": {"proprety": "p"}}, [("price_id", "should be a value, or {property: NAME}")]),
        (FLOWGLAD, {"price_id": {"property": ""}}, [("price_id", "should be a value, or {property: NAME}")]),
        (FLOWGLAD, {"price_id": {"property": "p", "x": 1}}, [("price_id", "should be a value, or {property: NAME}")]),
        (
            FLEXPRICE,
            {"quantity": "input", "quantity_properties": {"input": "in"}},
            [("", "give quantity or quantity_properties, not both")],
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_found_without_an_event(
    model: type[Binding], given: object, found: list[tuple[str, str]]
) -> None:
    assert found == findings(model, given)


def test_every_providers_own_plain_field_may_come_from_a_property_and_nothing_else() -> None:
    assert {
        "event_name", "quantity_property", "price_slug", "price_id", "usage_meter_id", "usage_meter_slug",
        "event_type", "quantity_field", "billable_metric_id", "price", "entitlement_id", "feature_slug",
    } == {name for model in MODELS.values() for name in model.model_fields if from_property(model, name)}  # fmt: skip
