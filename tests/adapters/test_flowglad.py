"""Flowglad: its replies as its server words them, in both generations, and the shape that it only publishes."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest
from pydantic import ValidationError

from adapters import Outcome, Reply, State, encode_row, settle
from canonical_schema import ErrorCode
from tests.adapters.worlds import NOW, adapter_of, decoded, json_reply, rows_of, text_reply, usage_of

FLOWGLAD = adapter_of("flowglad", "bulk")
DOOR = FLOWGLAD.door


def settled(reply: Reply, count: int = 3) -> list[Outcome]:
    """Return what becomes of so many rows."""
    return list(settle(DOOR, reply, rows_of(FLOWGLAD, count), now=NOW).values())


def states(reply: Reply, count: int = 3) -> list[State]:
    return [outcome.state for outcome in settled(reply, count)]


def echoed(*keys: str) -> Reply:
    """Return the answer that has these rows as new."""
    events = [{"id": f"usage_event_{key}", "transactionId": key, "amount": 3, "livemode": True} for key in keys]
    return json_reply(200, {"usageEvents": events})


def internal(error: object, status: int = 500) -> Reply:
    return json_reply(status, {"error": error, "code": "INTERNAL_SERVER_ERROR", "request_id": "1a2b3c4d"})


def test_a_row_in_full() -> None:
    usage = usage_of(FLOWGLAD, quantity=Decimal("1E+3"), properties={"user_id": "u7", "ratio": Decimal("1.50")})
    assert (
        b'{"subscriptionId":"sub_customerone","priceSlug":"api_calls","amount":1000,"transactionId":"evt_1",'
        b'"usageDate":1795435200000,"properties":{"user_id":"u7","ratio":1.50}}'
    ) == encode_row(FLOWGLAD.encode(usage))
    assert {
        "authorization": "Bearer sk_live_8eC3ret0fTheHouse",
        "content-type": "application/json",
        "accept": "application/json",
    } == FLOWGLAD.request([b"{}"]).headers
    assert "https://app.flowglad.com/api/v1/usage-events/bulk" == FLOWGLAD.request([b"{}"]).url
    assert b'{"usageEvents":[{},{}]}' == FLOWGLAD.request([b"{}", b"{}"]).body


def test_without_properties_the_member_is_left_out() -> None:
    assert "properties" not in decoded(encode_row(FLOWGLAD.encode(usage_of(FLOWGLAD))))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("price_slug", "priceSlug"),
        ("price_id", "priceId"),
        ("usage_meter_id", "usageMeterId"),
        ("usage_meter_slug", "usageMeterSlug"),
    ],
)
def test_a_meter_is_named_in_one_of_four_ways(ours: str, theirs: str) -> None:
    usage = usage_of(FLOWGLAD)
    measure = replace(usage.measures[0], binding=DOOR.binding.model_validate({ours: "name"}))
    row = FLOWGLAD.encode(replace(usage, measures=(measure,)))
    assert {theirs: "name"} == {key: row[key] for key in row if key.startswith(("price", "usageMeter"))}


def test_a_price_slug_is_the_meter_unless_it_is_named() -> None:
    assert {"price_slug": "calls"} == DOOR.binding.completed({}, "calls")
    assert {"usage_meter_id": "m"} == DOOR.binding.completed({"usage_meter_id": "m"}, "calls")


def test_two_names_for_a_meter_are_refused() -> None:
    with pytest.raises(
        ValidationError,
        match="give exactly one of price_slug, price_id, usage_meter_id, usage_meter_slug, not price_slug and price_id",
    ):
        DOOR.binding.model_validate({"price_slug": "a", "price_id": "b"})


def test_only_whole_amounts_that_its_column_holds() -> None:
    rule = FLOWGLAD.quantity
    assert (0, 1, 2147483647, False) == (rule.places, rule.minimum, rule.maximum, rule.as_string)


def test_what_is_echoed_is_new_and_what_is_missing_was_there() -> None:
    assert [
        Outcome(state=State.ACCEPTED, status=200, provider_event_id="usage_event_evt_0"),
        Outcome(state=State.DUPLICATE, status=200),
        Outcome(state=State.ACCEPTED, status=200, provider_event_id="usage_event_evt_2"),
    ] == settled(echoed("evt_2", "evt_0"))
    assert [State.DUPLICATE] * 3 == states(echoed())


def test_a_row_that_is_missing_beside_an_error_is_no_repeat() -> None:
    said = {"usageEvents": [{"transactionId": "evt_1"}], "error": "the transaction was rolled back"}
    assert [State.UNKNOWN] * 3 == states(json_reply(200, said))
    assert [State.DUPLICATE] * 3 == states(json_reply(200, {"usageEvents": [], "error": None}))


def test_a_row_that_is_missing_beside_one_that_is_there_twice_is_no_repeat() -> None:
    assert [State.UNKNOWN] * 3 == states(echoed("evt_0", "evt_1", "evt_1"))
    assert [State.ACCEPTED] * 3 == states(echoed("evt_0", "evt_1", "evt_1", "evt_2"))


@pytest.mark.parametrize(
    "reply",
    [
        echoed("evt_0", "someone_else"),
        json_reply(200, {"usageEvent": {"transactionId": "evt_0"}}),
        json_reply(200, []),
        json_reply(200, {"usageEvents": [{"id": "usage_event_1"}]}),
        json_reply(201, {"usageEvents": []}),
        text_reply(200, ""),
        text_reply(200, "<html>"),
    ],
)
def test_a_success_in_other_words_says_nothing(reply: Reply) -> None:
    assert [State.UNKNOWN] * 3 == states(reply)


# Domain errors: 500 in the newer servers, 404, 400 or 409 in the older ones.


@pytest.mark.parametrize("status", [500, 404, 400, 409])
@pytest.mark.parametrize("prefix", ["", "Unwrap called on Err: NotFoundError: "])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Subscription not found: sub_9 (usage event at index 1)", ErrorCode.UNKNOWN_SUBSCRIPTION),
        ("Price not found: price_9 (index 1)", ErrorCode.UNKNOWN_BINDING),
        ("Price not found: price_9 (not in customer's pricing model, index 1)", ErrorCode.UNKNOWN_BINDING),
        ("UsageMeter not found: usage_meter_9 (index 1)", ErrorCode.UNKNOWN_BINDING),
        ("UsageMeter not found: um_9 not in customer's pricing model (index 1)", ErrorCode.UNKNOWN_BINDING),
        ('Invalid priceId: Price price_9 at index 1 is type "subscription", not usage', ErrorCode.UNKNOWN_BINDING),
        ("Invalid properties: required at index 1 for count distinct", ErrorCode.UNSUPPORTED),
        ("Invalid billingPeriod: none is current at index 1 for the meter", ErrorCode.OUTSIDE_TIME_WINDOW),
    ],
)
def test_a_domain_error_with_an_index_blames_that_row(status: int, prefix: str, words: str, code: ErrorCode) -> None:
    first, culprit, last = settled(internal(prefix + words, status))
    assert (State.REJECTED, code, status, "INTERNAL_SERVER_ERROR") == (
        culprit.state,
        culprit.code,
        culprit.status,
        culprit.provider_code,
    )
    assert first == last
    assert (State.NOT_STORED, False) == (first.state, first.may_be_stored)


@pytest.mark.parametrize("status", [500, 404, 400, 409])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Price not found: price_9 (not in customer's pricing model)", ErrorCode.UNKNOWN_BINDING),
        ("Price not found: with slug calls (not in customer's pricing model)", ErrorCode.UNKNOWN_BINDING),
        ('UsageMeter not found: slug "calls"', ErrorCode.UNKNOWN_BINDING),
        ("Cannot create usage event for archived customer", ErrorCode.UNKNOWN_CUSTOMER),
        ("UsageEvent conflict: already exists for transactionid evt_0 elsewhere", ErrorCode.CONFLICT),
        ("Subscription not found: sub_9 (usage event at index 7)", ErrorCode.UNKNOWN_SUBSCRIPTION),
        ("Price not found: with slug a (index 1) (not in customer's pricing model)", ErrorCode.UNKNOWN_BINDING),
        ('UsageMeter not found: slug "x, index 1)"', ErrorCode.UNKNOWN_BINDING),
    ],
)
def test_a_domain_error_without_a_good_index_refuses_the_batch(status: int, words: str, code: ErrorCode) -> None:
    for outcome in settled(internal(words, status)):
        assert (State.REFUSED, code, False) == (outcome.state, outcome.code, outcome.may_be_stored)
    (alone,) = settled(internal(words, status), 1)
    assert (State.REJECTED, code) == (alone.state, alone.code)


@pytest.mark.parametrize(
    "reply",
    [
        internal("Failed query: insert into usage_events values ('Subscription not found: sub_9')"),
        internal("Internal server error"),
        internal("value out of range for type integer"),
        json_reply(500, {"error": "Internal server error"}),
        text_reply(500),
        text_reply(502, "<html>Bad gateway</html>"),
        json_reply(503, {"message": "Subscription not found: sub_9 (usage event at index 1)"}),
        internal([{"path": ["usageEvents", 1, "amount"], "message": "Too small"}]),
    ],
)
def test_any_other_failure_of_the_server_is_unknown(reply: Reply) -> None:
    assert [State.UNKNOWN] * 3 == states(reply)


# Faults of the schema: every bad row is listed.


def zod(*paths: list[object], key: str = "error") -> Reply:
    issues = [{"code": "too_small", "path": path, "message": "Too small: expected number to be >0"} for path in paths]
    return json_reply(400, {key: issues, "code": "BAD_REQUEST", "request_id": "1a2b3c4d"})


@pytest.mark.parametrize("key", ["error", "issues"])
def test_every_row_that_is_listed_is_rejected_and_its_peers_go_again(key: str) -> None:
    reply = zod(["usageEvents", 2, "amount"], ["usageEvents", 0, "priceId"], ["usageEvents", 0, "amount"], key=key)
    first, peer, last = settled(reply)
    assert [State.REJECTED, State.NOT_STORED, State.REJECTED] == [first.state, peer.state, last.state]
    assert "Too small: expected number to be >0" == first.message
    assert peer.may_be_stored is False


@pytest.mark.parametrize(
    "path",
    [
        ["usageEvents"],
        [],
        ["usageEvents", 3, "amount"],
        ["usageEvents", -1],
        ["usageEvents", True],
        ["other", 1],
        ["x", "y", 1],
    ],
)
def test_a_fault_that_names_no_row_of_ours_refuses_the_batch(path: list[object]) -> None:
    assert [State.REFUSED] * 3 == states(zod(["usageEvents", 0, "amount"], path))
    assert [State.REJECTED] == states(zod(path), 1)


def test_the_published_shape_is_understood_as_well() -> None:
    body = {"message": "Input validation failed", "code": "BAD_REQUEST", "issues": [{"message": "Too small"}]}
    assert [State.REFUSED] * 3 == states(json_reply(400, body))
    assert [State.REFUSED] * 3 == states(json_reply(400, {**body, "issues": []}))
    words = {"message": "Subscription not found: sub_9 (usage event at index 0)", "code": "NOT_FOUND", "issues": []}
    assert [State.REJECTED, State.NOT_STORED] == states(json_reply(404, words), 2)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (json_reply(400, {"error": "Invalid JSON in request body", "request_id": "1"}), State.REFUSED),
        (json_reply(415, {"error": "Unsupported content-type", "code": "UNSUPPORTED_MEDIA_TYPE"}), State.BLOCKED),
        (text_reply(401, "API key not found or invalid"), State.BLOCKED),
        (text_reply(404, "Not Found"), State.BLOCKED),
        (json_reply(404, {"message": "Not Found", "code": "NOT_FOUND"}), State.BLOCKED),
        (json_reply(409, {"error": "Another transaction is in progress"}), State.UNKNOWN),
        (text_reply(400, "<html>Bad Request</html>"), State.UNKNOWN),
        (json_reply(403, {"message": "Insufficient access", "code": "FORBIDDEN", "issues": []}), State.BLOCKED),
    ],
)
def test_what_is_about_the_whole_request(reply: Reply, expected: State) -> None:
    assert [expected] * 3 == states(reply)


def test_customers_do_not_show_in_the_vendors_words() -> None:
    outcome, _ = settled(internal("Subscription not found: sub_customerone (usage event at index 0)"), 2)
    assert "Subscription not found: … (usage event at index 0)" == outcome.message


def test_a_later_row_of_the_simulator_is_the_one_that_is_blamed() -> None:
    sent = rows_of(FLOWGLAD, 3)
    truth: Mapping[str, Outcome] = {
        "evt_0": Outcome(state=State.ACCEPTED),
        "evt_1": Outcome(state=State.ACCEPTED),
        "evt_2": Outcome(state=State.REJECTED, code=ErrorCode.UNKNOWN_SUBSCRIPTION),
    }
    reply = DOOR.dialect.render(DOOR, sent, truth)
    assert (500, {"error": "Subscription not found: sub_customerone (usage event at index 2)"}) == (
        reply.status,
        reply.json,
    )
    assert [State.NOT_STORED, State.NOT_STORED, State.REJECTED] == states(reply)
