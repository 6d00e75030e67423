"""Filling a destination in with history: from the ledger or a file, slowly, behind live traffic, each event once.

Progress is a document, and an event that has a delivery at the destination gets no second one: whatever breaks off
goes on where it was, and what is fed twice is sent once.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import structlog

from canonical_schema import ErrorCode, Event
from gateway.errors import RequestRefused
from gateway.ledger import AuditRow, Document, Plan, QueueDepth, ref_of, split_ref
from gateway.merge import View
from gateway.moving.feeding import Feeding
from gateway.moving.job import KIND, Job
from gateway.repair import Actor
from gateway.service import Gateway
from gateway.times import from_micros, to_micros

__all__ = ["Backfills"]

log = structlog.get_logger()

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


class Backfills:
    """The jobs of one gateway. Those from the ledger go on by themselves, those of a file as it is sent."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._feeding = Feeding(gateway)
        self._chore = gateway.chore(KIND, self.step)
        self._turn = gateway.turns.filling

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
        if not destination.serves(actor.tenant):  # of which every event would be left out
            detail = f"to: {job.to[:64]!r} takes no events of tenant {actor.tenant}: nothing can be sent there"
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, detail)
        async with self._turn:
            return await self._begun(actor, job)

    async def _begun(self, actor: Actor, job: Job) -> Job:
        for other in await self.jobs(actor.tenant):
            if (other.to, other.source, other.digest, other.wanted) != (job.to, job.source, job.digest, job.wanted):
                continue
            if other.state == "running":
                return await self._going_on(actor, other, job)
            if job.unproven == "send" and "unproven" in other.counts:
                continue  # what it left out is wanted after all, and what it sent is known by its ids
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

    async def _going_on(self, actor: Actor, job: Job, asked: Job) -> Job:
        """Return a job that goes on, as it is asked for by now: what is said replaces what was, the rest stays."""
        before = job.rate, job.too_old, job.unproven
        if asked.rate is not None and asked.rate != job.rate:
            job.rate, job.due = asked.rate, 0
        job.too_old = "skip" if asked.too_old == "skip" else job.too_old
        job.unproven = "send" if asked.unproven == "send" else job.unproven
        if before != (job.rate, job.too_old, job.unproven):
            await self._keep(job, actor, "goes on with other options")
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

        Raises RequestRefused: 429 while the destination has enough to do, 409 where they do not follow on, or the
        destination was switched off or removed meanwhile.
        """
        async with self._turn:
            return await self._taken(tenant, job_id, events, first, last=last)

    async def _taken(self, tenant: str, job_id: str, events: Sequence[Event], first: int, *, last: bool) -> Job:
        job = await self.job(tenant, job_id)
        if job.state == "done" and last and first + len(events) == job.cursor:
            return job  # it was told before, and the answer was lost
        if job.state != "running":
            raise RequestRefused(
                409, ErrorCode.CONFLICT, f"this backfill is {job.state}: {job.why or 'nothing to add'}"
            )
        if first > job.cursor:
            detail = f"{job.cursor} events were taken, and these begin behind {first}: go on where it was"
            raise RequestRefused(409, ErrorCode.CONFLICT, detail)
        if (away := self._away(job)) is not None:  # what is taken now would count as left out
            detail = f"{away}: configure it again, and go on where it was"
            raise RequestRefused(409, ErrorCode.CONFLICT, detail)
        events = events[job.cursor - first :]
        wait = await self._wait(job)
        if wait is not None:
            headers = {"retry-after": str(max(1, round(wait.total_seconds())))}
            detail = f"{job.to} has enough to do: live traffic comes first"
            raise RequestRefused(429, ErrorCode.RATE_LIMITED, detail, headers=headers)
        now = self._gateway.clock.now()
        await self._gateway.catalogue.learn([(tenant, (event.customer for event in events))])
        planned = [(event, plan) for event in events if (plan := self._feeding.plan(job, event, now, now)) is not None]
        if job.state == "running":
            planned = await self._feeding.proven(job, planned)
            await self._feeding.record(job, planned, now)
            job.cursor += len(events)
            self._spend(job, len(planned), now)
            if last:
                job.state = "done"
        await self._keep(job)
        return job

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
        waits = self._away(job)
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
        view = await self._feeding.view(batch) if index else None
        if view is None or index >= len(view.snapshot.events):
            numbers = await self._gateway.ledger.batches_after(batch, 1)
            if not numbers or numbers[0] > job.until:
                job.state = "done"
                await self._keep(job)
                log.info("backfill.done", backfill=job.id, destination=job.to, **job.counts)
                return now
            (batch,), index = numbers, 0
            view = await self._feeding.view(batch)
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
                plan = self._feeding.plan(job, event, received, now)
                if plan is not None:
                    some.append((index, plan))
        if job.state == "running":
            await self._feeding.extend(job, view, some, now)
            self._gateway.wake(job.to)
        return len(some), stop

    def _away(self, job: Job) -> str | None:
        """Return why nothing can be fed by now, where the destination was there when the job began."""
        return f"it waits: {job.to} is switched off or removed" if job.to not in self._gateway.lanes else None

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
