"""Growth: what accepting and delivering cost with few and with millions of events in the ledger."""

import statistics
from contextlib import AsyncExitStack
from pathlib import Path

from bench.events import bodies, identities
from bench.handle import Child, spawned
from bench.load import as_requests
from bench.measure import Bench, Figure, Goal, Sample, posted
from bench.setting import FOUR

__all__ = ["growth"]

QUICK = (10_000, 200_000)
FULL = (10_000, 1_000_000, 5_000_000)


async def growth(bench: Bench) -> None:
    """Ledgers of several sizes side by side: the same bodies accepted, then drained, by turns."""
    sizes = QUICK if bench.quick else FULL
    ledgers: dict[int, Path] = {}
    for size in sizes:
        ledgers[size] = bench.ledger()
        async with spawned("service", bench.providers.url, ledger=ledgers[size], serve=False) as child:
            await child.ask("settled_fill", prefix=bench.prefix(), events=size)
    on_disk = {size: path.stat().st_size / size for size, path in ledgers.items()}
    accepted: dict[int, list[Sample]] = {size: [] for size in sizes}
    drained: dict[int, list[Sample]] = {size: [] for size in sizes}
    async with AsyncExitStack() as stack:
        children: dict[int, Child] = {
            size: await stack.enter_async_context(spawned("service", bench.providers.url, ledger=path))
            for size, path in ledgers.items()
        }
        fresh = {size: (await child.ask("usage"))["resident"] for size, child in children.items()}
        for turn in range(bench.pick(2, 5) + 1):  # the first is for warming up
            count = bench.pick(3_000, 20_000) if turn else 1_000
            for size, child in children.items():
                prefix = bench.prefix()
                taken, _ = await posted(child, as_requests(bodies(prefix, count, 1000)), count, 4)
                said = await child.ask("drain")
                bench.providers.check({name: identities(prefix, count) for name in FOUR})
                if turn:
                    accepted[size].append(taken)
                    drained[size].append(Sample(count, said["seconds"], said["cpu"]))
        busy = {size: (await child.ask("usage"))["resident"] for size, child in children.items()}
    _told(bench, "accept", accepted)
    _told(bench, "drain", drained)
    for size, child in children.items():
        last = size == sizes[-1]
        bench.figures.append(
            Figure(
                "growth",
                f"ledger with {size:,} events",
                goal=Goal("<=", 250, "MiB") if last else None,
                value=busy[size],
                note=f"{busy[size]:.0f} MiB resident ({fresh[size]:.0f} just opened), "
                f"{on_disk[size]:.0f} B an event on disk, opened in {child.opened * 1000:.0f} ms",
            )
        )


def _told(bench: Bench, what: str, turns: dict[int, list[Sample]]) -> None:
    """Keep the figures of each size; the ratio is of costs, so that more is worse."""
    sizes = list(turns)
    first = turns[sizes[0]]
    for size in sizes:
        figure = bench.add("growth", f"{what}, {size:,} events before", turns[size])
        if size != sizes[0]:
            pairs = list(zip(turns[size], first, strict=True))
            figure.against = f"{sizes[0]:,} (cost)"
            figure.ratio = statistics.median(
                [one.seconds / one.events / (other.seconds / other.events) for one, other in pairs]
            )
            figure.cpu_ratio = statistics.median([one.cost / other.cost for one, other in pairs])
            figure.goal = Goal("<=", 2)
