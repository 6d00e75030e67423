"""The ledger on Redis: accepting, delivering and remembering, on a server of this machine, beside floor and sender."""

import contextlib
import shutil
from collections.abc import Generator
from pathlib import Path

from bench.accept import SIZES, TURNS, warm
from bench.events import bodies
from bench.flow import drained
from bench.handle import spawned
from bench.load import as_requests
from bench.measure import Bench, Figure, Goal, Sample, posted
from bench.setting import FOUR
from canonical_schema import fingerprint
from gateway.intake import parse
from gateway.ledger import Change, Code, Plan, Portion
from gateway.ledger._redis.address import Address
from gateway.ledger.redis import RedisLedger
from tests.redis_servers import Server

__all__ = ["redis", "server_of", "url_of"]

GOALS = {1: Goal(">=", 0.85), 1000: Goal(">=", 0.60)}
FSYNC = ("everysec", "always")


async def redis(bench: Bench) -> None:
    """Each way of writing to disk: bodies of 1 and 1000 events, four providers; then what is remembered, in bytes."""
    for fsync in FSYNC:
        with server_of(bench, fsync) as server:
            await _accepted(bench, fsync, url_of(server))
        with server_of(bench, fsync) as server:
            goal = Goal(">=", 0.5)
            count, turns = bench.pick(10_000, 40_000), bench.pick(2, 5)
            await drained(bench, f"four providers, Redis {fsync}", FOUR, count, turns, goal, url_of(server))
    with server_of(bench, "everysec") as server:
        await _memory(bench, server)


@contextlib.contextmanager
def server_of(bench: Bench, fsync: str) -> Generator[Server]:
    """Run a server for as long as this lasts."""
    folder: Path = bench.folder / f"redis-{bench.prefix()}"
    server = Server(folder, {"appendfsync": fsync})
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


def url_of(server: Server) -> str:
    """Return where the ledger on a server is."""
    return f"redis://127.0.0.1:{server.port}/0"


async def _accepted(bench: Bench, fsync: str, ledger: str) -> None:
    url = bench.providers.url
    for size, goal in GOALS.items():
        connections, quick, full = SIZES[size]
        count = bench.pick(quick, full)
        async with spawned("service", url, kind="floor") as floor, spawned("service", url, ledger=ledger) as gateway:
            turns: dict[str, list[Sample]] = {"floor": [], "gateway": []}
            for child in (floor, gateway):
                await warm(child, bench, size)
            for _ in range(bench.pick(*TURNS)):
                requests = as_requests(bodies(bench.prefix(), count, size))
                for name, child in (("floor", floor), ("gateway", gateway)):
                    sample, _ = await posted(child, requests, count, connections)
                    turns[name].append(sample)
        what = f"ack=stored, {size} a body, Redis {fsync}"
        bench.add("redis", what, turns["gateway"], against="floor", base=turns["floor"], goal=goal)


async def _memory(bench: Bench, server: Server) -> None:
    """What an event takes in memory while it waits for one provider, and its id once it is settled and trimmed."""
    count = bench.pick(20_000, 200_000)
    ledger = RedisLedger(Address.read(url_of(server)))
    await ledger.open()
    try:
        before = _used(server)
        for body in bodies(bench.prefix(), count, 1000):
            events = list(parse(body, "application/json", 1000))
            await ledger.record("default", 1_700_000_000_000_000, events, [Plan(live=("a",))] * 1000)
        queued = _used(server)
        while works := await ledger.take("a", 2**52, 1000):
            portions = [Portion(work=work, members=work.members, parts=[[] for _ in work.members]) for work in works]
            numbers = await ledger.intend(portions, 2**52)
            await ledger.settle(
                [
                    Change(
                        work=number,
                        batch=work.batch,
                        destination="a",
                        members=work.members,
                        code=Code.ACCEPTED,
                        group=None,
                    )
                    for number, work in zip(numbers, works, strict=True)
                ],
                [],
            )
        for batch in await ledger.batches_after(0, count):
            shot = (await ledger.snapshots([batch]))[batch]
            assert not await ledger.trim({batch: b"".join(map(fingerprint, shot.events))}, None, None)
        settled = _used(server)
    finally:
        await ledger.close()
    for what, used, goal in (
        ("settled id", settled, Goal("<=", 96)),
        ("queued event with its id", queued, Goal("<=", 96 + 50)),
    ):
        each = (used - before) / count
        bench.figures.append(Figure("redis", f"memory, {what}", value=each, goal=goal, note=f"{each:.0f} B"))


def _used(server: Server) -> int:
    return int(server.command("INFO", "memory")["used_memory"])
