"""Which server answers for a partition at the moment: found out, and found out again when it proves wrong."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, RedisError

from gateway.errors import ConfigurationError, LedgerUnavailable
from gateway.ledger._redis.address import Address
from gateway.ledger._redis.line import resets_told

__all__ = ["SLOTS", "Topology", "commanded", "partition_tag", "turned_away"]

SLOTS = 16384
Place = tuple[str, int]


def partition_tag(partition: int, partitions: int) -> bytes:
    """Return the hash tag of a partition; the tags of several lie evenly over a cluster's slots."""
    if partitions == 1:
        return b"{ug}"
    low, high = (SLOTS * edge // partitions for edge in (partition, partition + 1))
    number = 0
    while not low <= key_slot(b"ug%d.%d" % (partition, number)) < high:
        number += 1
    return b"{ug%d.%d}" % (partition, number)


async def commanded(client: Redis, *words: str | bytes | int | None) -> Any:
    """Return what a server answers to a command, as it says it."""
    with resets_told():
        return await cast("Any", client).execute_command(*words)


def turned_away(name: str, error: Exception) -> ConfigurationError | LedgerUnavailable:
    """Return what it means that a server could not be asked."""
    text = str(error)
    if isinstance(error, AuthenticationError):
        return LedgerUnavailable(f"the Redis server {name} refuses the user or the password: {text}")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = text.partition("CERTIFICATE_VERIFY_FAILED] ")[2]
        return ConfigurationError(
            f"ledger.url: the server {name} shows a certificate that is not trusted ({why}): name who signs for it in"
            " ledger.ca_file, and the server as its certificate does"
        )
    return LedgerUnavailable(f"the Redis server {name} does not answer: {text}")


class Topology:
    """The servers behind an address, each with a client of its own."""

    def __init__(self, address: Address, *, timeout: float, tls: Mapping[str, Any]) -> None:
        """`timeout` is what a server may take for an answer, in seconds."""
        self._address = address
        self._timeout = timeout
        self._tls = tls
        self._clients: dict[Place, Redis] = {}
        self._masters: list[tuple[int, int, Place]] = []
        """First and last slot, and who answers for them."""
        self._looking = asyncio.Lock()
        self._looked = 0

    async def master(self, tag: bytes) -> Redis:
        """Return the client of the server that answers for a tag. Raises LedgerUnavailable where none is known."""
        if not self._masters:
            await self.look_again(self._looked)
        slot = key_slot(tag)
        for first, last, place in self._masters:
            if first <= slot <= last:
                return self._client(place)
        raise LedgerUnavailable("no master of the cluster answers for a part of the ledger")

    async def masters(self) -> list[tuple[str, Redis]]:
        """Return all masters with their names."""
        if not self._masters:
            await self.look_again(self._looked)
        places = dict.fromkeys(place for _, _, place in self._masters)
        return [(f"{host}:{port}", self._client((host, port))) for host, port in places]

    @property
    def looked(self) -> int:
        """How often it was found out who answers."""
        return self._looked

    async def look_again(self, seen: int) -> None:
        """Find out who answers, unless somebody has since it was `seen`. Raises LedgerUnavailable where nobody says."""
        async with self._looking:
            if self._looked != seen:
                return
            match self._address.shape:
                case "single":
                    found = [(0, SLOTS - 1, self._address.hosts[0])]
                case "sentinel":
                    found = await self._ask_sentinels()
                case "cluster":
                    found = await self._ask_cluster()
            self._masters = found
            self._looked += 1

    async def close(self) -> None:
        """Let go of every connection."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def _ask_sentinels(self) -> list[tuple[int, int, Place]]:
        why = ""
        for host, port in self._address.hosts:
            sentinel = self._made(host, port, sentinel=True)
            try:
                found = await commanded(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.master)
                if found:
                    name, number = (one.decode() if isinstance(one, bytes) else str(one) for one in found)
                    return [(0, SLOTS - 1, (name, int(number)))]
            except (RedisError, OSError) as error:
                why = f": {turned_away(f'{host}:{port}', error)}"
            finally:
                await sentinel.aclose()
        raise LedgerUnavailable(f"no sentinel says where the master {self._address.master} is{why}")

    async def _ask_cluster(self) -> list[tuple[int, int, Place]]:
        known = dict.fromkeys([*(place for _, _, place in self._masters), *self._address.hosts])
        why = ""
        for place in known:
            try:
                ranges: list[Any] = await commanded(self._client(place), "CLUSTER", "SLOTS")
            except (RedisError, OSError) as error:
                why = f": {turned_away(f'{place[0]}:{place[1]}', error)}"
                continue
            found: list[tuple[int, int, Place]] = []
            for first, last, master, *_ in ranges:
                # A server that knows no name of its own, or is to tell none, is where the one that was asked is.
                host = master[0].decode() if master[0] else place[0]
                found.append((first, last, (host, int(master[1]))))
            if found:
                return found
        raise LedgerUnavailable(f"no server of the cluster says who its masters are{why}")

    def _client(self, place: Place) -> Redis:
        if place not in self._clients:
            self._clients[place] = self._made(*place)
        return self._clients[place]

    def _made(self, host: str, port: int, *, sentinel: bool = False) -> Redis:
        address = self._address
        client = Redis(
            host=host,
            port=port,
            db=0 if sentinel else address.database,
            username=None if sentinel else address.user,
            password=None if sentinel else address.password,
            protocol=2,
            socket_timeout=self._timeout,
            socket_connect_timeout=min(self._timeout, 3.0),
            # Redis-py repeats commands of its own accord; what is repeated here, and how often, is for `Link` to say.
            retry=Retry(NoBackoff(), 0),
            ssl=address.tls,
            **(self._tls if address.tls else {}),
        )
        client.response_callbacks.clear()  # answers as the server gives them, one way for commands and scripts
        return client
