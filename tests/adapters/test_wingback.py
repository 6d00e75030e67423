"""Wingback: silence about a row means that it is stored, and a lost answer can never be sent again."""

from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import ValidationError

from adapters import Outcome, Reply, State, encode_row, settle, took_all
from canonical_schema import ErrorCode
from tests.adapters.worlds import NOW, adapter_of, json_reply, rows_of, text_reply, usage_of

WINGBACK = adapter_of("wingback", "bulk")
DOOR = WINGBACK.door
CONTRACT = {"contract": {"type": "error", "value": "Contract not found"}}
ACTIVATION = "timestamp provided is before contract activation date 2023-03-19T05:03:51.756Z"


def settled(reply: Reply, count: int = 3) -> list[Outcome]:
    """Return what becomes of so many rows."""
    return list(settle(DOOR, reply, rows_of(WINGBACK, count), now=NOW).values())


def states(reply: Reply, count: int = 3) -> list[State]:
    return [outcome.state for outcome in settled(reply, count)]


def failure(index: object, status: object = 400, feedback: object = CONTRACT) -> dict[str, object]:
    return {"index": index, "status": status, "feedback": feedback}


def test_a_row_in_full() -> None:
    usage = usage_of(
        WINGBACK,
        quantity=Decimal("1E+3"),
        timestamp=NOW + timedelta(microseconds=5),
        properties={"region": "köln", "units": 9, "gateway_event_id": "forged", "ok": True},
    )
    assert (
        '{"customer_id":"Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670","feature_slug":"API_CALLS","units":"1000",'
        '"timestamp":"2026-11-23T12:00:00.000005Z",'
        '"metadata":{"region":"köln","units":"9","gateway_event_id":"evt_1","ok":"true"}}'
    ).encode() == encode_row(WINGBACK.encode(usage))
    request = WINGBACK.request([b"{}", b"{}"])
    assert ("https://api.wingback.com/v1/c/usage/bulk", b"[{},{}]") == (request.url, request.body)
    assert "sk_live_8eC3ret0fTheHouse" == request.headers["wb-key"]
    assert "authorization" not in request.headers


def test_absolute_and_negative_usage_need_an_operators_word() -> None:
    assert (False, Decimal(0)) == (WINGBACK.allows_absolute, WINGBACK.quantity.minimum)
    allowed = adapter_of("wingback", "bulk", allow_absolute=True, allow_negative=True)
    assert (True, -(Decimal(10) ** 26), Decimal(10) ** 26, 12, None) == (
        allowed.allows_absolute,
        allowed.quantity.minimum,
        allowed.quantity.maximum,
        allowed.quantity.places,
        allowed.quantity.negative,
    )
    row = allowed.encode(usage_of(allowed, quantity=Decimal("-0.000000000001"), absolute=True))
    assert ("-0.000000000001", True) == (row["units"], row["is_absolute"])
    assert "is_absolute" not in WINGBACK.encode(usage_of(WINGBACK))


def test_a_zero_has_no_sign() -> None:
    assert "0" == WINGBACK.encode(usage_of(WINGBACK, quantity=Decimal("-0")))["units"]


@pytest.mark.parametrize(
    ("status", "body"), [(status, body) for status in (200, 201, 202) for body in ("", "  \n", "[]")] + [(207, "[]")]
)
def test_a_success_that_names_nobody_stored_everything(status: int, body: str) -> None:
    reply = json_reply(status, []) if body == "[]" else text_reply(status, body)
    assert [Outcome(state=State.ACCEPTED, status=status)] * 3 == settled(reply)


@pytest.mark.parametrize("body", ["", "  \n"])
def test_an_answer_that_promises_to_tell_row_by_row_and_has_no_body_says_nothing(body: str) -> None:
    reply, rows = text_reply(207, body), rows_of(WINGBACK, 3)
    assert ([State.UNKNOWN] * 3, None) == (states(reply), took_all(DOOR, reply, [row.key for row in rows]))


@pytest.mark.parametrize("status", [200, 207, 400, 422])
def test_rows_that_are_named_failed_and_the_others_are_stored_whatever_the_status(status: int) -> None:
    late = {"activation": {"type": "error", "value": ACTIVATION}}
    first, second, third = settled(json_reply(status, [failure(0), failure(2, feedback=late)]))
    assert (
        Outcome(
            state=State.REJECTED,
            code=ErrorCode.UNKNOWN_CUSTOMER,
            message="Contract not found",
            status=400,
            provider_code="contract",
        )
        == first
    )
    assert Outcome(state=State.ACCEPTED, status=status) == second
    assert (State.REJECTED, ErrorCode.OUTSIDE_TIME_WINDOW, "activation", ACTIVATION) == (
        third.state, third.code, third.provider_code, third.message,
    )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        [failure(3)],
        [failure(-1)],
        [failure(0), failure(0)],
        [failure("0")],
        [failure(index=True)],
        [failure(0, "400")],
        [failure(0, None)],
        [failure(0, status=True)],
        [{"status": 400}],
        [{"message": "Unauthorized"}],
        ["Contract not found"],
        [None],
        {"feedback": CONTRACT},
        {},
        None,
        0,
    ],
)
def test_a_list_in_other_words_says_nothing(body: object) -> None:
    assert [State.UNKNOWN] * 3 == states(json_reply(200, body))


@pytest.mark.parametrize(
    "reply", [text_reply(200, "<html>"), text_reply(200, "null"), text_reply(204), json_reply(206, [])]
)
def test_a_success_that_cannot_be_read_is_unknown(reply: Reply) -> None:
    assert [State.UNKNOWN] * 3 == states(reply)


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [
        (200, State.ACCEPTED, None),
        (400, State.REJECTED, ErrorCode.PROVIDER_REJECTED),
        (404, State.REJECTED, ErrorCode.PROVIDER_REJECTED),
        (429, State.NOT_STORED, ErrorCode.RATE_LIMITED),
        (500, State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
        (503, State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
        (302, State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
        (0, State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
    ],
)
def test_a_rows_own_status_decides(status: int, state: State, code: ErrorCode | None) -> None:
    told = {"late": {"type": "warning", "value": "a bit late"}}
    first, second = settled(json_reply(200, [failure(1, status, told)]), 2)
    assert (State.ACCEPTED, state, code) == (first.state, second.state, second.code)
    assert second.may_be_stored is (state is State.UNKNOWN)


def test_the_fault_is_told_before_its_warnings() -> None:
    feedback = {
        "late": {"type": "warning", "value": "a bit late"},
        "contract": {"type": "error", "value": "Contract not found"},
        "feature": {"type": "error", "value": "Feature not found"},
    }
    (outcome,) = settled(json_reply(200, [failure(0, 400, feedback)]), 1)
    assert ("contract", "Contract not found; Feature not found", ErrorCode.UNKNOWN_CUSTOMER) == (
        outcome.provider_code,
        outcome.message,
        outcome.code,
    )


@pytest.mark.parametrize("feedback", [None, {}, "Contract not found", {"contract": "Contract not found"}, []])
def test_a_failure_without_words_says_so(feedback: object) -> None:
    (outcome,) = settled(json_reply(200, [failure(0, 400, feedback)]), 1)
    assert (State.REJECTED, "the provider names the row as failed and gives no reason") == (
        outcome.state,
        outcome.message,
    )


@pytest.mark.parametrize(
    "reply",
    [
        text_reply(400),
        text_reply(400, "Bad Request"),
        text_reply(422, "<html>"),
        json_reply(400, []),
        json_reply(400, {"message": "Invalid request body"}),
        json_reply(400, {"feedback": {"body": {"type": "error", "value": "Bad Request"}}}),
        json_reply(418, []),
        json_reply(418, [{"message": "I'm a teapot"}]),
        json_reply(500, [failure(0)]),
        json_reply(502, []),
        text_reply(408),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_a_bare_failure_leaves_every_row_unknown(reply: Reply, count: int) -> None:
    assert [State.UNKNOWN] * count == states(reply, count)


def test_an_object_with_feedback_refuses_one_row_and_says_nothing_of_several() -> None:
    reply = json_reply(400, {"feedback": {"body": {"type": "error", "value": "units: not a decimal"}}})
    (alone,) = settled(reply, 1)
    assert (State.REJECTED, "units: not a decimal") == (alone.state, alone.message)
    assert [State.UNKNOWN] * 3 == states(reply)


@pytest.mark.parametrize("status", [401, 403, 404, 409, 413, 418, 429])
def test_a_list_of_rows_under_another_refusal_tells_of_those_alone(status: int) -> None:
    first, second, third = settled(json_reply(status, [failure(0), failure(2, 429, {})]))
    assert (State.REJECTED, ErrorCode.UNKNOWN_CUSTOMER) == (first.state, first.code)
    assert (State.UNKNOWN, True) == (second.state, second.may_be_stored), "its peers may be committed: never again"
    assert (State.NOT_STORED, False) == (third.state, third.may_be_stored)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429])
@pytest.mark.parametrize("body", [[failure(3)], [failure(0), failure(0)], [failure(0, "404")], [None, failure(1)]])
def test_a_refusal_that_looked_at_rows_in_other_words_leaves_them_unknown(status: int, body: object) -> None:
    assert [State.UNKNOWN] * 3 == states(json_reply(status, body))


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (json_reply(401, {"feedback": {"token": {"type": "error", "value": "Invalid API token"}}}), State.BLOCKED),
        (text_reply(403), State.BLOCKED),
        (text_reply(404, "Not Found"), State.BLOCKED),
        (json_reply(404, []), State.BLOCKED),
        (json_reply(404, [{"message": "Not Found"}]), State.BLOCKED),
        (text_reply(429), State.NOT_STORED),
        (text_reply(413), State.REFUSED),
        (text_reply(302, "", {"location": "/login"}), State.BLOCKED),
        (text_reply(303), State.UNKNOWN),
    ],
)
def test_what_was_not_looked_at_is_not_stored(reply: Reply, state: State) -> None:
    for outcome in settled(reply):
        assert (state, state is State.UNKNOWN) == (outcome.state, outcome.may_be_stored)


def test_a_customer_is_theirs_and_of_the_right_class() -> None:
    link = DOOR.link
    assert link.model_validate({"customer_id": "cust_C40BEA18-c0c9-44b1-bd0c-43f5283e1670"})
    for bad in ("Cont_c40bea18-c0c9-44b1-bd0c-43f5283e1670", "Cust_1", "acme"):
        with pytest.raises(ValidationError):
            link.model_validate({"customer_id": bad})
    assert {"feature_slug": "calls"} == DOOR.binding.completed({}, "calls")
