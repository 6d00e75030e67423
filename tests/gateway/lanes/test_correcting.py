"""What a correction finds: only what certainly never arrived, none of its rows, is taken back in the ledger alone."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import msgspec
import pytest

from canonical_schema import PLAIN, Correction
from gateway.chain import Stand
from gateway.lanes.correcting import PATIENCE, SOON, Situation, Waits, situation
from gateway.lanes.rendering import Turned
from gateway.ledger import Code, Group, Part, WorkState
from tests.gateway.clocks import START
from tests.gateway.lanes.world import used

SAID = Correction(
    of="e1", number=1, action="void", before={PLAIN: Decimal(2)}, after={}, reason="a meter ran twice", actor="ada"
)
VOID = used("e1~c1", corrects=SAID)


def found(code: Code, state: WorkState, doubt: int = 0, rows: Sequence[Code] = ()) -> Situation | Waits | Turned:
    group = Group(state=state, due=0, since=0, doubt=doubt)
    parts = [Part(code.name, code.name, b"{}", code) for code in rows]
    stand = Stand(event=used("e1"), batch=1, index=0, code=code, group=group, parts=parts, theirs=None, sent=0, last=0)
    return situation([stand], VOID, START)


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (Code.PENDING, WorkState.READY),
        (Code.BLOCKED, WorkState.BLOCKED),
        (Code.REJECTED, WorkState.REJECTED),
        (Code.DEAD, WorkState.DEAD),
    ],
)
def test_what_never_arrived_is_taken_back(code: Code, state: WorkState) -> None:
    seen = found(code, state, rows=[Code.PENDING, Code.PENDING])
    assert isinstance(seen, Situation)
    assert ([code], {}, None) == ([one.code for one in seen.unsent], seen.have, seen.carrier)


@pytest.mark.parametrize(
    ("state", "doubt", "rows", "looks"),
    [
        (WorkState.SENDING, 0, [], SOON),
        (WorkState.READY, 1, [], SOON),
        (WorkState.READY, 2, [], SOON),
        (WorkState.READY, 0, [Code.ACCEPTED, Code.PENDING], SOON),
        (WorkState.READY, 0, [Code.UNKNOWN, Code.PENDING], SOON),
        (WorkState.BLOCKED, 2, [], PATIENCE),  # until a person acts: that may take days
        (WorkState.HELD, 0, [Code.ACCEPTED, Code.PENDING], PATIENCE),
    ],
)
def test_what_is_on_its_way_or_there_in_part_is_waited_for(
    state: WorkState, doubt: int, rows: list[Code], looks: timedelta
) -> None:
    seen = found(Code.RETRYING, state, doubt, rows)
    assert isinstance(seen, Waits)
    assert START + looks == seen.until


@pytest.mark.parametrize(
    ("code", "state", "doubt", "rows"),
    [
        (Code.DEAD, WorkState.DEAD, 2, []),
        (Code.REJECTED, WorkState.REJECTED, 0, [Code.ACCEPTED, Code.REJECTED]),
        (Code.DEAD, WorkState.DEAD, 0, [Code.DEAD, Code.UNKNOWN]),
    ],
)
def test_what_ended_and_is_there_in_part_or_may_be_is_corrected_by_hand(
    code: Code, state: WorkState, doubt: int, rows: list[Code]
) -> None:
    assert isinstance(seen := found(code, state, doubt, rows), Turned)
    assert Code.REJECTED is seen.code


def test_a_replacement_waits_for_what_refunds_its_event_and_does_not_take_it_back() -> None:
    refund = msgspec.structs.replace(SAID, action="refund")
    replacement = msgspec.structs.replace(SAID, number=2, action="replace", before={}, after={PLAIN: Decimal(5)})
    group = Group(state=WorkState.READY, due=0, since=0, attempts=1)
    stand = Stand(
        event=used("e1~c1", corrects=refund), batch=2, index=0, code=Code.RETRYING, group=group, parts=[], theirs=None,
        sent=0, last=0,
    )  # fmt: skip
    assert isinstance(situation([stand], used("e1~c2", corrects=replacement), START), Waits)
