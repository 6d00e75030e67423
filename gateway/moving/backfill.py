"""Filling a destination in with history: from the ledger or a file, slowly, behind live traffic, each event once.

Progress is a document, and an event that has a delivery at the destination gets no second one: whatever breaks off
goes on where it was, and what is fed twice is sent once.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal

import msgspec
import structlog

from canonical_schema import FINGERPRINT, ErrorCode, Event, fingerprint, format_time
from gateway.catalogue import Catalogue
from gateway.chain import LONGEST_ID, Chain, Look, correction_id
from gateway.errors import RequestRefused
from gateway.lanes.rendering import Turned, render
from gateway.ledger import AuditRow, ClaimKind, Code, Document, Plan, QueueDepth, ref_of, split_ref
from gateway.merge import View
from gateway.repair import Actor
from gateway.service import Gateway
from gateway.times import from_micros, to_micros
from gateway.turns import Turn

__all__ = ["Backfills", "Job", "Wanted", "new_id", "shown"]

log = structlog.get_logger("gateway.backfill")

KIND = "backfill"
BACKLOG = 2
"""Requests' worth of deliveries that may wait where history is added: live traffic waits behind no more than these."""
LEAST = 100
"""Deliveries that may wait where a request holds few."""
SLICE = 1000
"""Events of one step."""
LOOK = timedelta(seconds=1)
"""Between two looks at a queue that is full."""
AGAIN = timedelta(seconds=30)
"""Between two looks at what other processes began."""
TENANTS = "backfill tenant"
"""Kind of the documents that say which tenants began a job."""
MOST_TENANTS = 100_000
PROBLEMS = 20
"""Events that are named with what is wrong; all are counted."""

State = Literal["running", "done", "failed", "cancelled"]
TooOld = Literal["fail", "skip"]


class Wanted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which events of the ledger. `None` is all."""

    customer: str | None = None
    meter: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, event: Event, when: datetime) -> bool:
        """Return whether an event is wanted; the interval is half open."""
        return (
            self.customer in {None, event.customer}
            and self.meter in {None, event.meter}
            and (self.since is None or self.since <= when)
            and (self.until is None or when < self.until)
        )


class Job(msgspec.Struct, kw_only=True):
    """One history on its way to one destination."""

    id: str
    to: str
    tenant: str
    source: Literal["ledger", "file"]
    digest: str = ""
    """Of a file: the same content to the same destination is the same job."""
    wanted: Wanted = Wanted()
    rate: float | None = None
    """Events a second, at most."""
    too_old: TooOld = "fail"
    """What becomes of what the provider takes no more: the job ends, or goes on without it."""
    created: int
    until: int = 0
    """From the ledger: the last batch that belongs to it. What is recorded later goes its own way."""
    records_since: int | None = None
    """From the ledger: when the oldest full record was received; what is older was trimmed. `None`: there is none."""
    cursor: int = 0
    """From the ledger: the ref behind which it goes on. Of a file: how many events were taken."""
    counts: dict[str, int] = {}
    problems: list[dict[str, str]] = []
    due: int = 0
    """When it may go on, where it has a rate of its own."""
    state: State = "running"
    why: str | None = None

    def count(self, what: str, how_many: int = 1) -> None:
        """Add to a count; nothing is not written down."""
        if how_many:
            self.counts = {**self.counts, what: self.counts.get(what, 0) + how_many}


class Backfills:
    """The jobs of one gateway. Those from the ledger go on by themselves, those of a file as it is sent."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._chore = gateway.chore(KIND, self.step)
        self._turn = Turn(gateway.ledger, "filling in")
        """Whoever changes a job reads it, and keeps it, while nobody else does."""

    async def begin(self, actor: Actor, job: Job) -> Job:
        """Begin a job, or return the one that it goes on with: unfinished, with the same source and destination.

        Raises RequestRefused where the destination takes nothing, or a job of this file is done.
        """
        destination = self._gateway.catalogue.destinations.get(job.to)
        if destination is None or job.to not in self._gateway.lanes:
            state = "is switched off" if destination is not None else "is not configured"
            raise RequestRefused(
                400, ErrorCode.INVALID_REQUEST, f"to: {job.to[:64]!r} {state}: nothing can be sent there"
            )
        async with self._turn:
            return await self._begun(actor, job)

    async def _begun(self, actor: Actor, job: Job) -> Job:
        for other in await self.jobs(actor.tenant):
            if (other.to, other.source, other.digest, other.wanted) != (job.to, job.source, job.digest, job.wanted):
                continue
            if other.state == "running":
                return other
            if other.state == "done" and job.source == "file":
                detail = (
                    f"this file was sent to {job.to} by {other.id} already. Its events are known by their ids, as long"
                    " as those are remembered; to send it again, read usage back first and give it other content"
                )
                raise RequestRefused(409, ErrorCode.CONFLICT, detail)
        job.until = next(iter(await self._gateway.ledger.batches_before(None, 1)), 0)
        if job.source == "ledger":
            first = await self._gateway.ledger.snapshots(await self._gateway.ledger.batches_after(0, 1))
            job.records_since = min((one.received for one in first.values()), default=None)
        await self._gateway.ledger.keep([Document(kind=TENANTS, tenant="", name=job.tenant, body=b"{}")])
        await self._keep(job, actor, "begun")
        self._chore.wake()
        return job

    async def cancel(self, actor: Actor, job_id: str) -> Job:
        """End a job. What was fed is the lane's to finish."""
        async with self._turn:
            job = await self.job(actor.tenant, job_id)
            if job.state == "running":
                job.state, job.why = "cancelled", "by an operator"
                await self._keep(job, actor, "cancelled")
            return job

    async def job(self, tenant: str, job_id: str) -> Job:
        """Return a job. Raises RequestRefused where there is none of this id."""
        body = await self._gateway.ledger.document(KIND, tenant, job_id)
        if body is None:
            raise RequestRefused(404, ErrorCode.NOT_FOUND, "no backfill of this tenant has this id")
        return msgspec.json.decode(body, type=Job)

    async def jobs(self, tenant: str) -> list[Job]:
        """Return every job of a tenant, the oldest first."""
        found: list[Job] = []
        after: str | None = None
        while page := await self._gateway.ledger.documents(KIND, tenant, after, 100):
            found += [msgspec.json.decode(one.body or b"", type=Job) for one in page]
            after = page[-1].name
        return sorted(found, key=lambda job: job.created)

    async def take(self, tenant: str, job_id: str, events: Sequence[Event], first: int, *, last: bool) -> Job:
        """Take the next events of a file, of which `first` were taken before; what is taken again counts once.

        Raises RequestRefused: 429 while the destination has enough to do, 409 where they do not follow on.
        """
        async with self._turn:
            return await self._taken(tenant, job_id, events, first, last=last)

    async def _taken(self, tenant: str, job_id: str, events: Sequence[Event], first: int, *, last: bool) -> Job:
        job = await self.job(tenant, job_id)
        if job.state != "running":
            raise RequestRefused(
                409, ErrorCode.CONFLICT, f"this backfill is {job.state}: {job.why or 'nothing to add'}"
            )
        if first > job.cursor:
            detail = f"{job.cursor} events were taken, and these begin behind {first}: go on where it was"
            raise RequestRefused(409, ErrorCode.CONFLICT, detail)
        events = events[job.cursor - first :]
        wait = await self._wait(job)
        if wait is not None:
            headers = {"retry-after": str(max(1, round(wait.total_seconds())))}
            detail = f"{job.to} has enough to do: live traffic comes first"
            raise RequestRefused(429, ErrorCode.RATE_LIMITED, detail, headers=headers)
        now = self._gateway.clock.now()
        await self._gateway.catalogue.learn([(tenant, (event.customer for event in events))])
        planned = [(event, plan) for event in events if (plan := self._plan(job, event, now, now)) is not None]
        if job.state == "running":
            await self._record(job, planned, now)
            job.cursor += len(events)
            self._spend(job, len(planned), now)
            if last:
                job.state = "done"
        await self._keep(job)
        return job

    async def _record(self, job: Job, planned: Sequence[tuple[Event, Plan]], now: datetime) -> None:
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
                views[batch] = await self._view(batch)
            view = views[batch]
            if view is not None and view.trimmed and _told(view, index, event):
                if await self._is_missing(job, view, index, event, plan):
                    trimmed.append((msgspec.structs.replace(event, id=copy_id(event.id)), plan))
            elif claim.kind is ClaimKind.REPLAY:
                known.setdefault(batch, []).append((index, plan))
            else:
                self._problem(job, "conflict", event, f"the ledger has other content ({', '.join(claim.fields)})")
        for batch, some in known.items():
            await self._extend(job, views[batch], some, now)
        if trimmed:
            await self._record(job, trimmed, now)
        self._gateway.wake(job.to)

    async def _is_missing(self, job: Job, view: View, index: int, event: Event, plan: Plan) -> bool:
        """Return whether an event whose record was trimmed is not where it should be; one that is, is counted.

        What is left of it takes no more deliveries: it is filled in as an event of its own, with what the file says.
        """
        codes, left = view.codes(index), view.snapshot.remains
        if left is not None and index in left.erased:
            job.count("erased")
        elif await self._gateway.ledger.find(job.tenant, correction_id(event.id, 1)) is not None:
            self._problem(job, "correction_not_kept", event, _NOT_KEPT)
        elif codes.get(job.to, Code.NONE) not in _NO_WAY:
            job.count("there_already")
        elif plan.live and self._elsewhere(job, codes):
            job.count("billed_elsewhere")
        else:
            return True
        return False

    async def step(self) -> datetime | None:
        """Go on with every job from the ledger that may; return when to come again."""
        jobs = [job for tenant in await self._tenants() for job in await self.jobs(tenant)]
        going = [job for job in jobs if job.state == "running" and job.source == "ledger"]
        # Nobody tells of what others begin, and do not end.
        again = self._gateway.clock.now() + AGAIN if self._gateway.ledger.shared else None
        return min([await self._advance(job) for job in going], default=again)

    async def _tenants(self) -> list[str]:
        """Return all that ever began a job, and those that may."""
        known = await self._gateway.ledger.documents(TENANTS, "", None, MOST_TENANTS)
        return sorted({*self._gateway.tenants, *(one.name for one in known)})

    async def _advance(self, job: Job) -> datetime:
        """Feed a slice of a job, if it is still to go on; return when to come again."""
        async with self._turn:
            job = await self.job(job.tenant, job.id)
            return await self._fed(job) if job.state == "running" else self._gateway.clock.now()

    async def _fed(self, job: Job) -> datetime:
        now = self._gateway.clock.now()
        if job.tenant not in self._gateway.tenants:
            job.state, job.why = "failed", f"no API key is of tenant {job.tenant} any more: add one, and begin again"
            await self._keep(job)
            log.warning("backfill.failed", backfill=job.id, destination=job.to, why=job.why)
            return now
        waits = f"it waits: {job.to} is switched off or removed" if job.to not in self._gateway.lanes else None
        if job.why != waits:
            job.why = waits
            await self._keep(job)
            log.info("backfill.waits" if waits else "backfill.goes_on", backfill=job.id, destination=job.to)
        if waits:
            return now + LOOK
        wait = await self._wait(job)
        if wait is not None:
            return now + wait
        batch, index = split_ref(job.cursor)
        view = await self._view(batch) if index else None
        if view is None or index >= len(view.snapshot.events):
            numbers = await self._gateway.ledger.batches_after(batch, 1)
            if not numbers or numbers[0] > job.until:
                job.state = "done"
                await self._keep(job)
                log.info("backfill.done", backfill=job.id, destination=job.to, **job.counts)
                return now
            (batch,), index = numbers, 0
            view = await self._view(batch)
        if view is None or view.snapshot.tenant != job.tenant:
            job.cursor = ref_of(batch, 0)  # behind it
            await self._keep(job)
            return now
        fed, stop = await self._slice(job, view, index, now)
        if job.state == "running":
            job.cursor = ref_of(batch, stop)
            self._spend(job, fed, now)
        await self._keep(job)
        return max(now, from_micros(job.due))

    async def _slice(self, job: Job, view: View, start: int, now: datetime) -> tuple[int, int]:
        """Feed some events of a batch; return how many, and the place to go on at."""
        stop = min(len(view.snapshot.events), start + SLICE)
        some: list[tuple[int, Plan]] = []
        await self._gateway.catalogue.learn(
            [(job.tenant, (event.customer for event in view.snapshot.events[start:stop]))]
        )
        for index in range(start, stop):
            event, received = view.snapshot.events[index], from_micros(view.snapshot.received_at(index))
            if job.wanted.takes(event, event.timestamp or received):
                plan = self._plan(job, event, received, now)
                if plan is not None:
                    some.append((index, plan))
        if job.state == "running":
            await self._extend(job, view, some, now)
            self._gateway.wake(job.to)
        return len(some), stop

    async def _extend(self, job: Job, view: View | None, some: Sequence[tuple[int, Plan]], now: datetime) -> None:
        if view is None:
            return
        free: list[tuple[int, Plan]] = []
        look = Look(self._gateway.ledger)
        left = view.snapshot.remains
        async with self._gateway.correcting:  # what has no correction gets none before it has its delivery
            for index, plan in some:
                event = view.snapshot.events[index]
                if left is not None and index in left.erased:
                    job.count("erased")
                    continue
                chain = await self._chain(look, job.tenant, event)
                if chain == "lost":
                    self._problem(job, "correction_not_kept", event, _NOT_KEPT)
                elif chain is not None:
                    await self._extend_last(job, look, chain, event, plan, now)
                elif plan.live and self._elsewhere(job, view.codes(index)):
                    job.count("billed_elsewhere")
                else:
                    free.append((index, plan))
            if free:
                members, plans = [index for index, _ in free], [plan for _, plan in free]
                new = await self._gateway.ledger.extend(view.snapshot.batch, members, plans, to_micros(now))
                job.count("fed", new)
                job.count("there_already", len(free) - new)

    async def _chain(self, look: Look, tenant: str, event: Event) -> Chain | Literal["lost"] | None:
        """Return an event that was corrected, or is a correction, with all that belongs to it; `None` for others."""
        if event.corrects is not None:
            return await look.chain(tenant, event.corrects.of) or "lost"
        if await self._gateway.ledger.find(tenant, correction_id(event.id, 1)) is None:
            return None
        chain = await look.chain(tenant, event.id)
        if chain is None:
            return "lost"
        return None if len(chain.events) == 1 else chain

    async def _extend_last(self, job: Job, look: Look, chain: Chain, event: Event, plan: Plan, now: datetime) -> None:
        """Feed an event that was corrected as what it says now: by its last correction, which brings all of it.

        What came before it has never been there, as if it was taken back in time.
        """
        views = [await self._view(split_ref(ref)[0]) for ref in chain.refs]
        codes = [{} if v is None else v.codes(split_ref(ref)[1]) for v, ref in zip(views, chain.refs, strict=True)]
        if plan.live and any(self._elsewhere(job, one) for one in codes):
            job.count("billed_elsewhere")
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

    def _elsewhere(self, job: Job, codes: Mapping[str, Code]) -> bool:
        """Return whether another destination of the group has billed an event, or may have, or will."""
        destinations = self._gateway.catalogue.destinations
        group = destinations[job.to].group
        return group is not None and any(
            name != job.to and code in _BILLS and name in destinations and destinations[name].group == group
            for name, code in codes.items()
        )

    def _plan(self, job: Job, event: Event, received: datetime, now: datetime) -> Plan | None:
        """Return an event's way to the destination, as today's configuration has it; `None`: it is left out."""
        catalogue = self._gateway.catalogue
        (plan,) = catalogue.plans(job.tenant, [event], received)
        way = _only(plan, job.to)
        if way is None:
            reason = dict(plan.filtered).get(job.to, Code.NO_BINDING).reason
            job.count(f"filtered_{reason}")
            return None
        late = _late(catalogue, job, event, received, now)
        if late is None:
            return way
        self._problem(job, "too_old", event, late)
        if job.too_old == "fail":
            job.state, job.why = "failed", f"{late}: begin again with a later start, or with too_old=skip"
        return None

    @staticmethod
    def _problem(job: Job, what: str, event: Event, why: str) -> None:
        job.count(what)
        if len(job.problems) < PROBLEMS:
            job.problems = [*job.problems, {"id": event.id, "problem": what, "why": why}]

    async def _wait(self, job: Job) -> timedelta | None:
        """Return how long history has to wait: for its own rate, or for the destination's queue to be short."""
        now = self._gateway.clock.now()
        if now < (due := from_micros(job.due)):
            return due - now
        depth = (await self._gateway.ledger.depth()).get(job.to, QueueDepth())
        door = self._gateway.catalogue.destinations[job.to].adapter.door
        return LOOK if depth.ready + depth.sending >= max(LEAST, BACKLOG * door.max_rows) else None

    def _spend(self, job: Job, events: int, now: datetime) -> None:
        if job.rate is not None:
            job.due = to_micros(now + timedelta(seconds=events / job.rate))

    async def _view(self, batch: int) -> View | None:
        snapshot = (await self._gateway.ledger.snapshots([batch])).get(batch)
        return None if snapshot is None else View(snapshot)

    async def _keep(self, job: Job, actor: Actor | None = None, after: str = "") -> None:
        document = Document(kind=KIND, tenant=job.tenant, name=job.id, body=msgspec.json.encode(job))
        audit: list[AuditRow] = []
        if actor is not None:
            audit.append(
                AuditRow(
                    at=to_micros(self._gateway.clock.now()),
                    tenant=job.tenant,
                    actor=actor.name,
                    action="backfill",
                    target=job.id,
                    destination=job.to,
                    reason=actor.reason,
                    after=after,
                )
            )
        await self._gateway.ledger.keep([document], audit)


_BILLS = frozenset(Code) - {Code.NONE, Code.NO_BINDING, Code.NO_ROUTE, Code.ZERO, Code.VOIDED, Code.REJECTED, Code.DEAD}


_NO_WAY = frozenset({Code.NONE, Code.NO_BINDING, Code.NO_ROUTE})
_NOT_KEPT = "it was corrected, and what it says since is not kept any more: bill it there by hand"


def copy_id(original: str) -> str:
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
    return Plan(shadow=(to,), windows=windows) if to in plan.shadow else None


def _late(catalogue: Catalogue, job: Job, event: Event, received: datetime, now: datetime) -> str | None:
    """Return why the provider takes an event no more, where that is for its age."""
    made = render(catalogue, job.to, job.tenant, event, received, now)
    if isinstance(made, Turned) and made.error is not None and made.error["code"] in _AGE:
        return made.error["message"]
    return None


_AGE = frozenset({ErrorCode.OUTSIDE_TIME_WINDOW, ErrorCode.EXPIRED})


def new_id() -> str:
    """Return an id for a job."""
    return f"bf_{uuid.uuid4().hex}"


def shown(job: Job) -> dict[str, Any]:
    """Return a job as people see it."""
    made: dict[str, Any] = {
        "object": "backfill",
        **msgspec.to_builtins(job),
        "created": format_time(from_micros(job.created)),
    }
    for name in ("tenant", "due"):
        made.pop(name)
    if job.records_since is not None:
        made["records_since"] = format_time(from_micros(job.records_since))
    else:
        made.pop("records_since")
    if job.source == "ledger":
        made["progress"] = {"batch": split_ref(job.cursor)[0], "of": job.until}
    return made
