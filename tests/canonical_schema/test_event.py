"""What was read is kept with every digit, told apart by value, and shown without loss."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from canonical_schema import (
    Event,
    Kind,
    UsageEvent,
    decode_event,
    differences,
    encode_event,
    event_json,
    format_time,
    parse_quantity,
    parse_time,
    plain,
    read_event,
)

texts = st.text(min_size=1, max_size=8)
quantities = st.from_regex(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,20})?(e-?[0-9])?", fullmatch=True).map(parse_quantity)
instants = st.datetimes(timezones=st.just(UTC)).map(lambda when: when.replace(fold=0))
properties = st.dictionaries(st.text(max_size=4), texts | st.booleans() | st.integers() | quantities, max_size=4)
absent = st.none()

events = st.builds(
    Event,
    id=st.text("abc/_", min_size=1, max_size=8),
    customer=texts,
    meter=texts,
    quantity=absent | quantities,
    timestamp=absent | instants,
    kind=st.sampled_from(Kind),
    subscription=absent | texts,
    source=absent | texts,
    properties=properties,
) | st.builds(
    Event,
    id=st.text("abc/_", min_size=1, max_size=8),
    customer=texts,
    meter=texts,
    quantities=st.dictionaries(texts, quantities, min_size=1, max_size=4),
)

# Few values in many spellings, so that two events are often the same.
alike = st.builds(
    Event,
    id=st.just("e"),
    customer=st.sampled_from("ab"),
    meter=st.just("m"),
    quantity=absent | st.sampled_from(["1", "1.0", "1e0", "10e-1", "2"]).map(Decimal),
    quantities=absent | st.sampled_from([{"a": Decimal(1)}, {"a": Decimal("1.0")}, {"b": Decimal(1)}]),
    timestamp=absent
    | st.sampled_from([0, 1]).map(lambda hours: datetime(2026, 1, 1, hours, tzinfo=timezone(timedelta(hours=hours)))),
    kind=st.sampled_from(Kind),
    subscription=absent | st.just("s"),
    source=absent | st.just(""),
    properties=st.dictionaries(
        st.sampled_from("ab"), st.sampled_from([1, True, "1", Decimal("1.0"), 0, False, Decimal("0.1")]), max_size=2
    ),
)


def by_value(value: object) -> object:
    """Return a value so that two are equal exactly where they mean the same."""
    match value:
        case bool() | str() | None:
            return type(value), value
        case int() | Decimal():
            return Fraction(value)
        case datetime():
            return (value - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)
        case dict():
            return {name: by_value(each) for name, each in value.items()}
        case _:
            raise AssertionError(value)


def members(event: Event) -> dict[str, Any]:
    return {name: by_value(value) for name, value in asdict(event).items()}


@given(alike, alike)
def test_two_events_differ_in_the_members_whose_values_differ(a: Event, b: Event) -> None:
    one, other = members(a), members(b)
    assert [name for name in one if one[name] != other[name]] == differences(a, b)


@given(events)
def test_an_event_does_not_differ_from_itself_stored_shown_or_sent_again(event: Event) -> None:
    shown = msgspec.json.Encoder(decimal_format="number").encode(event_json(event))
    again = (decode_event(encode_event(event)), read_event(encode_event(event)), read_event(shown))
    assert not any(differences(event, each) for each in again)


@given(events)
def test_storing_keeps_every_digit(event: Event) -> None:
    again = decode_event(encode_event(event))
    assert repr(asdict(replace(event, properties={}))) == repr(asdict(replace(again, properties={})))


@given(events)
def test_a_stored_event_is_one_line(event: Event) -> None:
    assert b"\n" not in encode_event(event)


@given(events)
def test_a_repr_shows_neither_the_customer_nor_the_properties(event: Event) -> None:
    marked = replace(event, customer="SECRET", subscription="SECRET", source="SECRET", properties={"a": "SECRET"})
    usage = UsageEvent(id="e", customer="SECRET", meter="m", subscription="SECRET", properties={"a": "SECRET"})
    assert "SECRET" not in f"{marked!r} {marked} {usage!r} {usage}"


def test_a_number_a_string_and_a_boolean_are_never_the_same() -> None:
    a, b, c = (Event(id="e", customer="c", meter="m", properties={"a": value}) for value in (1, True, "1"))
    assert differences(a, b) == differences(b, c) == differences(c, a) == ["properties"]


def test_an_absent_kind_is_delta_and_absent_properties_are_none() -> None:
    bare = b'{"id":"e","customer":"c","meter":"m"}'
    full = b'{"id":"e","customer":"c","meter":"m","kind":"delta","properties":{}}'
    assert not differences(read_event(bare), read_event(full))


def test_an_event_is_shown_with_exact_strings_and_without_what_is_absent() -> None:
    event = Event(
        id="e",
        customer="c",
        meter="m",
        quantity=Decimal("1E-7"),
        timestamp=datetime(2026, 11, 23, 11, 52, 0, 500000, tzinfo=UTC),
        properties={"a": Decimal("0.10"), "b": True},
    )
    assert {
        "id": "e",
        "customer": "c",
        "meter": "m",
        "quantity": "0.0000001",
        "timestamp": "2026-11-23T11:52:00.5Z",
        "kind": "delta",
        "properties": {"a": Decimal("0.10"), "b": True},
    } == event_json(event)


@given(instants, st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))))
def test_a_time_is_read_as_it_was_written_in_any_zone(when: datetime, zone: timezone) -> None:
    assert when == parse_time(format_time(when))
    if 1 < when.year < 9999:
        assert when == parse_time(when.astimezone(zone).isoformat())


@given(instants, st.from_regex(r"[0-9]{1,9}", fullmatch=True))
def test_a_fraction_is_floored_to_the_microsecond(when: datetime, digits: str) -> None:
    floored = Fraction(f"0.{digits}") * 1_000_000 // 1
    whole = when.replace(microsecond=0)
    assert whole.replace(microsecond=floored) == parse_time(f"{whole.replace(tzinfo=None).isoformat()}.{digits}Z")


@given(st.text("0123456789-:TZz+. ", max_size=30))
def test_text_is_a_time_only_in_the_form_of_rfc_3339(text: str) -> None:
    try:
        parse_time(text)
    except ValueError:
        return
    assert re.fullmatch(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", text)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T11:52:00",
        "2026-11-23",
        "2026-11-23T11:52Z",
        "2026-11-23T11:52:00+0100",
        "2026-11-23T11:52:00+01",
        "2026-11-23T11:52:00.Z",
        "2026-11-23T11:52:00,5Z",
        "2026-11-23T11:52:00.1234567890Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T11:60:00Z",
        "2026-11-23T11:52:00+24:00",
        "2026-W47-1T11:52:00Z",
        "20261123T115200Z",
        "2026-11-23_11:52:00Z",
        "2026-11-23T11:52:00Z\n",
        "٢٠٢٦-11-23T11:52:00Z",
        "1700000000",
        "",
    ],
)
def test_another_form_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be an RFC 3339 time with a zone and at most 9 decimals"):
        parse_time(text)


@pytest.mark.parametrize("text", ["2026-12-31T23:59:60Z", "2026-12-31T23:59:60.5+01:00"])
def test_a_leap_second_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(ValueError, match="send :59 in place of :60"):
        parse_time(text)


@pytest.mark.parametrize("text", ["2026-02-29T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00"])
def test_a_day_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a day that exists"):
        parse_time(text)


@pytest.mark.parametrize("text", ["2026-11-23t11:52:00z", "2026-11-23 12:52:00+01:00", "2026-11-23T11:52:00-00:00"])
def test_every_form_that_rfc_3339_allows_is_the_same_instant(text: str) -> None:
    assert datetime(2026, 11, 23, 11, 52, tzinfo=UTC) == parse_time(text)


def test_a_time_without_zone_is_not_written() -> None:
    with pytest.raises(ValueError, match="give it one"):
        format_time(datetime(2026, 11, 23))  # noqa: DTZ001


@given(quantities)
def test_a_quantity_is_shown_as_the_decimal_it_is(quantity: Decimal) -> None:
    shown = json.loads(json.dumps(event_json(Event(id="e", customer="c", meter="m", quantity=quantity))))
    assert plain(quantity) == shown["quantity"]
