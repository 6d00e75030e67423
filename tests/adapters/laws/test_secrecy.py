"""Nothing that is a secret or a customer's is ever shown."""

from dataclasses import replace
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import Outcome, Reply, Sent, State, encode_row, settle, took_all
from tests.adapters.worlds import KEY, NAMED, NOW, adapter_of, decoded, every_door, json_reply, rows_of, usage_of

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
def test_an_id_that_holds_a_secret_is_never_told_at_once(name: str, profile: str) -> None:
    adapter = adapter_of(name, profile)
    door, sent = adapter.door, rows_of(adapter, 1)
    taken = door.dialect.render(door, sent, {row.key: Outcome(state=State.ACCEPTED) for row in sent})
    keys = [row.key for row in sent]
    told = took_all(door, taken, keys, hide=adapter.secrets)
    assert told is not None
    for theirs in filter(None, told):
        echoing = replace(taken, body=taken.body.replace(theirs.encode(), KEY.encode()))
        assert echoing != taken
        assert not took_all(door, echoing, keys, hide=adapter.secrets)


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


@every_door
def test_the_key_stands_in_its_own_header_and_nowhere_else(name: str, profile: str) -> None:
    """What shows a request masks that header alone."""
    adapter = adapter_of(name, profile)
    request = adapter.request([encode_row(adapter.encode(usage_of(adapter, properties={"who": "acme"})))])
    rest = {header: value for header, value in request.headers.items() if header not in adapter.credentials[0]}
    assert KEY in str({**request.headers})
    assert KEY not in str((request.url, rest, request.body))
