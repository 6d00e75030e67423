"""Delivering: the lanes against a bare sender, the whole way, and what people write without a gateway."""

from collections.abc import Sequence

from bench.events import bodies, identities
from bench.handle import Child, spawned
from bench.load import as_requests
from bench.measure import Bench, Goal, Sample, posted
from bench.setting import EVENTS_DOOR, FOUR

__all__ = ["drain", "drained", "end", "today"]

SLOW = 0.05
"""Seconds that a slow provider takes."""


def _sample(events: int, said: dict[str, float]) -> Sample:
    return Sample(events, said["seconds"], said["cpu"])


async def drain(bench: Bench) -> None:
    """Stored events, read back from disk, to fast providers; beside ready bodies of the same sizes."""
    await drained(bench, "four providers", FOUR, bench.pick(10_000, 40_000), bench.pick(2, 5), Goal(">=", 0.5))
    for name in FOUR:
        goal = Goal(">=", 0.7 if name == "flowglad" else 0.5)
        await drained(bench, f"{name} alone", [name], bench.pick(3_000, 20_000), bench.pick(2, 3), goal)
    count = bench.pick(600, 5_000)
    await drained(bench, "paygentic, one row a request", [EVENTS_DOOR], count, bench.pick(2, 3), None)


async def drained(
    bench: Bench,
    what: str,
    destinations: Sequence[str],
    count: int,
    rounds: int,
    goal: Goal | None,
    ledger: str | None = None,
) -> None:
    """Drain what was stored to some providers, beside a sender of ready bodies. `ledger`: a server, else a file."""
    url = bench.providers.url
    async with (
        spawned("service", url, ledger=ledger or bench.ledger(), destinations=destinations, serve=False) as lanes,
        spawned("sender", url, destinations=destinations) as sender,
        spawned("books", url, destinations=destinations) as books,
    ):
        turns: dict[str, list[Sample]] = {"lanes": [], "sender": [], "books": []}
        ready, times = bench.prefix(), 10 if len(destinations) == 1 else 5
        await sender.ask("prepare", prefix=ready, events=count // 2, rows=None)
        for turn in range(rounds + 1):  # the first is for warming up
            said = await sender.ask("send", times=times)
            bench.providers.check({name: identities(ready, count // 2) for name in destinations}, times)
            events, prefix = count if turn else count // 10, bench.prefix()
            await lanes.ask("fill", prefix=prefix, events=events, size=1000)
            await lanes.ask("reopen")
            took = await lanes.ask("drain")
            bench.providers.check({name: identities(prefix, events) for name in destinations})
            prefix = bench.prefix()
            await books.ask("fill", prefix=prefix, events=events)
            kept = await books.ask("drain")
            bench.providers.check({name: identities(prefix, events) for name in destinations})
            if turn:
                turns["sender"].append(_sample(count // 2 * times, said))
                turns["books"].append(_sample(events, kept))
                turns["lanes"].append(_sample(events, took))
        await _all_accepted(lanes, destinations, count * rounds + count // 10)
    bench.add("drain", f"bare aiohttp sender, {what}", turns["sender"])
    bench.add(
        "drain", f"the least that keeps books, {what}", turns["books"], against="bare sender", base=turns["sender"]
    )
    bench.add("drain", f"lanes, {what}", turns["lanes"], against="bare sender", base=turns["sender"], goal=goal)


async def _all_accepted(child: Child, destinations: Sequence[str], events: int) -> None:
    found = await child.ask("counts")
    wanted = {name: {"accepted": events} for name in destinations}
    if found != wanted:
        raise AssertionError(f"the ledger says {found}, not {wanted}")


async def _through(bench: Bench, child: Child, count: int, size: int, connections: int) -> Sample:
    """Send events to a live gateway; the turn ends when every provider has every event and the ledger knows it."""
    prefix, before = bench.prefix(), await child.cpu()
    requests = as_requests(bodies(prefix, count, size))
    sent, _ = await posted(child, requests, count, connections)
    waited = await child.ask("timed_settled")
    bench.providers.check({name: identities(prefix, count) for name in FOUR})
    return Sample(count, sent.seconds + waited, await child.cpu() - before)


async def end(bench: Bench) -> None:
    """Bodies of 1000 events, accepted and delivered to four providers; the floor beside it."""
    url, count = bench.providers.url, bench.pick(4_000, 60_000)
    async with (
        spawned("service", url, kind="floor") as floor,
        spawned("service", url, kind="live", ledger=bench.ledger()) as live,
    ):
        turns: dict[str, list[Sample]] = {"floor": [], "live": []}
        for turn in range(bench.pick(2, 5) + 1):
            events = count if turn else count // 4
            base, _ = await posted(floor, as_requests(bodies(bench.prefix(), events, 1000)), events, 4)
            sample = await _through(bench, live, events, 1000, 4)
            if turn:
                turns["floor"].append(base)
                turns["live"].append(sample)
    bench.add("end", "floor, 1000 a body", turns["floor"])
    figure = bench.add(
        "end", "accepted and delivered to four, 1000 a body", turns["live"], against="floor", base=turns["floor"]
    )
    figure.goal, figure.value = Goal(">=", 100_000, "events/s"), figure.rate
    figure.note = f"{1e6 / (figure.cost or 1):,.0f} events a processor second"


async def today(bench: Bench) -> None:
    """A loop over the events with a call to each provider, against bodies of 100 to the gateway, to the end."""
    await _today(bench, "", bench.pick(100, 500), bench.pick(3_000, 20_000), Goal(">=", 100), None)
    bench.providers.delay = SLOW
    try:
        what = f", providers take {SLOW * 1000:.0f} ms"
        await _today(bench, what, bench.pick(6, 20), bench.pick(3_000, 40_000), Goal(">=", 5_000), 64)
    finally:
        bench.providers.delay = 0.0


async def _today(bench: Bench, what: str, few: int, many: int, goal: Goal, in_flight: int | None) -> None:
    url = bench.providers.url
    async with (
        spawned("loop", url) as loop,
        spawned("service", url, kind="live", ledger=bench.ledger(), in_flight=in_flight) as live,
    ):
        turns: dict[str, list[Sample]] = {"sequence": [], "gather": [], "gateway": []}
        await _through(bench, live, many // 10, 100, 8)
        for _ in range(bench.pick(2, 3)):
            for way in ("sequence", "gather"):
                prefix = bench.prefix()
                await loop.ask("prepare", prefix=prefix, events=few, rows=1)
                said = await loop.ask("send", way=way)
                bench.providers.check({name: identities(prefix, few) for name in FOUR})
                turns[way].append(_sample(few, said))
            turns["gateway"].append(await _through(bench, live, many, 100, 8))
    bench.add("today", f"httpx, four calls in sequence{what}", turns["sequence"])
    bench.add("today", f"httpx, four calls gathered{what}", turns["gather"])
    note = "" if in_flight is None else f"{in_flight} in flight"
    for way, held in (("sequence", goal), ("gather", None)):
        bench.add(
            "today",
            f"gateway, 100 a body, to the end{what}",
            turns["gateway"],
            against=f"httpx {'in sequence' if way == 'sequence' else 'gathered'}",
            base=turns[way],
            goal=held,
            note=note,
        )
