"""Taking in what another ledger held."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from gateway.errors import LedgerUnavailable
from gateway.ledger._kept import AuditRow
from gateway.ledger._redis.base import Base
from gateway.ledger._redis.link import LONG
from gateway.ledger._redis.owners import HORIZON

__all__ = ["Receiving"]


class Receiving(Base):
    """A copy that comes in: begun, taken up again, ended."""

    async def receive(self) -> None:
        """Begin a copy, or take it up again.

        Raises LedgerUnavailable where something else was put here, or a gateway is open that would send what comes.
        """
        copying: bytes | None = await self._opened()[0].ask("HGET", ":m", "copying")
        if copying == b"0":
            raise LedgerUnavailable("a copy into the ledger on the server has ended: it is in use from then on")
        sizes = [
            await link.ask("ZCARD", index) for link in self._opened() for index in (":l", ":lt") if copying is None
        ]
        if any(sizes):
            raise LedgerUnavailable("the ledger on the server holds events already: copy into an empty one")
        if others := await self._others():
            many = "1 gateway has" if others == 1 else f"{others} gateways have"
            raise LedgerUnavailable(
                f"{many} the ledger on the server open, or had it a minute ago: stop them, and try again then"
            )
        await self._opened()[0].ask("HSET", ":m", "copying", "1", writes=True)

    async def _others(self) -> int:
        """Return how many processes share the ledger, without being one of them."""
        asked, lease = asyncio.get_running_loop().time(), round(self._owners.lease * 1000)
        self._owners.heard(await self._opened()[0].run("beat", self._owners.name, "", HORIZON, lease), asked)
        return len(self._owners.living) - 1

    async def received(self) -> None:
        """End a copy: from now on the ledger may be used."""
        await self._opened()[0].ask("HSET", ":m", "copying", "0", writes=True)

    async def copied_until(self) -> int:
        """Return the mark up to which all partitions have everything."""
        marks: list[bytes | None] = await self._everywhere(lambda link: link.ask("HGET", ":m", "copied"))
        return min(0 if mark is None else int(mark) for mark in marks)

    async def put(self, partition: int, mark: int, arguments: Sequence[bytes | str | int]) -> None:
        """Put a batch, once for each mark; marks of a partition only grow."""
        await self._whole(self._opened()[partition].run("put", mark, partition, *arguments, patience=LONG))

    async def put_secrets(self, secrets: Mapping[str, bytes]) -> None:
        """Put what the ledger keeps for itself."""
        for name, value in secrets.items():
            await self._opened()[0].ask("HSET", ":s", name, value, writes=True)

    async def put_trail(self, rows: Sequence[tuple[int, AuditRow]]) -> None:
        """Put the audit trail with its numbers."""
        link = self._opened()[0]
        for number, row in rows:
            body = b"%016d" % number + msgspec.json.encode(row)
            await link.ask("ZADD", f":au:{row.tenant}", number, body, writes=True)
        if rows:
            await link.ask("HSET", ":m", "audit", rows[-1][0], writes=True)
