"""What a correction does at one destination: decided from how the event and its earlier corrections stand there.

Whatever never left is taken back, and the correction then brings the whole new quantity itself. What the provider
has is corrected in the way that it is declared to have, from what it has to what it should have.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Context, Decimal, Inexact

import msgspec

from adapters import Amend, AnyAdapter, Deltas, TakeBack, encode_row
from canonical_schema import PLAIN, ErrorCode, ErrorItem, Event, Quantities
from gateway.catalogue import Catalogue
from gateway.chain import LedgerReader, Stand, quantities_of
from gateway.lanes.rendering import Refused, Turned, check_period, encoded, render
from gateway.lanes.verdict import SET_BACK
from gateway.ledger import Code, Part, WorkState
from gateway.times import from_micros, to_micros

__all__ = [
    "PATIENCE",
    "SOON",
    "Rows",
    "Situation",
    "Waits",
    "difference",
    "named_since",
    "needs_rows",
    "rendered",
    "saying",
    "situation",
]

SOON = timedelta(milliseconds=100)
PATIENCE = timedelta(seconds=15)
"""How often a correction looks whether somebody has resolved, or let go, what it waits for: each look is a write."""
_HELD = frozenset({WorkState.BLOCKED, WorkState.HELD})


class Waits(msgspec.Struct, frozen=True):
    """The correction cannot be decided yet, and why."""

    until: datetime
    error: ErrorItem


class Rows(msgspec.Struct, frozen=True):
    """What is sent for the correction, and what that is, in a word."""

    does: str
    parts: list[Part]


class Situation(msgspec.Struct, kw_only=True):
    """How a chain stands at a destination before a correction of it."""

    unsent: list[Stand]
    """What never left, or was refused: to be taken back."""
    have: Quantities
    """What the provider has of it."""
    carrier: Stand | None
    """The event whose row, corrected or not, the provider has."""


def situation(stands: Sequence[Stand], correction: Event, now: datetime) -> Situation | Waits | Turned:
    """Return how things stand before a correction. `stands` are the event and its earlier corrections."""
    unsent: list[Stand] = []
    have: Quantities = {}
    carrier: Stand | None = None
    for stand in stands:
        group, code = stand.group, stand.code
        if code.status.success:
            said = stand.event.corrects
            carrier = stand if not have else carrier
            have = quantities_of(stand.event) if said is None else said.after
            carrier = carrier if have else None
        elif code is Code.UNKNOWN:
            message = "it is unknown whether what it corrects arrived: resolve that first"
            return Waits(now + PATIENCE, ErrorItem(code=ErrorCode.CONFLICT, message=message, retryable=True))
        elif code in {Code.REJECTED, Code.DEAD}:
            if stand.partly or (group is not None and group.doubt):
                message = "a part of what it corrects may be stored there, the rest is not: correct it at the provider"
                return Turned(Code.REJECTED, ErrorItem(code=ErrorCode.UNSUPPORTED, message=message, retryable=False))
            unsent.append(stand)
        elif not code.status.final:
            away = group is None or group.state is WorkState.SENDING or group.doubt > 0 or stand.partly
            if away or _first(stand, correction):
                due = now if group is None else from_micros(group.due)
                pause = SOON if group is None or group.state not in _HELD else PATIENCE
                message = "it waits for the answer to what it corrects"
                return Waits(max(now, due) + pause, ErrorItem(code=ErrorCode.CONFLICT, message=message, retryable=True))
            unsent.append(stand)
    return Situation(unsent=unsent, have=have, carrier=carrier)


def _first(stand: Stand, correction: Event) -> bool:
    """Return whether one is the first half of the other: a refund, and what replaces the refunded."""
    half, whole = stand.event.corrects, correction.corrects
    return (
        half is not None and whole is not None and half.action == "refund"
        and whole.action == "replace" and half.number + 1 == whole.number
    )  # fmt: skip


def needs_rows(correction: Event, found: Situation) -> bool:
    """Return whether something may have to be sent for a correction, so that the destination has to be known."""
    return correction.corrects is not None and correction.corrects.after != found.have


async def named_since(
    catalogue: Catalogue, reader: LedgerReader, destination: str, tenant: str, correction: Event, carrier: Stand | None
) -> int:
    """Return since when a destination names the customer and the meter as it does; 0 where the carrier has these names.

    What was refused under other names, and rendered anew on request since then, has those of today.
    """
    if carrier is None:
        return 0
    named = await catalogue.named_since(destination, tenant, correction, reader.named)
    if carrier.sent < named <= carrier.last and await reader.remapped(tenant, carrier.event.id, destination, named):
        return 0
    return named


def rendered(
    catalogue: Catalogue,
    destination: str,
    tenant: str,
    correction: Event,
    found: Situation,
    received: datetime,
    now: datetime,
    named: int = 0,
) -> Rows | Turned:
    """Return what is sent for a correction, or why nothing is.

    `named`: since when the destination names the customer and the meter as it does, and the carrier may have others.
    """
    assert correction.corrects is not None
    want, have = correction.corrects.after, found.have
    if want == have:
        return Turned(Code.ZERO if have else Code.VOIDED)
    adapter = catalogue.destinations[destination].adapter
    if found.carrier is None:
        return _made(catalogue, destination, tenant, saying(correction, correction.id, want), received, now, "new row")
    way, meter = adapter.door.corrections, catalogue.meter(correction.meter)
    aggregation = "sum" if meter is None else meter.aggregation
    if named > found.carrier.sent and isinstance(way, Amend | Deltas):
        return _unsupported(
            adapter, "it was sent under other names of its meter or customer, or scaled otherwise: correct it there"
        )
    if named and found.carrier.sent > to_micros(now + SET_BACK) and isinstance(way, Amend | Deltas):
        return _unsupported(
            adapter,
            "the clock was set back since it was sent, and its meter or customer may have had another name then:"
            " correct it there",
        )
    match way:
        case Amend() if aggregation in (way.replaces if want else way.voids):
            if way.setting is not None and not getattr(adapter.settings, way.setting):
                hint = f"it is switched off: set destinations.{destination}.settings.{way.setting}"
                return _unsupported(adapter, f"amends what it has, and {hint}")
            target = want or dict.fromkeys(have, _NONE)
            said = saying(correction, found.carrier.event.id, target)
            return _made(catalogue, destination, tenant, said, received, now, "amend")
        case Deltas() if aggregation in way.aggregations:
            return _added(catalogue, destination, tenant, correction, found, received, now, way)
        case TakeBack() if aggregation in way.aggregations:
            if want:
                return _unsupported(adapter, f"the {way.word} that has to come first did not succeed; {way.instead}")
            try:  # it changes a bill as any other row does
                check_period(catalogue, destination, tenant, correction.timestamp or received)
            except Refused as refused:
                return refused.turned
            return _withdrawal(adapter, way, correction, found.carrier)
        case Amend():
            return _unsupported(adapter, f"it cannot take an event back from a meter that aggregates by {aggregation}")
        case Deltas() | TakeBack():
            return _unsupported(adapter, f"not for a meter that aggregates by {aggregation}; {way.instead}")
        case None:
            return _unsupported(adapter, "no way is known to correct what it has: do it there")


_NONE = Decimal(0)
_EXACT = Context(prec=200, traps=[Inexact])


def difference(before: Quantities, after: Quantities) -> Quantities:
    """Return what has to be added, by name, exactly; names that do not change are left out."""
    names = [*before, *(name for name in after if name not in before)]
    made = {name: _EXACT.subtract(after.get(name, _NONE), before.get(name, _NONE)) for name in names}
    return {name: each for name, each in made.items() if each}


def _added(
    catalogue: Catalogue,
    destination: str,
    tenant: str,
    correction: Event,
    found: Situation,
    received: datetime,
    now: datetime,
    way: Deltas,
) -> Rows | Turned:
    """Return what is sent where a difference is added to what the provider has."""
    assert correction.corrects is not None
    adapter = catalogue.destinations[destination].adapter
    delta = _billed(catalogue, destination, correction.meter, difference(found.have, correction.corrects.after))
    if not delta:
        return Turned(Code.ZERO)
    if any(each < 0 for each in delta.values()) and (problem := _negatives(adapter, destination, way)):
        return _unsupported(adapter, problem)
    return _made(catalogue, destination, tenant, saying(correction, correction.id, delta), received, now, "delta")


def _billed(catalogue: Catalogue, destination: str, meter: str, delta: Quantities) -> Quantities:
    """Return what of a difference a destination bills; all of it where it has no name for the meter any more."""
    rows = catalogue.rows(destination, meter)
    names = {name for row in rows for name in row.takes() or (PLAIN,)}
    return {name: each for name, each in delta.items() if name in names} if rows else delta


def saying(correction: Event, event_id: str, quantities: Quantities) -> Event:
    """Return an event as it is rendered for a correction."""
    plainly = PLAIN in quantities
    return msgspec.structs.replace(
        correction,
        id=event_id,
        quantity=quantities[PLAIN] if plainly else None,
        quantities=None if plainly else quantities,
        corrects=None,
    )


def _made(
    catalogue: Catalogue, destination: str, tenant: str, event: Event, received: datetime, now: datetime, does: str
) -> Rows | Turned:
    try:
        made = render(catalogue, destination, tenant, event, received, now)
        return made if isinstance(made, Turned) else Rows(does, encoded(made))
    except Exception as error:  # noqa: BLE001  an adapter that stumbles over one event must not stop the lane
        message = f"the adapter of {destination} failed on this correction: {type(error).__name__}"
        return Turned(Code.BLOCKED, ErrorItem(code=ErrorCode.UNSUPPORTED, message=message, retryable=True))


def _negatives(adapter: AnyAdapter, destination: str, way: Deltas) -> str | None:
    """Return why a difference below zero cannot be sent; `None`: it can."""
    if not way.down:
        return way.instead
    rule = adapter.quantity
    if rule.minimum is None or rule.minimum < 0:
        return None
    if rule.negative is not None:
        return (
            f"it may take negative quantities, which nobody has verified: try it in its sandbox, then set "
            f"destinations.{destination}.settings.{rule.negative}; until then {way.instead}"
        )
    return way.instead


def _withdrawal(adapter: AnyAdapter, way: TakeBack, correction: Event, carrier: Stand) -> Rows | Turned:
    assert correction.corrects is not None
    stored = [(part.name, part.provider_event_id) for part in carrier.parts if part.code.status.success]
    named = stored if len(carrier.parts) > 1 else [("", carrier.theirs)]
    parts: list[Part] = []
    if carrier.unheard:
        return _unsupported(adapter, f"an answer was lost, and a repeat may have another id there; {way.instead}")
    for name, theirs in named:
        if theirs is None:
            return _unsupported(adapter, f"its own id for the event is not known; {way.instead}")
        key = f"{correction.id}/{name}" if name else correction.id
        parts.append(Part(name, key, encode_row(adapter.take_back(theirs, correction.corrects.reason))))
    return Rows(way.word, parts)


def _unsupported(adapter: AnyAdapter, problem: str) -> Turned:
    error = ErrorItem(code=ErrorCode.UNSUPPORTED, message=f"{adapter.spec.title}: {problem}", retryable=False)
    return Turned(Code.REJECTED, error)
