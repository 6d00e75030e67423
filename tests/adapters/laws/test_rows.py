"""The provider would bill what the event says: rows and the requests that carry them."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import encode_row
from adapters._values import JsonValue, Scalar
from tests.adapters.worlds import (
    EPOCH,
    INSTANTS,
    NAMED,
    PROPERTIES,
    adapter_of,
    decoded,
    every_door,
    quantities,
    usage_of,
    walk,
)


@every_door
@given(
    data=st.data(),
    instant=INSTANTS,
    properties=PROPERTIES,
    index=st.integers(0, 1),
    source=st.sampled_from([None, "a"]),
)
@settings(max_examples=120, deadline=None)
def test_the_provider_would_bill_what_the_event_says(
    name: str,
    profile: str,
    data: st.DataObject,
    instant: datetime,
    properties: Mapping[str, Scalar],
    index: int,
    source: str | None,
) -> None:
    adapter = adapter_of(name, profile)
    door, named = adapter.door, NAMED[name, profile]
    quantity = data.draw(quantities(adapter))
    usage = usage_of(adapter, "evt_1", quantity, index=index, timestamp=instant, properties=properties, source=source)
    encoded = encode_row(adapter.encode(usage))
    assert b"\n" not in encoded
    row = decoded(encoded)
    assert json.loads(encoded) is not None, "any reader of JSON can read it"

    def role(path: str) -> list[JsonValue]:
        return list(walk(row, path.replace("{quantity}", named.quantity[index])))

    def only(paths: tuple[str, ...]) -> JsonValue:
        (value,) = [value for path in paths for value in role(path)]
        return value

    billed = only((door.roles.quantity,))
    assert isinstance(billed, str) == door.quantity.as_string
    assert not isinstance(billed, bool)
    assert isinstance(billed, str | int | Decimal)
    assert quantity == Decimal(billed)
    assert (named.names(index)[0], named.names(index)[1]) == (only(door.roles.meter), only(door.roles.customer))
    assert door.roles.key is None or only((door.roles.key,)) == "evt_1"
    stamp = only((door.roles.timestamp,))
    if door.time.style == "epoch_ms":
        assert isinstance(stamp, int)
        read = EPOCH + timedelta(milliseconds=stamp)
    else:
        assert isinstance(stamp, str)
        assert stamp.endswith("Z")
        read = datetime.fromisoformat(stamp)
    assert usage.timestamp == read
    assert timedelta(0) <= instant - read < door.time.resolution


@every_door
def test_a_property_keeps_every_digit_or_is_the_same_in_words(name: str, profile: str) -> None:
    adapter = adapter_of(name, profile)
    exact = Decimal("12345678901234567890.123456789")
    row = decoded(encode_row(adapter.encode(usage_of(adapter, properties={"ratio": exact, "on": True, "n": 10**20}))))
    held = next(value for value in row.values() if isinstance(value, Mapping) and "ratio" in value)
    ratio = held["ratio"]
    assert isinstance(ratio, str | Decimal)
    assert (exact, True) == (Decimal(ratio), held["on"] in (True, "true"))
    assert str(10**20) == str(held["n"])


@every_door
@given(keys=st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4, unique=True))
def test_a_request_frames_the_rows_it_was_given_and_nothing_else(name: str, profile: str, keys: list[str]) -> None:
    adapter = adapter_of(name, profile, base_url="http://127.0.0.1:9/prefix/")
    door = adapter.door
    keys = keys[:1] if door.rows == "one" else keys
    rows = [encode_row(adapter.encode(usage_of(adapter, key))) for key in keys]
    request = adapter.request(rows)
    body = decoded(request.body)
    listed = [body] if door.rows == "one" else body if door.rows == "list" else body[door.rows[0]]
    assert [decoded(row) for row in rows] == listed
    assert (door.method, "http://127.0.0.1:9/prefix" + door.path) == (request.method, request.url)
    assert {name.lower() for name in request.headers} == set(request.headers)
    assert "application/json" == request.headers["content-type"]
