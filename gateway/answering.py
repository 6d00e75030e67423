"""What a request is told: an entry for each event, by what the ledger said of it and how its deliveries stand."""

import asyncio
from collections.abc import Mapping, Sequence

from canonical_schema import ErrorCode, ErrorItem, Event, EventResult, EventStatus
from gateway.answers import Alike, Answer, Template
from gateway.intake import SLICE, Bad
from gateway.ledger import Claim, ClaimKind, Plan, Run, split_ref
from gateway.merge import View, closing, refused

__all__ = ["answered"]


async def answered(
    admitted: Sequence[Event | Bad],
    claims: Sequence[Claim],
    plans: Sequence[Plan],
    views: Mapping[int, View],
    alike: Alike,
    received: int,
) -> Answer:
    """Return the answer to a request: an entry for each event that was sent, in their order.

    `admitted`: what was judged at the door; `claims` and `plans`: of its events, those that are good.
    """
    answer = Answer()
    only = alike.only(plans)
    if only is not None and only.is_whole and isinstance(claims, Run) and not views and len(plans) == len(admitted):
        for first in range(0, len(admitted), SLICE):
            if first:
                await asyncio.sleep(0)
            some = admitted[first : first + SLICE]
            answer.add_alike(first, [event.id for event in some if isinstance(event, Event)], only)
        return answer
    templates = alike.templates(plans)
    usual = isinstance(claims, Run) and not views and len(claims) == len(admitted)
    usual = usual and all(template.is_whole for template in set(templates))
    recorded = iter(zip(claims, plans, templates, strict=True))
    for first in range(0, len(admitted), SLICE):
        if first:
            await asyncio.sleep(0)
        some = admitted[first : first + SLICE]
        if usual:
            ids = [event.id for event in some if isinstance(event, Event)]
            answer.add_new(first, ids, templates[first : first + SLICE])
            continue
        for position, event in enumerate(some, first):
            if isinstance(event, Bad):
                answer.add(refused(position, event.event_id, EventStatus.INVALID, event.error))
            else:
                claim, plan, template = next(recorded)
                answer.add(_result(position, event, claim, views, plan, template, received))
    return answer


def _result(
    position: int, event: Event, claim: Claim, views: Mapping[int, View], plan: Plan, template: Template, received: int
) -> EventResult:
    """Return the entry of an event that the ledger judged."""
    batch, index = split_ref(claim.ref)
    if claim.kind is ClaimKind.CONFLICT:
        message = f"id: came before with other content{_differ(claim.fields)}: send this under an id of its own"
        error = ErrorItem(code=ErrorCode.CONFLICT, message=message, field="id")
        if claim.fields:
            error["fields"] = list(claim.fields)
        return refused(position, event.id, EventStatus.CONFLICT, error)
    if batch in views:
        return views[batch].result(position, index, event.id, replayed=claim.kind is ClaimKind.REPLAY)
    made = template.result(position, event.id)
    if not template.is_whole:
        made["deliveries"] = closing(template.deliveries, plan, event, received)
    return made


def _differ(fields: Sequence[str]) -> str:
    if not fields:  # nothing but the fingerprint is left of what came before
        return ""
    *most, last = fields
    return f" ({', '.join(most)} and {last} differ)" if most else f" ({last} differs)"
