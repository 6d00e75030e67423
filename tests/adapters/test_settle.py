"""The verdict where no vendor has a word in it: statuses, waits, faults, doubt, and what must never raise."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from adapters import Fault, FaultKind, Outcome, Reply, Sent, State, provider, settle
from adapters._facts import Refusal, Rule
from adapters._spec import Door
from canonical_schema import ErrorCode
from tests.adapters.worlds import NOW, adapter_of, json_reply, text_reply

FLOWGLAD = provider("flowglad").spec.doors["bulk"]
WINGBACK = provider("wingback").spec.doors["bulk"]
V0 = provider("paygentic").spec.doors["usage-v0"]
TWO = [Sent(key="e1", row={"a": "x"}), Sent(key="e2", row={"a": "y"})]


def both(reply: Reply | Fault, door: Door = FLOWGLAD) -> Outcome:
    """Return what becomes of two rows alike."""
    outcomes = list(settle(door, reply, TWO, now=NOW).values())
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [
        (100, State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (204, State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (301, State.BLOCKED, ErrorCode.PROTOCOL_ERROR),
        (303, State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (308, State.BLOCKED, ErrorCode.PROTOCOL_ERROR),
        (400, State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (401, State.BLOCKED, ErrorCode.UNAUTHORIZED),
        (402, State.BLOCKED, ErrorCode.FORBIDDEN),
        (403, State.BLOCKED, ErrorCode.FORBIDDEN),
        (404, State.BLOCKED, ErrorCode.PROTOCOL_ERROR),
        (405, State.BLOCKED, ErrorCode.PROTOCOL_ERROR),
        (407, State.BLOCKED, ErrorCode.UNAUTHORIZED),
        (408, State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (409, State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (410, State.BLOCKED, ErrorCode.PROTOCOL_ERROR),
        (413, State.REFUSED, ErrorCode.PAYLOAD_TOO_LARGE),
        (415, State.BLOCKED, ErrorCode.PROTOCOL_ERROR),
        (418, State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (422, State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (429, State.NOT_STORED, ErrorCode.RATE_LIMITED),
        (500, State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
        (504, State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
        (599, State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("door", [FLOWGLAD, WINGBACK])
def test_a_bare_status(status: int, state: State, code: ErrorCode, door: Door) -> None:
    outcome = both(text_reply(status, "<html>"), door)
    assert (state, code, status) == (outcome.state, outcome.code, outcome.status)
    assert outcome.may_be_stored is (state is State.UNKNOWN)
    assert outcome.reduce is (status == 413)
    assert outcome.message


def test_refused_credentials_say_what_to_do() -> None:
    message = "the provider refused our credentials: check api_key, and that it is for this base_url"
    assert message == both(text_reply(401)).message


@pytest.mark.parametrize("body", [{"message": "Bad Request"}, {"error": "bad request"}, {"error": ""}, {}])
def test_the_name_of_a_status_is_no_refusal(body: dict[str, str]) -> None:
    assert State.UNKNOWN is both(json_reply(400, body)).state
    named = {**body, "code": "BAD_REQUEST"}
    assert (State.REFUSED if any(body.values()) else State.UNKNOWN) is both(json_reply(400, named)).state
    assert State.UNKNOWN is both(json_reply(400, {**body, "code": "Bad Request"})).state


def test_a_status_that_http_does_not_know_is_judged_too() -> None:
    assert State.UNKNOWN is both(json_reply(499, {"error": "closed"})).state
    assert State.UNKNOWN is both(Reply(status=0)).state
    assert State.UNKNOWN is both(Reply(status=999)).state


# Doubt.


def test_who_else_was_in_a_refused_batch_depends_on_what_the_vendor_does_with_it() -> None:
    issue = {"errors": [{"field": "events[0].x", "message": "low"}], "message": "Validation failed"}
    some, whole = V0, replace(V0, refusal=Refusal.WHOLE)
    without = replace(V0, dedupe=None)
    peers = [settle(door, json_reply(400, issue), TWO, now=NOW)["e2"] for door in (some, whole, without)]
    assert [(State.NOT_STORED, True), (State.NOT_STORED, False), (State.UNKNOWN, True)] == [
        (peer.state, peer.may_be_stored) for peer in peers
    ]
    assert "the provider refused the batch for another row" == peers[0].message


def test_a_refused_batch_that_names_nobody_depends_on_it_as_well() -> None:
    reply = json_reply(400, {"message": "odd"})
    assert [(State.REFUSED, True), (State.REFUSED, False), (State.UNKNOWN, True)] == [
        (both(reply, door).state, both(reply, door).may_be_stored)
        for door in (V0, replace(V0, refusal=Refusal.WHOLE), replace(V0, dedupe=None))
    ]


# How long to wait.


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("0", timedelta(0)),
        ("120", timedelta(minutes=2)),
        (" 120 ", timedelta(minutes=2)),
        ("999999999999999999999999", timedelta(days=1)),
        ("Mon, 23 Nov 2026 12:00:30 GMT", timedelta(seconds=30)),
        ("Mon, 23 Nov 2026 13:00:30 +0100", timedelta(seconds=30)),
        ("Mon, 23 Nov 2026 12:00:30 -0000", timedelta(seconds=30)),
        ("Monday, 23-Nov-26 12:00:30 GMT", timedelta(seconds=30)),
        ("Mon, 23 Nov 2026 11:00:00 GMT", timedelta(0)),
        ("Thu, 23 Nov 2056 11:00:00 GMT", timedelta(days=1)),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("١٢", None),
        ("Wed, 21 Oct 2026 07:28:00 +99999999999999", None),
        ("Wed, 21 Oct 99999999999999 07:28:00 GMT", None),
        ("Wed, 99 Oct 2026 07:28:00 GMT", None),
        ("2026-11-23T12:00:30Z", None),
    ],
)
def test_retry_after(value: str, wait: timedelta | None) -> None:
    assert wait == both(text_reply(429, "", {"retry-after": value})).retry_after


def test_a_wait_is_told_wherever_a_row_goes_again_and_nowhere_else() -> None:
    headers = {"retry-after": "7"}
    week = timedelta(seconds=7)
    for status in (401, 404, 413, 429, 503):
        assert week == both(text_reply(status, "", headers)).retry_after
    done = json_reply(200, {"usageEvents": [{"transactionId": "e1"}, {"transactionId": "e2"}]}, headers)
    assert both(replace(done, body=b'{"usageEvents": []}')).retry_after is None
    refused = json_reply(400, {"error": [{"path": ["usageEvents", 0], "message": "low"}]}, headers)
    first, second = settle(FLOWGLAD, refused, TWO, now=NOW).values()
    assert (None, week) == (first.retry_after, second.retry_after)


def test_now_may_be_in_any_zone() -> None:
    now = datetime(2026, 11, 23, 14, tzinfo=timezone(timedelta(hours=2)))
    reply = text_reply(429, "", {"retry-after": "Mon, 23 Nov 2026 12:00:30 GMT"})
    assert timedelta(seconds=30) == settle(FLOWGLAD, reply, TWO, now=now)["e1"].retry_after


# What must never raise.


class Broken:
    """A dialect with a bug."""

    row_by_row = False

    def read(self, door: Door, reply: Reply, sent: Sequence[Sent]) -> Mapping[str, Outcome] | None:
        raise RuntimeError(sent[0].row["a"])

    def render(self, door: Door, sent: Sequence[Sent], truth: Mapping[str, Outcome]) -> Reply:
        raise NotImplementedError


class Forgetful(Broken):
    """A dialect that speaks of one row, and of one that was never sent."""

    def read(self, door: Door, reply: Reply, sent: Sequence[Sent]) -> Mapping[str, Outcome] | None:
        accepted = Outcome(state=State.ACCEPTED)
        return {"stranger": accepted, "e2": accepted}


def test_a_dialect_that_fails_has_not_understood() -> None:
    outcome = both(json_reply(200, {}), replace(FLOWGLAD, dialect=Broken()))
    assert (State.UNKNOWN, "the provider's answer cannot be read") == (outcome.state, outcome.message)


def test_a_row_that_is_not_spoken_of_is_unknown_and_a_strangers_is_nobodys() -> None:
    outcomes = settle(replace(FLOWGLAD, dialect=Forgetful()), json_reply(200, {}), TWO, now=NOW)
    assert ["e1", "e2"] == list(outcomes)
    assert (
        Outcome(
            state=State.UNKNOWN,
            code=ErrorCode.PROTOCOL_ERROR,
            message="the provider's answer does not mention this row",
            status=200,
            may_be_stored=True,
        )
        == outcomes["e1"]
    )
    assert Outcome(state=State.ACCEPTED) == outcomes["e2"]


def test_a_rule_with_an_index_that_is_no_number_is_not_understood() -> None:
    rule = Rule(statuses=(400,), text=r"row (?P<index>\w+)", state=State.REJECTED, error=ErrorCode.CONFLICT)
    door = replace(FLOWGLAD, rules=(rule,))
    assert State.UNKNOWN is both(json_reply(400, {"error": "row x"}), door).state
    assert State.REFUSED is both(json_reply(400, {"error": "row 2"}), door).state
    assert State.UNKNOWN is both(json_reply(400, {"error": "row " + "9" * 5000}), door).state
    assert [State.NOT_STORED, State.REJECTED] == [
        outcome.state for outcome in settle(door, json_reply(400, {"error": "row 1"}), TWO, now=NOW).values()
    ]


def test_rules_are_tried_in_order_and_ask_for_all_they_name() -> None:
    both_named = Rule(statuses=(400, 500), code="c", text="t", state=State.NOT_STORED, error=ErrorCode.CONFLICT)
    by_text = Rule(statuses=(400,), text="t", state=State.BLOCKED, error=ErrorCode.FORBIDDEN)
    door = replace(FLOWGLAD, rules=(both_named, by_text))
    assert State.NOT_STORED is both(json_reply(400, {"error": "t", "code": "c"}), door).state
    assert State.NOT_STORED is both(json_reply(500, {"error": "t", "code": "c"}), door).state
    assert State.BLOCKED is both(json_reply(400, {"error": "t", "code": "d"}), door).state
    assert State.REFUSED is both(json_reply(400, {"error": "x", "code": "c"}), door).state
    assert State.UNKNOWN is both(json_reply(500, {"error": "t"}), door).state


def test_no_rows_have_no_outcomes() -> None:
    assert {} == settle(FLOWGLAD, json_reply(200, {"usageEvents": []}), [], now=NOW)
    assert {} == settle(FLOWGLAD, Fault(kind=FaultKind.NO_ANSWER, name="x"), [], now=NOW)


# What is shown.


def test_their_code_is_shown_where_it_is_one() -> None:
    assert "BAD_REQUEST" == both(json_reply(400, {"error": "odd", "code": "BAD_REQUEST"})).provider_code
    assert both(json_reply(400, {"error": "odd", "code": "x for y"})).provider_code is None
    assert both(json_reply(400, {"error": "odd", "code": "c" * 301})).provider_code is None


def test_a_secret_is_hidden_from_words_codes_and_ids() -> None:
    reply = json_reply(400, {"error": "bad key sk_live_1", "code": "sk_live_1"})
    outcome = settle(FLOWGLAD, reply, TWO, now=NOW, hide=["sk_live_1", ""])["e1"]
    assert ("bad key …", None) == (outcome.message, outcome.provider_code)
    echo = json_reply(200, {"usageEvents": [{"transactionId": "e1", "id": "id_sk_live_1"}]})
    assert settle(FLOWGLAD, echo, TWO, now=NOW, hide=["sk_live_1"])["e1"].provider_event_id is None


def test_a_sentence_about_one_row_does_not_show_the_value_of_another() -> None:
    sent = [Sent(key="e1", row={"p": "gold-plan"}), Sent(key="e2", row={"p": ["blue-plan", {"q": Decimal("77.50")}]})]
    said = "not gold-plan, not blue-plan, not 77.50"
    reply = json_reply(400, {"error": [{"path": ["usageEvents", 0], "message": said}]})
    assert "not …, not …, not …" == settle(FLOWGLAD, reply, sent, now=NOW)["e1"].message


def test_a_large_refused_batch_is_settled_at_once() -> None:
    door = provider("flexprice").spec.doors["bulk"]
    sent = [Sent(key=f"e{n}", row={f"k{m}": f"value-{n}-{m}" for m in range(10)}) for n in range(1000)]
    reply = json_reply(400, {"message": "Request validation failed", "code": "validation_error"})
    began = datetime.now(UTC)
    outcomes = settle(door, reply, sent, now=NOW)
    assert {"Request validation failed"} == {outcome.message for outcome in outcomes.values()}
    assert datetime.now(UTC) - began < timedelta(seconds=2), "the words are cleaned once, not once a row"


def test_the_weakest_fact_is_the_one_to_show() -> None:
    spec = adapter_of("wingback", "bulk").spec
    assert "unverified" == spec.weakest
    assert "docs" == replace(spec, sources=tuple(s for s in spec.sources if s.grade != "unverified")).weakest
