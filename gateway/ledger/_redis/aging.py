"""What happens to what is old: trimmed, forgotten; and what happens to a customer who is to be forgotten."""

import os
from collections.abc import Iterable, Mapping, Sequence

from canonical_schema import fingerprint
from gateway.ledger._keeping import without
from gateway.ledger._kept import Erasure
from gateway.ledger._model import Code, WorkState
from gateway.ledger._redis.base import pairs, remains, together
from gateway.ledger._redis.deliveries import tally
from gateway.ledger._redis.layout import (
    PARTITIONS,
    Head,
    pack_rendered,
    pack_runs,
    unpack_head,
    unpack_rendered,
    unpack_runs,
)
from gateway.ledger._redis.link import LONG, Link
from gateway.ledger._redis.recording import Recording
from gateway.ledger._rows import find_in_events, pack_attempt, pack_events, unpack_attempt, unpack_events

__all__ = ["Aging"]

LOOKED_AT = 500
"""Batches that one look passes over."""
AT_ONCE = 50
"""Batches that one script forgets."""
NEVER = -(2**62)


class Aging(Recording):
    """Old batches, and customers who go."""

    async def trimmable(
        self, before: int, letters: int | None, after: int, limit: int
    ) -> tuple[Sequence[int], int | None]:
        until = NEVER if letters is None else letters
        answers = await self._everywhere(lambda link: link.run("trimmable", before, until, after, limit, LOOKED_AT))
        ends = [int(on) for on, *_ in answers if on]
        # Further than the partition that looked least far nobody has looked.
        end = min(ends, default=None)
        found = sorted(int(batch) for _, *some in answers for batch in some if end is None or int(batch) <= end)
        if len(found) > limit:
            return found[:limit], found[limit - 1]
        return found, end

    async def trim(self, prints: Mapping[int, bytes], segment: str | None, letters: int | None) -> Sequence[int]:
        async def write() -> list[int]:
            kept: list[int] = []
            for batch, printed in prints.items():
                link = self._link(batch)
                until = NEVER if letters is None else letters
                if link is not None and not await link.run(
                    "trim", batch, printed, f"1{segment or ''}", until, patience=LONG
                ):
                    kept.append(batch)
                self._batches.drop(batch)
            return kept

        return await self._whole(write())

    async def trimmed(self, tenant: str, since: int) -> int:
        async def count(link: Link) -> int:
            found, below = 0, "+inf"
            while page := await link.ask("ZREVRANGEBYSCORE", ":lt", below, "-inf", "LIMIT", 0, LOOKED_AT):
                heads = await together(link.ask("HMGET", f":b:{int(batch)}", "r", "t") for batch in page)
                owners = [owner for received, owner in heads if received is not None and int(received) >= since]
                if not owners:  # numbers grow with time
                    break
                found += owners.count(tenant.encode())
                below = f"({int(page[-1])}"
            return found

        return sum(await self._everywhere(count))

    async def forget(self, before: int, limit: int) -> int:
        async def write() -> int:
            gone = 0
            for link in self._opened():
                more = True
                while more and gone < limit:
                    most = min(AT_ONCE, limit - gone)
                    done: int = await link.run("forget", os.urandom(8), before, most, patience=LONG)
                    gone += done
                    more = done == most
            return gone

        return await self._whole(write())

    async def secret(self, name: str) -> bytes:
        link = self._opened()[0]
        found: bytes | None = None
        while (found := await link.ask("HGET", ":s", name)) is None:
            await self._whole(link.ask("HSETNX", ":s", name, os.urandom(32), writes=True))
        return found

    async def holding(self, tenant: str, customer: str, after: int, limit: int) -> tuple[Sequence[int], int | None]:
        looked = await self.batches_after(after, limit)
        found: list[int] = []
        for batch in looked:
            link = self._opened()[batch % PARTITIONS]
            owner: bytes | None = await link.ask("HGET", f":b:{batch}", "t")
            body: bytes | None = await link.ask("GET", f":e:{batch}")
            if owner == tenant.encode() and body and find_in_events(body, customer):
                found.append(batch)
        return found, looked[-1] if len(looked) == limit else None

    async def erase(self, batch: int, erasure: Erasure) -> tuple[int, Mapping[str, int]]:
        link = self._link(batch)

        async def write(link: Link) -> tuple[int, Mapping[str, int]]:
            while (erased := await self._erased(link, batch, erasure)) is None:
                pass
            return erased

        found = (0, dict[str, int]()) if link is None else await self._whole(write(link))
        self._batches.drop(batch)
        return found

    async def _erased(self, link: Link, batch: int, erasure: Erasure) -> tuple[int, Mapping[str, int]] | None:
        """Erase by what stands there; return `None` where it changed meanwhile."""
        answer = await link.run("look", batch, 1)
        if not answer:
            return 0, {}
        known, held, attempts, rows, body = pairs(answer[0]), pairs(answer[1]), answer[2], pairs(answer[3]), answer[4]
        if not body or known[b"t"].decode() != erasure.tenant:
            return 0, {}
        events = unpack_events(body)
        places = {index for index, event in enumerate(events) if event.customer == erasure.customer}
        if not places:
            return 0, {}
        packed: bytes = await link.ask("HGET", ":u", batch) or b""
        waiting = set(unpack_runs(packed))
        pieces = {field: unpack_head(head, None) for field, head in held.items() if field.isdigit()}
        unsettled = _unsettled(pieces.values(), waiting, places)
        if unsettled and (not erasure.abandon or WorkState.SENDING in unsettled):
            return len(places), unsettled
        codes: dict[str, bytearray] = {}
        arguments: list[bytes | str | int] = [batch, packed, pack_runs(sorted(waiting - places))]
        arguments += [known.get(b"X", b""), len(pieces)]
        for field, head in pieces.items():
            if head.group.state is not WorkState.REJECTED:
                track = codes.setdefault(head.destination, bytearray(known[f"c:{head.destination}".encode()]))
                for index in places.intersection(head.members):
                    track[index] = Code.DEAD
            staying = [index for index in head.members if index not in places]
            rendered = unpack_rendered(held.get(b"p" + field), staying)
            arguments += [field, held[field], pack_runs(staying), pack_rendered(staying, rendered)]
        arguments += [len(pieces), len(codes)]
        for name, after in codes.items():
            before = known[f"c:{name}".encode()]
            arguments += [name, before, bytes(after), tally(after, before)]
        left = remains(known.get(b"f", b""), known.get(b"X", b""), known.get(b"T", b""))
        prints = b"".join(map(fingerprint, events)) if left is None else left.prints
        erased = places if left is None else places | left.erased
        made = [erasure.of(event) if index in places else event for index, event in enumerate(events)]
        arguments += [pack_events(made), prints, pack_runs(sorted(erased)), len(attempts)]
        silenced = [
            (place, pack_attempt(without(attempt, places)))
            for place, attempt in enumerate(map(unpack_attempt, attempts))
            if not places.isdisjoint(attempt.members)
        ]
        arguments += [len(silenced), *(one for pair in silenced for one in pair)]
        going = [field for field in rows if int(field.partition(b":")[0]) in places]
        done = await link.run("erase", os.urandom(8), *arguments, len(going), *going, patience=LONG)
        return (len(places), unsettled) if done else None


def _unsettled(pieces: Iterable[Head], waiting: set[int], places: set[int]) -> dict[str, int]:
    """Count what could still be delivered, or be repaired, by the state that it is in."""
    found: dict[str, int] = {}
    for head in pieces:
        if count := len(places.intersection(head.members)):
            found[head.group.state] = found.get(head.group.state, 0) + count
    if count := len(places & waiting):
        found["unrouted"] = count
    return found
