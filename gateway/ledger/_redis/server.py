"""What a server promises: looked at when the ledger is opened, and said as it is."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from gateway.errors import ConfigurationError, LedgerUnavailable
from gateway.ledger._redis.link import Replicas
from gateway.ledger._redis.topology import commanded, turned_away

__all__ = ["Promises", "examined"]

OLDEST = (7, 0)
WAITS_FOR_DISKS = (7, 2)
PATIENCE_MS = 1000
"""How long a write waits for its replicas."""
_WEAKEST_FIRST = ("memory", "snapshot", "os", "everysec", "always")


class Promises(NamedTuple):
    """How far the servers can be trusted, by the weakest of them."""

    durability: str
    replicas: Replicas | None


async def examined(masters: Sequence[tuple[str, Redis]], replicas: int, *, alone: bool) -> Promises:
    """Read what the servers do with what they are given. `alone`: nobody puts another in the place of this one.

    Raises ConfigurationError for one that may throw it away or lacks what is needed, LedgerUnavailable where one
    does not answer.
    """
    found: list[str] = []
    disks = True
    for name, client in masters:
        try:
            facts = _facts(await commanded(client, "INFO"))
            policy = await _setting(client, "maxmemory-policy") or facts.get("maxmemory_policy", "")
            fsync = await _setting(client, "appendfsync")
            saves = await _setting(client, "save")
        except (RedisError, OSError) as error:
            raise turned_away(name, error) from None
        version = tuple(int(part) for part in facts.get("redis_version", "0.0").split(".")[:2])
        if version < OLDEST:
            raise ConfigurationError(
                f"ledger.url: the server {name} is Redis {facts.get('redis_version')}: 7.0 or newer is needed"
            )
        if policy != "noeviction":
            raise ConfigurationError(
                f"ledger.url: the server {name} has maxmemory-policy {policy!r} and would throw events away when it is"
                " full: set it to noeviction, on a server that is not also a cache"
            )
        if facts.get("role") != "master" and not alone:
            raise LedgerUnavailable(f"the Redis server {name} was the master a moment ago: begin again")
        if facts.get("role") != "master":
            raise ConfigurationError(
                f"ledger.url: the server {name} is a replica: name the master, its sentinels (redis+sentinel://) or"
                " the cluster (redis+cluster://)"
            )
        disks = disks and version >= WAITS_FOR_DISKS
        found.append(_class(facts, fsync, saves))
    durability = min(found, key=_WEAKEST_FIRST.index)
    waiting = None
    if replicas:
        waiting = Replicas(replicas, synced=disks and durability == "always", milliseconds=PATIENCE_MS)
        durability += f"+{replicas} replica{'' if replicas == 1 else 's'}"
    return Promises(durability, waiting)


def _class(facts: dict[str, str], fsync: str | None, saves: str | None) -> str:
    """Return what survives what, in a word."""
    if facts.get("aof_enabled") != "1":
        return "snapshot" if saves else "memory"
    # Who may not ask is told of the usual setting, which is not the strongest.
    return {"always": "always", "everysec": "everysec", "no": "os", None: "everysec"}.get(fsync, "everysec")


async def _setting(client: Redis, name: str) -> str | None:
    """Return a setting, `None` where the server does not tell."""
    try:
        answer: list[Any] = await commanded(client, "CONFIG", "GET", name)
    except AuthenticationError:
        raise
    except RedisError as error:
        if isinstance(error, ConnectionError) or "onnect" in type(error).__name__:
            raise
        return None
    return answer[1].decode() if len(answer) == 2 else None


def _facts(info: bytes | str) -> dict[str, str]:
    text = info.decode() if isinstance(info, bytes) else info
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
