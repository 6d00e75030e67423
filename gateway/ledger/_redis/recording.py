"""Claim, store and enqueue, in one script for each partition that a request's ids fall into."""

import asyncio
import os
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, NamedTuple

from canonical_schema import Event, encode_events
from gateway.errors import LedgerUnavailable
from gateway.ledger._claims import Claim, ClaimKind, Run, Spread
from gateway.ledger._deliveries import earliest, times
from gateway.ledger._events import StoredEvents, apart
from gateway.ledger._kept import AuditRow
from gateway.ledger._looking import Looking
from gateway.ledger._model import AttemptRow, Plan, Snapshot, Track
from gateway.ledger._redis.base import pairs, remains, together
from gateway.ledger._redis.batches import Batch
from gateway.ledger._redis.deliveries import alike, planned, ready, tracked
from gateway.ledger._redis.keeping import Keeping, audited
from gateway.ledger._redis.layout import DIGEST, unpack_head
from gateway.ledger._redis.link import Argument, Link
from gateway.ledger._redis.owners import Owners
from gateway.ledger._refs import ref_of, split_ref
from gateway.ledger._rows import digests as digests_of
from gateway.ledger._rows import pack_text, pack_times, unpack_attempt, unpack_events, unpack_parts, unpack_times

__all__ = ["Recording"]


SMALL, SHARED = 64, 256
"""Events of a request that may share a batch with others, and of such a batch."""
LINGER, QUIET = 0.005, 3
"""Seconds after the last batch left for which one waits at most for as many requests as that had, and turns of the
event loop that bring none after which it does not wait any longer. That is no time at all where few come at a time, nor
where the server takes longer than that: what came meanwhile is enough."""


class _Waiting(NamedTuple):
    """A request whose events may share a batch."""

    received: int
    events: Sequence[Event]
    digests: Sequence[bytes]
    """None where nobody needed them yet: those of a batch are made together."""
    answer: asyncio.Future[Sequence[Claim]]


class Recording(Keeping):
    """Events: taken in, found again, shown with what became of them."""

    def __init__(self, owners: Owners) -> None:
        super().__init__(owners)
        self._waiting: dict[tuple[int, str, Plan], list[_Waiting]] = {}
        self._sharing: dict[tuple[int, str, Plan], asyncio.Task[None]] = {}

    async def record(
        self, tenant: str, received: int, events: Sequence[Event], plans: Sequence[Plan], audit: Sequence[AuditRow] = ()
    ) -> Sequence[Claim]:
        if not events:
            return []
        received.to_bytes(7, "big")  # what is no time at all is the caller's mistake, and nobody else's
        links = len(self._opened())
        if links == 1 and _may_share(plans, audit):
            return await self._shared(0, tenant, _Waiting(received, events, (), self._answer()), plans[0])
        digests = _digests(tenant, events)
        if links == 1:
            return await self._part(0, Batch(tenant, received, list(events)), plans, digests, audit)
        places: dict[int, list[int]] = {}
        for position, one in enumerate(digests):
            places.setdefault(_part_of(one, links), []).append(position)
        firsts = [] if len(places) == 1 else [position for position, event in enumerate(events) if _refunds(event)]
        if 0 < len(firsts) < len(events):
            return await self._whole(self._in_halves(tenant, received, events, plans, audit, firsts))
        # The audit goes with the events where they lie in one partition, and follows them where they do not.
        whole = len(places) == 1
        made = await together(
            self._part(
                partition,
                Batch(tenant, received, [events[position] for position in some]),
                [plans[position] for position in some],
                [digests[position] for position in some],
                audit if whole else (),
            )
            for partition, some in places.items()
        )
        if audit and not whole and all(claim.kind is ClaimKind.NEW for some in made for claim in some):
            await self.note(audit)
        if whole:
            return made[0]
        fresh = [found.refs for found in made if isinstance(found, Run)]
        if len(fresh) == len(made):
            refs = [0] * len(events)
            for some, found in zip(places.values(), fresh, strict=True):
                for position, ref in zip(some, found, strict=True):
                    refs[position] = ref
            return Spread(refs)
        claims: dict[int, Claim] = {}
        for some, found in zip(places.values(), made, strict=True):
            claims.update(zip(some, found, strict=True))
        return [claims[position] for position in range(len(events))]

    async def _in_halves(
        self,
        tenant: str,
        received: int,
        events: Sequence[Event],
        plans: Sequence[Plan],
        audit: Sequence[AuditRow],
        firsts: Sequence[int],
    ) -> Sequence[Claim]:
        """Record refunds before what replaces the refunded: without the refund that would be refused for good."""
        seconds = sorted(set(range(len(events))).difference(firsts))
        claims: dict[int, Claim] = {}
        for some in (firsts, seconds):
            rows = audit if some is seconds and all(claim.kind is ClaimKind.NEW for claim in claims.values()) else ()
            made = await self.record(
                tenant, received, [events[one] for one in some], [plans[one] for one in some], rows
            )
            claims.update(zip(some, made, strict=True))
        return [claims[position] for position in range(len(events))]

    def partition_of(self, one: bytes) -> int:
        """Return where an id falls, by its digest."""
        return _part_of(one, len(self._opened()))

    def _part(
        self, partition: int, sent: Batch, plans: Sequence[Plan], digests: Sequence[bytes], audit: Sequence[AuditRow]
    ) -> Awaitable[Sequence[Claim]]:
        """Record what falls into one partition, with what comes at the same time and is sent the same way.

        Either way it is finished once it is begun, also where the one who wanted it goes away.
        """
        if _may_share(plans, audit):
            return self._shared(
                partition, sent.tenant, _Waiting(sent.received, sent.events, digests, self._answer()), plans[0]
            )
        return self._whole(self._stored(partition, sent, plans, digests, audit))

    def _answer(self) -> asyncio.Future[Sequence[Claim]]:
        return asyncio.get_running_loop().create_future()

    def _shared(self, partition: int, tenant: str, one: _Waiting, plan: Plan) -> Awaitable[Sequence[Claim]]:
        """Record a request's events with what waits to be sent the same way."""
        key = partition, tenant, plan
        if (waiting := self._waiting.get(key)) is None:
            self._waiting[key] = [one]
        else:
            waiting.append(one)
        if key not in self._sharing:
            task = self._sharing[key] = asyncio.create_task(self._share(key))
            self._calls.add(task)
            task.add_done_callback(self._ended)
        return one.answer

    async def _share(self, key: tuple[int, str, Plan]) -> None:
        """Record what waits, as one batch, until nothing does: what comes meanwhile shares the next one."""
        partition, tenant, plan = key
        loop, many, left = asyncio.get_running_loop(), 0, 0.0
        try:
            while key in self._waiting:
                await self._gathered(key, many, left + LINGER)
                left = loop.time()
                waiting = self._waiting.pop(key)
                size = many = 0
                for one in waiting:
                    if size + len(one.events) > SHARED:
                        break
                    size, many = size + len(one.events), many + 1
                going = waiting[:many]
                if many < len(waiting):
                    self._waiting[key] = waiting[many:]
                events = [event for one in going for event in one.events]
                receipts = [one.received for one in going for _ in one.events]
                digests = [each for one in going for each in one.digests] or _digests(tenant, events)
                sent = Batch(tenant, min(receipts), events, receipts=receipts)
                try:
                    claims = await self._stored(partition, sent, [plan] * size, digests, ())
                except Exception as error:  # noqa: BLE001  those who wait must hear, whatever it is
                    loop.call_soon(_refuse, going, error)
                else:
                    # A turn later: the next batch is on its way while these are answered.
                    loop.call_soon(_tell, going, claims)
        finally:
            del self._sharing[key]

    async def _gathered(self, key: tuple[int, str, Plan], enough: int, until: float) -> None:
        """Return when so many requests wait, at that time, or when some turns of the event loop brought none."""
        loop, seen, quiet = asyncio.get_running_loop(), 0, 0
        while (many := len(self._waiting[key])) < enough and quiet < QUIET and loop.time() < until:
            quiet = 0 if many > seen else quiet + 1
            seen = many
            await asyncio.sleep(0)

    async def _stored(
        self, partition: int, sent: Batch, plans: Sequence[Plan], digests: Sequence[bytes], audit: Sequence[AuditRow]
    ) -> Sequence[Claim]:
        """Record all that is new as one batch. The first of an id wins."""
        link, token = self._opened()[partition], os.urandom(8)
        new: Sequence[int] = range(len(digests))
        if len(set(digests)) < len(digests):
            first: dict[bytes, int] = {}
            for position, one in enumerate(digests):
                first.setdefault(one, position)
            new = list(first.values())
        refs: dict[bytes, int] = {}
        while new:
            whole = len(new) == len(digests)
            stored, ways, ids = sent, plans, digests
            if not whole:
                stored, ways, ids = _picked(sent, new), [plans[one] for one in new], [digests[one] for one in new]
            text = encode_events(stored.events)
            arguments = _arguments(stored, pack_text(text), ways, self._owners.name)
            arguments += audited(audit if whole else ())
            answer: list[Any]
            age = self._batches.age
            done, *answer = await link.run("record", token, partition, b"".join(ids), *arguments)
            if done:
                batch = int(answer[0])
                self._batches.put(batch, stored._replace(events=StoredEvents(text, len(ids))), age)
                if whole:
                    return Run(ref_of(batch, 0), len(digests))
                refs.update((one, ref_of(batch, index)) for index, one in enumerate(ids))
                break
            known: dict[int, int] = {
                new[at]: int.from_bytes(ref, "big") for at, ref in zip(answer[::2], answer[1::2], strict=True)
            }
            refs.update((digests[position], ref) for position, ref in known.items())
            new = [position for position in new if position not in known]
        return await self._claims(sent.events, digests, refs, set(new))

    async def _claims(
        self, events: Sequence[Event], digests: Sequence[bytes], refs: Mapping[bytes, int], new: set[int]
    ) -> Sequence[Claim]:
        held = await self._batches.get({split_ref(ref)[0] for ref in refs.values()})
        claims: list[Claim] = []
        for position, (event, one) in enumerate(zip(events, digests, strict=True)):
            ref = refs[one]
            if position in new:
                claims.append(Claim(ref, ClaimKind.NEW))
                continue
            batch, index = split_ref(ref)
            if batch not in held:  # what it was is not known any more, and in a moment the id is not either
                raise LedgerUnavailable("an id of this request is past remembering at this very moment")
            differing = held[batch].differing(index, event)
            claims.append(
                Claim(ref, ClaimKind.REPLAY) if differing is None else Claim(ref, ClaimKind.CONFLICT, differing)
            )
        return claims

    async def find(self, tenant: str, event_id: str) -> int | None:
        return (await self.refs(tenant, [event_id])).get(event_id)

    async def refs(self, tenant: str, ids: Sequence[str]) -> Mapping[str, int]:
        wanted = {one[:DIGEST]: name for one, name in zip(digests_of(tenant, ids), ids, strict=True)}
        shares: defaultdict[tuple[int, int], list[bytes]] = defaultdict(list)
        for one in wanted:
            shares[self.partition_of(one), one[-1] % 16].append(one)
        links = self._opened()

        async def look(partition: int, share: int, some: list[bytes]) -> dict[str, int]:
            found: list[bytes | None] = await links[partition].ask("HMGET", f":i{share}", *some)
            return {wanted[one]: int.from_bytes(ref, "big") for one, ref in zip(some, found, strict=True) if ref}

        looks = await together(look(*where, some) for where, some in shares.items())
        return {name: ref for each in looks for name, ref in each.items()}

    async def batches_before(self, batch: int | None, limit: int) -> Sequence[int]:
        below = "+inf" if batch is None else f"({batch}"
        pages: list[list[bytes]] = await self._everywhere(
            lambda link: link.ask("ZREVRANGEBYSCORE", ":l", below, "-inf", "LIMIT", 0, limit)
        )
        return sorted((int(one) for page in pages for one in page), reverse=True)[:limit]

    async def batches_after(self, batch: int, limit: int) -> Sequence[int]:
        pages: list[list[bytes]] = await self._everywhere(
            lambda link: link.ask("ZRANGEBYSCORE", ":l", f"({batch}", "+inf", "LIMIT", 0, limit)
        )
        return sorted(int(one) for page in pages for one in page)[:limit]

    async def snapshots(self, batches: Sequence[int]) -> Mapping[int, Snapshot]:
        wanted = [(batch, link) for batch in batches if (link := self._link(batch)) is not None]
        looks = await together(self._snapshot(batch, link) for batch, link in wanted)
        return {one.batch: one for one in looks if one is not None}

    async def _snapshot(self, batch: int, link: Link) -> Snapshot | None:
        age = self._batches.age
        answer = await link.run("look", batch, int(batch not in self._batches))
        if not answer:
            return None
        fields, work, attempts, rows, events = answer
        known = pairs(fields)
        left = remains(known.get(b"f", b""), known.get(b"X", b""), known.get(b"T", b""))
        receipts = unpack_times(known.get(b"R"))
        if batch in self._batches and self._batches[batch].left != left:  # another process changed it
            self._batches.drop(batch)
        elif events:
            looked_at = Batch(known[b"t"].decode(), int(known[b"r"]), unpack_events(events), left, receipts)
            self._batches.put(batch, looked_at, age)
        held = (await self._batches.get({batch})).get(batch)
        if held is None:  # others forgot it meanwhile
            return None
        tracks = {
            name: Track(
                destination=name,
                provider=self._providers.get(name, ""),
                shadow=(looking := Looking.unpack(known.get(f"s:{name}".encode()))).shadow,
                codes=known[f"c:{name}".encode()],
                work=[],
                attempts=[],
                parts={},
                counting=looking.counting,
            )
            for name in sorted(field[2:].decode() for field in known if field.startswith(b"c:"))
        }
        places = pairs(work)
        for field in sorted(field for field in places if field.isdigit()):
            head = unpack_head(places[field], places.get(b"e" + field))
            tracks[head.destination].work.append((head.group, head.members))
        for one in attempts:
            attempt: AttemptRow = unpack_attempt(one)
            tracks[attempt.destination].attempts.append(attempt)
        for field, body in pairs(rows).items():
            place, _, name = field.decode().partition(":")
            tracks[name].parts[int(place)] = (unpack_parts(body) or [[]])[0]
        return Snapshot(
            batch=batch,
            tenant=held.tenant,
            received=held.received,
            events=apart(held.events),
            tracks=list(tracks.values()),
            remains=left,
            receipts=held.receipts,
        )


def _refunds(event: Event) -> bool:
    """Return whether it is the first half of a correction in two."""
    return event.corrects is not None and event.corrects.action == "refund"


def _part_of(one: bytes, partitions: int) -> int:
    return 0 if partitions == 1 else int.from_bytes(one[:4], "big") % partitions


def _picked(sent: Batch, places: Sequence[int]) -> Batch:
    """Return some events of a batch, as one of their own."""
    receipts = [sent.receipts[place] for place in places] if sent.receipts else ()
    return Batch(sent.tenant, sent.received, [sent.events[place] for place in places], receipts=receipts)


def _some(claims: Sequence[Claim], start: int, end: int) -> Sequence[Claim]:
    """Return one request's claims of those that were recorded together."""
    return Run(claims.first + start, end - start) if isinstance(claims, Run) else claims[start:end]


def _tell(going: Sequence[_Waiting], claims: Sequence[Claim]) -> None:
    """Give requests what became of their events, which were recorded together."""
    start = 0
    for one in going:
        end = start + len(one.events)
        if not one.answer.done():
            one.answer.set_result(_some(claims, start, end))
        start = end


def _refuse(going: Sequence[_Waiting], error: Exception) -> None:
    for one in going:
        if not one.answer.done():
            one.answer.set_exception(error)


def _may_share(plans: Sequence[Plan], audit: Sequence[AuditRow]) -> bool:
    """Return whether a request's events may share a batch with others: few, and all sent the same way."""
    return not audit and len(plans) <= SMALL and plans.count(plans[0]) == len(plans)


def _digests(tenant: str, events: Sequence[Event]) -> list[bytes]:
    return [one[:DIGEST] for one in digests_of(tenant, [event.id for event in events])]


def _arguments(batch: Batch, body: bytes, plans: Sequence[Plan], owner: bytes) -> list[Argument]:
    """Return what the script stores of a batch, after its ids. `body`: its events, packed."""
    size = len(batch.events)
    receipts = batch.receipts or [batch.received] * size
    apart = bool(batch.receipts) and batch.receipts.count(batch.received) < size
    plan = plans[0]
    if plans.count(plan) == size:
        ways = alike(plan, size) if size <= SHARED else alike.__wrapped__(plan, size)
        heads = ready(plan, size, batch.received, earliest(batch.events, receipts) if plan.windows else 0, owner)
    else:
        happened = times(batch.events, plans, receipts)
        made = planned(range(size), plans, size, batch.received, happened, owner)
        ways, heads = tracked(made), made.heads
    times_of = pack_times(receipts) if apart else b""
    return [batch.received, batch.tenant, body, times_of, *ways.tracks, len(heads), *heads, ways.unrouted]
