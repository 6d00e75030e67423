"""What holds for every adapter and every door, whatever comes in and whatever comes back."""

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters import (
    Amend,
    AnyAdapter,
    Deltas,
    Fault,
    FaultKind,
    Outcome,
    Reply,
    Sent,
    State,
    TakeBack,
    encode_row,
    providers,
    settle,
    took_all,
)
from adapters._values import JsonValue, Scalar
from adapters._words import MAX_WORDS
from canonical_schema import ErrorCode
from tests.adapters.worlds import (
    CODES,
    DOORS,
    EPOCH,
    INSTANTS,
    KEY,
    NAMED,
    NOW,
    PROPERTIES,
    World,
    adapter_of,
    decoded,
    json_reply,
    quantities,
    rows_of,
    text_reply,
    usage_of,
    walk,
)

every_door = pytest.mark.parametrize(("name", "profile"), DOORS)
DONE = {State.ACCEPTED, State.DUPLICATE}


def test_every_provider_of_the_registry_is_held_to_the_laws() -> None:
    assert sorted(NAMED) == sorted(DOORS)
    assert {name for name, _ in DOORS} == set(providers())


# Any reply at all.

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
            assert name == "wingback" or reply.status == 413


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


# Reading claims no more than was rendered.


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


# Nothing is billed twice.

PAGES = st.sampled_from(
    [
        text_reply(400, "<html>Bad Request</html>"),
        text_reply(400),
        json_reply(400, {"message": "Bad Request"}),
        json_reply(400, {"error": "Bad Request"}),
    ]
)
GARBAGE = st.builds(
    lambda status, body: json_reply(status, body) if isinstance(body, int | list) else text_reply(status, body),
    st.sampled_from([200, 201, 202, 207, 299, 418, 500]),
    st.sampled_from(["<html>", '{"usageEvents": [{"id', "null", " x", 0, [0], [["index"]]]),
)
STORED_THEN = st.sampled_from([text_reply(502), text_reply(504, "<html>"), json_reply(500, {"error": "Oops"})])
FAULTS = st.one_of(
    st.just(None),
    st.just("never left"),
    st.just("lost before"),
    st.just("lost after"),
    st.just("key expired"),
    st.just(json_reply(429, {"message": "Too many requests"}, {"retry-after": "3"})),
    st.just(text_reply(307, "", {"location": "https://elsewhere.example"})),
    st.just(text_reply(413)),
    PAGES,
    st.tuples(st.booleans(), GARBAGE),
    st.tuples(st.booleans(), STORED_THEN),
)
LOST = Fault(kind=FaultKind.NO_ANSWER, name="ReadError")


class Sender:
    """The smallest sender that keeps the rules: again on not stored, on unknown only where repeats are told."""

    def __init__(self, adapter: AnyAdapter, world: World, script: list[Any]) -> None:
        self.adapter, self.world, self.script = adapter, world, script
        self.ended: dict[str, str] = {}
        self.doubt: dict[str, int] = {}

    def answer(self, sent: list[Sent], rows: list[bytes]) -> Reply | Fault:
        request = self.adapter.request(rows)
        match self.script.pop(0) if self.script else None:
            case None:
                return self.world.take(request)
            case "never left":
                return Fault(kind=FaultKind.NEVER_LEFT, name="ConnectError")
            case "lost before":
                return LOST
            case "lost after":
                self.world.take(request)
                return LOST
            case "key expired":
                return text_reply(401, "API key expired")
            case (stored, Reply() as reply):
                if stored:
                    self.world.take(request)
                return reply
            case reply:
                return reply

    def send(self, sent: list[Sent], rows: Mapping[str, bytes]) -> None:
        if not sent:
            return
        door = self.adapter.door
        outcomes = settle(door, self.answer(sent, [rows[row.key] for row in sent]), sent, now=NOW)
        split = [row for row in sent if outcomes[row.key].state is State.REFUSED]
        assert not split or len(sent) > 1
        for row in sent:
            outcome, doubt = outcomes[row.key], self.doubt.get(row.key, 0)
            match outcome.state:
                case State.ACCEPTED | State.DUPLICATE:
                    self.ended[row.key] = "done"
                case State.REJECTED:
                    # Its own refusal settles that its batch was refused, if anyone looked at it.
                    self.ended[row.key] = "parked" if doubt == 2 or (doubt and outcome.reduce) else "rejected"
                case State.UNKNOWN:
                    doubt = 2
                case State.NOT_STORED | State.REFUSED:
                    doubt = max(doubt, int(outcome.may_be_stored))
                case State.BLOCKED:
                    pass
            self.doubt[row.key] = doubt
            if doubt and door.dedupe is None and row.key not in self.ended:
                self.ended[row.key] = "parked"
        if split:
            middle = len(split) // 2
            self.send([row for row in split[:middle] if row.key not in self.ended], rows)
            self.send([row for row in split[middle:] if row.key not in self.ended], rows)

    def run(self, sent: list[Sent], rows: Mapping[str, bytes], rounds: int) -> None:
        for _ in range(rounds):
            going = [row for row in sent if row.key not in self.ended]
            if self.adapter.door.rows == "one":
                for row in going:
                    self.send([row], rows)
            else:
                self.send(going, rows)
        for row in sent:
            self.ended.setdefault(row.key, "parked" if self.doubt[row.key] else "dead")


@every_door
@given(
    script=st.lists(FAULTS, max_size=12),
    bad=st.sets(st.integers(0, 4)),
    count=st.integers(1, 5),
    rounds=st.integers(1, 20),
)
@example(script=[None, *["never left"] * 4], bad={1}, count=2, rounds=1)
@example(script=[None, text_reply(413)], bad={1}, count=2, rounds=1)
@example(script=["lost after", text_reply(400)], bad=set(), count=2, rounds=3)
@settings(max_examples=150, deadline=None)
def test_nothing_is_billed_twice_and_every_end_is_true(
    name: str, profile: str, script: list[Any], bad: set[int], count: int, rounds: int
) -> None:
    adapter = adapter_of(name, profile)
    usages = [usage_of(adapter, f"evt_{index}", index=index % 2) for index in range(count)]
    rows = {usage.key: encode_row(adapter.encode(usage)) for usage in usages}
    sent = [Sent(key=key, row=decoded(row)) for key, row in rows.items()]
    world = World(adapter.door, adapter.spec.auth.headers(KEY), frozenset(f"evt_{index}" for index in bad))
    sender = Sender(adapter, world, list(script))
    sender.run(sent, rows, rounds)
    too_large = any(isinstance(fault, Reply) and fault.status == 413 for fault in script)
    for row in sent:
        billed, end = world.billed[row.key], sender.ended[row.key]
        assert billed <= 1
        if end == "done":
            assert billed == 1
        if end in {"rejected", "dead"}:
            assert billed == 0
        if end == "rejected":
            assert row.key in world.bad or too_large, "a good event is never refused for good"
        if end == "dead":
            assert script
        if not script and rounds > 1:
            assert end == ("rejected" if row.key in world.bad else "done") or adapter.door.dedupe is None


@every_door
@given(
    body=st.sampled_from(
        [
            "Invalid API key",
            {"message": "Unauthorized"},
            {"error": "Invalid token"},
            {"error": "Unauthorized"},
            [],
            None,
        ]
    ),
    status=st.sampled_from([401, 403, 402, 407]),
    count=st.integers(1, 4),
)
@settings(max_examples=30, deadline=None)
def test_a_wrong_key_stores_nothing_and_blocks(name: str, profile: str, body: Any, status: int, count: int) -> None:
    right, wrong = adapter_of(name, profile), adapter_of(name, profile, api_key="sk_wrong")
    count = 1 if right.door.rows == "one" else count
    rows = [encode_row(right.encode(usage_of(right, f"evt_{index}"))) for index in range(count)]
    world = World(right.door, right.spec.auth.headers(KEY))
    assert world.take(wrong.request(rows)).status == 401
    assert world.billed.total() == 0
    sent = rows_of(right, count)
    reply = text_reply(status, body) if isinstance(body, str) else json_reply(status, body)
    outcomes = settle(right.door, reply, sent, now=NOW, hide=wrong.secrets)
    assert {State.BLOCKED} == {outcome.state for outcome in outcomes.values()}
    assert not any(outcome.may_be_stored for outcome in outcomes.values())
    assert world.take(right.request(rows)).status < 300
    assert world.billed.total() == count


# The provider would bill what the event says.


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


# Nothing that is a secret or a customer's is ever shown.

HIDDEN = ("tenant-42-gold", "vip  customer\tname", "ключ-секрет", "\x1b[31mred-alert", "v" * 400, KEY)


@every_door
@given(
    parts=st.lists(
        st.one_of(st.sampled_from(HIDDEN), st.sampled_from(["not found:", "x" * 290, " ", "12345677"])), max_size=9
    ),
    status=st.sampled_from([200, 201, 202, 207, 400, 404, 409, 413, 422, 500]),
    other=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_no_message_shows_a_secret_or_a_value_of_any_row(
    name: str, profile: str, parts: list[str], status: int, other: bool
) -> None:
    adapter = adapter_of(name, profile)
    named = NAMED[name, profile]
    mine = {f"p{index}": value for index, value in enumerate(HIDDEN[:-1])}
    usages = [
        usage_of(adapter, "evt_0", Decimal(12345677), properties={} if other else mine),
        usage_of(adapter, "evt_1", Decimal(12345677), properties=mine),
    ][: 1 if adapter.door.rows == "one" else 2]
    sent = [Sent(key=usage.key, row=decoded(encode_row(adapter.encode(usage)))) for usage in usages]
    text = "Subscription not found: " + " ".join([*parts, named.names(0)[1]])
    for body in (
        {"error": text, "message": text, "code": text, "feedback": {text: {"type": "error", "value": text}}},
        {"error": {"message": text}, "errors": [{"field": "events[0].x", "message": text}]},
        {"error": [{"path": ["usageEvents", 0], "message": text}]},
        [{"index": 0, "status": 400, "feedback": {text: {"type": "error", "value": text}}}],
        {"successful": [{"idempotencyKey": "evt_1", "id": KEY}], "failed": [{"index": 0, "error": text}]},
        {"usageEvents": [{"transactionId": "evt_0", "id": KEY}]},
        {"id": KEY},
    ):
        reply = json_reply(status, body)
        outcomes = settle(adapter.door, reply, sent, now=NOW, hide=adapter.secrets)
        shown = " ".join([repr(outcomes), repr(sent), repr(reply), *(outcome.message for outcome in outcomes.values())])
        hidden = [*HIDDEN, "vip customer name", "red-alert" if "p3" in str(sent) else KEY, "v" * 9, named.names(0)[1]]
        if adapter.door.rows != "one" or not other:
            assert [] == [value for value in hidden if value in shown]
        assert KEY not in shown
        assert "12345677" not in shown


@every_door
def test_no_repr_shows_a_secret_or_a_customer(name: str, profile: str) -> None:
    adapter = adapter_of(name, profile)
    usage = usage_of(adapter, quantity=Decimal(424242), properties={"who": "tenant-42-gold"}, source="billing-box-7")
    request = adapter.request([encode_row(adapter.encode(usage))])
    reply = Reply(status=200, headers={"set-cookie": "session=tenant-42-gold"}, body=b"tenant-42-gold")
    shown = " ".join(map(repr, (usage, request, reply, adapter.settings, usage.link, adapter)))
    customer = NAMED[name, profile].names(0)[1]
    hidden = (KEY, "tenant-42-gold", "424242", "billing-box-7", "'acme'", customer)
    assert [] == [value for value in hidden if value in shown]


# What the core relies on.


@every_door
def test_the_facts_of_a_door_agree_with_each_other(name: str, profile: str) -> None:
    adapter = adapter_of(name, profile)
    door = adapter.door
    assert door.path.startswith("/")
    assert (door.rows == "one") == (door.max_rows == 1)
    assert door.absolute is None or door.absolute in type(adapter.settings).model_fields
    assert door.quantity.negative is None or door.quantity.negative in type(adapter.settings).model_fields
    assert (door.zero == "refused") == (door.quantity.minimum is not None and door.quantity.minimum > 0)
    assert (door.roles.key is None) == (door.dedupe is None)
    assert adapter.spec.sources
    match door.corrections:
        case Amend() as way:
            assert door.dedupe is not None
            assert (door.dedupe.different, "key" in door.dedupe.by) == ("last_wins", True)
            assert way.voids <= way.replaces <= door.aggregations
            assert way.setting is None or way.setting in type(adapter.settings).model_fields
        case Deltas() as way:
            assert way.aggregations <= door.aggregations
            lowest = door.quantity.minimum
            assert not way.down or lowest is None or lowest < 0 or door.quantity.negative is not None
            assert way.source.grade != "unverified" or door.quantity.negative is not None, "off until it is allowed"
        case TakeBack() as way:
            assert way.aggregations <= door.aggregations
            assert (way.door.rows, way.door.max_rows, way.door.corrections) == ("one", 1, None)
            theirs = adapter.through(way.door).request([encode_row(adapter.take_back("their/id", "why"))])
            assert "{" not in theirs.url
            assert theirs.url.startswith(adapter.base_url)
        case None:
            pass
    for rule in door.rules:
        assert rule.statuses
        assert rule.says is None or "{" not in re.sub(r"\{(customer|meter|index|key)\}", "", rule.says)
        assert rule.text is None or re.compile(rule.text)
    for model in (door.binding, door.link):
        assert set(model.names) <= model.model_fields.keys()
        assert model.default is None or model.default in model.names


@every_door
def test_every_sentence_of_the_simulator_is_read_as_its_rule_means_it(name: str, profile: str) -> None:
    adapter = adapter_of(name, profile)
    door = adapter.door
    (row,) = rows_of(adapter, 1)
    for rule in door.rules:
        if rule.says is not None:
            truth = {row.key: Outcome(state=State.REJECTED, code=rule.error)}
            outcome = settle(door, door.dialect.render(door, [row], truth), [row], now=NOW)[row.key]
            assert (State.REJECTED, rule.error) == (outcome.state, outcome.code)
