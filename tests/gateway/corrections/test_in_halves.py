"""A refund and what replaces the refunded, where a ledger in parts took one of them and then was away."""

from collections.abc import Sequence

import pytest

from canonical_schema import Event
from gateway.errors import LedgerUnavailable
from gateway.ledger import AuditRow, Claim, Plan
from tests.gateway.conftest import Asking, House, event
from tests.gateway.corrections.asking import ask, billed, corrected

pytestmark = pytest.mark.anyio


async def refunded_only(asking: Asking) -> None:
    """Have an event refunded in order to be replaced, which it is not."""
    await asking.one(event())
    ledger = asking.gateway.ledger
    record = ledger.record

    async def half(
        tenant: str, received: int, events: Sequence[Event], plans: Sequence[Plan], audit: Sequence[AuditRow] = ()
    ) -> Sequence[Claim]:
        await record(tenant, received, events[:1], plans[:1], ())
        raise LedgerUnavailable("a part of it is away")

    with pytest.MonkeyPatch.context() as planted:
        planted.setattr(ledger, "record", half)
        assert 503 == (await ask(asking, "/v1/events/e1/correct", quantity=7))[0]
    asking.gateway.wake("paygentic")
    await asking.settled("e1~c1")
    assert {"flexprice": 3, "paygentic": 0, "flowglad": 3, "wingback": 3} == billed(asking)


async def test_a_replacement_that_was_refunded_only_is_made_when_it_is_asked_for_again(asking: Asking) -> None:
    await refunded_only(asking)
    await corrected(asking, "e1", "correct", quantity=7)
    assert {"flexprice": 7, "paygentic": 7, "flowglad": 7, "wingback": 7} == billed(asking)


async def test_what_was_refunded_in_order_to_be_replaced_is_void_only_when_it_is_everywhere(house: House) -> None:
    async with house({"destinations": {"wingback": {"settings": {"allow_negative": True}}}}) as asking:
        await refunded_only(asking)
        said = await corrected(asking, "e1")
        assert {"flexprice": 0, "paygentic": 0, "flowglad": 3, "wingback": 0} == billed(asking)
        assert "0" == (await asking.get(f"/v1/events/{said['id']}"))["event"]["quantity"], "it changes nothing any more"
        assert (await corrected(asking, "e1"))["replayed"]


async def test_what_was_refunded_in_order_to_be_replaced_is_not_void_for_a_scale(asking: Asking) -> None:
    await refunded_only(asking)
    said = await ask(asking, "/v1/corrections", filter={"customer": "acme"}, action="scale", factor="2")
    assert (200, 1) == (said[0], said[1]["corrected"])
    await asking.settled("e1~c3")
    assert {"flexprice": 6, "paygentic": 6, "flowglad": 6, "wingback": 6} == billed(asking)
