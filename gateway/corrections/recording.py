"""Corrections written down with their audit, and what follows from them at once."""

from collections.abc import Sequence
from itertools import product

from canonical_schema import Quantities
from gateway.corrections.steps import Step
from gateway.lanes.adrift import gone
from gateway.lanes.corrector import Corrector
from gateway.ledger import AttemptRow, AuditRow, Change, ClaimKind, split_ref
from gateway.merge import View
from gateway.repair import Actor
from gateway.routing import apart
from gateway.service import Gateway
from gateway.times import to_micros

__all__ = ["carry_out", "not_ended", "record"]


async def record(gateway: Gateway, actor: Actor, steps: Sequence[Step]) -> Sequence[int | None]:
    """Record corrections with their audit; return their refs, `None` for one whose id was taken meanwhile.

    The steps of one event are recorded together, and all of them at once unless they differ in whether a
    destination counts.
    """
    now = to_micros(gateway.clock.now())
    refs: dict[int, int] = {}
    for places in _apart(steps):
        some = [steps[place] for place in places]
        events, plans = [step.event for step in some], [step.plan for step in some]
        claims = await gateway.ledger.record(actor.tenant, now, events, plans, _audit(actor, some, now))
        new = {place: claim.ref for place, claim in zip(places, claims, strict=True) if claim.kind is ClaimKind.NEW}
        refs |= new
        if len(new) < len(some):
            # The audit goes with all of them or not at all, and those that are new will be carried out.
            await gateway.ledger.keep([], _audit(actor, [steps[place] for place in new], now))
    return [refs.get(place) for place in range(len(steps))]


def _apart(steps: Sequence[Step]) -> list[list[int]]:
    """Return the places of steps that can be recorded together. A refund speaks of no more than what follows it."""
    chains: list[list[int]] = []
    for place, step in enumerate(steps):
        if not place or steps[place - 1].chain is not step.chain:
            chains.append([])
        chains[-1].append(place)
    parts = apart([steps[chain[-1]].plan for chain in chains])
    return [[place for chain in part for place in chains[chain]] for part in parts]


def _audit(actor: Actor, steps: Sequence[Step], now: int) -> list[AuditRow]:
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


async def carry_out(gateway: Gateway, refs: Sequence[int], steps: Sequence[Step]) -> None:
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

        corrector = Corrector(name, gateway.catalogue, gateway.ledger, write, gateway.restored)
        await corrector.prepared(await gateway.ledger.pieces(batch, name), gateway.clock.now())
        for held, members in (await gateway.ledger.hold(name, gone(name))).items():
            gateway.board.post(held, name, members)


async def not_ended(gateway: Gateway, refs: Sequence[int]) -> set[tuple[int, int, str]]:
    """Return the deliveries of these events that have not ended."""
    at = [split_ref(ref) for ref in refs]
    snapshots = await gateway.ledger.snapshots(sorted({batch for batch, _ in at}))
    views = {batch: View(snapshot) for batch, snapshot in snapshots.items()}
    return {(batch, index, name) for batch, index in at for name in views[batch].open(index)}
