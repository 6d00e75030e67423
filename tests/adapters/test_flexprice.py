"""Flexprice: one status for all, four envelopes of errors, and a quantity that no property may overwrite."""

from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import ValidationError

from adapters import Dedupe, Measure, Outcome, Reply, State, Usage, encode_row, settle
from canonical_schema import ErrorCode
from tests.adapters.worlds import NOW, adapter_of, bound, json_reply, rows_of, text_reply, usage_of

FLEXPRICE = adapter_of("flexprice", "bulk")
DOOR = FLEXPRICE.door


def settled(reply: Reply, count: int = 3) -> list[Outcome]:
    """Return what becomes of so many rows."""
    return list(settle(DOOR, reply, rows_of(FLEXPRICE, count), now=NOW).values())


def handled(status: int, code: str, message: str, **details: str) -> Reply:
    """Return an error as the vendor's handlers word it."""
    body = {"code": code, "message": message, "http_status_code": status}
    return json_reply(status, {**body, "details": details} if details else body)


def test_a_row_in_full() -> None:
    usage = usage_of(
        FLEXPRICE,
        quantity=Decimal("12.50000001"),
        timestamp=NOW + timedelta(microseconds=123_456),
        properties={"region": "eu", "quantity": "9", "large": 1_000_000, "on": False, "ratio": Decimal("1E-7")},
        source="backend",
    )
    assert (
        b'{"event_id":"evt_1","event_name":"api_call","external_customer_id":"customer-one",'
        b'"timestamp":"2026-11-23T12:00:00.123Z","properties":{"region":"eu","quantity":"12.50000001",'
        b'"large":"1000000","on":"false","ratio":"0.0000001"},"source":"backend"}'
    ) == encode_row(FLEXPRICE.encode(usage))
    request = FLEXPRICE.request([b"{}"])
    assert ("https://us.api.flexprice.io/v1/events/bulk", b'{"events":[{}]}') == (request.url, request.body)


def test_several_quantities_travel_in_one_row() -> None:
    properties = {"input": "input_tokens", "output": "output_tokens"}
    binding = DOOR.binding.model_validate({"event_name": "llm", "quantity_properties": properties})
    assert ("input", "output") == binding.takes()
    usage = Usage(
        key="evt_1",
        event_id="evt_1",
        customer="acme",
        meter="llm",
        timestamp=NOW,
        measures=(
            Measure(name="input", quantity=Decimal(1200), binding=binding),
            Measure(name="output", quantity=Decimal(0), binding=binding),
        ),
        link=bound(FLEXPRICE)[1],
        properties={"input_tokens": "1"},
    )
    assert {"input_tokens": "1200", "output_tokens": "0"} == FLEXPRICE.encode(usage)["properties"]


@pytest.mark.parametrize("properties", [{"a": "tokens", "b": "tokens"}, {"a": ""}, {}])
def test_each_quantity_has_a_property_of_its_own(properties: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        DOOR.binding.model_validate({"event_name": "llm", "quantity_properties": properties})


def test_one_quantity_or_several_but_not_both() -> None:
    with pytest.raises(ValidationError, match="give quantity or quantity_properties, not both"):
        DOOR.binding.model_validate({"event_name": "llm", "quantity": "a", "quantity_properties": {"a": "b"}})


@pytest.mark.parametrize("name", [" calls", "calls ", " ", ""])
def test_a_name_that_the_vendor_would_trim_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        DOOR.binding.model_validate({"event_name": name})


def test_facts_of_the_door() -> None:
    rule = FLEXPRICE.quantity
    assert (8, Decimal(0), Decimal("9999999999.99999999"), True) == (
        rule.places, rule.minimum, rule.maximum, rule.as_string,
    )  # fmt: skip
    assert Dedupe(window=None, different="last_wins", by=("key", "timestamp")) == FLEXPRICE.dedupe
    assert ("::", "/") == DOOR.key.forbidden
    assert "queued" == DOOR.receipt
    assert FLEXPRICE.allows_absolute is False


def test_one_status_for_all() -> None:
    reply = json_reply(202, {"message": "Events accepted for processing"})
    assert [Outcome(state=State.ACCEPTED, status=202)] * 3 == settled(reply)


@pytest.mark.parametrize(
    "reply",
    [
        text_reply(202),
        text_reply(202, "<html>"),
        json_reply(202, []),
        json_reply(200, {"message": "Events accepted for processing"}),
        json_reply(201, {}),
        json_reply(202, {"error": "Service Unavailable"}),
        json_reply(202, {"message": "Events accepted for processing", "error": {"message": "broker is down"}}),
        json_reply(202, {"success": False, "message": "no"}),
    ],
)
def test_a_success_in_other_words_says_nothing(reply: Reply) -> None:
    assert [State.UNKNOWN] * 3 == [outcome.state for outcome in settled(reply)]


@pytest.mark.parametrize(
    "reply",
    [
        handled(400, "validation_error", "Request validation failed", EventName="failed on the 'required' tag"),
        handled(400, "validation_error", "Invalid request payload"),
        json_reply(400, {"success": False, "error": {"message": "Request validation failed", "internal_error": "x"}}),
        handled(400, "invalid_operation", "No such thing"),
    ],
)
def test_a_400_refuses_the_batch_though_rows_before_the_culprit_may_be_queued(reply: Reply) -> None:
    for outcome in settled(reply):
        assert (State.REFUSED, ErrorCode.PROVIDER_REJECTED, True, False) == (
            outcome.state,
            outcome.code,
            outcome.may_be_stored,
            outcome.reduce,
        )
        assert outcome.message
    (alone,) = settled(reply, 1)
    assert (State.REJECTED, False) == (alone.state, alone.may_be_stored)


def test_a_body_that_is_too_large_is_a_400_and_nothing_of_it_is_queued() -> None:
    says = "Request body exceeds the maximum size; split the batch into smaller requests"
    for reply in (handled(400, "validation_error", says), text_reply(413), json_reply(413, {"message": "Too large"})):
        for outcome in settled(reply):
            assert (State.REFUSED, ErrorCode.PAYLOAD_TOO_LARGE, True, False) == (
                outcome.state,
                outcome.code,
                outcome.reduce,
                outcome.may_be_stored,
            )
        (alone,) = settled(reply, 1)
        assert (State.REJECTED, ErrorCode.PAYLOAD_TOO_LARGE) == (alone.state, alone.code)


@pytest.mark.parametrize(
    ("reply", "state", "code"),
    [
        (json_reply(401, {"error": "Unauthorized"}), State.BLOCKED, ErrorCode.UNAUTHORIZED),
        (json_reply(401, {"error": "Invalid token claims"}), State.BLOCKED, ErrorCode.UNAUTHORIZED),
        (
            json_reply(403, {"error": "Access denied", "message": "Invalid or inaccessible environment"}),
            State.BLOCKED,
            ErrorCode.FORBIDDEN,
        ),
        (json_reply(403, {"message": "tenant account is suspended"}), State.BLOCKED, ErrorCode.FORBIDDEN),
        (handled(403, "permission_denied", "no"), State.BLOCKED, ErrorCode.FORBIDDEN),
        (text_reply(404, "404 page not found"), State.BLOCKED, ErrorCode.PROTOCOL_ERROR),
        (handled(404, "not_found", "no"), State.BLOCKED, ErrorCode.PROTOCOL_ERROR),
        (handled(409, "version_conflict", "again"), State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (handled(429, "too_many_requests", "slow down"), State.NOT_STORED, ErrorCode.RATE_LIMITED),
        (handled(500, "internal_error", "An unexpected error occurred"), State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
        (handled(500, "validation_error", "Request validation failed"), State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
        (
            json_reply(500, {"error": "Internal server error", "message": "Failed to resolve environment"}),
            State.UNKNOWN,
            ErrorCode.PROVIDER_UNAVAILABLE,
        ),
        (text_reply(500), State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
        (handled(501, "not_implemented", "no"), State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
        (text_reply(503, "<html>"), State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
        (text_reply(400, "<html>"), State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (json_reply(400, {"error": "Bad Request"}), State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_other_errors(reply: Reply, state: State, code: ErrorCode) -> None:
    assert [(state, code)] * 3 == [(outcome.state, outcome.code) for outcome in settled(reply)]


def test_the_customer_is_ours_unless_a_link_says_otherwise() -> None:
    assert {"external_customer_id": "acme"} == DOOR.link.completed({}, "acme")
    assert {"external_customer_id": "x"} == DOOR.link.completed({"external_customer_id": "x"}, "acme")
