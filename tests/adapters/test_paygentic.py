"""Paygentic: the queueing door of one event, and the older door whose answer has two lists."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import ValidationError

from adapters import Measure, Outcome, Reply, Sent, State, TakeBack, Usage, encode_row, settle
from canonical_schema import ErrorCode
from tests.adapters.worlds import NOW, adapter_of, bound, json_reply, rows_of, text_reply, usage_of

EVENTS = adapter_of("paygentic", "events")
V0 = adapter_of("paygentic", "usage-v0")


def events(reply: Reply) -> Outcome:
    """Return what becomes of the one event of a request."""
    return settle(EVENTS.door, reply, rows_of(EVENTS, 1), now=NOW)["evt_0"]


def v0(reply: Reply, count: int = 3) -> list[Outcome]:
    return list(settle(V0.door, reply, rows_of(V0, count), now=NOW).values())


def states(reply: Reply, count: int = 3) -> list[State]:
    return [outcome.state for outcome in v0(reply, count)]


def lists(successful: Sequence[object], failed: Sequence[object], status: int = 207) -> Reply:
    counts = {"total": 3, "successful": len(successful), "failed": len(failed)}
    body = {"object": "batchUsageEvents", "successful": successful, "failed": failed, "summary": counts}
    return json_reply(status, body)


def stored(*keys: str) -> Sequence[object]:
    return [{"id": f"usg_{key}", "object": "usageEvent", "idempotencyKey": key} for key in keys]


def fault(index: int | None, key: str | None, error: str = "Invalid billable metric ID") -> dict[str, object]:
    named = {"index": index, "idempotencyKey": key}
    return {"error": error, **{name: value for name, value in named.items() if value is not None}}


# The door of one event.


def test_an_event_in_full() -> None:
    usage = usage_of(EVENTS, quantity=Decimal("0.000125"), properties={"quantity": "9", "model": "m1", "ok": True})
    assert (
        b'{"idempotencyKey":"evt_1","timestamp":"2026-11-23T12:00:00Z","type":"api.calls","source":"usage-gateway",'
        b'"externalSubject":"customer-one","data":{"quantity":0.000125,"model":"m1","ok":true}}'
    ) == encode_row(EVENTS.encode(usage))
    request = EVENTS.request([b"{}"])
    assert ("POST", "https://api.paygentic.io/v0/events", b"{}") == (request.method, request.url, request.body)


def test_their_own_customer_is_the_subject() -> None:
    row = EVENTS.encode(usage_of(EVENTS, index=1))
    assert ("cus_customertwo", None, {"tokens_used": 3}) == (row["subject"], row.get("externalSubject"), row["data"])


def test_a_double_holds_fifteen_digits() -> None:
    rule = EVENTS.quantity
    assert (15, 15, Decimal(10) ** 15, -(Decimal(10) ** 15)) == (rule.places, rule.digits, rule.maximum, rule.minimum)
    assert rule.as_string is False


def test_an_accepted_event_is_only_queued_and_has_their_id() -> None:
    assert "queued" == EVENTS.door.receipt
    assert Outcome(state=State.ACCEPTED, status=202, provider_event_id="evt_srv_1") == events(
        json_reply(202, {"id": "evt_srv_1", "object": "event", "idempotencyKey": "evt_0"})
    )
    assert Outcome(state=State.ACCEPTED, status=202) == events(json_reply(202, {"object": "event"}))


@pytest.mark.parametrize(
    "reply",
    [
        text_reply(202, "<html>"),
        text_reply(202),
        json_reply(202, []),
        json_reply(200, {}),
        json_reply(202, {"message": "Validation failed", "errors": [{"field": "data", "message": "Required"}]}),
        json_reply(202, {"message": "No such topic", "error": "internal"}),
    ],
)
def test_a_success_in_other_words_says_nothing(reply: Reply) -> None:
    assert State.UNKNOWN is events(reply).state


@pytest.mark.parametrize(
    ("reply", "state", "code"),
    [
        (json_reply(422, {"message": "No", "error": "invalid_event_type"}), State.REJECTED, ErrorCode.UNKNOWN_BINDING),
        (
            json_reply(422, {"message": "No billable metric for type", "error": "unprocessable_entity"}),
            State.REJECTED,
            ErrorCode.UNKNOWN_BINDING,
        ),
        (json_reply(422, {"message": "Data is odd"}), State.REJECTED, ErrorCode.PROVIDER_REJECTED),
        (
            json_reply(404, {"message": "Customer not found", "error": "not_found"}),
            State.REJECTED,
            ErrorCode.UNKNOWN_CUSTOMER,
        ),
        (json_reply(404, {"message": "Not found", "error": "not_found"}), State.BLOCKED, ErrorCode.PROTOCOL_ERROR),
        (text_reply(404, "customer pages"), State.BLOCKED, ErrorCode.PROTOCOL_ERROR),
        (
            json_reply(
                400,
                {
                    "message": "Validation failed",
                    "error": "validation_error",
                    "errors": [{"field": "data", "message": "Required", "code": "invalid_type"}],
                },
            ),
            State.REJECTED,
            ErrorCode.PROVIDER_REJECTED,
        ),
        (
            json_reply(400, {"message": "Bad Request", "error": "bad_request"}),
            State.REJECTED,
            ErrorCode.PROVIDER_REJECTED,
        ),
        (json_reply(400, {"message": "Bad Request"}), State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (json_reply(401, {"message": "Unauthorized", "error": "unauthorized"}), State.BLOCKED, ErrorCode.UNAUTHORIZED),
        (json_reply(403, {"message": "Forbidden", "error": "forbidden"}), State.BLOCKED, ErrorCode.FORBIDDEN),
        (json_reply(409, {"message": "Taken", "error": "conflict"}), State.UNKNOWN, ErrorCode.PROTOCOL_ERROR),
        (json_reply(429, {"message": "Too many requests"}), State.NOT_STORED, ErrorCode.RATE_LIMITED),
        (
            json_reply(429, {"message": "Slow", "errors": [{"field": "data", "message": "x"}]}),
            State.NOT_STORED,
            ErrorCode.RATE_LIMITED,
        ),
        (
            json_reply(500, {"message": "x", "error": "invalid_event_type"}),
            State.UNKNOWN,
            ErrorCode.PROVIDER_UNAVAILABLE,
        ),
    ],
)
def test_errors_of_the_events_door(reply: Reply, state: State, code: ErrorCode) -> None:
    outcome = events(reply)
    assert (state, code, reply.status) == (outcome.state, outcome.code, outcome.status)


def test_the_category_is_kept_as_their_code() -> None:
    reply = json_reply(422, {"message": "No", "error": "invalid_event_type", "code": "EVENT_TYPE_UNKNOWN"})
    assert "invalid_event_type" == events(reply).provider_code


# The older door.


def test_a_row_of_several_metrics_in_full() -> None:
    first, link = bound(V0, 0)
    second = V0.door.binding.model_validate({"billable_metric_id": "bm_2", "price": "1E-3", "entitlement_id": "com_1"})
    usage = Usage(
        key="evt_1",
        event_id="evt_1",
        customer="acme",
        meter="calls",
        timestamp=NOW + timedelta(milliseconds=7),
        measures=(
            Measure(name="in", quantity=Decimal(2500), binding=second),
            Measure(name="out", quantity=Decimal("4E+1"), binding=first),
        ),
        link=link,
        properties={"region": "eu", "ratio": Decimal("1E-7"), "on": True},
    )
    assert (
        b'{"idempotencyKey":"evt_1","timestamp":"2026-11-23T12:00:00.007Z","customerId":"cus_customerone",'
        b'"merchantId":"org_1","properties":[{"billableMetricId":"bm_2","quantity":2500,"price":"0.001"},'
        b'{"billableMetricId":"bm_calls","quantity":40}],"entitlementId":"com_1",'
        b'"metadata":{"region":"eu","ratio":"0.0000001","on":"true"}}'
    ) == encode_row(V0.encode(usage))
    assert (second.together(), first.together()) == ("com_1", None)


def test_a_row_with_a_price_is_as_the_older_client_sent_it() -> None:
    binding = V0.door.binding.model_validate(
        {"billable_metric_id": "bm_1", "price": "0.125", "entitlement_id": "com_9"}
    )
    usage = usage_of(
        V0, "evt_0002", Decimal(3), timestamp=NOW + timedelta(milliseconds=123), properties={"region": "eu"}
    )
    row = V0.encode(replace(usage, measures=(replace(usage.measures[0], binding=binding),)))
    assert {
        "customerId": "cus_customerone",
        "idempotencyKey": "evt_0002",
        "merchantId": "org_1",
        "properties": [{"billableMetricId": "bm_1", "quantity": 3, "price": "0.125"}],
        "timestamp": "2026-11-23T12:00:00.123Z",
        "entitlementId": "com_9",
        "metadata": {"region": "eu"},
    } == row


def test_a_batch_that_is_stored_as_a_whole_is_201() -> None:
    reply = lists(stored("evt_2", "evt_0", "evt_1"), [], 201)
    assert [
        Outcome(state=State.ACCEPTED, status=201, provider_event_id=f"usg_evt_{index}") for index in range(3)
    ] == v0(reply)


def test_a_batch_that_is_stored_in_part_is_207() -> None:
    failed = [fault(1, "evt_1"), fault(2, "evt_2", "Customer not found")]
    first, second, third = v0(lists(stored("evt_0"), failed))
    assert State.ACCEPTED is first.state
    assert Outcome(state=State.REJECTED, code=ErrorCode.UNKNOWN_BINDING, message="Invalid billable metric ID") == second
    assert (State.REJECTED, ErrorCode.UNKNOWN_CUSTOMER) == (third.state, third.code)


@pytest.mark.parametrize("status", [200, 201, 207, 400, 422])
def test_the_lists_are_read_whatever_the_status(status: int) -> None:
    failed: list[object] = [fault(index, f"evt_{index}", "odd") for index in range(3)]
    assert [State.REJECTED] * 3 == states(lists([], failed, status))


def test_a_row_in_neither_list_and_one_in_both_are_unknown() -> None:
    first, second, third = v0(lists(stored("evt_0", "evt_1"), [fault(1, "evt_1")]))
    assert (State.ACCEPTED, State.UNKNOWN, State.UNKNOWN) == (first.state, second.state, third.state)
    assert "the provider lists the row as stored and as failed" == second.message
    assert "the provider's answer does not mention this row" == third.message


def test_a_failure_is_joined_by_its_index_or_by_its_key() -> None:
    for failure in (fault(1, None), fault(None, "evt_1"), fault(99, "evt_1")):
        assert [State.ACCEPTED, State.REJECTED, State.ACCEPTED] == states(lists(stored("evt_0", "evt_2"), [failure]))


@pytest.mark.parametrize(
    "failure",
    [fault(0, "evt_1"), fault(None, "evt_9"), fault(None, None), fault(3, None), fault(-1, None), "Customer not found"],
)
def test_a_failure_that_fits_no_row_makes_the_answer_unreadable(failure: object) -> None:
    assert [State.UNKNOWN] * 3 == states(lists(stored("evt_0", "evt_2"), [failure]))


def test_two_failures_of_one_row_are_one_rejection() -> None:
    assert [State.REJECTED] == states(lists([], [fault(0, "evt_0"), fault(0, "evt_0", "odd")]), 1)
    assert [State.NOT_STORED] == states(lists([], [fault(0, "evt_0"), fault(0, "evt_0", "Please try again")]), 1)
    assert [State.NOT_STORED] == states(lists([], [fault(0, "evt_0", "Please try again"), fault(0, "evt_0")]), 1)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("Request timed out", State.UNKNOWN),
        ("upstream timeout", State.UNKNOWN),
        ("Internal server error", State.UNKNOWN),
        ("Internal error, try again", State.UNKNOWN),
        ("Temporarily unavailable", State.NOT_STORED),
        ("Please try again later", State.NOT_STORED),
        ("Rate limit exceeded", State.NOT_STORED),
        ("Invalid internal customer reference", State.REJECTED),
        ("price below minPrice", State.REJECTED),
        ("", State.REJECTED),
    ],
)
def test_words_of_trouble_are_no_refusal(text: str, state: State) -> None:
    (outcome,) = v0(lists([], [fault(0, "evt_0", text)]), 1)
    assert state is outcome.state
    assert outcome.message
    assert outcome.may_be_stored is (state is State.UNKNOWN)


def test_a_failure_without_words_says_so() -> None:
    (outcome,) = v0(lists([], [{"index": 0}]), 1)
    assert "the provider names the row as failed and gives no reason" == outcome.message


@pytest.mark.parametrize(
    "body",
    [{"successful": []}, {"failed": []}, {"successful": {}, "failed": []}, [], None, {"object": "batchUsageEvents"}],
)
def test_a_success_without_both_lists_says_nothing(body: object) -> None:
    assert [State.UNKNOWN] * 3 == states(json_reply(201, body))
    assert [State.UNKNOWN] * 3 == states(lists(stored("evt_0", "evt_1", "evt_2"), [], 500))


@pytest.mark.parametrize(
    "field", ["events[1].quantity", "events.1.quantity", "events[1]", "[1].quantity", "1.quantity"]
)
def test_a_validation_error_names_its_row(field: str) -> None:
    body = {"message": "Validation failed", "error": "validation_error", "errors": [{"field": field, "message": "low"}]}
    first, culprit, last = v0(json_reply(400, body))
    assert (State.REJECTED, "low", "validation_error") == (culprit.state, culprit.message, culprit.provider_code)
    assert first == last
    assert (State.NOT_STORED, True) == (first.state, first.may_be_stored), "a refused batch is not one transaction"


@pytest.mark.parametrize("field", ["quantity", "properties[1].quantity", "events", "events[9].quantity", "", None])
def test_a_validation_error_that_names_no_row_refuses_the_batch(field: str | None) -> None:
    body = {"message": "Validation failed", "errors": [{"field": field, "message": "low"}]}
    assert [State.REFUSED] * 3 == states(json_reply(400, body))
    assert [State.REJECTED] == states(json_reply(400, body), 1)


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (json_reply(400, {"message": "Bad request body", "error": "bad_request"}), State.REFUSED),
        (json_reply(403, {"message": "Forbidden", "error": "forbidden"}), State.BLOCKED),
        (json_reply(401, {"message": "Unauthorized", "error": "unauthorized"}), State.BLOCKED),
        (json_reply(404, {"message": "Not found", "error": "not_found"}), State.BLOCKED),
        (json_reply(429, {"message": "Too many requests", "error": "too_many_requests"}), State.NOT_STORED),
        (json_reply(503, {"message": "x"}), State.UNKNOWN),
        (text_reply(400, "<html>"), State.UNKNOWN),
    ],
)
def test_errors_of_the_older_door(reply: Reply, state: State) -> None:
    assert [state] * 3 == states(reply)


# What an operator writes.


def test_settings() -> None:
    assert timedelta(hours=24) == EVENTS.dedupe.window if EVENTS.dedupe else None
    longer = adapter_of("paygentic", "events", dedupe_window="3d").dedupe
    assert longer is not None
    assert (timedelta(days=3), None) == (longer.window, longer.setting)
    with pytest.raises(ValidationError, match="profile usage-v0 needs merchant_id"):
        adapter_of("paygentic", "usage-v0", merchant_id=None)
    with pytest.raises(ValidationError, match="should match pattern"):
        adapter_of("paygentic", "usage-v0", merchant_id="merchant")


@pytest.mark.parametrize("name", ["$.tokens", "usage.tokens", "tokens[0]", ""])
def test_a_quantity_field_is_a_plain_name(name: str) -> None:
    with pytest.raises(ValidationError):
        EVENTS.door.binding.model_validate({"event_type": "t", "quantity_field": name})


def test_links() -> None:
    link = EVENTS.door.link
    assert {"external_subject": "acme"} == link.completed({}, "acme")
    assert {"customer_id": "cus_1"} == link.completed({"customer_id": "cus_1"}, "acme")
    with pytest.raises(ValidationError, match="not external_subject and customer_id"):
        link.model_validate({"external_subject": "a", "customer_id": "cus_1"})
    for bad in ({"external_subject": "acme corp"}, {"external_subject": "a" * 256}, {"customer_id": "acme"}):
        with pytest.raises(ValidationError):
            link.model_validate(bad)
    assert {} == V0.door.link.completed({}, "acme")


# The door that refunds.


def test_a_refund_names_their_event_in_the_path_and_is_never_sent_twice() -> None:
    way = V0.door.corrections
    assert isinstance(way, TakeBack)
    refunding = V0.through(way.door)
    request = refunding.request([encode_row(refunding.take_back("usg_a/b c", "read wrong"))])
    assert ("PATCH", "https://api.paygentic.io/v0/usage/usg_a%2Fb%20c") == (request.method, request.url)
    assert b'{"refunded":true,"reason":"read wrong"}' == request.body
    assert "Bearer" in request.headers["authorization"]
    assert refunding.dedupe is None
    assert V0.door is not refunding.door


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (json_reply(200, {"object": "usageEvent", "id": "usg_1", "refund": {"reason": "x"}}), State.ACCEPTED),
        (json_reply(404, {"message": "Usage event not found", "error": "not_found"}), State.REJECTED),
        (text_reply(404, "<html>"), State.REJECTED),
        (text_reply(410), State.REJECTED),
        (json_reply(403, {"message": "Forbidden", "error": "forbidden"}), State.REJECTED),
        (text_reply(401), State.BLOCKED),
        (json_reply(422, {"message": "Already refunded"}), State.REJECTED),
        (json_reply(429, {"message": "Slow down"}), State.NOT_STORED),
        (text_reply(502), State.UNKNOWN),
        (text_reply(200), State.UNKNOWN),
        (json_reply(200, {"message": "Not refunded", "error": "conflict"}), State.UNKNOWN),
    ],
)
def test_what_an_answer_to_a_refund_says(reply: Reply, state: State) -> None:
    way = V0.door.corrections
    assert isinstance(way, TakeBack)
    sent = [Sent(key="c1", row=V0.take_back("usg_1", "x"))]
    assert state is settle(way.door, reply, sent, now=NOW)["c1"].state
