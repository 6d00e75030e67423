"""A CloudEvent is the same event in another coat."""

import hashlib
import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canonical_schema import Event, InvalidEvent, Property, UsageEvent, read_cloudevent, to_event
from canonical_schema.contract import is_id

texts = st.text(min_size=1, max_size=12)
scalars = st.text(max_size=5) | st.booleans() | st.integers()


def cloudevent(**members: object) -> bytes:
    sent = {"specversion": "1.0", "id": "1", "source": "/cron", "subject": "acme", "type": "api_calls"} | members
    return json.dumps({name: value for name, value in sent.items() if value is not ...}).encode()


@given(texts, texts, texts, texts, st.integers(-(10**20), 10**20), st.dictionaries(texts, scalars, max_size=4))
def test_a_cloudevent_is_the_event_that_says_the_same(
    source: str, its_id: str, subject: str, its_type: str, quantity: int, rest: dict[str, Property]
) -> None:
    rest = {name: value for name, value in rest.items() if name not in ("quantity", "quantities")}
    body = cloudevent(id=its_id, source=source, subject=subject, type=its_type, data={"quantity": quantity, **rest})
    joined = f"{source}/{its_id}"
    expected = UsageEvent(
        id=joined if is_id(joined) else f"ce_{hashlib.sha256(joined.encode()).hexdigest()}",
        customer=subject,
        meter=its_type,
        quantity=Decimal(quantity),
        source=source,
        properties=rest,
    )
    assert to_event(expected) == read_cloudevent(body)


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_source_and_id_make_a_sound_id_or_are_refused(source: str, its_id: str) -> None:
    try:
        event = read_cloudevent(cloudevent(id=its_id, source=source))
    except InvalidEvent:
        assert "" in (source, its_id)
    else:
        assert is_id(event.id)


def test_every_member_has_its_place() -> None:
    body = cloudevent(
        time="2026-11-23T12:52:00+01:00",
        data={"quantities": {"in": 1, "out": "2.50"}, "kind": "absolute", "region": "eu"},
    )
    assert Event(
        id="/cron/1",
        customer="acme",
        meter="api_calls",
        quantities={"in": Decimal(1), "out": Decimal("2.50")},
        timestamp=datetime(2026, 11, 23, 11, 52, tzinfo=UTC),
        source="/cron",
        properties={"kind": "absolute", "region": "eu"},
    ) == read_cloudevent(body)


def test_a_quantity_keeps_every_digit_that_was_sent() -> None:
    body = cloudevent(data=0).replace(b"0}", b'{"quantity": 12345678901234567890.123456789}}')
    assert str(read_cloudevent(body).quantity) == "12345678901234567890.123456789"


def test_an_identity_that_just_fits_is_kept() -> None:
    assert f"/cron/{'x' * 122}" == read_cloudevent(cloudevent(id="x" * 122)).id


@pytest.mark.parametrize("its_id", ["x" * 123, "a b", "é"])
def test_an_identity_that_is_no_id_is_hashed_and_stays_the_same_for_ever(its_id: str) -> None:
    expected = hashlib.sha256(f"/cron/{its_id}".encode()).hexdigest()
    assert f"ce_{expected}" == read_cloudevent(cloudevent(id=its_id)).id


@pytest.mark.parametrize("attribute", ["datacontenttype", "dataschema", "traceparent", "customer", "partitionkey"])
def test_other_attributes_are_left_alone(attribute: str) -> None:
    assert read_cloudevent(cloudevent()) == read_cloudevent(cloudevent(**{attribute: "x"}))


@pytest.mark.parametrize("attribute", ["time", "data", "data_base64", "dataschema"])
def test_an_attribute_that_is_null_counts_as_absent(attribute: str) -> None:
    assert read_cloudevent(cloudevent()) == read_cloudevent(cloudevent(**{attribute: None}))


@pytest.mark.parametrize(
    ("message", "members"),
    [
        ('specversion: must be "1.0"', {"specversion": "0.3"}),
        ("specversion: is required", {"specversion": ...}),
        ("subject: is required", {"subject": ...}),
        ("subject: must be a string of 1 to 255 characters", {"subject": ""}),
        ("type: is required", {"type": ...}),
        ("type: must be a string of 1 to 255 characters", {"type": "x" * 256}),
        ("time: must be an RFC 3339 time with a zone, as a string", {"time": 5}),
        ("source: must be a string of at most 2048 characters", {"source": "x" * 2049}),
        ("data: must be a JSON object", {"data": [1]}),
        ("data: must be an object of at most 64 members", {"data": {str(each): each for each in range(65)}}),
        ("data_base64: is not taken: send `data` as a JSON object", {"data_base64": "e30="}),
        ('data.quantity: must be a finite decimal, written like "12.5" or "1e-3"', {"data": {"quantity": "NaN"}}),
        ("data.quantity: must not be null: leave it out instead", {"data": {"quantity": None}}),
        (
            'data.quantities.a: must be a finite decimal, written like "12.5" or "1e-3"',
            {"data": {"quantities": {"a": ""}}},
        ),
        (
            "data.quantities: must not stand beside `quantity`: send one of the two",
            {"data": {"quantity": 1, "quantities": {"a": 1}}},
        ),
        ("data.region: must be a string, a number or a boolean", {"data": {"region": ["eu"]}}),
    ],
)
def test_a_refusal_names_the_member_of_the_cloudevent(message: str, members: dict[str, object]) -> None:
    with pytest.raises(InvalidEvent) as refused:
        read_cloudevent(cloudevent(**members))
    assert (message, message.partition(":")[0]) == (refused.value.message, refused.value.field)
    assert (refused.value.event_id or "").startswith("ce_" if "source" in members else "/cron/1")


@pytest.mark.parametrize(
    ("message", "members"),
    [
        ("id: is required", {"id": ...}),
        ("id: must be a non-empty string", {"id": 7}),
        ("source: is required", {"source": None}),
        ("source: must be a non-empty string", {"source": ""}),
        ("id: must be a non-empty string", {"id": "\ud800"}),
    ],
)
def test_without_source_and_id_there_is_no_identity(message: str, members: dict[str, object]) -> None:
    with pytest.raises(InvalidEvent) as refused:
        read_cloudevent(cloudevent(**members))
    assert (message, None) == (refused.value.message, refused.value.event_id)


def test_a_name_that_appears_twice_is_refused_under_the_identity_of_the_cloudevent() -> None:
    with pytest.raises(InvalidEvent) as refused:
        read_cloudevent(cloudevent().replace(b'"type"', b'"subject": "other", "type"'))
    assert refused.value.message == "subject: appears more than once"
    assert refused.value.event_id == "/cron/1"
