"""What is kept beside events: documents, the audit trail, which provider stands behind a destination; and the sums."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from canonical_schema import DeliveryStatus
from gateway.ledger._kept import AuditRow, Document, Erasure
from gateway.ledger._model import Code, QueueDepth
from gateway.ledger._redis.base import Base, pairs, together
from gateway.ledger._redis.link import Link

__all__ = ["Keeping", "audited"]

PAGE = 500
_WAITS = {b"r": "ready", b"w": "ready", b"s": "sending", b"b": "blocked", b"h": "blocked"}


class Keeping(Base):
    """Documents, audit and sums."""

    _providers: Mapping[str, str]

    async def note(self, audit: Sequence[AuditRow]) -> None:
        await self.keep([], audit)

    async def trail(self, tenant: str, below: int | None, limit: int) -> Sequence[tuple[int, AuditRow]]:
        rows: list[tuple[int, AuditRow]] = []
        links = self._opened()
        for partition, link in enumerate(links):
            # The first number of this partition that is not below.
            high = "+inf" if below is None else f"({-(-(below - partition) // len(links))}"
            for one in await link.ask("ZREVRANGEBYSCORE", f":au:{tenant}", high, "-inf", "LIMIT", 0, limit):
                number = int(one[:16]) * len(links) + partition
                rows.append((number, msgspec.json.decode(one[16:], type=AuditRow)))
        return sorted(rows, key=lambda row: row[0], reverse=True)[:limit]

    async def unname(self, erasure: Erasure) -> int:
        key = f":au:{erasure.tenant}"

        async def write(link: Link) -> int:
            found, low = 0, "-inf"
            while some := await link.ask("ZRANGEBYSCORE", key, low, "+inf", "LIMIT", 0, PAGE):
                low = f"({int(some[-1][:16])}"
                for one in some:
                    row = msgspec.json.decode(one[16:], type=AuditRow)
                    if (left := erasure.row(row)) != row:
                        found += await link.run("unname", erasure.tenant, one, one[:16] + msgspec.json.encode(left))
            return found

        return sum(await self._whole(together([write(link) for link in self._opened()])))

    async def keep(self, documents: Sequence[Document], audit: Sequence[AuditRow] = ()) -> None:
        arguments: list[bytes | str | int] = [len(documents)]
        for one in documents:
            arguments += [_shelf(one.kind, one.tenant), one.name, int(one.body is not None), one.body or b""]
        await self._whole(self._opened()[0].run("keep", os.urandom(8), *arguments, *audited(audit)))

    async def document(self, kind: str, tenant: str, name: str) -> bytes | None:
        return (await self.named(kind, tenant, [name])).get(name)

    async def named(self, kind: str, tenant: str, names: Sequence[str]) -> Mapping[str, bytes]:
        link = self._opened()[0]
        if not names:
            return {}
        found: list[bytes | None] = await link.ask("HMGET", f":d:{_shelf(kind, tenant)}", *names)
        return {name: body for name, body in zip(names, found, strict=True) if body is not None}

    async def documents(self, kind: str, tenant: str, after: str | None, limit: int) -> Sequence[Document]:
        low = b"-" if after is None else b"(" + after.encode()
        found: list[bytes] = await self._opened()[0].run("documents", _shelf(kind, tenant), low, limit)
        return [
            Document(kind=kind, tenant=tenant, name=name.decode(), body=body)
            for name, body in zip(found[::2], found[1::2], strict=True)
        ]

    async def depth(self) -> Mapping[str, QueueDepth]:
        depths: defaultdict[str, QueueDepth] = defaultdict(QueueDepth)
        answers: list[list[bytes]]
        answers, _ = await self._reached("depth", lambda link: link.run("depth"))
        for answer in answers:
            for field, count, since, deadline in zip(*(answer[at::4] for at in range(4)), strict=True):
                if (what := _WAITS.get(field[:1])) is None:
                    continue
                depth = depths[field[1:].decode()]
                setattr(depth, what, getattr(depth, what) + int(count))
                depth.oldest = _least(depth.oldest, since)
                depth.deadline = _least(depth.deadline, deadline)
        return dict(depths)

    async def counts(self) -> Mapping[str, Mapping[DeliveryStatus, int]]:
        counted: defaultdict[str, Counter[DeliveryStatus]] = defaultdict(Counter)
        for answer in await self._everywhere(lambda link: link.ask("HGETALL", ":c")):
            for field, count in pairs(answer).items():
                code, _, destination = field.partition(b":")
                if int(count) and int(code):
                    counted[destination.decode()][Code(int(code)).status] += int(count)
        return {name: dict(statuses) for name, statuses in counted.items()}

    async def name(self, providers: Mapping[str, str]) -> None:
        link = self._opened()[0]
        await self._learn()
        if providers.items() - self._providers.items():  # where there is no room, a gateway that was there may start
            fields = [text for pair in providers.items() for text in pair]
            await self._whole(link.ask("HSET", ":p", *fields, writes=True))
            await self._learn()

    async def _learn(self) -> None:
        """Learn which provider stands behind each destination, also those that others named."""
        held = pairs(await self._opened()[0].ask("HGETALL", ":p"))
        self._providers = {name.decode(): provider.decode() for name, provider in held.items()}


def audited(audit: Sequence[AuditRow]) -> list[bytes | str | int]:
    """Return audit rows as the scripts take them."""
    rows: list[bytes | str | int] = [len(audit)]
    for row in audit:
        rows += [row.tenant, row.at, msgspec.json.encode(row)]
    return rows


def _shelf(kind: str, tenant: str) -> str:
    return f"{kind}\0{tenant}"


def _least(known: int | None, found: bytes) -> int | None:
    if not found:
        return known
    return int(found) if known is None else min(known, int(found))
