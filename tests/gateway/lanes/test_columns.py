"""Columns: the texts of a batch's events, by what they look like, each where it belongs."""

import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import TimeRule, provider
from canonical_schema import Event, Kind, decode_event, encode_event, encode_events
from gateway.lanes import columns
from gateway.lanes.columns import Columns, Shape, _finder, columns_of
from gateway.lanes.instants import _millis, text_of, time_of, writer_of
from gateway.ledger import StoredEvents, _events
from tests.gateway.clocks import START
from tests.gateway.lanes.world import used

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
whens = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  made aware
times = whens | st.integers(0, 999).map(lambda ms: START - timedelta(milliseconds=ms))
values = texts | st.booleans() | st.integers(-(10**18), 10**18) | st.decimals(-9, 9, places=2)
events = st.builds(
    lambda *given, **members: decode_event(encode_event(used(*given, **members))),
    st.from_regex(r"[!-~]{1,9}", fullmatch=True),
    customer=texts,
    quantity=st.none() | st.integers(0, 50).map(Decimal) | st.decimals(0, 9, places=2),
    timestamp=st.none() | times,
    source=st.sampled_from([None, "s"]),
    subscription=st.none() | texts,
    kind=st.sampled_from([*[Kind.DELTA] * 4, Kind.ABSOLUTE]),
    properties=st.dictionaries(st.sampled_from(["a", "b", 'c"', "id", "corrects"]), values, max_size=3),
)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look be worth it from the first event on."""
    monkeypatch.setattr(columns, "FEW", -1)


SHOWN = ("id", "customer", "meter", "timestamp", "source", "properties")


def stored(batch: Sequence[Event]) -> StoredEvents:
    return StoredEvents(encode_events(batch))


def plain(number: int, **members: Any) -> Event:
    properties = {"region": f"r{number}", "status": 200 + number, "cached": True, "cost": Decimal(f"{number}.25")}
    return used(f"e{number}", timestamp=START, properties=properties, **members)


def read(text: bytes) -> object:
    return json.loads(text, parse_float=Decimal)


def shown(shape: Shape, place: int) -> dict[str, object]:
    """Return what a shape says of one event."""
    look, told = shape.look, dict[str, object]()
    texts = iter([column[place] for column in shape.values])
    for name, kind in zip(look.names, look.kinds, strict=True):
        told[name] = kind == "t" if kind in "tf" else read(b'"%b"' % next(texts) if kind == "s" else next(texts))
    return {
        "id": shape.ids[place].decode(),
        "customer": read(b'"%b"' % shape.customers[place]),
        "meter": look.meter,
        "quantity": Decimal(shape.numbers[place].decode()),
        "timestamp": time_of(shape.times[place]) if shape.times else None,
        "source": look.source,
        "properties": told,
    }


@given(st.lists(events, min_size=1, max_size=8), st.booleans())
def test_each_event_is_in_one_shape_at_most_which_says_of_it_what_it_is(batch: list[Event], at_hand: bool) -> None:
    made = Columns(batch if at_hand else stored(batch))
    seen = [place for shape in made.shapes for place in shape.places]
    assert len(seen) == len(set(seen))
    for shape in made.shapes:
        for number, place in enumerate(shape.places):
            event = batch[place]
            told = {name: getattr(event, name) for name in SHOWN}
            assert told | {"quantity": event.quantity or Decimal(1)} == shown(shape, number)
    assert {event.customer for event in batch} == set(made.customers)
    assert len(made.customers) == len(set(made.customers))
    assert [event.id for event in batch] == [*made.keys]


def test_of_events_that_look_alike_none_becomes_an_object_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = stored([plain(number, customer=f"c{number}") for number in range(50)])
    decoded: list[bytes] = []
    monkeypatch.setattr(_events, "decode_events", None)
    monkeypatch.setattr(_events, "decode_event", lambda line: decoded.append(line) or decode_event(line))
    made = Columns(batch)
    assert [50] == [*map(len, made.shapes)]
    assert (50, "e49") == (len(made.customers), made.keys[49])
    assert 1 == len(decoded)


@given(
    st.lists(events, min_size=1, max_size=12) | st.lists(st.builds(plain, st.integers(0, 99)), min_size=1), st.data()
)
def test_a_part_of_a_batch_has_the_columns_that_it_has_alone(batch: list[Event], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(batch))), min_size=1, unique=True).map(sorted))
    first = data.draw(st.integers(0, len(batch) - 1))
    run = [*range(first, data.draw(st.integers(first + 1, len(batch))))]
    for places in (chosen, run):
        part, alone = stored(batch).some(places), stored([batch[place] for place in places])
        seen, made = columns_of(part), Columns(alone)
        assert ([*seen.keys], [*seen.customers]) == ([*made.keys], [*made.customers])
        assert seen.events is part
        for one, other in zip(seen.shapes, made.shapes, strict=True):
            assert (one.look, [*one.places]) == (other.look, [*other.places])
            for place in range(len(one)):
                assert shown(one, place) == shown(other, place)
            if one.look.timed:
                assert [*one.written(_millis)] == [*other.written(_millis)]


def test_lanes_that_take_different_parts_of_a_batch_share_what_is_seen_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, reads = stored([plain(number, customer=f"c{number}") for number in range(80)]), list[int]()
    finder = _finder
    monkeypatch.setattr(columns, "_finder", lambda *of, odd: reads.append(1) or finder(*of, odd=odd))
    writes: list[int] = []
    parts = [batch.some(range(first, 80)) for first in (0, 10, 30, 65)]
    for part in parts:
        (shape,) = columns_of(part).shapes
        shape.written(lambda times: writes.append(len(times)) or times)
    assert [1] == reads
    few = batch.some([3])
    assert ["e3"] == [*columns_of(few).keys]
    assert [1, 1] == reads  # of a row that is sent once more nobody else wants to see its batch


@pytest.mark.parametrize(
    "odd",
    [
        {"quantity": Decimal("5.0")},
        {"quantity": Decimal(0)},
        {"kind": Kind.ABSOLUTE},
        {"quantities": {"n": Decimal(1)}, "quantity": None},
        {"properties": {"n": 10**17}},
        {"properties": {"n": Decimal("1E+9")}},
    ],
    ids=str,
)
def test_one_event_that_is_not_plain_leaves_the_others_where_they_are(odd: dict[str, Any]) -> None:
    made = Columns(stored([used("e1", quantity=Decimal("1.50")), used("e2", **odd), used("e3")]))
    assert [[0, 2]] == [[*shape.places] for shape in made.shapes]


STYLES: list[tuple[Literal["rfc3339", "epoch_ms"], timedelta]] = [
    ("rfc3339", timedelta(microseconds=1)),
    ("rfc3339", timedelta(milliseconds=1)),
    ("rfc3339", timedelta(seconds=1)),
    ("epoch_ms", timedelta(microseconds=1)),
    ("epoch_ms", timedelta(milliseconds=1)),
]


def test_booleans_tell_events_apart_and_texts_with_escapes_do_not() -> None:
    batch = [used(f"e{n}", customer='x"\\', properties={"a": n % 3 == 0, "b": "é\n", "c": True}) for n in range(4)]
    made = Columns(stored(batch))
    assert {"tst": [0, 3], "fst": [1, 2]} == {shape.look.kinds: [*shape.places] for shape in made.shapes}
    for shape in made.shapes:
        for number, place in enumerate(shape.places):
            assert batch[place].properties == shown(shape, number)["properties"]


def test_a_look_that_few_events_ever_had_is_not_worth_an_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "FEW", 3)
    made: list[str] = []
    monkeypatch.setattr(columns, "_finder", lambda look, odd: made.append(look.names[0]) or _finder(look, odd=odd))
    for batch in range(3):
        for number in range(20):
            Columns(stored([used("e1", properties={f"never {batch} {number} again": 1})]))
    assert [] == made
    shapes = [len(Columns(stored([used("e1", properties={"rare": 1})])).shapes) for _ in range(6)]
    assert (0, 1) == (shapes[0], shapes[-1]), shapes


@pytest.mark.parametrize("first", [1, Decimal("1.5")], ids=str)
def test_whole_numbers_and_those_with_a_point_are_told_apart_whichever_comes_first(first: int | Decimal) -> None:
    second = Decimal("2.5") if first == 1 else 2
    made = Columns(stored([used("e1", properties={"n": first}), used("e2", properties={"n": second})]))
    kinds = {shape.look.kinds: [*shape.places] for shape in made.shapes}
    assert {"i" if isinstance(first, int) else "d": [0], "i" if isinstance(second, int) else "d": [1]} == kinds


@pytest.mark.parametrize(("style", "resolution"), STYLES)
def test_times_are_floored_and_written_as_every_adapter_writes_them(
    style: Literal["rfc3339", "epoch_ms"], resolution: timedelta
) -> None:
    plain = provider("flowglad")(provider("flowglad").Settings.model_validate({"api_key": "key"}))
    rule = TimeRule(style=style, resolution=resolution)
    adapter, writer = plain.through(replace(plain.door, time=rule)), writer_of(rule)
    assert writer is not None

    @given(st.lists(times, min_size=1, max_size=4))
    def law(some: list[datetime]) -> None:
        floored = [when - (when - datetime(1970, 1, 1, tzinfo=UTC)) % resolution for when in some]
        assert [str(adapter.wire_time(when)).encode() for when in floored] == [*writer([*map(text_of, some)])]
        assert some == [time_of(text_of(when)) for when in some]

    law()


def test_a_way_of_writing_times_that_is_not_known_is_left_to_the_adapter() -> None:
    assert writer_of(TimeRule(style="rfc3339", resolution=timedelta(minutes=1))) is None
    assert writer_of(TimeRule(style="epoch_ms", resolution=timedelta(seconds=1))) is None


def test_what_is_remembered_is_what_was_asked_for_and_not_more_than_so_many_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some, others = stored([used("e1"), used("e2")]), stored([used("e3"), used("e4"), used("e5")])
    monkeypatch.setattr(columns, "BYTES", len(others.text) + 1)
    first = columns_of(some)
    assert columns_of(some) is first
    assert ["e3", "e4", "e5"] == [*columns_of(others).keys]
    assert columns_of(some) is not first


def test_of_small_batches_no_more_is_remembered_than_of_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of one event take ten times its text."""
    monkeypatch.setattr(columns, "BYTES", 300_000)
    known = columns._Known()
    tracemalloc.start()
    try:
        for number in range(1500):
            seen = known.of(stored([plain(number)]))
            assert (1, 1) == (len(seen.keys), len(seen.customers))
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 3 * columns.BYTES
