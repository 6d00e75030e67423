"""Accepting: what it costs to make events durable before the answer, beside a server that only reads them."""

import asyncio
import gc
import statistics

from bench.events import bodies
from bench.handle import Child, spawned
from bench.load import as_requests
from bench.measure import Bench, Figure, Goal, Sample, percentile, posted, ratio
from bench.pacing import paced

__all__ = ["SIZES", "TURNS", "accept", "coalesce", "warm"]

SIZES = {1: (64, 1500, 6_000), 100: (8, 12_000, 60_000), 1000: (4, 20_000, 100_000)}
"""By events a body: connections, and events in a turn, quick and full."""
GOALS = {1: Goal(">=", 0.75), 1000: Goal(">=", 0.60)}
TURNS = (3, 7)
PACED = ((3, 3), (5, 10))
"""Turns at half load and how many seconds of each, quick and full: of a hundred answers one is the 99th percentile."""
WIDE = 64
"""Connections at half load: more than there are requests in flight."""


async def warm(child: Child, bench: Bench, size: int) -> None:
    """Let a process see some of what it will be measured by."""
    connections, count, _ = SIZES[size]
    await posted(child, as_requests(bodies(bench.prefix(), count // 3, size)), count // 3, connections)


async def accept(bench: Bench) -> None:
    """Bodies of 1, 100 and 1000 events with `ack=stored`, against the floor with the same bodies.

    Then how long an answer takes from both, each under half the load that it bore.
    """
    url = bench.providers.url
    for size, (connections, quick, full) in SIZES.items():
        count = bench.pick(quick, full)
        async with (
            spawned("service", url, kind="floor") as floor,
            spawned("service", url, ledger=bench.ledger()) as gateway,
        ):
            turns: dict[str, list[Sample]] = {"floor": [], "gateway": []}
            for child in (floor, gateway):
                await warm(child, bench, size)
            for _ in range(bench.pick(*TURNS)):
                requests = as_requests(bodies(bench.prefix(), count, size))
                for name, child in (("floor", floor), ("gateway", gateway)):
                    sample, _ = await posted(child, requests, count, connections)
                    turns[name].append(sample)
            rates = {name: statistics.median(turn.rate for turn in each) / size / 2 for name, each in turns.items()}
            seen = await _paced(bench, {"floor": floor, "gateway": gateway}, size, rates)
        bench.add("accept", f"floor, {size} a body", turns["floor"])
        bench.add(
            "accept",
            f"ack=stored, {size} a body",
            turns["gateway"],
            against="floor",
            base=turns["floor"],
            goal=GOALS.get(size),
        )
        _told(bench, seen, size, rates)


async def _paced(
    bench: Bench, children: dict[str, Child], size: int, rates: dict[str, float]
) -> dict[str, list[tuple[float, float]]]:
    """Return the median and the 99th percentile of each turn, in seconds."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in children}
    turns, seconds = PACED[0] if bench.quick else PACED[1]
    for _ in range(turns):
        for name, child in children.items():
            count = max(10, int(rates[name] * seconds))
            requests = as_requests(bodies(bench.prefix(), count * size, size))
            gc.collect()
            gc.disable()  # this process's pauses are not the server's
            try:
                run = await asyncio.to_thread(paced, child.port, requests, rates[name], WIDE)
            finally:
                gc.enable()
            run.require(202)
            seen[name].append((percentile(run.latencies, 50), percentile(run.latencies, 99)))
    return seen


def _told(bench: Bench, seen: dict[str, list[tuple[float, float]]], size: int, rates: dict[str, float]) -> None:
    for name, turns in seen.items():
        p50, p99 = (statistics.median(each) * 1000 for each in zip(*turns, strict=True))
        note = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"
        what = "floor" if name == "floor" else "ack=stored"
        figure = Figure("accept", f"{what} at half its load, {size} a body", rate=rates[name] * size, note=note)
        if name != "floor":
            figure.against, figure.goal = "floor's p99", Goal("<=", 1.5)
            figure.ratio = ratio((p99 for _, p99 in turns), (p99 for _, p99 in seen["floor"]))
        bench.figures.append(figure)


async def coalesce(bench: Bench) -> None:
    """One event a body over many connections: flushes shared, against a flush for each request."""
    url, (connections, quick, full) = bench.providers.url, SIZES[1]
    count = bench.pick(quick // 2, full)
    async with (
        spawned("service", url, ledger=bench.ledger()) as shared,
        spawned("service", url, ledger=bench.ledger(), one_by_one=True) as alone,
    ):
        turns: dict[str, list[Sample]] = {"shared": [], "alone": []}
        for child in (shared, alone):
            await warm(child, bench, 1)
        for _ in range(bench.pick(*TURNS)):
            requests = as_requests(bodies(bench.prefix(), count, 1))
            for name, child in (("shared", shared), ("alone", alone)):
                sample, _ = await posted(child, requests, count, connections)
                turns[name].append(sample)
    bench.add("coalesce", "a flush for each request", turns["alone"])
    bench.add(
        "coalesce",
        f"flushes shared, {connections} connections",
        turns["shared"],
        against="not shared",
        base=turns["alone"],
        goal=Goal(">=", 1.6),
    )
