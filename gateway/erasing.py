"""A customer is forgotten, and what was measured still adds up."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, cast

import msgspec

from canonical_schema import ErrorCode, EventStatus
from gateway.archive import ArchiveUnusable
from gateway.errors import RequestRefused
from gateway.ledger import AuditRow, Document, Erasure, Ledger, Snapshot, WorkState, snapshot_of
from gateway.links.book import KIND as LINKS
from gateway.links.naming import LOOKED_UP, RELINKED
from gateway.merge import View
from gateway.moving.job import KIND as BACKFILL
from gateway.periods import KIND as PERIOD
from gateway.reconciling.reconciliations import KIND as RECONCILIATION
from gateway.reconciling.reconciliations import REPORT, anew
from gateway.repair import Actor
from gateway.service import Gateway
from gateway.times import to_micros

__all__ = ["erase"]

LOOK = 200
"""Batches that are searched before others have a turn."""


async def erase(gateway: Gateway, actor: Actor, customer: str, *, abandon: bool = False) -> dict[str, Any]:
    """Forget a customer of a tenant: in events, deliveries and attempts, links and the audit trail, and in the archive.

    Quantities stay, under a pseudonym that only this ledger can make. It can be asked again, whatever it was
    interrupted by. Raises RequestRefused, where possible before anything has changed, for deliveries that could
    still be billed: they are given up only with `abandon`, and never while they are being sent.
    """
    key = await gateway.ledger.secret("pseudonym")
    erasure = Erasure(tenant=actor.tenant, customer=customer, key=key, abandon=abandon)
    async with gateway.turns.correcting:  # what corrects one of the customer's events is recorded before, or never
        told, left = await _erased(gateway, actor, erasure)
    await _unname_documents(gateway, erasure)  # not in that turn: a backfill waits for it within its own
    _refuse(left, abandon=abandon, events=told["events"])
    return told


async def _erased(gateway: Gateway, actor: Actor, erasure: Erasure) -> tuple[dict[str, Any], Counter[str]]:
    """Erase what the ledger and the archive have; return what to tell, and what is being sent and was left."""
    ledger, customer, abandon = gateway.ledger, erasure.customer, erasure.abandon
    unsettled = Counter[str]()
    async for batch in _batches(ledger, erasure):
        snapshot = await snapshot_of(ledger, batch)
        if snapshot is not None:
            unsettled.update(_unsettled(snapshot, customer))
    _refuse(unsettled, abandon=abandon, events=0)

    events, in_doubt, abandoned, left = 0, 0, Counter[str](), Counter[str]()
    async for batch in _batches(ledger, erasure):
        snapshot = await snapshot_of(ledger, batch)
        places = [] if snapshot is None else _places(snapshot, customer)
        count, found = await ledger.erase(batch, erasure)
        if found and (not abandon or WorkState.SENDING in found):  # it came meanwhile
            left.update(found)
            continue
        events += count
        if found:
            abandoned.update(found)
            in_doubt += 0 if snapshot is None else _in_doubt(snapshot, places)
            for lane in gateway.lanes.values():  # absolute values may wait for one that was given up
                await lane.settled(batch, places)
    try:
        archived = await gateway.keeper.erase(erasure)
    except (ArchiveUnusable, OSError) as error:
        done = f"{events} events are erased in the ledger, and not in the archive"
        detail = f"{done}: {error}: ask again once it can be changed"
        raise RequestRefused(503, ErrorCode.LEDGER_UNAVAILABLE, detail, headers={"retry-after": "60"}) from error
    row = AuditRow(
        at=to_micros(gateway.clock.now()),
        tenant=erasure.tenant,
        actor=actor.name,
        action="erase",
        target=erasure.alias,
        reason=erasure.told(actor.reason),
        after=msgspec.json.encode(
            {"events": events, "archived": archived, "abandoned": abandoned, "in_doubt": in_doubt}
        ).decode(),
    )
    await ledger.unname(erasure)
    gateway.lookups.drop(erasure.tenant, customer)
    async with gateway.turns.linking:  # whoever notes an answer about it does so before, or never
        documents = [
            Document(kind=kind, tenant=erasure.tenant, name=customer, body=None)
            for kind in (LINKS, RELINKED, LOOKED_UP)
        ]
        await ledger.keep(documents, [row])
    gateway.book.drop(erasure.tenant, customer)
    told = {
        "object": "erasure",
        "pseudonym": erasure.alias,
        "events": events,
        "archived": archived,
        "abandoned": dict(abandoned),
        "in_doubt": in_doubt,
        "configured": customer in gateway.configuration.customers,
    }
    return told, left


async def _batches(ledger: Ledger, erasure: Erasure) -> AsyncIterator[int]:
    after: int | None = 0
    while after is not None:
        found, after = await ledger.holding(erasure.tenant, erasure.customer, after, LOOK)
        for batch in found:
            yield batch


async def _unname_documents(gateway: Gateway, erasure: Erasure) -> None:
    """Put the pseudonym in the place of a customer in what was asked for and reported.

    Whoever has read one of them, or events to report of, writes it down before, or reads again.
    """
    ledger, turns = gateway.ledger, gateway.turns
    async with turns.filling:
        await _unname(ledger, BACKFILL, erasure)
    async with turns.closing:
        await _unname(ledger, PERIOD, erasure)
    async with turns.comparing:
        await _unname(ledger, REPORT, erasure)
        await _unname(ledger, RECONCILIATION, erasure, anew)


async def _unname(
    ledger: Ledger, kind: str, erasure: Erasure, first: Callable[[bytes], bytes] = lambda body: body
) -> None:
    named, after = msgspec.json.encode(erasure.customer), None
    while page := await ledger.documents(kind, erasure.tenant, after, LOOK):
        after = page[-1].name
        changed: list[Document] = []
        for one in page:
            body = first(before := one.body or b"")
            if named in body:
                body = msgspec.json.encode(_unnamed(msgspec.json.decode(body), erasure))
            if body != before:
                changed.append(msgspec.structs.replace(one, body=body))
        if changed:
            await ledger.keep(changed)


def _unnamed(value: Any, erasure: Erasure) -> Any:
    """Return JSON with the pseudonym wherever the customer's name stands alone."""
    match value:
        case dict():
            known = cast("dict[str, Any]", value)
            return {_unnamed(name, erasure): _unnamed(one, erasure) for name, one in known.items()}
        case list():
            return [_unnamed(one, erasure) for one in cast("list[Any]", value)]
        case _:
            return erasure.alias if value == erasure.customer else value


def _places(snapshot: Snapshot, customer: str) -> list[int]:
    return [index for index, event in enumerate(snapshot.events) if event.customer == customer]


def _in_doubt(snapshot: Snapshot, places: Collection[int]) -> int:
    """Count the deliveries of which a part may be stored all the same: nothing will tell, once they are given up."""
    return sum(
        len(set(places).intersection(members))
        for track in snapshot.tracks
        for group, members in track.work
        if group.doubt or group.state is WorkState.UNKNOWN
    )


def _unsettled(snapshot: Snapshot, customer: str) -> Counter[str]:
    """Count what of a customer could still be delivered, or be repaired."""
    places = set(_places(snapshot, customer))
    counted = Counter[str]()
    for track in snapshot.tracks:
        for group, members in track.work:
            counted[group.state] += len(places.intersection(members))
    view = View(snapshot)
    counted["unrouted"] = sum(view.status(index) is EventStatus.UNROUTED for index in places)
    return +counted


def _refuse(unsettled: Counter[str], *, abandon: bool, events: int) -> None:
    if not unsettled or (abandon and WorkState.SENDING not in unsettled):
        return
    counts = ", ".join(f"{count} {state}" for state, count in sorted(unsettled.items()))
    erased = f"{events} events are erased, " if events else ""
    if abandon:
        detail = f"{erased}deliveries are being sent ({counts}): ask again when they have been answered"
    else:
        detail = (
            f"{erased}there are deliveries that could still be billed or repaired ({counts}): settle them first,"
            ' or give them up with "unsettled": "abandon"'
        )
    raise RequestRefused(409, ErrorCode.CONFLICT, detail)
