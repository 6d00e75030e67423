"""What corrections would do at each destination, before anything is recorded."""

from collections.abc import Sequence
from typing import Any

from canonical_schema import ErrorCode
from gateway.chain import Chain, LedgerReader
from gateway.corrections.steps import Step
from gateway.lanes.correcting import Rows, Waits, named_since, needs_rows, rendered, situation
from gateway.lanes.rendering import Turned
from gateway.ledger import Code
from gateway.service import Gateway

__all__ = ["foresee"]


async def foresee(gateway: Gateway, reader: LedgerReader, chain: Chain, steps: Sequence[Step]) -> dict[str, Any]:
    """Return what corrections would do at each destination, as far as that can be seen."""
    made: dict[str, Any] = {}
    *first, last = steps
    refunded = {name for step in first for name in (*step.plan.live, *step.plan.shadow)}
    for name in (*last.plan.live, *last.plan.shadow):
        shadow = {"shadow": True} if name in last.plan.shadow else {}
        step = first[0] if name in refunded else last
        made[name] = {**await _at(gateway, reader, chain, name, step, last), **shadow}
    return made


async def _at(
    gateway: Gateway, reader: LedgerReader, chain: Chain, name: str, step: Step, last: Step
) -> dict[str, Any]:
    now = gateway.clock.now()
    found = situation(gateway.restored.seen(chain, await reader.stands(chain, name)), step.event, now)
    if isinstance(found, Waits):
        return {"does": "waits", "error": found.error}
    if isinstance(found, Turned):
        return {"does": "unsupported", "error": found.error}
    taken = {"taken_back": True} if found.unsent else {}
    if not found.have:
        step = last
    catalogue = gateway.catalogue  # one and the same, whatever is configured meanwhile
    if name not in catalogue.destinations and needs_rows(step.event, found):
        return {"does": "blocked", **taken}
    named = await named_since(catalogue, reader, name, chain.tenant, step.event, found.carrier)
    await catalogue.learn([(chain.tenant, [step.event.customer])])
    made = rendered(catalogue, name, chain.tenant, step.event, found, now, now, named)
    if isinstance(made, Rows):
        if name not in gateway.lanes:  # switched off: what was decided waits
            return {"does": "blocked", **taken}
        does = made.does if step is last else f"{made.does}, then new row"
        return {"does": does, **taken}
    if made.code in {Code.VOIDED, Code.ZERO}:
        return {"does": "taken back" if taken else "nothing"}
    unsupported = made.error is not None and made.error["code"] is ErrorCode.UNSUPPORTED
    does = "blocked" if made.code is Code.BLOCKED else "unsupported" if unsupported else "rejected"
    return {"does": does, **taken, **({} if made.error is None else {"error": made.error})}
