"""Which corrections make an event say what is wanted: worked out from what it says, and how it stands where."""

from decimal import Context, Decimal, Inexact

import msgspec

from adapters import TakeBack
from canonical_schema import Correction, CorrectionAction, ErrorCode, Event, Kind, Quantities
from gateway.chain import Chain, LedgerReader, correction_id, quantities_of
from gateway.lanes.correcting import difference
from gateway.ledger import Code, Plan, split_ref
from gateway.repair import Actor
from gateway.service import Gateway
from gateway.times import from_micros

__all__ = ["EXACT", "NotCorrected", "Scale", "Step", "Target", "chain_of", "steps_to"]

EXACT = Context(prec=200, traps=[Inexact])


class Scale(msgspec.Struct, frozen=True):
    """A correction to the quantity that was sent, times a factor. The same however often it is asked for."""

    factor: Decimal


Target = Quantities | Scale
"""What an event should say: empty is nothing, a void."""


class NotCorrected(Exception):
    """Raised when an event is not corrected, and why."""

    def __init__(self, status: int, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class Step(msgspec.Struct, kw_only=True):
    """A correction that is to be recorded."""

    event: Event
    plan: Plan
    chain: Chain


async def chain_of(reader: LedgerReader, tenant: str, event_id: str) -> Chain:
    """Return an event with all that corrected it. Raises NotCorrected where there is none, or it is a correction."""
    found = await reader.event(tenant, event_id)
    if found is not None and found[2].corrects is not None:
        detail = f"this is a correction itself: correct {found[2].corrects.of} again"
        raise NotCorrected(409, ErrorCode.CONFLICT, detail)
    if await reader.erased(tenant, event_id):
        raise NotCorrected(409, ErrorCode.CONFLICT, "its customer was erased: correct it at the providers")
    chain = await reader.chain(tenant, event_id)
    if chain is None:
        raise NotCorrected(404, ErrorCode.NOT_FOUND, "no event of this tenant has this id, or it is no longer kept")
    return chain


async def steps_to(gateway: Gateway, reader: LedgerReader, chain: Chain, wanted: Target, actor: Actor) -> list[Step]:
    """Return the corrections that make an event say what is wanted: none where it does, two where it is refunded first.

    Raises NotCorrected where it cannot be corrected.
    """
    original = chain.original
    if original.kind is Kind.ABSOLUTE:
        detail = "it states a running value: send the right value as a new event"
        raise NotCorrected(422, ErrorCode.UNSUPPORTED, detail)
    target = _target(chain, wanted)
    if target == chain.value and not chain.halved:
        return []
    live, shadow, unknown, refunds = list[str](), list[str](), list[str](), list[str]()
    filtered: list[tuple[str, Code]] = []
    batch, index = split_ref(chain.refs[0])
    snapshot = await reader.snapshot(batch)
    assert snapshot is not None
    for track in snapshot.tracks:
        code, name = Code(track.codes[index]), track.destination
        if code is Code.NONE:
            continue
        if code in {Code.NO_BINDING, Code.NO_ROUTE}:
            filtered.append((name, code))
            continue
        stands = await reader.stands(chain, name)
        looks_on = track.looks_on(index)
        if not looks_on and any(stand.code is Code.UNKNOWN for stand in stands):
            unknown.append(name)  # at one that looks on the correction waits, and holds up nobody's bill
        (shadow if looks_on else live).append(name)
        known = gateway.catalogue.destinations.get(name)
        takes_back = known is not None and isinstance(known.adapter.door.corrections, TakeBack)
        if takes_back and any(not stand.code.status.final or stand.code.status.success for stand in stands):
            refunds.append(name)
    taken = correction_id(original.id, len(chain.events))
    if await reader.ref(chain.tenant, taken) is not None:
        raise NotCorrected(409, ErrorCode.CONFLICT, f"its correction would be {taken}, and another event has that id")
    if unknown:
        detail = f"it is unknown whether it arrived at {', '.join(unknown)}: resolve that first"
        raise NotCorrected(409, ErrorCode.CONFLICT, detail)
    if not live:
        detail = "no destination takes it yet: nothing of it was sent; add a meter or a binding first"
        raise NotCorrected(409, ErrorCode.CONFLICT, detail)
    steps: list[Step] = []
    if target and refunds:
        plan = Plan(
            live=tuple(name for name in live if name in refunds),
            shadow=tuple(name for name in shadow if name in refunds),
            # One that looks on is not spoken of: it would count, and with it whatever is recorded beside this.
            filtered=tuple((name, Code.ZERO) for name in live if name not in refunds),
        )
        steps.append(_step(chain, len(chain.events), "refund", {}, plan, actor))
    plan = Plan(live=tuple(live), shadow=tuple(shadow), filtered=tuple(filtered))
    action: CorrectionAction = "replace" if target else "void"
    steps.append(_step(chain, len(chain.events) + len(steps), action, target, plan, actor))
    return steps


def _target(chain: Chain, wanted: Target) -> Quantities:
    """Return what an event should say. What is void stays void, whatever it is scaled by."""
    original = chain.original
    has = quantities_of(original)
    if isinstance(wanted, Scale):
        last = chain.events[-1].corrects
        if not (last.before if last is not None and chain.halved else chain.value):
            return {}
        try:
            return {name: EXACT.multiply(each, wanted.factor) for name, each in has.items()}
        except Inexact:
            detail = "the product has more digits than can be kept exactly"
            raise NotCorrected(422, ErrorCode.QUANTITY_NOT_REPRESENTABLE, detail) from None
    if wanted and original.quantity is None and original.quantities is None:
        detail = "it counts, and says no quantity: it can be voided"
        raise NotCorrected(422, ErrorCode.UNSUPPORTED, detail)
    if wanted and wanted.keys() != has.keys():
        names = ", ".join(sorted(filter(None, has)))
        asked = f"quantities with {names}" if names else "a plain quantity"
        raise NotCorrected(422, ErrorCode.INVALID_REQUEST, f"the event has {asked}: a replacement names the same")
    return wanted


def _step(chain: Chain, number: int, action: CorrectionAction, after: Quantities, plan: Plan, actor: Actor) -> Step:
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
    return Step(event=event, plan=plan, chain=chain)
