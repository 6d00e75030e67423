"""Whatever comes back, every row is settled once, and nothing is claimed that the answer does not say."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters import AnyAdapter, Fault, FaultKind, IndexedFailures, Outcome, Reply, Sent, State, settle, took_all
from adapters._words import MAX_WORDS
from canonical_schema import ErrorCode
from tests.adapters.worlds import CODES, DONE, NOW, adapter_of, every_door, json_reply, rows_of

KNOWN_WORDS = (
    "Subscription not found: sub_1 (usage event at index 1)",
    "Unwrap called on Err: NotFoundError: Price not found: x (index 0)",
    "Cannot create usage event for archived customer",
    "UsageEvent conflict: ",
    "Request validation failed",
    "exceeds the maximum size",
    "Invalid billable metric ID",
    "Contract not found",
    "try again",
    "not_found",
    "validation_error",
    "invalid_event_type",
    "Customer not found",
)
FATAL = "not found|archived customer|UsageEvent conflict|Invalid (priceId|properties|billingPeriod|billable)|activation"
MEMBERS = (
    "usageEvents", "transactionId", "id", "error", "message", "code", "issues", "path", "errors", "field", "successful",
    "failed", "index", "idempotencyKey", "summary", "object", "feedback", "contract", "type", "value", "status",
)  # fmt: skip
WORDS = st.one_of(
    st.sampled_from((*KNOWN_WORDS, "events[1].quantity", "usageEvents", "evt_0", "evt_1", "error")), st.text(max_size=8)
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 700), st.floats(allow_nan=False, allow_infinity=False), WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(MEMBERS), st.text(max_size=3)), inner, max_size=5),
    ),
    max_leaves=14,
)
SHAPED = st.one_of(
    st.builds(
        lambda rows: {"usageEvents": rows}, st.lists(st.fixed_dictionaries({"transactionId": WORDS}), max_size=3)
    ),
    st.lists(
        st.fixed_dictionaries(
            {
                "index": st.one_of(st.integers(-1, 4), st.booleans()),
                "status": st.one_of(st.integers(-1, 700), st.booleans()),
                "feedback": st.one_of(
                    st.none(), st.just({}), st.builds(lambda w: {"contract": {"type": "error", "value": w}}, WORDS)
                ),
            }
        ),
        max_size=4,
    ),
    st.builds(
        lambda stored, failed: {"successful": stored, "failed": failed},
        st.lists(st.fixed_dictionaries({"idempotencyKey": WORDS, "id": WORDS}), max_size=3),
        st.lists(
            st.fixed_dictionaries({"error": WORDS}, optional={"idempotencyKey": WORDS, "index": st.integers(-1, 4)}),
            max_size=3,
        ),
    ),
    st.builds(lambda text: {"feedback": {"body": {"type": "error", "value": text}}}, WORDS),
    st.fixed_dictionaries({"message": WORDS}, optional={"error": WORDS, "code": WORDS, "errors": VALUES}),
    st.builds(
        lambda paths: {"error": [{"path": path, "message": "Invalid"} for path in paths]},
        st.lists(st.lists(st.one_of(st.integers(-2, 4), st.sampled_from(["usageEvents", "amount"])), max_size=3)),
    ),
)
WAITS = st.one_of(
    st.text(max_size=12),
    st.integers(-5, 10**30).map(str),
    st.sampled_from(
        [
            "Mon, 23 Nov 2026 12:00:30 GMT",
            "Mon, 23 Nov 1926 12:00:30 GMT",
            "Fri, 31 Dec 9999 23:59:59 -2359",
            "Wed, 21 Oct 2026 07:28:00 +99999999999999",
            "Wed, 21 Oct 99999999999999 07:28:00 GMT",
            "1e3", "٣", "5, 5",
        ]
    ),
)  # fmt: skip
STATUSES = st.one_of(
    st.sampled_from([200, 201, 202, 204, 207, 302, 400, 401, 404, 409, 413, 422, 429, 500, 503]), st.integers(100, 599)
)


@st.composite
def replies(draw: Any) -> Reply:
    status = draw(STATUSES)
    headers = draw(st.one_of(st.just({}), st.builds(lambda wait: {"retry-after": wait}, WAITS)))
    if draw(st.integers(0, 4)) == 0:
        body = draw(st.one_of(st.just(b""), st.binary(max_size=20), st.just(b"<html>"), st.just(b'{"usageEv')))
        return Reply(status=status, headers=headers, body=body)
    return json_reply(status, draw(st.one_of(VALUES, SHAPED)), headers)


def agrees(adapter: AnyAdapter, reply: Reply, sent: list[Sent], outcomes: Mapping[str, Outcome]) -> bool:
    """Return whether the answer was told at once; what that says is what was told row by row."""
    theirs = took_all(adapter.door, reply, [row.key for row in sent], hide=adapter.secrets)
    if theirs is None:
        return False
    assert {State.ACCEPTED} == {outcome.state for outcome in outcomes.values()}
    assert [outcome.provider_event_id for outcome in outcomes.values()] == [*theirs] or (
        not theirs and {None} == {outcome.provider_event_id for outcome in outcomes.values()}
    )
    return True


@every_door
@given(reply=replies(), count=st.integers(1, 4))
@example(reply=json_reply(400, []), count=2)
@example(reply=json_reply(200, [{"index": 0, "status": 500, "feedback": {}}]), count=2)
@settings(max_examples=250, deadline=None)
def test_any_reply_settles_every_row_once_and_claims_nothing_it_does_not_know(
    name: str, profile: str, reply: Reply, count: int
) -> None:
    adapter = adapter_of(name, profile)
    door = adapter.door
    sent = rows_of(adapter, 1 if door.rows == "one" else count)
    outcomes = settle(door, reply, sent, now=NOW, hide=adapter.secrets)

    assert [row.key for row in sent] == list(outcomes)
    agrees(adapter, reply, sent, outcomes)
    for outcome in outcomes.values():
        assert (outcome.code is None) == (outcome.state in DONE)
        assert outcome.may_be_stored or outcome.state is not State.UNKNOWN
        assert not outcome.may_be_stored or outcome.state in {State.UNKNOWN, State.NOT_STORED, State.REFUSED}
        assert outcome.retry_after is None or timedelta(0) <= outcome.retry_after <= timedelta(days=1)
        assert outcome.retry_after is None or outcome.state not in DONE | {State.REJECTED}
        assert len(outcome.message) <= MAX_WORDS
        assert outcome.message.isprintable()
        if outcome.state is State.REFUSED:
            assert len(sent) > 1, "a row refused alone is to blame"
        if outcome.may_be_stored and outcome.state is not State.UNKNOWN:
            assert door.dedupe is not None, "what may be stored is never sent again without dedupe"
        if reply.status >= 500:
            assert outcome.state not in DONE
        if reply.status >= 300 and not reply.json:
            assert outcome.state not in DONE
        if max(reply.status, outcome.status or 0) >= 500 and outcome.state is State.REJECTED:
            assert re.search(FATAL, json.dumps(reply.json)), "a 5xx is a rejection only in words that we know"
        if reply.json is None and outcome.state in DONE | {State.REJECTED}:
            assert isinstance(door.dialect, IndexedFailures) or reply.status == 413


@every_door
def test_a_fault_is_unknown_where_it_may_have_arrived_and_not_stored_where_it_cannot(name: str, profile: str) -> None:
    adapter = adapter_of(name, profile)
    sent = rows_of(adapter, 1)
    for timeout, code in ((True, ErrorCode.TIMEOUT), (False, ErrorCode.PROVIDER_UNAVAILABLE)):
        lost = Fault(kind=FaultKind.NO_ANSWER, name="ReadTimeout", timeout=timeout)
        never = Fault(kind=FaultKind.NEVER_LEFT, name="ConnectError", timeout=timeout)
        message = "no answer after sending: ReadTimeout"
        assert {"evt_0": Outcome(state=State.UNKNOWN, code=code, message=message, may_be_stored=True)} == settle(
            adapter.door, lost, sent, now=NOW
        )
        message = "the request never left: ConnectError"
        assert {"evt_0": Outcome(state=State.NOT_STORED, code=code, message=message)} == settle(
            adapter.door, never, sent, now=NOW
        )


@every_door
@given(data=st.data(), count=st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_rows_that_are_listed_in_another_order_or_twice_keep_their_own_ids(
    name: str, profile: str, data: st.DataObject, count: int
) -> None:
    adapter = adapter_of(name, profile)
    sent = rows_of(adapter, 1 if adapter.door.rows == "one" else count)
    taken = adapter.door.dialect.render(adapter.door, sent, {row.key: Outcome(state=State.ACCEPTED) for row in sent})
    body = taken.json
    if isinstance(body, dict):
        for under, rows in body.items():
            if isinstance(rows, list) and rows:
                body = {
                    **body,
                    under: data.draw(st.lists(st.sampled_from(rows), max_size=2)) + data.draw(st.permutations(rows)),
                }
    reply = json_reply(taken.status, body)
    agrees(adapter, reply, sent, settle(adapter.door, reply, sent, now=NOW))


def test_a_row_that_is_listed_as_failed_too_is_not_told_at_once() -> None:
    adapter = adapter_of("paygentic", "usage-v0")
    sent = rows_of(adapter, 2)
    listed = [{"idempotencyKey": row.key, "id": f"usg_{row.key}"} for row in sent]
    reply = json_reply(207, {"successful": listed, "failed": [{"index": 1, "error": "no"}]})
    assert not agrees(adapter, reply, sent, settle(adapter.door, reply, sent, now=NOW))


@every_door
@given(data=st.data(), count=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_an_answer_that_is_no_text_somewhere_is_read_alike_at_once_and_row_by_row(
    name: str, profile: str, data: st.DataObject, count: int
) -> None:
    adapter = adapter_of(name, profile)
    sent = rows_of(adapter, 1 if adapter.door.rows == "one" else count)
    taken = adapter.door.dialect.render(adapter.door, sent, {row.key: Outcome(state=State.ACCEPTED) for row in sent})
    body = taken.body.removesuffix(b"}") + b',"more":"words"}' if taken.body.endswith(b"}") else taken.body
    letters = [place for place, byte in enumerate(body) if chr(byte).isalpha()]
    place = data.draw(st.sampled_from(letters)) if letters else 0
    reply = Reply(status=taken.status, headers=taken.headers, body=body[:place] + b"\xff" + body[place + 1 :])
    agrees(adapter, reply, sent, settle(adapter.door, reply, sent, now=NOW))


@every_door
@given(data=st.data(), count=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_reading_claims_no_more_than_was_rendered(name: str, profile: str, data: st.DataObject, count: int) -> None:
    adapter = adapter_of(name, profile)
    door = adapter.door
    sent = rows_of(adapter, 1 if door.rows == "one" else count)
    states = [State.ACCEPTED, State.REJECTED] + ([State.DUPLICATE] if door.dedupe else [])
    truth = {
        row.key: Outcome(state=state, code=data.draw(st.sampled_from(CODES)) if state is State.REJECTED else None)
        for row in sent
        for state in [data.draw(st.sampled_from(states))]
    }
    reply = door.dialect.render(door, sent, truth)
    outcomes = settle(door, reply, sent, now=NOW)
    all_new = {State.ACCEPTED} == {outcome.state for outcome in truth.values()}
    assert agrees(adapter, reply, sent, outcomes) or not all_new, "what is usual is told at once"
    refused = any(outcome.state is State.REJECTED for outcome in truth.values())
    for key, outcome in outcomes.items():
        assert outcome.state is not State.REJECTED or truth[key].state is State.REJECTED
        assert outcome.state not in DONE or truth[key].state is not State.REJECTED
        if not refused:
            assert outcome.state in DONE
        if outcome.state is State.DUPLICATE:
            assert truth[key].state is State.DUPLICATE
        if not refused and door.dedupe is not None and door.dedupe.repeat == "absent":
            assert truth[key].state is outcome.state
        if len(sent) == 1:
            assert (outcome.state is State.REJECTED) == refused
            says = any(rule.error is truth[key].code and rule.says for rule in door.rules)
            assert not refused or not says or outcome.code is truth[key].code
