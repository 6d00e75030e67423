"""Whatever goes wrong, nothing is billed twice, and every end that a sender comes to is true."""

from collections.abc import Mapping
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters import AnyAdapter, Fault, FaultKind, Reply, Sent, State, encode_row, settle
from tests.adapters.worlds import (
    KEY,
    NOW,
    World,
    adapter_of,
    decoded,
    every_door,
    json_reply,
    rows_of,
    text_reply,
    usage_of,
)

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
