"""The fast reader and the contract are one reader, and every refusal says what to do."""

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import asdict
from pydantic import ValidationError

from canonical_schema import Event, InvalidEvent, Kind, UsageEvent, read_by_contract, read_event, to_event
from canonical_schema.reading import _read_fast

# JSON is generated as text, so that its spelling is under test too: escapes, blanks, digits, repeated names.
blanks = st.sampled_from(["", "", "", " ", "\n\t "])
texts = st.text(max_size=12) | st.text('ab/"\\é𝄞\u2028', max_size=6)
names = texts.filter(bool)
numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
wide_numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,45})(\.[0-9]{1,45})?([eE][+-]?[0-9]{1,22})?", fullmatch=True)
quantities = numbers | wide_numbers | numbers.map(json.dumps)
times = st.builds(
    lambda when, separator, fraction, zone: f"{when.isoformat(separator, 'seconds')}{fraction}{zone}",
    st.datetimes(),
    st.sampled_from("Tt "),
    st.just("") | st.from_regex(r"\.[0-9]{1,9}", fullmatch=True),
    st.sampled_from(["Z", "z", "+00:00", "-00:00", "+05:30", "-23:59", "+14:00"]),
)
weird = st.sampled_from(
    ["null", "true", "[]", "{}", '""', '"x"', "-0", "0.0", "1e999999", "1e99999999999999999999", '"NaN"', '"1_000"']
    + ["NaN", "Infinity", '"Infinity"', '" 1"', '"+1"', "01", '"\\ud800"', '"\\u0031"', '"delta "', '{"a":null}']
    + ['{"a":[1]}', '{"a":1,"a":2}', '{"":1}', "9" * 39, "1" * 4400, '"é"', '"a b"', '"\\""', '"a\\u0000"', '"\x7f"']
    + ['"2026-11-23T11:52:60Z"', '"2026-11-23T11:52:00"', '"2026-02-30T00:00:00Z"', '"2026-11-23T24:00:00Z"']
    + [json.dumps("x" * 129), json.dumps("x" * 256), json.dumps("x" * 2049), json.dumps({"a": "x" * 16_377})]
    + [json.dumps({str(each): each for each in range(most)}) for most in (16, 17, 64, 65)]
)


def quoted(strings: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda text, ascii_only: json.dumps(text, ensure_ascii=ascii_only), strings, st.booleans())


def joined(pairs: list[tuple[str, str]], blank: str) -> str:
    members = f",{blank}".join(f"{name}{blank}:{blank}{value}" for name, value in pairs)
    return f"{{{blank}{members}{blank}}}"


def objects(keys: st.SearchStrategy[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(joined, st.lists(st.tuples(quoted(keys), values), max_size=5), blanks)


SOUND = {
    "id": quoted(st.text("ab_-:/.~!", min_size=1, max_size=20)),
    "customer": quoted(names),
    "meter": quoted(names),
    "quantity": quantities,
    "quantities": objects(names, quantities),
    "timestamp": times.map(json.dumps),
    "kind": st.sampled_from(['"delta"', '"absolute"']),
    "subscription": quoted(names),
    "source": quoted(texts),
    "properties": objects(texts, quoted(texts) | numbers | wide_numbers | st.sampled_from(["true", "false"])),
}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Generate the text of an event: sound, with an odd member, or broken."""
    optional = draw(st.sets(st.sampled_from([*SOUND][3:])))
    if draw(st.booleans()):
        optional.discard("quantities")
    order = draw(st.permutations(["id", "customer", "meter", *sorted(optional)]))
    pairs = [(json.dumps(name), draw(SOUND[name])) for name in order]
    match draw(st.sampled_from(["sound", "sound", "replaced", "added", "broken"])):
        case "replaced":
            place = draw(st.integers(0, len(pairs) - 1))
            pairs[place] = (pairs[place][0], draw(weird))
        case "added":
            name = draw(st.sampled_from([*SOUND, "quantty", "ID", "é"]))
            pairs.insert(draw(st.integers(0, len(pairs))), (json.dumps(name), draw(SOUND.get(name, numbers) | weird)))
        case "broken":
            body = joined(pairs, draw(blanks)).encode()
            start = draw(st.integers(0, len(body)))
            end = start + draw(st.integers(0, 2))
            piece = draw(st.sampled_from([b"", b'"', b",", b"}", b"\\", b"\xff", b"\x00", b" "]))
            return body[:start] + piece + body[end:]
        case _:
            pass
    return joined(pairs, draw(blanks)).encode()


def exactly(event: Event) -> str:
    """Return every member with its type and its digits."""
    return repr(asdict(event))


@given(bodies())
@example(b"[]")
@example(b"\xef\xbb\xbf{}")
@example(b'{"id":"a","id":"b","customer":"c","meter":"m"}')
@example(b'{"id":"a","customer":"c","meter":"m","properties":{"a":"x","a":"y"}}')
@example(b'{"id":"a","customer":"c","meter":"m","properties":' + b'{"a":' * 100_000)
def test_the_fast_reader_and_the_contract_agree(body: bytes) -> None:
    fast = _read_fast(body)
    try:
        expected = read_by_contract(body)
    except InvalidEvent:
        assert fast is None
        return
    if fast is not None:
        assert exactly(expected) == exactly(fast)
    assert fast is not None or b"\\" in body, "only an escape may send a sound event the slow way"


def outcome(raw: memoryview | msgspec.Raw) -> Event | InvalidEvent:
    try:
        return read_event(raw)
    except InvalidEvent as refused:
        return refused


@given(bodies())
def test_any_bytes_are_an_event_or_a_refusal_that_can_be_shown(body: bytes) -> None:
    read = outcome(memoryview(body))
    assert str(read) == str(outcome(msgspec.Raw(body)))
    if isinstance(read, InvalidEvent):
        assert read.message.isprintable()
        assert read.message.startswith(read.field or "the event must be")


def body_with(**members: object) -> bytes:
    return json.dumps({"id": "evt_1", "customer": "acme", "meter": "api_calls"} | members).encode()


def shown(refused: InvalidEvent) -> tuple[str, str | None, str | None]:
    return refused.message, refused.field, refused.event_id


@pytest.mark.parametrize("quantity", ["12345678901234567890.123456789", '"12345678901234567890.123456789"'])
def test_a_quantity_keeps_every_digit_that_was_sent(quantity: str) -> None:
    body = body_with(quantity=0).replace(b": 0", f": {quantity}".encode())
    assert str(read_event(body).quantity) == "12345678901234567890.123456789"


def test_a_property_keeps_its_type_and_its_digits() -> None:
    body = body_with(properties=0).replace(b": 0", b': {"s":"1","b":true,"i":1,"d":0.10000000000000000001,"f":1.0}')
    expected = {"s": "1", "b": True, "i": 1, "d": Decimal("0.10000000000000000001"), "f": Decimal("1.0")}
    assert repr(expected) == repr(read_event(body).properties)


def test_an_event_without_optional_members_has_none() -> None:
    assert Event(id="evt_1", customer="acme", meter="api_calls") == read_event(body_with())


NUMBER = "must be a finite decimal, as a JSON number or a string"
WRITTEN = 'must be a finite decimal, written like "12.5" or "1e-3"'
LIMITS = "must be a finite decimal of at most 38 significant digits, with an exponent of -38 to 38"
NAME = "must be a string of 1 to 255 characters"
NEEDED = ("id", "customer", "meter")
WORDS: list[tuple[str, str, list[object]]] = [
    (
        "id",
        "must be a string of 1 to 128 printable ASCII characters without blanks",
        ["", "a b", "é", "x" * 129, "a\n", "\x7f", 1, None],
    ),
    ("customer", NAME, ["", "x" * 256, 7, None]),
    ("meter", NAME, ["", "x" * 256, [], None]),
    ("subscription", NAME, ["", "x" * 256]),
    ("source", "must be a string of at most 2048 characters", ["x" * 2049, 1]),
    ("quantity", WRITTEN, ["NaN", "Infinity", "1_000", " 1", "+1", ""]),
    ("quantity", "must be a finite decimal", [float("nan"), float("-inf")]),
    ("quantity", NUMBER, [True, [1], {}]),
    ("quantity", LIMITS, [10**39, "1e999999", "1e-39"]),
    (
        "quantities",
        "must be an object of 1 to 16 quantities, with names of 1 to 255 characters",
        [{}, [], {str(each): each for each in range(17)}],
    ),
    ("kind", "must be `delta` or `absolute`", ["sum", "Delta", 1]),
    ("timestamp", "must be a day that exists, within the years 1 to 9999 in UTC", ["2026-02-30T00:00:00Z"]),
    ("timestamp", "must not be a leap second: send :59 in place of :60", ["2026-12-31T23:59:60Z"]),
    (
        "timestamp",
        "must be an RFC 3339 time with a zone and at most 9 decimals, like 2026-11-23T11:52:00.5Z",
        ["2026-11-23T11:52:00", "now", ""],
    ),
    ("timestamp", "must be an RFC 3339 time with a zone, as a string", [1700000000, {}]),
    ("properties", "must be an object of at most 64 members", [{str(each): each for each in range(65)}, []]),
    ("properties", "must be at most 16 KiB of JSON: leave out what is not billed by", [{"a": "x" * 16_377}]),
    ("quantty", "unknown member, did you mean `quantity`?", [1, None]),
    ("zzz", "unknown member", [1]),
    *[(name, "must not be null: leave it out instead", [None]) for name in SOUND if name not in NEEDED],
]
REFUSED: list[tuple[str, str, dict[str, object]]] = [
    *[(name, rule, {name: value}) for name, rule, values in WORDS for value in values],
    ("quantities.input", NUMBER, {"quantities": {"input": None}}),
    ("quantities.input", LIMITS, {"quantities": {"output": 1, "input": "9" * 39}}),
    ("quantities", "must not stand beside `quantity`: send one of the two", {"quantity": 1, "quantities": {"a": 1}}),
    *[
        ("properties.a", "must be a string, a number or a boolean", {"properties": {"a": each}})
        for each in (None, [], {})
    ],
    (
        "properties.a",
        "must be a number of at most 400 digits, with an exponent of -400 to 400",
        {"properties": {"a": 10**401}},
    ),
]


@pytest.mark.parametrize(("field", "rule", "members"), REFUSED)
def test_a_broken_rule_is_refused_by_the_name_of_the_member(field: str, rule: str, members: dict[str, object]) -> None:
    with pytest.raises(InvalidEvent) as refused:
        read_event(body_with(**members))
    event_id = None if "id" in members else "evt_1"
    assert (f"{field}: {rule}", field, event_id) == shown(refused.value)


@pytest.mark.parametrize(
    "members",
    [
        {"id": "x" * 128},
        {"customer": "é" * 255, "subscription": "x" * 255, "source": "x" * 2048},
        {"quantities": {"n" * 255: "1.5"} | {str(each): each for each in range(15)}},
        {"properties": {str(each): True for each in range(64)}},
        {"properties": {"a": "x" * 16_376}},
        {"properties": {"": "", "tiny": 5e-324, "wide": 2**64, "low": -(2**63)}},
    ],
)
def test_what_just_keeps_the_rules_is_taken_by_both_readers(members: dict[str, object]) -> None:
    body = body_with(**members)
    assert exactly(read_by_contract(body)) == exactly(_read_fast(body) or read_event(b""))


@pytest.mark.parametrize("name", ["customer", "meter", "id"])
def test_a_missing_member_is_asked_for(name: str) -> None:
    members = {"id": "evt_1", "customer": "acme", "meter": "api_calls"}
    del members[name]
    with pytest.raises(InvalidEvent, match=f"^{name}: is required$"):
        read_event(json.dumps(members).encode())


def test_an_unknown_name_is_told_before_the_one_that_is_missing_for_it() -> None:
    with pytest.raises(InvalidEvent, match=r"^custmer: unknown member, did you mean `customer`\?$"):
        read_event(b'{"id":"evt_1","custmer":"acme","meter":"api_calls"}')


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("quantity", b'{"id":"evt_1","customer":"c","meter":"m","quantity":1,"quantity":2}'),
        ("quantity", b'{"id":"evt_1","customer":"c","meter":"m","quantity":1, "quantity" :1}'),
        ("properties.a", b'{"id":"evt_1","customer":"c","meter":"m","properties":{"a":1,"b":2,"a":1}}'),
        ('properties.""', b'{"id":"evt_1","customer":"c","meter":"m","properties":{"":1,"":1}}'),
        ("quantities.a", b'{"id":"evt_1","customer":"c","meter":"m","quantities":{"a":1,"\\u0061":2}}'),
    ],
)
def test_a_name_that_appears_twice_is_refused(name: str, body: bytes) -> None:
    with pytest.raises(InvalidEvent) as refused:
        read_event(body)
    assert (f"{name}: appears more than once", name, "evt_1") == shown(refused.value)


@pytest.mark.parametrize(
    ("message", "body"),
    [
        ("the event must be one JSON object", b"[]"),
        ("the event must be one JSON object: it is nested too deeply", b"[" * 100_000),
        ("the event must be JSON: Expecting value at character 6", b'{"id":}'),
        ("the event must be JSON: Expecting value at character 0", b""),
        ("the event must be JSON in UTF-8", b'{"id":"\xff"}'),
    ],
)
def test_what_is_no_json_object_is_refused_as_a_whole(message: str, body: bytes) -> None:
    with pytest.raises(InvalidEvent) as refused:
        read_event(body)
    assert (message, None, None) == shown(refused.value)


@pytest.mark.parametrize(
    ("field", "members"),
    [
        ("customer", {"customer": "\ud800"}),
        ("properties.a", {"properties": {"a": "\ud800"}}),
        ("properties.?", {"properties": {"\ud800": "a"}}),
        ("quantities.?", {"quantities": {"\ud800": 1}}),
        ("?", {"\ud800": 1}),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(field: str, members: dict[str, object]) -> None:
    with pytest.raises(InvalidEvent, match="must be Unicode") as refused:
        read_event(body_with(**members))
    assert field == refused.value.field


@pytest.mark.parametrize("number", ["1" * 4400, "1e99999999999999999999", "NaN"])
@pytest.mark.parametrize("member", ["quantity", "customer"])
def test_a_number_beyond_all_bounds_is_refused_by_the_member_where_it_stands(member: str, number: str) -> None:
    with pytest.raises(InvalidEvent, match=f"^{member}: must be a"):
        read_event(body_with(**{member: 0}).replace(b": 0", f": {number}".encode()))


@pytest.mark.parametrize("name", [*SOUND])
def test_a_refusal_never_shows_a_value(name: str) -> None:
    secret = "SECRET"
    members: dict[str, object] = {"subscription": secret, "properties": {"a": secret}, "kind": secret}
    with pytest.raises(InvalidEvent) as refused:
        read_event(body_with(**(members | {name: [secret]})))
    assert secret not in refused.value.message


def test_a_long_or_odd_name_is_cut_before_it_is_shown() -> None:
    with pytest.raises(InvalidEvent) as refused:
        read_event(body_with(**{"\n" + "x" * 99: 1}))
    assert f"?{'x' * 63}..." == refused.value.field


def test_the_contract_takes_the_values_of_python() -> None:
    usage = UsageEvent(id="e", customer="c", meter="m", quantity=Decimal("1.50"), kind=Kind.ABSOLUTE)
    assert Event(id="e", customer="c", meter="m", quantity=Decimal("1.50"), kind=Kind.ABSOLUTE) == to_event(usage)


def test_the_contract_refuses_a_float_as_it_has_lost_digits_already() -> None:
    with pytest.raises(ValidationError, match="must be a finite decimal, as a JSON number or a string"):
        UsageEvent.model_validate({"id": "e", "customer": "c", "meter": "m", "quantity": 0.1})


def test_an_error_of_the_contract_does_not_show_what_was_sent() -> None:
    with pytest.raises(ValidationError) as refused:
        UsageEvent.model_validate({"id": "e", "customer": ["SECRET"], "meter": "m"})
    assert "SECRET" not in str(refused.value)


def test_the_json_schema_describes_and_illustrates_every_member_and_knows_no_null() -> None:
    schema = UsageEvent.model_json_schema()
    assert set(SOUND) == set(schema["properties"])
    assert all("description" in member for member in schema["properties"].values())
    assert schema["required"] == ["id", "customer", "meter"]
    assert schema["additionalProperties"] is False
    assert "null" not in json.dumps(schema)
