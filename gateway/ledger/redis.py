"""The ledger on Redis: for several processes and machines. Each call is a script that does once what is asked twice.

What belongs to one batch lies in one partition; a server has one partition, a cluster several, fixed when the ledger
is begun. An id always falls into the same one.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import structlog

from gateway.errors import LedgerUnavailable
from gateway.ledger._redis.address import Address
from gateway.ledger._redis.aging import Aging
from gateway.ledger._redis.checking import Checking
from gateway.ledger._redis.layout import PARTITIONS
from gateway.ledger._redis.limiting import Limiting
from gateway.ledger._redis.link import BRIEF, Link
from gateway.ledger._redis.owners import HORIZON, Owners, here
from gateway.ledger._redis.receiving import Receiving
from gateway.ledger._redis.routing import Routing
from gateway.ledger._redis.server import examined
from gateway.ledger._redis.topology import Topology, partition_tag
from gateway.ledger._redis.working import Working

__all__ = ["RedisLedger"]

log = structlog.get_logger()

VERSION = 1


class RedisLedger(Aging, Working, Routing, Checking, Receiving, Limiting):
    """A `Ledger` on a Redis server, a master with replicas, or a cluster. For many processes at a time."""

    shared = True

    def __init__(
        self,
        address: Address,
        *,
        replicas: int = 0,
        lease: timedelta = timedelta(seconds=60),
        timeout: timedelta = timedelta(seconds=5),
        patience: timedelta = timedelta(seconds=BRIEF),
        partitions: int | None = None,
        tls: Mapping[str, Any] | None = None,
        observer: bool = False,
    ) -> None:
        """`observer`: this process looks on, and never sends.

        `lease`: after how long without a heartbeat a process counts as gone; longer than a request may take.

        `timeout`: what the server may take for an answer. `patience`: how long trouble is waited out before what can
        be refused is refused.

        `partitions` counts where the ledger is begun, and never after; absent: two for each master of a cluster.
        """
        super().__init__(Owners(lease.total_seconds()))
        self.durability = "unknown"
        self._address = address
        self._replicas = replicas
        self._wanted = partitions
        self._patience = patience.total_seconds()
        self._topology = Topology(address, timeout=timeout.total_seconds(), tls=tls or {})
        self._first = Link(self._topology, partition_tag(0, 1), brief=self._patience)
        """Where it stands which ledger this is, also where that is no partition."""
        self._providers: Mapping[str, str] = {}
        self._beating: asyncio.Task[None] | None = None
        self._taking_back: asyncio.Task[None] | None = None
        self._observer = observer

    @property
    def fenced(self) -> bool:
        """Whether this process was not heard of for so long that others may take it for gone."""
        return self._owners.fenced

    @property
    def lapses(self) -> int:
        """How often others may have taken this process for gone."""
        return self._owners.lapses

    @property
    def leads(self) -> bool:
        """Whether this process does what one alone may do."""
        return self._owners.leads

    async def lease(self, name: str) -> bool:
        self._guard()
        holder: bytes = await self._whole(self._leased(name))
        if holder and holder not in self._owners.living:
            await self._beat()
            if holder not in self._owners.living:  # this machine knows that it ended, whenever it was last heard of
                holder = await self._whole(self._leased(name, gone=holder))
        return not holder

    async def give_back(self, name: str) -> None:
        await self._whole(self._leased(name, back=True))

    async def _leased(self, name: str, *, gone: bytes = b"", back: bool = False) -> bytes:
        lease = round(self._owners.lease * 1000)
        return await self._opened()[0].run("lease", self._owners.name, name, gone, int(back), lease)

    @property
    def others(self) -> int:
        """How many processes were heard of that share the ledger with this one."""
        return len(self._owners.living) - 1

    @property
    def limits(self) -> Limiting:
        """What has left against the rate limits, counted for all processes."""
        return self

    async def open(self) -> None:
        """Find the server, look whether it can be trusted, and begin the ledger where there is none.

        Raises ConfigurationError for a server that may throw things away, LedgerUnavailable where none answers.
        """
        try:
            masters = await self._topology.masters()
            promises = await examined(masters, self._replicas, alone=self._address.shape == "single")
            self.durability = promises.durability
            usual = min(PARTITIONS, 2 * len(masters)) if self._address.shape == "cluster" else 1
            partitions = await self._begun(self._wanted or usual)
            self._links = [
                Link(
                    self._topology,
                    partition_tag(number, partitions),
                    brief=self._patience,
                    connected=self._batches.forget,
                )
                for number in range(partitions)
            ]
            for link in self._links:
                link.replicas = promises.replicas
            if not self._observer:
                if await self._links[0].ask("HGET", ":m", "copying") == b"1":
                    raise LedgerUnavailable("a copy into this ledger has not ended: run `ledger copy` again")
                await self._beat()
            await self._learn()
        except BaseException:
            await self._let_go()
            raise
        if not self._observer:
            self._beating = asyncio.create_task(self._keep_beating())
            self._taking_back = asyncio.create_task(self._keep_taking_back())

    async def ready(self) -> str | None:
        # As intake does: what cannot be written now, on as many copies as it waits for, cannot be promised.
        links = self._opened()
        asked = (link.ask("SET", ":w", b"", writes=True) for link in links)
        failed = [one for one in await asyncio.gather(*asked, return_exceptions=True) if isinstance(one, Exception)]
        if len(failed) == len(links):
            raise failed[0]
        return f"{len(failed)} of {len(links)} parts of it: {failed[0]}" if failed else None

    async def close(self) -> None:
        """Finish what was asked for, say that this process is gone, and let go of the server."""
        links, self._links = self._links, ()
        tasks = [task for task in (self._beating, self._taking_back) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._calls, return_exceptions=True)
        self._links = links
        if links and not self._observer:
            with contextlib.suppress(LedgerUnavailable):  # it will be missed soon enough
                await links[0].run("beat", self._owners.name, "", HORIZON, 0, patience=0.5)
        await self._let_go()

    async def _let_go(self) -> None:
        links, self._links = self._links, ()
        for link in (*links, self._first):
            await link.close()
        await self._topology.close()

    async def _begun(self, partitions: int) -> int:
        """Return how many partitions the ledger has. Raises LedgerUnavailable for one of a newer version."""
        version, found = await self._first.run("begin", VERSION, partitions)
        if int(version) > VERSION:
            raise LedgerUnavailable(
                f"the ledger has version {int(version)}, and this is a gateway for version {VERSION}: install a newer"
            )
        return int(found)

    async def _keep_beating(self) -> None:
        """Say again and again that this process is there."""
        while True:
            await asyncio.sleep(max(0.05, self._owners.lease / 6))
            with contextlib.suppress(LedgerUnavailable):  # it is tried again; until then nothing new is sent
                await self._beat()

    async def _beat(self) -> None:
        # Of a cluster another master may have it, and nobody makes the ledger newer while that one is away.
        with contextlib.suppress(LedgerUnavailable):
            version: bytes | None = await self._first.ask("HGET", ":m", "version")
            if version is not None and int(version) > VERSION:
                self._newer = int(version)
        lease, asked = round(self._owners.lease * 1000), asyncio.get_running_loop().time()
        self._owners.heard(await self._opened()[0].run("beat", self._owners.name, here(), HORIZON, lease), asked)
