"""Events that had no way when they came, and are given one."""

import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence

from gateway.ledger._deliveries import times
from gateway.ledger._events import some_events
from gateway.ledger._looking import Looking, sides
from gateway.ledger._model import Plan, Unrouted
from gateway.ledger._redis.base import Base, pairs, remains
from gateway.ledger._redis.deliveries import planned, tally
from gateway.ledger._redis.layout import PARTITIONS, pack_runs, unpack_runs
from gateway.ledger._redis.link import Link
from gateway.ledger._settling import unless_there

__all__ = ["Routing"]

PAGE, PAGE_EVENTS = 64, 4096
"""Batches and events without a way that are fetched together."""


class Routing(Base):
    """What waits for a way."""

    async def unrouted(self) -> AsyncGenerator[Unrouted]:
        answers: list[list[bytes]] = await self._everywhere(lambda link: link.ask("HGETALL", ":u"))
        waiting = sorted((int(batch), runs) for answer in answers for batch, runs in pairs(answer).items())
        for page in _pages(waiting):
            batches = await self._batches.get(page)
            for number in filter(batches.__contains__, page):  # others may have trimmed one meanwhile
                batch, members = batches[number], page[number]
                yield Unrouted(
                    batch=number,
                    tenant=batch.tenant,
                    members=members,
                    events=some_events(batch.events, members),
                    receipts=[batch.received_at(index) for index in members],
                )

    async def route(self, batch: int, members: Sequence[int], plans: Sequence[Plan], now: int) -> None:
        await self._give(batch, dict(zip(members, plans, strict=True)), now, only_unrouted=True)

    async def extend(self, batch: int, members: Sequence[int], plans: Sequence[Plan], now: int) -> int:
        return await self._give(batch, dict(zip(members, plans, strict=True)), now, only_unrouted=False)

    async def _give(self, batch: int, wanted: Mapping[int, Plan], now: int, *, only_unrouted: bool) -> int:
        """Give events their deliveries by what stands there, again where it changed meanwhile; return how many."""
        link = self._link(batch)

        async def write(link: Link) -> int:
            while (given := await self._given(link, batch, wanted, now, only_unrouted=only_unrouted)) is None:
                pass
            return given

        return 0 if link is None else await self._whole(write(link))

    async def _given(
        self, link: Link, batch: int, wanted: Mapping[int, Plan], now: int, *, only_unrouted: bool
    ) -> int | None:
        packed: bytes = await link.ask("HGET", ":u", batch) or b""
        fields = pairs(await link.ask("HGETALL", f":b:{batch}"))
        waiting = set(unpack_runs(packed))
        left = remains(fields.get(b"f", b""), fields.get(b"X", b""), fields.get(b"T", b""))
        gone = frozenset[int]() if left is None else left.erased  # nobody can be billed for what is not known
        routed = {
            index: plan
            for index, plan in wanted.items()
            if index not in gone and (index in waiting or not only_unrouted)
        }
        if not fields or not routed or (left is not None and left.trimmed):
            return 0
        held = (await self._batches.get({batch})).get(batch)
        if held is None or held.left != left:  # others erased, trimmed or forgot meanwhile
            self._batches.drop(batch)
            return None
        size = len(held.events)
        known = {field[2:].decode(): codes for field, codes in fields.items() if field.startswith(b"c:")}
        fresh = [unless_there(plan, known, index) for index, plan in routed.items()]
        happened = times(
            [held.events[index] for index in routed],
            fresh,
            [held.receipts[index] if held.receipts else held.received for index in routed],
        )
        made = planned(list(routed), fresh, size, now, happened, self._owners.name)
        ways = routed.values() if only_unrouted else fresh
        still = sorted(waiting.difference(index for index, plan in zip(routed, ways, strict=True) if plan.live))
        counts = sides(routed, fresh)
        touched = sorted({*made.codes, *(counts.keys() & known.keys())})
        arguments: list[bytes | str | int] = [batch, packed, pack_runs(still)]
        arguments += [fields.get(b"X", b""), len(touched)]
        for name in touched:
            before = known.get(name, b"")
            added = zip(made.codes.get(name, bytes(size)), before or bytes(size), strict=True)
            after = bytes(new or old for new, old in added)
            looking = Looking.unpack(fields.get(f"s:{name}".encode())).given(before, counts.get(name, {}))
            arguments += [name, before, after, looking.pack(), tally(after, before)]
        arguments += [len(made.heads), *made.heads]
        done = await link.run("route", os.urandom(8), batch % PARTITIONS, *arguments)
        return sum(len(plan.live) + len(plan.shadow) for plan in fresh) if done else None


def _pages(waiting: Iterable[tuple[int, bytes]]) -> Iterator[dict[int, Sequence[int]]]:
    """Give some batches at a time, with which of their events wait."""
    page: dict[int, Sequence[int]] = {}
    for number, runs in waiting:
        page[number] = unpack_runs(runs)
        if len(page) == PAGE or sum(map(len, page.values())) >= PAGE_EVENTS:
            yield page
            page = {}
    if page:
        yield page
