"""Many events corrected by filter, some at a time, with the impact by customer and meter."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from canonical_schema import ErrorCode, Event, Quantities, quantities_json
from gateway.chain import Chain, LedgerReader, correction_id
from gateway.corrections.foreseeing import foresee
from gateway.corrections.recording import carry_out, record
from gateway.corrections.steps import EXACT, NotCorrected, Step, Target, chain_of, steps_to
from gateway.errors import RequestRefused
from gateway.listing import Filter, matches
from gateway.repair import Actor
from gateway.service import Gateway
from gateway.stored import stored

__all__ = ["MOST", "correct_many"]

MOST = 10_000
"""Events that one request corrects: more have to be asked for in several."""
AT_ONCE = 500
"""Corrections that are recorded together."""
AT_A_TURN = 10
"""Corrections that are worked out before other requests have a turn: a millisecond or two."""
_MEANWHILE = "others corrected it at the same time: ask again"


async def correct_many(
    gateway: Gateway, actor: Actor, wanted: Filter, action: Target, *, dry_run: bool
) -> dict[str, Any]:
    """Correct every event that a filter finds; return the impact by customer and meter, and what was left out.

    Raises RequestRefused where the filter finds more events than one request may correct.
    """
    impact: dict[tuple[str, str], _Impact] = {}
    skipped: list[dict[str, str]] = []
    unchanged = corrected = seen = 0
    async for event_ids in _found(gateway, actor.tenant, wanted):
        seen += len(event_ids)
        if seen > MOST:
            detail = f"more than {MOST} events match: narrow the filter, by from and to say"
            raise RequestRefused(422, ErrorCode.INVALID_REQUEST, detail)
    async for event_ids in _found(gateway, actor.tenant, wanted):
        together: list[Step] = []
        done: dict[str, tuple[Chain, Step, dict[str, Any]]] = {}
        async with gateway.turns.correcting:
            reader = LedgerReader(gateway.ledger)
            await reader.learn(actor.tenant, [*event_ids, *(correction_id(event_id, 1) for event_id in event_ids)])
            for place, event_id in enumerate(event_ids):
                if place % AT_A_TURN == 0:
                    await asyncio.sleep(0)
                try:
                    chain = await chain_of(reader, actor.tenant, event_id)
                    steps = await steps_to(gateway, reader, chain, action, actor)
                except NotCorrected as refused:
                    skipped.append({"id": event_id, "why": refused.detail})
                    continue
                if not steps:
                    unchanged += 1
                    continue
                done[event_id] = chain, steps[-1], await foresee(gateway, reader, chain, steps)
                together += steps
            refs: Sequence[int | None] = ()
            if together and not dry_run:
                refs = await record(gateway, actor, together)
        if refs:
            await carry_out(gateway, [ref for ref in refs if ref is not None], together)
            for event_id in {
                step.chain.original.id: None for step, ref in zip(together, refs, strict=True) if ref is None
            }:
                skipped.append({"id": event_id, "why": _MEANWHILE})
                del done[event_id]
        for chain, step, foreseen in done.values():
            key = (chain.original.customer, chain.original.meter)
            impact.setdefault(key, _Impact()).add(chain.value, step.event, foreseen)
        corrected += len(done)
    return {
        "object": "corrections_result",
        "dry_run": dry_run,
        "corrected": corrected,
        "unchanged": unchanged,
        "impact": [
            {"customer": customer, "meter": meter, **one.shown()} for (customer, meter), one in sorted(impact.items())
        ],
        "skipped": skipped,
    }


class _Impact:
    """What corrections do to one customer's meter."""

    def __init__(self) -> None:
        self.events = 0
        self.before: Quantities = {}
        self.after: Quantities = {}
        self.destinations: dict[str, dict[str, int]] = {}

    def add(self, before: Quantities, correction: Event, foreseen: Mapping[str, Any]) -> None:
        assert correction.corrects is not None
        self.events += 1
        for total, said in ((self.before, before), (self.after, correction.corrects.after)):
            for name in before | said:
                total[name] = EXACT.add(total.get(name, Decimal(0)), said.get(name, Decimal(0)))
        for name, one in foreseen.items():
            counted = self.destinations.setdefault(name, {})
            counted[one["does"]] = counted.get(one["does"], 0) + 1

    def shown(self) -> dict[str, Any]:
        return {
            "events": self.events,
            "before": quantities_json(self.before),
            "after": quantities_json(self.after),
            "destinations": self.destinations,
        }


async def _found(gateway: Gateway, tenant: str, wanted: Filter) -> AsyncIterator[list[str]]:
    """Give the ids of the events that are wanted, some at a time, oldest first; corrections are none."""
    together: list[str] = []
    async for view in stored(gateway.ledger, tenant):
        events = view.snapshot.events
        together += [
            event.id for index, event in enumerate(events) if event.corrects is None and matches(view, index, wanted)
        ]
        while len(together) >= AT_ONCE:
            yield together[:AT_ONCE]
            together = together[AT_ONCE:]
    if together:
        yield together
