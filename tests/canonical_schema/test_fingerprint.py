"""A fingerprint is the same exactly where `differences` finds nothing, and never changes."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given

from canonical_schema import FINGERPRINT, Correction, Event, Kind, decode_event, differences, encode_event, fingerprint
from tests.canonical_schema.test_event import alike, events

ROOT = Path(__file__).parents[2]


@given(alike, alike)
@example(
    Event(id="e", customer="a", meter="m", quantity=Decimal("1E+400")),
    Event(id="e", customer="a", meter="m", quantity=Decimal("10E+399")),
)
@example(
    Event(id="e", customer="a", meter="m", properties={"n": 10**30}),
    Event(id="e", customer="a", meter="m", properties={"n": Decimal("1E+30")}),
)
@example(
    Event(id="e", customer="a", meter="m", properties={"n": 0}),
    Event(id="e", customer="a", meter="m", properties={"n": Decimal("-0.00")}),
)
@example(
    Event(id="e", customer="a", meter="m", properties={"n": Decimal("1" * 399 + "2")}),
    Event(id="e", customer="a", meter="m", properties={"n": Decimal("1" * 399 + "3")}),
)
def test_two_events_have_one_fingerprint_exactly_where_nothing_differs(a: Event, b: Event) -> None:
    assert (not differences(a, b)) is (fingerprint(a) == fingerprint(b))


@given(events, events)
def test_events_of_any_kind_are_told_apart(a: Event, b: Event) -> None:
    assert (not differences(a, b)) is (fingerprint(a) == fingerprint(b))
    assert FINGERPRINT == len(fingerprint(a))


@given(events)
def test_what_was_stored_and_read_back_has_the_same_one(event: Event) -> None:
    assert fingerprint(event) == fingerprint(decode_event(encode_event(event)))


# Recorded once. Whoever has to change one of these makes every trimmed event of every ledger a conflict.
FULL = Event(
    id="evt_2",
    customer="Zoë GmbH",
    meter="llm call",
    quantity=Decimal("-0.00012"),
    timestamp=datetime(2026, 11, 23, 14, 30, 0, 250_000, tzinfo=timezone(timedelta(hours=2))),
    kind=Kind.ABSOLUTE,
    subscription="eu",
    source="billing/1",
    properties={"region": "eu", "cached": False, "tokens": 1200, "price": Decimal("0.10"), "": "1200"},
)
VECTORS = [
    (Event(id="evt_1", customer="acme", meter="api_calls", quantity=Decimal("12.50")), "7296d279af6de103"),
    (FULL, "851a2a1baf8ec0c9"),
    (
        Event(id="evt_3", customer="acme", meter="llm", quantities={"output": Decimal("1E+20"), "input": Decimal(0)}),
        "355a7400b5158dc2",
    ),
]


@pytest.mark.parametrize(("event", "recorded"), VECTORS, ids=lambda value: getattr(value, "id", value))
def test_a_fingerprint_is_what_it_was_when_it_was_recorded(event: Event, recorded: str) -> None:
    assert recorded == fingerprint(event).hex()


def test_a_process_with_another_hash_seed_and_decimal_context_makes_the_same_one() -> None:
    code = """
import decimal, sys
decimal.getcontext().prec, decimal.getcontext().capitals = 2, 0
from canonical_schema import fingerprint, decode_event
print(*[fingerprint(decode_event(line)).hex() for line in sys.stdin.buffer.read().splitlines()])
"""
    lines = b"\n".join(encode_event(event) for event, _ in VECTORS)
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "7"},
        input=lines,
        capture_output=True,
        check=True,
    )
    assert [recorded for _, recorded in VECTORS] == made.stdout.decode().split()


OTHERS: dict[str, object] = {
    "id": "other",
    "customer": "other",
    "meter": "other",
    "quantity": Decimal(2),
    "quantities": {"a": Decimal(2)},
    "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
    "kind": Kind.DELTA,
    "subscription": None,
    "source": "",
    "properties": {},
    "corrects": Correction(of="e", number=1, action="void", before={"": Decimal(2)}, after={}, reason="r", actor="a"),
}


@pytest.mark.parametrize("member", Event.__struct_fields__)
def test_every_member_counts(member: str) -> None:
    assert fingerprint(FULL) != fingerprint(msgspec.structs.replace(FULL, **{member: OTHERS[member]}))
