"""Adds a Redis ledger up, batch by batch: its work, its statuses, its ids, and the sums and indexes beside them.

Each batch is looked at as it stands at one moment, and the sums last: let nothing be sent or taken in meanwhile.
"""

from collections import Counter
from typing import Any

from gateway.ledger._model import Code
from gateway.ledger._redis.base import Base, pairs, remains
from gateway.ledger._redis.layout import DIGEST, STATES, index_member, unpack_head, unpack_rendered
from gateway.ledger._redis.link import Link
from gateway.ledger.check import Adder

__all__ = ["Checking"]

PAGE = 200


class Checking(Base):
    """Whether everything is in exactly one place."""

    async def add_up(self) -> dict[str, Any]:
        """Return the counts of every destination, and what does not add up. Reads only."""
        adder = Adder()
        for link in self._opened():
            depths, counts = Counter[bytes](), Counter[bytes]()
            for index in (":l", ":lt"):
                after = "-inf"
                while batches := await link.ask("ZRANGEBYSCORE", index, after, "+inf", "LIMIT", 0, PAGE):
                    for batch in map(int, batches):
                        await self._batch(link, batch, adder, depths, counts)
                    after = f"({int(batches[-1])}"
            for what, key, found in (("work", ":n", depths), ("statuses", ":c", counts)):
                told = {field: int(value) for field, value in pairs(await link.ask("HGETALL", key)).items()}
                for field in sorted(told.keys() | found.keys()):
                    if told.get(field, 0) != found[field]:
                        name = field.decode()
                        adder.problems.append(f"{what} {name}: {found[field]} are there, {told.get(field, 0)} counted")
        return adder.report()

    async def _batch(
        self, link: Link, batch: int, adder: Adder, depths: Counter[bytes], counts: Counter[bytes]
    ) -> None:
        answer = await link.run("look", batch, 1)
        if not answer:
            adder.problems.append(f"batch {batch}: is listed and not there")
            return
        fields, work, _, _, body = answer
        known, held = pairs(fields), pairs(work)
        left = remains(known.get(b"f", b""), known.get(b"X", b""), known.get(b"T", b""))
        told = None if left is None else (len(left.prints), left.erased, left.trimmed)
        ids = await self._ids(link, batch, known[b"d"])
        adder.batch(batch, int(known[b"n"]), ids, body=bool(body), left=told)
        for field in (field for field in held if field.isdigit()):
            head = unpack_head(held[field], None)
            rendered = unpack_rendered(held.get(b"p" + field), head.members)
            state, name = head.group.state, head.destination
            rows = None if rendered is None else len(rendered)
            adder.work(int(field), batch, name, head.members, state, rows)
            letter = STATES[state]
            depths[letter + name.encode()] += len(head.members)
            member = index_member(int(field), batch)
            if await link.ask("ZSCORE", f":z:{letter.decode()}{name}", member) is None:
                adder.problems.append(f"work {int(field)}: is {state} at {name}, and not in the index of it")
            due: bytes | None = await link.ask("ZSCORE", f":q:{name}", member)
            if (due is None) is (letter == b"r"):
                adder.problems.append(f"work {int(field)}: is {state} at {name}, and due says otherwise")
        for field, codes in known.items():
            if field.startswith(b"c:"):
                name = field[2:]
                adder.track(batch, name.decode(), codes)
                for code, times in Counter(codes).items():
                    if code != Code.NONE:
                        counts[b"%d:%s" % (code, name)] += times

    async def _ids(self, link: Link, batch: int, digests: bytes) -> int:
        """Return how many of a batch's ids lead to it."""
        buckets: dict[int, list[bytes]] = {}
        for at in range(0, len(digests), DIGEST):
            one = digests[at : at + DIGEST]
            buckets.setdefault(one[-1] % 16, []).append(one)
        found = 0
        for bucket, some in buckets.items():
            refs: list[bytes | None] = await link.ask("HMGET", f":i{bucket}", *some)
            found += sum(ref is not None and int.from_bytes(ref[:6], "big") == batch for ref in refs)
        return found
