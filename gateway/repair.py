"""What a person decides about a delivery: an unknown resolved, a dead letter sent again. Every decision is audited."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from canonical_schema import ErrorCode, ErrorItem, Kind
from gateway.errors import RequestRefused
from gateway.ledger import (
    AuditRow,
    Change,
    Code,
    Group,
    Ledger,
    Moved,
    Part,
    Work,
    WorkState,
    by_batch,
    snapshot_of,
    split_ref,
)
from gateway.listing import Filter, matches
from gateway.merge import View

__all__ = ["Actor", "Resolution", "resolve", "resolve_many", "retry"]

Resolution = Literal["accepted", "resend", "abandon"]

_LACKING = {Code.REJECTED: WorkState.REJECTED, Code.DEAD: WorkState.DEAD}
_LETTERS = {WorkState.REJECTED: "rejected", WorkState.DEAD: "dead"}


class Actor(msgspec.Struct, frozen=True):
    """Who decides, and why."""

    tenant: str
    name: str
    reason: str


async def resolve(
    ledger: Ledger, actor: Actor, event_id: str, destination: str, resolution: Resolution, now: int
) -> tuple[int, Code]:
    """Decide one `unknown` delivery: it arrived, it did not and goes again, or it is given up.

    Of several rows that is decided of those in doubt: where another was refused, the delivery still lacks it.
    Returns the event's ref and what the delivery is now.

    Raises RequestRefused where there is no such delivery, or it is not unknown.
    """
    ref = await ledger.find(actor.tenant, event_id)
    if ref is None:
        raise RequestRefused(404, ErrorCode.NOT_FOUND, "no event of this tenant has this id")
    batch, index = split_ref(ref)
    work = next((one for one in await ledger.pieces(batch, destination) if index in one.members), None)
    if work is None or work.group.state is not WorkState.UNKNOWN:
        raise await _not_unknown(ledger, ref, destination)
    parts = None if work.parts is None else work.parts[work.members.index(index)]
    code, group, parts = _decided(resolution, work.group, parts, now)
    change = Change(
        work=work.id,
        batch=batch,
        destination=destination,
        members=[index],
        code=code,
        group=group,
        parts=None if parts is None else [parts],
    )
    audit = AuditRow(
        at=now,
        tenant=actor.tenant,
        actor=actor.name,
        action="resolve",
        target=event_id,
        destination=destination,
        reason=actor.reason,
        before="unknown",
        after=resolution,
    )
    try:
        await ledger.settle([change], [], [audit])
    except Moved:
        raise RequestRefused(409, ErrorCode.CONFLICT, "somebody else decided this delivery: look again") from None
    return ref, code


async def _not_unknown(ledger: Ledger, ref: int, destination: str) -> RequestRefused:
    """Return why a delivery cannot be resolved."""
    batch, index = split_ref(ref)
    snapshot = await snapshot_of(ledger, batch)
    view = None if snapshot is None else View(snapshot)
    code = None if view is None else view.codes(index).get(destination)
    if view is None or code is None:
        return RequestRefused(404, ErrorCode.NOT_FOUND, f"the event has no delivery to {destination[:64]}")
    if view.trimmed:
        detail = "its record is no longer kept, and nothing of it can be decided any more: settle it at the provider"
        return RequestRefused(409, ErrorCode.CONFLICT, detail)
    detail = f"the delivery to {destination} is {code.status}, not unknown: there is nothing to resolve"
    return RequestRefused(409, ErrorCode.CONFLICT, detail)


async def resolve_many(
    ledger: Ledger, actor: Actor, destination: str, wanted: Filter, resolution: Resolution, now: int, *, dry_run: bool
) -> tuple[int, list[tuple[int, int]]]:
    """Decide every `unknown` delivery to a destination whose event a filter finds, all in one way.

    Returns how many there are, and the batch and index of those that ended by it. With `dry_run` none is decided.
    """
    found, ended = 0, list[tuple[int, int]]()
    for batch, _ in await ledger.in_state([WorkState.UNKNOWN], destination):
        snapshot = await snapshot_of(ledger, batch)
        if snapshot is None or snapshot.tenant != actor.tenant:
            continue
        view = View(snapshot)
        for work in await ledger.pieces(batch, destination):
            if work.group.state is not WorkState.UNKNOWN:
                continue
            places = [place for place, index in enumerate(work.members) if matches(view, index, wanted)]
            if dry_run or not places:
                found += len(places)
                continue
            changes, audit = _all_decided(work, places, actor, resolution, now)
            try:
                await ledger.settle(changes, [], audit)
            except Moved:  # somebody else decided one of them meanwhile: what is left is found by asking again
                continue
            found += len(places)
            ended += [(batch, index) for one in changes if one.code is not Code.RETRYING for index in one.members]
    return found, ended


def _all_decided(
    work: Work, places: Sequence[int], actor: Actor, resolution: Resolution, now: int
) -> tuple[list[Change], list[AuditRow]]:
    alike: dict[tuple[Code, bytes, bool], Change] = {}
    audit: list[AuditRow] = []
    for place in places:
        rows = None if work.parts is None else work.parts[place]
        code, group, rows = _decided(resolution, work.group, rows, now)
        key = code, msgspec.json.encode(group), rows is None
        change = alike.get(key)
        if change is None:
            change = alike[key] = Change(
                work=work.id, batch=work.batch, destination=work.destination, members=[], code=code, group=group
            )
        change.members.append(work.members[place])
        if rows is not None:
            change.parts = [*(change.parts or ()), rows]
        audit.append(
            AuditRow(
                at=now,
                tenant=actor.tenant,
                actor=actor.name,
                action="resolve",
                target=work.events[place].id,
                destination=work.destination,
                reason=actor.reason,
                before="unknown",
                after=resolution,
            )
        )
    return list(alike.values()), audit


def _decided(
    resolution: Resolution, before: Group, parts: list[Part] | None, now: int
) -> tuple[Code, Group | None, list[Part] | None]:
    doubtful = [part for part in parts or () if part.code in {Code.UNKNOWN, Code.PENDING}]
    match resolution:
        case "accepted":
            for part in doubtful:
                part.code, part.error = Code.ACCEPTED, None
            lacking = next((part for part in parts or () if part.code in _LACKING), None)
            if lacking is not None:  # that one row arrived says nothing of another, which was refused
                group = msgspec.structs.replace(before, state=_LACKING[lacking.code], doubt=0, error=lacking.error)
                return lacking.code, group, parts
            return Code.ACCEPTED, None, parts if parts is not None and len(parts) > 1 else None
        case "resend":
            for part in doubtful:
                part.code, part.error = Code.PENDING, None
            group = Group(
                state=WorkState.READY,
                due=now,
                attempts=max(1, before.attempts),  # what is in doubt was tried, by whom ever
                since=now,
                window=before.window,
                deadline=before.deadline,
            )
            return Code.RETRYING, group, parts
        case "abandon":
            error = ErrorItem(code=ErrorCode.PROVIDER_REJECTED, message="abandoned by an operator", retryable=False)
            for part in doubtful:
                part.code, part.error = Code.DEAD, error
            group = msgspec.structs.replace(before, state=WorkState.DEAD, error=error)
            return Code.DEAD, group, parts


async def retry(
    ledger: Ledger, actor: Actor, wanted: Sequence[str] | Filter, *, remap: bool, now: int
) -> dict[str, Any]:
    """Put `dead` or `rejected` deliveries back, by event ids or by filter; return what went and what did not.

    With `remap` they are rendered anew from today's catalogue, which is done only where nothing of the
    delivery can have been stored. Without, what was once sent is sent again unchanged.
    """
    retried: list[dict[str, str]] = []
    skipped: list[dict[str, str]] = []
    for batch, destination, indexes in await _targets(ledger, actor.tenant, wanted):
        for work in await ledger.pieces(batch, destination):
            if work.tenant != actor.tenant or work.group.state not in _LETTERS:
                continue
            members = [index for index in work.members if indexes is None or index in indexes]
            change, audit, kept = _again(work, members, actor, remap=remap, now=now)
            named = {index: work.events[place].id for place, index in enumerate(work.members)}
            skipped += [{"id": named[index], "destination": destination, "why": why} for index, why in kept]
            if change.members:
                try:
                    await ledger.settle([change], [], audit)
                except Moved:
                    why = "it changed meanwhile: look again"
                    skipped += [{"id": named[i], "destination": destination, "why": why} for i in change.members]
                    continue
                retried += [{"id": named[index], "destination": destination} for index in change.members]
    if not isinstance(wanted, Filter):
        told = {one["id"] for one in (*retried, *skipped)}
        left = [event_id for event_id in dict.fromkeys(wanted) if event_id not in told]
        known = await ledger.refs(actor.tenant, left)
        nothing = "no delivery of it is dead or rejected, or its record is no longer kept"
        nobody = "no event of this tenant has this id"
        skipped += [{"id": event_id, "why": nothing if event_id in known else nobody} for event_id in left]
    return {"object": "retry_result", "retried": retried, "skipped": skipped}


def _again(
    work: Work, members: Sequence[int], actor: Actor, *, remap: bool, now: int
) -> tuple[Change, list[AuditRow], list[tuple[int, str]]]:
    going: list[int] = []
    parts: list[list[Part]] = []
    kept: list[tuple[int, str]] = []
    audit: list[AuditRow] = []
    for index in members:
        place = work.members.index(index)
        rows = None if work.parts is None else work.parts[place]
        if work.events[place].kind is Kind.ABSOLUTE:
            kept.append((index, "a later absolute value may have been sent: send a new event instead"))
            continue
        stored = any(part.code.status.success or part.code is Code.UNKNOWN for part in rows or ())
        if work.group.doubt > 0:
            kept.append((index, "it was given up in doubt and may be stored there: bill it there if it is not"))
            continue
        if stored and remap:
            kept.append((index, "some of it is stored: it can only be sent again unchanged"))
            continue
        for part in rows or ():
            if part.code in {Code.REJECTED, Code.DEAD}:
                part.code, part.error = Code.PENDING, None
        going.append(index)
        if rows is not None:
            parts.append(rows)
        audit.append(
            AuditRow(
                at=now,
                tenant=actor.tenant,
                actor=actor.name,
                action="remap" if remap else "retry",
                target=work.events[place].id,
                destination=work.destination,
                reason=actor.reason,
                before=_LETTERS[work.group.state],
                after="pending",
            )
        )
    group = Group(state=WorkState.READY, due=now, since=now)
    if not remap:  # anew means by what today's declaration says
        group.window, group.deadline = work.group.window, work.group.deadline
    change = Change(
        work=work.id,
        batch=work.batch,
        destination=work.destination,
        members=going,
        code=Code.PENDING,
        group=group,
        parts=None if remap or work.parts is None else parts,
        anew=remap,
    )
    return change, audit, kept


async def _targets(
    ledger: Ledger, tenant: str, wanted: Sequence[str] | Filter
) -> list[tuple[int, str, set[int] | None]]:
    """Return where to look: batch, destination, and which indexes; `None` for all of them."""
    if isinstance(wanted, Filter):
        found: list[tuple[int, str, set[int] | None]] = []
        for batch, destination in await ledger.in_state(list(_LETTERS), wanted.destination):
            view = View((await ledger.snapshots([batch]))[batch])
            if view.snapshot.tenant == tenant:
                one = msgspec.structs.replace(wanted, destination=destination)
                indexes = {index for index in range(len(view.snapshot.events)) if matches(view, index, one)}
                found.append((batch, destination, indexes))
        return found
    refs = [ref for event_id in wanted if (ref := await ledger.find(tenant, event_id)) is not None]
    sought = by_batch(refs)
    snapshots = await ledger.snapshots(list(sought))
    return [(batch, track.destination, sought[batch]) for batch, one in snapshots.items() for track in one.tracks]
