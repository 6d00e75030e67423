"""Corrections as people ask for them: an event voided or replaced, or many by filter; foreseen first, if wished.

A correction is an event of its own, with deliveries of its own, recorded in one step with its audit. All that
follows from it is the lanes' to finish, whenever the process ends.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Context, Decimal, Inexact
from itertools import product
from typing import Any

import msgspec

from adapters import TakeBack
from canonical_schema import (
    Correction,
    CorrectionAction,
    DeliveryStatus,
    ErrorCode,
    ErrorItem,
    Event,
    Kind,
    Quantities,
    correction_json,
    format_time,
    quantities_json,
)
from gateway.chain import Chain, Look, correction_id, quantities_of
from gateway.errors import RequestRefused
from gateway.lanes.correcting import Rows, Waits, difference, rendered, situation
from gateway.lanes.corrector import Corrector
from gateway.lanes.rendering import Turned
from gateway.ledger import AttemptRow, AuditRow, Change, ClaimKind, Code, Plan, split_ref
from gateway.listing import Filter, matches
from gateway.merge import View
from gateway.repair import Actor
from gateway.service import Gateway
from gateway.stored import stored
from gateway.times import from_micros, to_micros

__all__ = ["MOST", "Scale", "correct", "correct_many", "shown"]

MOST = 10_000
"""Events that one request corrects: more have to be asked for in several."""
AT_ONCE = 500
"""Corrections that are recorded together."""
AT_A_TURN = 10
"""Corrections that are worked out before other requests have a turn: a millisecond or two."""
TRIES = 5

_EXACT = Context(prec=200, traps=[Inexact])


class Scale(msgspec.Struct, frozen=True):
    """A correction to the quantity that was sent, times a factor. The same however often it is asked for."""

    factor: Decimal


Wanted = Quantities | Scale
"""What an event should say: empty is nothing, a void."""


class _Refused(Exception):
    """Raised when an event is not corrected, and why."""

    def __init__(self, status: int, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class _Step(msgspec.Struct, kw_only=True):
    """A correction that is to be recorded."""

    event: Event
    plan: Plan
    chain: Chain


async def correct(
    gateway: Gateway, actor: Actor, event_id: str, wanted: Quantities, *, dry_run: bool, wait: float
) -> dict[str, Any]:
    """Void one event, or give it another quantity; wait for the end of that, at most `wait` seconds.

    The same correction again answers with what became of the first. Raises RequestRefused where it cannot be done.
    """
    for _ in range(TRIES):
        with gateway.board.watch() as watch:
            async with gateway.correcting:
                look = Look(gateway.ledger)
                try:
                    chain = await _chain(look, actor.tenant, event_id)
                    steps = await _steps(gateway, look, chain, wanted, actor)
                except _Refused as refused:
                    raise RequestRefused(refused.status, refused.code, refused.detail) from None
                if dry_run:
                    foreseen = await _foreseen(gateway, look, chain, steps) if steps else {}
                    said = _said(steps[-1].event) if steps else {"corrects": event_id, "action": "none"}
                    return {"object": "correction", "dry_run": True, **said, "deliveries": foreseen}
                if not steps:
                    break
                refs = await _record(gateway, actor, steps)
            if refs is None:  # another process corrected it at the same time: this one builds on theirs
                continue
            await _carry_out(gateway, refs, steps)
            awaited = await _open(gateway, refs)
            if awaited and wait > 0:
                await watch.until_ended(awaited, wait)
        return await _answer(gateway, chain.tenant, steps[-1].event, replayed=False)
    else:
        detail = "others correct this event at the same time: look at it, and try again"
        raise RequestRefused(409, ErrorCode.CONFLICT, detail)
    if len(chain.events) == 1:
        detail = "the event says this already: there is nothing to correct"
        raise RequestRefused(409, ErrorCode.CONFLICT, detail)
    return await _answer(gateway, chain.tenant, chain.events[-1], replayed=True)


async def correct_many(
    gateway: Gateway, actor: Actor, wanted: Filter, action: Wanted, *, dry_run: bool
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
        together: list[_Step] = []
        async with gateway.correcting:
            look = Look(gateway.ledger)
            await look.learn(actor.tenant, [*event_ids, *(correction_id(event_id, 1) for event_id in event_ids)])
            for place, event_id in enumerate(event_ids):
                if place % AT_A_TURN == 0:
                    await asyncio.sleep(0)
                chain = await look.chain(actor.tenant, event_id)
                if chain is None:
                    continue
                try:
                    steps = await _steps(gateway, look, chain, action, actor)
                except _Refused as refused:
                    skipped.append({"id": event_id, "why": refused.detail})
                    continue
                if not steps:
                    unchanged += 1
                    continue
                foreseen = await _foreseen(gateway, look, chain, steps)
                key = (chain.original.customer, chain.original.meter)
                impact.setdefault(key, _Impact()).add(chain.value, steps[-1].event, foreseen)
                together += steps
            refs = await _record(gateway, actor, together) if together and not dry_run else None
        if refs is not None:
            await _carry_out(gateway, refs, together)
        elif together and not dry_run:
            skipped += [{"id": step.chain.original.id, "why": _MEANWHILE} for step in together]
            continue
        corrected += len({step.chain.original.id for step in together})
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


_MEANWHILE = "others corrected some of these at the same time: ask again"


async def shown(gateway: Gateway, tenant: str, event_id: str) -> dict[str, Any]:
    """Return the corrections of an event and what it says since; nothing where it has none."""
    look = Look(gateway.ledger)
    if await gateway.ledger.find(tenant, correction_id(event_id, 1)) is None:
        return {}
    chain = await look.chain(tenant, event_id)
    if chain is None or len(chain.events) == 1:
        return {}
    made: list[dict[str, Any]] = []
    for event, ref in zip(chain.events[1:], chain.refs[1:], strict=True):
        batch, index = split_ref(ref)
        snapshot = await look.snapshot(batch)
        if snapshot is not None and event.corrects is not None:
            said = correction_json(event.corrects) | {
                "id": event.id,
                "at": format_time(from_micros(snapshot.received_at(index))),
                "status": View(snapshot).status(index),
            }
            made.append(said)
    return {"current": quantities_json(chain.value) or {"void": True}, "corrections": made}


# What is to be recorded.


async def _chain(look: Look, tenant: str, event_id: str) -> Chain:
    found = await look.event(tenant, event_id)
    if found is not None and found[2].corrects is not None:
        detail = f"this is a correction itself: correct {found[2].corrects.of} again"
        raise _Refused(409, ErrorCode.CONFLICT, detail)
    chain = await look.chain(tenant, event_id)
    if chain is None:
        raise _Refused(404, ErrorCode.NOT_FOUND, "no event of this tenant has this id, or it is no longer kept")
    return chain


async def _steps(gateway: Gateway, look: Look, chain: Chain, wanted: Wanted, actor: Actor) -> list[_Step]:
    """Return the corrections that make an event say what is wanted: none where it does, two where it is refunded first.

    Raises _Refused where it cannot be corrected.
    """
    original = chain.original
    if original.kind is Kind.ABSOLUTE:
        detail = "it states a running value: send the right value as a new event"
        raise _Refused(422, ErrorCode.UNSUPPORTED, detail)
    target = _target(chain, wanted)
    if target == chain.value:
        return []
    live, shadow, unknown, refunds = list[str](), list[str](), list[str](), list[str]()
    filtered: list[tuple[str, Code]] = []
    batch, index = split_ref(chain.refs[0])
    snapshot = await look.snapshot(batch)
    assert snapshot is not None
    if snapshot.remains is not None and index in snapshot.remains.erased:
        raise _Refused(409, ErrorCode.CONFLICT, "its customer was erased: correct it at the providers")
    for track in snapshot.tracks:
        code, name = Code(track.codes[index]), track.destination
        if code is Code.NONE:
            continue
        if code in {Code.NO_BINDING, Code.NO_ROUTE}:
            filtered.append((name, code))
            continue
        stands = await look.stands(chain, name)
        if any(stand.code is Code.UNKNOWN for stand in stands):
            unknown.append(name)
        (shadow if track.looks_on(index) else live).append(name)
        known = gateway.catalogue.destinations.get(name)
        takes_back = known is not None and isinstance(known.adapter.door.corrections, TakeBack)
        if takes_back and any(not stand.code.status.final or stand.code.status.success for stand in stands):
            refunds.append(name)
    taken = correction_id(original.id, len(chain.events))
    if await look.ref(chain.tenant, taken) is not None:
        raise _Refused(409, ErrorCode.CONFLICT, f"its correction would be {taken}, and another event has that id")
    if unknown:
        detail = f"it is unknown whether it arrived at {', '.join(unknown)}: resolve that first"
        raise _Refused(409, ErrorCode.CONFLICT, detail)
    if not live:
        detail = "no destination takes it yet: nothing of it was sent; add a meter or a binding first"
        raise _Refused(409, ErrorCode.CONFLICT, detail)
    steps: list[_Step] = []
    if target and refunds:
        plan = Plan(
            live=tuple(name for name in live if name in refunds),
            shadow=tuple(name for name in shadow if name in refunds),
            filtered=tuple((name, Code.ZERO) for name in (*live, *shadow) if name not in refunds),
        )
        steps.append(_step(chain, len(chain.events), "refund", {}, plan, actor))
    plan = Plan(live=tuple(live), shadow=tuple(shadow), filtered=tuple(filtered))
    action: CorrectionAction = "replace" if target else "void"
    steps.append(_step(chain, len(chain.events) + len(steps), action, target, plan, actor))
    return steps


def _target(chain: Chain, wanted: Wanted) -> Quantities:
    """Return what an event should say. What is void stays void, whatever it is scaled by."""
    original = chain.original
    has = quantities_of(original)
    if isinstance(wanted, Scale):
        if not chain.value:
            return {}
        try:
            return {name: _EXACT.multiply(each, wanted.factor) for name, each in has.items()}
        except Inexact:
            detail = "the product has more digits than can be kept exactly"
            raise _Refused(422, ErrorCode.QUANTITY_NOT_REPRESENTABLE, detail) from None
    if wanted and original.quantity is None and original.quantities is None:
        detail = "it counts, and says no quantity: it can be voided"
        raise _Refused(422, ErrorCode.UNSUPPORTED, detail)
    if wanted and wanted.keys() != has.keys():
        names = ", ".join(sorted(filter(None, has)))
        asked = f"quantities with {names}" if names else "a plain quantity"
        raise _Refused(422, ErrorCode.INVALID_REQUEST, f"the event has {asked}: a replacement names the same")
    return wanted


def _step(chain: Chain, number: int, action: CorrectionAction, after: Quantities, plan: Plan, actor: Actor) -> _Step:
    original, before = chain.original, chain.value
    delta = difference(before, after)
    plainly = original.quantities is None
    event = msgspec.structs.replace(
        original,
        id=correction_id(original.id, number),
        quantity=next(iter(delta.values()), Decimal(0)) if plainly else None,
        quantities=None if plainly else delta or {name: Decimal(0) for name in before},
        timestamp=original.timestamp or from_micros(chain.received),
        corrects=Correction(
            of=original.id,
            number=number,
            action=action,
            before=before,
            after=after,
            reason=actor.reason,
            actor=actor.name,
        ),
    )
    return _Step(event=event, plan=plan, chain=chain)


# Recording, and what follows from it.


async def _record(gateway: Gateway, actor: Actor, steps: Sequence[_Step]) -> Sequence[int] | None:
    """Record corrections with their audit; return their refs, `None` where some of their ids were taken meanwhile."""
    now = to_micros(gateway.clock.now())
    audit = _audit(actor, steps, now)
    events, plans = [step.event for step in steps], [step.plan for step in steps]
    claims = await gateway.ledger.record(actor.tenant, now, events, plans, audit)
    if all(claim.kind is ClaimKind.NEW for claim in claims):
        return [claim.ref for claim in claims]
    # The audit goes with all of them or not at all, and those that are new will be carried out.
    new = [step for step, claim in zip(steps, claims, strict=True) if claim.kind is ClaimKind.NEW]
    await gateway.ledger.keep([], _audit(actor, new, now))
    return None


def _audit(actor: Actor, steps: Sequence[_Step], now: int) -> list[AuditRow]:
    return [
        AuditRow(
            at=now,
            tenant=actor.tenant,
            actor=actor.name,
            action=said.action,
            target=said.of,
            reason=actor.reason,
            before=_words(said.before),
            after=_words(said.after),
        )
        for step in steps
        if (said := step.event.corrects) is not None and said.action != "refund"
    ]


def _words(quantities: Quantities) -> str:
    if not quantities:
        return "void"
    return ", ".join(f"{name} {each:f}" if name else f"{each:f}" for name, each in quantities.items())


async def _carry_out(gateway: Gateway, refs: Sequence[int], steps: Sequence[_Step]) -> None:
    """Take back at once what can be: the lanes would, but what waits there should not leave meanwhile."""
    batches = {split_ref(ref)[0] for ref in refs}
    for name, batch in product(
        sorted({name for step in steps for name in (*step.plan.live, *step.plan.shadow)}), sorted(batches)
    ):
        lane = gateway.lanes.get(name)
        if lane is not None:
            await lane.correct(batch)
            continue

        async def write(changes: Sequence[Change], attempts: Sequence[AttemptRow], name: str = name) -> None:
            await gateway.ledger.settle(changes, attempts)
            for change in changes:
                gateway.board.post(change.batch, name, change.members)

        corrector = Corrector(name, gateway.catalogue, gateway.ledger, write)
        await corrector.prepared(await gateway.ledger.pieces(batch, name), gateway.clock.now())
        message = f"destination {name} is switched off or removed: configure it again, and this goes on"
        error = ErrorItem(code=ErrorCode.PROVIDER_UNAVAILABLE, message=message, retryable=True)
        for held, members in (await gateway.ledger.hold(name, error)).items():
            gateway.board.post(held, name, members)


async def _open(gateway: Gateway, refs: Sequence[int]) -> set[tuple[int, int, str]]:
    """Return the deliveries of these events that have not ended."""
    at = [split_ref(ref) for ref in refs]
    snapshots = await gateway.ledger.snapshots(sorted({batch for batch, _ in at}))
    views = {batch: View(snapshot) for batch, snapshot in snapshots.items()}
    return {(batch, index, name) for batch, index in at for name in views[batch].open(index)}


async def _answer(gateway: Gateway, tenant: str, event: Event, *, replayed: bool) -> dict[str, Any]:
    detail = await gateway.event(tenant, event.id)
    assert detail is not None
    made: dict[str, Any] = {"object": "correction", "replayed": replayed, **_said(event)}
    assert event.corrects is not None
    first = await gateway.event(tenant, correction_id(event.corrects.of, event.corrects.number - 1))
    if first is not None and event.corrects.action == "replace":
        half: Any = first.get("event", {}).get("corrects")
        if isinstance(half, Mapping) and half["action"] == "refund":
            made["refund"] = {"id": first["id"], "status": first["status"], "deliveries": _brief(first["deliveries"])}
    return {**made, "status": detail["status"], "deliveries": _brief(detail["deliveries"])}


def _brief(deliveries: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {member: value for member, value in one.items() if member != "history"}
        for name, one in deliveries.items()
        if one["status"] != DeliveryStatus.FILTERED or one.get("reason") in {"voided", "zero"}
    }


def _said(event: Event) -> dict[str, Any]:
    assert event.corrects is not None
    said = correction_json(event.corrects)
    return {**said, "id": event.id, "corrects": event.corrects.of}


# What would be done.


async def _foreseen(gateway: Gateway, look: Look, chain: Chain, steps: Sequence[_Step]) -> dict[str, Any]:
    """Return what corrections would do at each destination, as far as that can be seen."""
    made: dict[str, Any] = {}
    *first, last = steps
    refunded = {name for step in first for name in (*step.plan.live, *step.plan.shadow)}
    for name in (*last.plan.live, *last.plan.shadow):
        shadow = {"shadow": True} if name in last.plan.shadow else {}
        step = first[0] if name in refunded else last
        made[name] = {**await _at(gateway, look, chain, name, step, last), **shadow}
    return made


async def _at(gateway: Gateway, look: Look, chain: Chain, name: str, step: _Step, last: _Step) -> dict[str, Any]:
    now = gateway.clock.now()
    found = situation(await look.stands(chain, name), step.event, now)
    if isinstance(found, Waits):
        return {"does": "waits", "error": found.error}
    if isinstance(found, Turned):
        return {"does": "unsupported", "error": found.error}
    taken = {"taken_back": True} if found.unsent else {}
    if not found.have:
        step = last
    if name not in gateway.catalogue.destinations:
        return {"does": "taken back" if taken and not found.have else "blocked"}
    named = 0
    if found.carrier is not None:
        named = await gateway.catalogue.named_since(name, chain.tenant, step.event, look.named)
    await gateway.catalogue.learn([(chain.tenant, [step.event.customer])])
    made = rendered(gateway.catalogue, name, chain.tenant, step.event, found, now, now, named)
    if isinstance(made, Rows):
        does = made.does if step is last else f"{made.does}, then new row"
        return {"does": does, **taken}
    if made.code in {Code.VOIDED, Code.ZERO}:
        return {"does": "taken back" if taken else "nothing"}
    unsupported = made.error is not None and made.error["code"] is ErrorCode.UNSUPPORTED
    does = "blocked" if made.code is Code.BLOCKED else "unsupported" if unsupported else "rejected"
    return {"does": does, **taken, **({} if made.error is None else {"error": made.error})}


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
                total[name] = _EXACT.add(total.get(name, Decimal(0)), said.get(name, Decimal(0)))
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
