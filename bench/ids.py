"""Redis with a past: what taking in and settling cost with ten thousand and with millions of ids remembered."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.events import texts
from bench.measure import Bench, Goal, Sample
from bench.redis import server_of, url_of
from bench.scaling import spent
from canonical_schema import Event, read_event
from gateway.ledger import Change, Code, Plan, Portion
from gateway.ledger._redis.address import Address
from gateway.ledger.redis import RedisLedger
from tests.redis_servers import Server

__all__ = ["ids"]

QUICK = (10_000, 100_000)
FULL = (10_000, 1_000_000, 5_000_000)
SIZE = 1000
PLAN = Plan(live=("a",))
NOW = 1_700_000_000_000_000


async def ids(bench: Bench) -> None:
    """Servers that remember few and many ids, by turns: the same events recorded, then taken, intended and settled.

    Costs are of this process and the server together, without HTTP.
    """
    sizes = QUICK if bench.quick else FULL
    with ExitStack() as stack:
        servers = {size: stack.enter_context(server_of(bench, "everysec")) for size in sizes}
        ledgers = {size: RedisLedger(Address.read(url_of(server))) for size, server in servers.items()}
        taken: dict[int, list[Sample]] = {size: [] for size in sizes}
        settled: dict[int, list[Sample]] = {size: [] for size in sizes}
        try:
            for size, ledger in ledgers.items():
                await ledger.open()
                for start in range(0, size, 50_000):
                    count = min(50_000, size - start)
                    await _record(ledger, _made(f"{bench.prefix()}", count))
                    await _settle(ledger)
            count = bench.pick(10_000, 40_000)
            for turn in range(bench.pick(2, 7) + 1):  # the first is for warming up
                for size, ledger in ledgers.items():
                    events = _made(bench.prefix(), count)
                    for done, kept in ((_record(ledger, events), taken), (_settle(ledger), settled)):
                        before, began = _spent(servers[size]), time.perf_counter()
                        await done
                        if turn:
                            kept[size].append(
                                Sample(count, time.perf_counter() - began, _spent(servers[size]) - before)
                            )
        finally:
            for ledger in ledgers.values():
                await ledger.close()
    _told(bench, "recorded", taken)
    _told(bench, "taken, intended and settled", settled)


def _spent(server: Server) -> float:
    return time.process_time() + spent([server])[0]


def _made(prefix: str, count: int) -> list[Event]:
    return [read_event(text.encode()) for text in texts(prefix, count)]


async def _record(ledger: RedisLedger, events: Sequence[Event]) -> None:
    for start in range(0, len(events), SIZE):
        some = events[start : start + SIZE]
        await ledger.record("default", NOW, some, [PLAN] * len(some))


async def _settle(ledger: RedisLedger) -> None:
    while works := await ledger.take("a", 2**52, SIZE):
        portions = [Portion(work=one, members=one.members, parts=[[] for _ in one.members]) for one in works]
        numbers = await ledger.intend(portions, 2**52)
        changes = [
            Change(work=number, batch=one.batch, destination="a", members=one.members, code=Code.ACCEPTED, group=None)
            for number, one in zip(numbers, works, strict=True)
        ]
        await ledger.settle(changes, [])


def _told(bench: Bench, what: str, turns: dict[int, list[Sample]]) -> None:
    """Keep the figures of each size; the ratio is of costs, so that more is worse."""
    sizes = list(turns)
    first = turns[sizes[0]]
    for size in sizes:
        figure = bench.add("ids", f"{what}, {size:,} ids before", turns[size], note="CPU: with the server's")
        if size != sizes[0]:
            pairs = list(zip(turns[size], first, strict=True))
            figure.against = f"{sizes[0]:,} (cost)"
            figure.ratio = statistics.median([one.seconds / other.seconds for one, other in pairs])
            figure.cpu_ratio = figure.value = statistics.median([one.cost / other.cost for one, other in pairs])
            figure.goal = Goal("<=", 1.2)
