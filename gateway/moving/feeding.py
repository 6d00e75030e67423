"""What history becomes at one destination: an event has its delivery there once, unless it is billed elsewhere."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Literal

import msgspec

from canonical_schema import FINGERPRINT, ErrorCode, Event, fingerprint
from gateway.catalogue import Catalogue
from gateway.chain import LONGEST_ID, Chain, LedgerReader, correction_id
from gateway.intake import AHEAD, impossible
from gateway.lanes.rendering import Turned, render
from gateway.ledger import BILLS, NO_WAY, ClaimKind, Code, Plan, snapshot_of, split_ref
from gateway.merge import View
from gateway.moving.job import Job
from gateway.retention import FORGOTTEN
from gateway.service import Gateway
from gateway.times import from_micros, to_micros

__all__ = ["Feeding"]

_NOT_KEPT = "it was corrected, and what it says since is not kept any more: bill it there by hand"
_GONE = (
    "{name} has billed it, or may have, and is not configured any more: where both are to bill it,"
    " configure that again with mode: off, and begin again"
)
_UNPROVEN = (
    "ids of its time are forgotten (retention.ids), so that it may have been sent before: read usage back, and begin"
    " again with unproven=send where it was not"
)
_AGE = frozenset({ErrorCode.OUTSIDE_TIME_WINDOW, ErrorCode.EXPIRED})


class Feeding:
    """The ways of events to a job's destination, for one gateway. What becomes of each is counted in the job."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def plan(self, job: Job, event: Event, received: datetime, now: datetime) -> Plan | None:
        """Return an event's way to the destination, as today's configuration has it; `None`: it is left out."""
        catalogue = self._gateway.catalogue
        if job.source == "file" and (why := impossible(event, catalogue, now)) is not None:  # no door has looked at it
            job.problem("invalid", event, why["message"])
            return None
        (plan,) = catalogue.plans(job.tenant, [event], received)
        way = _only(plan, job.to)
        if way is None:
            reason = dict(plan.filtered).get(job.to, Code.NO_BINDING).reason
            job.count(f"filtered_{reason}")
            return None
        late = _late(catalogue, job, event, received, now)
        if late is None:
            return way
        job.problem("too_old", event, late)
        if job.too_old == "fail":
            job.state, job.why = "failed", f"{late}: begin again with a later start, or with too_old=skip"
        return None

    async def proven(self, job: Job, planned: Sequence[tuple[Event, Plan]]) -> Sequence[tuple[Event, Plan]]:
        """Return events of a file without those of which nobody knows whether they were sent before.

        What was received so long ago that its id is forgotten comes as if it was new. A vendor that tells repeats for
        ever makes nothing of that.
        """
        destination, ledger = self._gateway.catalogue.destinations[job.to], self._gateway.ledger
        dedupe = destination.adapter.dedupe
        for_ever = dedupe is not None and dedupe.window is None and destination.group is None
        body = None if job.unproven == "send" or for_ever else await ledger.document(FORGOTTEN, "", "ids")
        if body is None:
            return planned
        until = from_micros(msgspec.json.decode(body, type=int)) + AHEAD
        old = {event.id for event, plan in planned if plan.live and (event.timestamp or until) < until}
        lost = old - (await ledger.refs(job.tenant, [*old])).keys() if old else old
        for event, _ in planned:
            if event.id in lost:
                job.problem("unproven", event, _UNPROVEN)
        return [one for one in planned if one[0].id not in lost]

    async def record(self, job: Job, planned: Sequence[tuple[Event, Plan]], now: datetime) -> None:
        """Feed events of a file: what the ledger has not is stored, what it has gets its delivery."""
        ledger = self._gateway.ledger
        if not planned:
            return
        events, plans = [event for event, _ in planned], [plan for _, plan in planned]
        claims = await ledger.record(job.tenant, to_micros(now), events, plans)
        known: dict[int, list[tuple[int, Plan]]] = {}
        trimmed: list[tuple[Event, Plan]] = []
        views: dict[int, View | None] = {}
        for event, plan, claim in zip(events, plans, claims, strict=True):
            batch, index = split_ref(claim.ref)
            if claim.kind is ClaimKind.NEW:
                job.count("fed")
                continue
            if batch not in views:
                views[batch] = await self.view(batch)
            view = views[batch]
            if view is not None and view.trimmed and _told(view, index, event):
                if await self._is_missing(job, view, index, event, plan):
                    trimmed.append((msgspec.structs.replace(event, id=_copy_id(event.id)), plan))
            elif claim.kind is ClaimKind.REPLAY:
                known.setdefault(batch, []).append((index, plan))
            else:
                job.problem("conflict", event, f"the ledger has other content ({', '.join(claim.fields)})")
        for batch, some in known.items():
            await self.extend(job, views[batch], some, now)
        if trimmed:
            await self.record(job, trimmed, now)
        self._gateway.wake(job.to)

    async def _is_missing(self, job: Job, view: View, index: int, event: Event, plan: Plan) -> bool:
        """Return whether an event whose record was trimmed is not where it should be; one that is, is counted.

        What is left of it takes no more deliveries: it is filled in as an event of its own, with what the file says.
        """
        left = view.snapshot.remains
        if left is not None and index in left.erased:
            job.count("erased")
        elif await self._gateway.ledger.find(job.tenant, correction_id(event.id, 1)) is not None:
            job.problem("correction_not_kept", event, _NOT_KEPT)
        elif view.codes(index).get(job.to, Code.NONE) not in NO_WAY:
            job.count("there_already")
        elif not (plan.live and self._elsewhere(job, event, view.live(index))):
            return True
        return False

    async def extend(self, job: Job, view: View | None, some: Sequence[tuple[int, Plan]], now: datetime) -> None:
        """Feed events of a stored batch, by place: each gets its delivery, as what it says since it was corrected."""
        if view is None:
            return
        free: list[tuple[int, Plan]] = []
        reader = LedgerReader(self._gateway.ledger)
        left = view.snapshot.remains
        async with self._gateway.turns.correcting:  # what has no correction gets none before it has its delivery
            for index, plan in some:
                event = view.snapshot.events[index]
                if left is not None and index in left.erased:
                    job.count("erased")
                    continue
                chain = await self._chain(reader, job.tenant, event)
                if chain == "lost":
                    job.problem("correction_not_kept", event, _NOT_KEPT)
                elif chain is not None:
                    await self._extend_last(job, chain, event, plan, now)
                elif not (plan.live and self._elsewhere(job, event, view.live(index))):
                    free.append((index, plan))
            if free:
                members, plans = [index for index, _ in free], [plan for _, plan in free]
                new = await self._gateway.ledger.extend(view.snapshot.batch, members, plans, to_micros(now))
                job.count("fed", new)
                job.count("there_already", len(free) - new)

    async def _chain(self, reader: LedgerReader, tenant: str, event: Event) -> Chain | Literal["lost"] | None:
        """Return an event that was corrected, or is a correction, with all that belongs to it; `None` for others."""
        if event.corrects is not None:
            return await reader.chain(tenant, event.corrects.of) or "lost"
        if await self._gateway.ledger.find(tenant, correction_id(event.id, 1)) is None:
            return None
        chain = await reader.chain(tenant, event.id)
        if chain is None:
            return "lost"
        return None if len(chain.events) == 1 else chain

    async def _extend_last(self, job: Job, chain: Chain, event: Event, plan: Plan, now: datetime) -> None:
        """Feed an event that was corrected as what it says now: by its last correction, which brings all of it.

        What came before it has never been there, as if it was taken back in time.
        """
        views = [await self.view(split_ref(ref)[0]) for ref in chain.refs]
        codes = [{} if v is None else v.live(split_ref(ref)[1]) for v, ref in zip(views, chain.refs, strict=True)]
        if plan.live and any(self._elsewhere(job, event, one) for one in codes):
            return
        *earlier, last = chain.refs
        batch, index = split_ref(last)
        new = await self._gateway.ledger.extend(batch, [index], [plan], to_micros(now))
        for ref in earlier if plan.live else ():
            batch, index = split_ref(ref)
            gone = Plan(filtered=((job.to, Code.VOIDED),))
            await self._gateway.ledger.extend(batch, [index], [gone], to_micros(now))
        job.count("fed", new)
        if event.id == chain.events[-1].id:
            job.count("there_already", 1 - new)
        else:
            job.count("corrected")

    def _elsewhere(self, job: Job, event: Event, live: Mapping[str, Code]) -> bool:
        """Return whether another destination has billed an event, or may have, or will, in the place of the job's.

        Of the same group, or of none that is known: one that is not configured any more may have been of it, or the
        same one under another name. Such an event is counted.
        """
        destinations = self._gateway.catalogue.destinations
        group = destinations[job.to].group
        for name, code in live.items():
            if name == job.to or code not in BILLS:
                continue
            if name not in destinations:
                job.problem("billed_elsewhere", event, _GONE.format(name=name))
                return True
            if group is not None and destinations[name].group == group:
                job.count("billed_elsewhere")
                return True
        return False

    async def view(self, batch: int) -> View | None:
        """Return a batch as the ledger has it; `None`: it is not there."""
        snapshot = await snapshot_of(self._gateway.ledger, batch)
        return None if snapshot is None else View(snapshot)


def _copy_id(original: str) -> str:
    """Return the id of the event that stands for one whose record was trimmed: the same whenever it is asked for."""
    named = f"{original}~f1"
    return named if len(named) <= LONGEST_ID else f"fil_{sha256(original.encode()).hexdigest()[:32]}~f1"


def _told(view: View, index: int, event: Event) -> bool:
    """Return whether a file tells what an event was whose record was trimmed; where that had no time, as it came."""
    left, received = view.snapshot.remains, view.snapshot.received_at(index)
    timeless = event.timestamp is not None and to_micros(event.timestamp) == received
    same = (event, msgspec.structs.replace(event, timestamp=None)) if timeless else (event,)
    return left is not None and left.prints[index * FINGERPRINT : (index + 1) * FINGERPRINT] in map(fingerprint, same)


def _only(plan: Plan, to: str) -> Plan | None:
    """Return the part of a plan that is about one destination."""
    windows = tuple(window for window in plan.windows if window[0] == to)
    if to in plan.live:
        return Plan(live=(to,), windows=windows)
    return Plan(shadow=(to,), windows=windows, whole=True) if to in plan.shadow else None


def _late(catalogue: Catalogue, job: Job, event: Event, received: datetime, now: datetime) -> str | None:
    """Return why the provider takes an event no more, where that is for its age."""
    made = render(catalogue, job.to, job.tenant, event, received, now)
    if isinstance(made, Turned) and made.error is not None and made.error["code"] in _AGE:
        return made.error["message"]
    return None
