"""What an answer says: found by path, pinned on a row, and cleaned before anyone reads it."""

from dataclasses import replace

import pytest
from msgspec.structs import replace as changed

from adapters import Outcome, Reply, Sent, State, provider
from adapters._spec import Door
from adapters._values import JsonValue
from adapters._words import MAX_WORDS, at, cleaner, issues, sentence, words
from canonical_schema import ErrorCode
from tests.adapters.worlds import json_reply, text_reply

FLEXPRICE = provider("flexprice").spec.doors["bulk"]
FLOWGLAD = provider("flowglad").spec.doors["bulk"]
V0 = provider("paygentic").spec.doors["usage-v0"]
WINGBACK = provider("wingback").spec.doors["bulk"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a", [{"b": [1, {"c": 2}], "d": None}]),
        ("a.b", [[1, {"c": 2}]]),
        ("a.b[]", [1, {"c": 2}]),
        ("a.b[].c", [2]),
        ("a.*", [[1, {"c": 2}], None]),
        ("*.d", [None]),
        ("a.d.e", []),
        ("a.d[]", []),
        ("z", []),
        ("", []),
    ],
)
def test_paths(path: str, expected: list[JsonValue]) -> None:
    assert expected == list(at({"a": {"b": [1, {"c": 2}], "d": None}}, path))


@pytest.mark.parametrize("value", [None, [], [1], "a", 1, True])
def test_nothing_stands_at_a_path_of_what_is_no_object(value: JsonValue) -> None:
    assert [] == list(at(value, "a")) == list(at(value, "*"))


@pytest.mark.parametrize(
    ("door", "reply", "expected"),
    [
        (FLEXPRICE, json_reply(400, {"code": "c", "message": "m", "details": {"x": "y"}}), ("m", "c")),
        (FLEXPRICE, json_reply(400, {"success": False, "error": {"message": "m"}}), ("m", None)),
        (FLEXPRICE, json_reply(401, {"error": "m"}), ("m", None)),
        (FLEXPRICE, json_reply(403, {"error": "Access denied", "message": "m"}), ("m", None)),
        (FLEXPRICE, json_reply(400, {"message": "", "error": "m"}), ("m", None)),
        (FLEXPRICE, json_reply(400, {"message": 5, "error": ["m"]}), ("", None)),
        (FLOWGLAD, json_reply(400, {"error": [{"message": "m"}]}), ("", None)),
        (FLOWGLAD, json_reply(400, {"error": "e", "message": "m", "code": "c"}), ("e", "c")),
        (V0, json_reply(400, {"message": "m", "error": "coarse", "code": "FINE"}), ("m", "coarse")),
        (V0, json_reply(400, {"message": "m", "code": "FINE"}), ("m", "FINE")),
        (WINGBACK, json_reply(400, {"feedback": {"x": {"type": "error", "value": "m"}}}), ("m", None)),
        (WINGBACK, json_reply(400, [{"feedback": {"x": {"value": "m"}}}]), ("", None)),
        (FLOWGLAD, text_reply(400, "error"), ("", None)),
        (FLOWGLAD, json_reply(404, {"error": "Not Found"}), ("", None)),
        (FLOWGLAD, json_reply(404, {"error": "NOT FOUND", "code": "not found"}), ("", "not found")),
        (FLOWGLAD, json_reply(400, {"error": "Not Found"}), ("Not Found", None)),
    ],
)
def test_words_and_code(door: Door, reply: Reply, expected: tuple[str, str | None]) -> None:
    assert expected == words(door, reply)


def test_faults_are_listed_by_row_the_first_of_each() -> None:
    paths: list[list[object]] = [["usageEvents", 2, "x"], ["usageEvents", 2, "y"], ["usageEvents"], ["usageEvents", 0]]
    listed = [{"path": path, "message": f"m{n}"} for n, path in enumerate(paths)]
    assert {2: "m0", None: "m2", 0: "m3"} == issues(FLOWGLAD, json_reply(400, {"error": listed}))
    assert {None: ""} == issues(FLOWGLAD, json_reply(400, {"issues": ["odd"]}))
    assert {2: "m0"} == issues(FLOWGLAD, json_reply(400, {"error": "text", "issues": listed[:1]}))


@pytest.mark.parametrize("body", [{}, {"error": []}, {"error": "x"}, {"error": {}}, [], None])
def test_no_list_no_faults(body: object) -> None:
    assert issues(FLOWGLAD, json_reply(400, body)) is None


def test_faults_of_a_bare_list_stand_first() -> None:
    door = replace(WINGBACK, envelope=replace(WINGBACK.envelope, issues=("errors",), at="field"))
    said = [{"field": "[2].units", "message": "low"}, {"field": "metadata[1]", "message": "odd"}]
    assert {2: "low", None: "odd"} == issues(door, json_reply(400, {"errors": said}))


def test_the_vendors_sentence_names_what_the_row_names() -> None:
    row = Sent(key="e1", row={"subscriptionId": "sub_{meter}", "priceSlug": "calls"})
    outcome = Outcome(state=State.REJECTED, code=ErrorCode.UNKNOWN_SUBSCRIPTION)
    says, rule = sentence(FLOWGLAD, outcome, row, 4)
    assert "Subscription not found: sub_{meter} (usage event at index 4)" == says
    assert rule is FLOWGLAD.rules[0]
    said = sentence(FLOWGLAD, changed(outcome, code=ErrorCode.EXPIRED, message="odd"), row, 0)
    assert ("odd", None) == said
    assert ("Invalid request", None) == sentence(FLOWGLAD, changed(outcome, code=ErrorCode.EXPIRED), row, 0)


# Cleaning.


def clean(text: str, *values: str, hide: tuple[str, ...] = ()) -> str:
    return cleaner([Sent(key="e", row={"p": list(values)})], hide)(text)


def test_a_sentence_is_one_short_line_of_printable_text() -> None:
    assert "a b c" == clean(" a\n\tb \x00\x1b c\r\n")
    assert clean("word " * 200).endswith("…")
    assert MAX_WORDS == len(clean("x" * 10_000))
    assert "" == clean("")


def test_short_values_are_hidden_only_as_words_of_their_own() -> None:
    assert "it has … of a" == clean("it has eu of a", "eu")
    assert "europe (…), …" == clean("europe (eu), eu", "eu")
    assert "customer…s plan" == clean("customergolds plan", "gold")


def test_values_are_found_however_they_are_spaced() -> None:
    assert "no … here" == clean("no big  spender here", "big\nspender")
    assert "no … here" == clean("no big spender here", "\tbig  spender ")
    assert "a . b" == clean("a . b", "", " ", "\n")


def test_the_longest_value_goes_first() -> None:
    assert "no …" == clean("no gold-plan", "gold", "gold-plan")
    assert "no …" == clean("no gold-plan", hide=("gold-plan",))


def test_numbers_and_nested_values_are_values_and_names_and_truth_are_not() -> None:
    row = {"amount": 12345, "deep": {"list": [{"name": "secret-one"}]}, "on": True, "none": None}
    said = cleaner([Sent(key="e", row=row)], ())("amount 12345 of secret-one is True, None")
    assert "amount … of … is True, None" == said


def test_a_value_that_the_cut_parts_does_not_show_its_beginning() -> None:
    value = "gold-plan-of-a-customer"
    for room in range(len(value)):
        text = (value + " ") * 49 + "." * room + " " + value * 3
        assert "gold" not in clean(text, value)
