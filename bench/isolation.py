"""A destination that takes connections and never answers: what the others, and the senders, notice of it."""

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from bench.events import bodies, event_id
from bench.fakes import FastProviders
from bench.handle import Child, spawned
from bench.load import as_requests
from bench.measure import Bench, Figure, Goal, percentile, ratio
from bench.pacing import paced
from bench.setting import FOUR

__all__ = ["isolation"]

HOLE = "flexprice"
"""It tells repeats, so that its lane asks again and again, and all that it was to have piles up."""
OTHERS = tuple(name for name in FOUR if name != HOLE)
PATIENCE = "1s"
"""Of a request, so that its lane meets many time-outs in a turn and not one."""
RATE, SIZE = 100, 10
"""Requests a second, and events in each: a small part of what one core delivers, so that nothing waits for it."""
CONNECTIONS = 16
TURNS = (12, 60)
"""Quick and full. Short ones, a second each, so that whatever else the machine does meets both gateways alike."""


class Seen(NamedTuple):
    """One turn, in seconds."""

    answers: list[float]
    """From when a request was due to its answer."""
    deliveries: list[float]
    """From that answer to when one of the others has an event of the request; none where it had it before."""


HOLED, ANSWERED, WITHOUT = "one never answers", "all answer", "without that one"


async def isolation(bench: Bench) -> None:
    """Three gateways under the same load, turn by turn: of four destinations one never answers, or it does, or is not.

    Beside the first the third has the least to do, and the second the most.
    """
    async with _gateways(bench) as gateways:
        seen: dict[str, list[Seen]] = {name: [] for name in gateways}
        for turn in range(-3, bench.pick(*TURNS)):  # the first are for warming up, and for the first time-outs
            for name in sorted(gateways, reverse=bool(turn % 2)):
                one = await _turn(bench, *gateways[name])
                if turn >= 0:
                    seen[name].append(one)
    _told(bench, seen)


@asynccontextmanager
async def _gateways(bench: Bench) -> AsyncGenerator[dict[str, tuple[Child, FastProviders]]]:
    answering, holed = bench.providers, FastProviders(silent=HOLE)
    await holed.open()
    try:
        async with (
            spawned("service", holed.url, kind="live", ledger=bench.ledger(), patience=PATIENCE) as first,
            spawned("service", answering.url, kind="live", ledger=bench.ledger(), patience=PATIENCE) as second,
            spawned("service", answering.url, kind="live", ledger=bench.ledger(), destinations=OTHERS) as third,
        ):
            yield {HOLED: (first, holed), ANSWERED: (second, answering), WITHOUT: (third, answering)}
    finally:
        await holed.close()


async def _turn(bench: Bench, child: Child, providers: FastProviders) -> Seen:
    """Send for a second, and return what was seen once the others have everything."""
    prefix, events = bench.prefix(), RATE * SIZE
    requests = as_requests(bodies(prefix, events, SIZE))
    providers.forget()
    providers.timed = True
    gc.collect()
    gc.disable()  # this process's pauses are not the gateway's
    try:
        run = await asyncio.to_thread(paced, child.port, requests, RATE, CONNECTIONS)
        run.require(202)
        came = await _all(providers, events)
    finally:
        gc.enable()
        providers.timed = False
    answered = {
        event_id(prefix, number * SIZE + place).encode(): when for number, when in run.answered for place in range(SIZE)
    }
    return Seen(run.latencies, [max(0.0, came[name][key] - when) for name in OTHERS for key, when in answered.items()])


async def _all(providers: FastProviders, events: int) -> Mapping[str, Mapping[bytes, float]]:
    """Return when each of the others got each event, once they have them all. Raises AssertionError otherwise."""
    until = time.monotonic() + 30
    while any(len(providers.came[name]) < events for name in OTHERS):
        if time.monotonic() > until:
            raise AssertionError(f"not delivered: { {name: len(providers.came[name]) for name in OTHERS} } of {events}")
        await asyncio.sleep(0.01)
    if any(len(providers.stored[name]) != events for name in OTHERS):
        raise AssertionError("an event came twice")
    return providers.came


def _told(bench: Bench, seen: Mapping[str, Sequence[Seen]]) -> None:
    for what, of in (("answer, ack=stored", "answers"), ("the others have it, after the answer", "deliveries")):
        high = {name: [percentile(getattr(one, of), 99) for one in turns] for name, turns in seen.items()}
        for name in (WITHOUT, ANSWERED, HOLED):
            middle = statistics.median(percentile(getattr(one, of), 50) for one in seen[name])
            note = f"p50 {middle * 1000:.2f} ms, p99 {statistics.median(high[name]) * 1000:.2f} ms"
            bench.figures.append(Figure("isolation", f"{what}: {name}", note=note))
        for base in (WITHOUT, ANSWERED):
            figure = Figure("isolation", f"{what}: {HOLED}", against=f"p99, {base}")
            figure.ratio = ratio(high[HOLED], high[base])
            # One that is not there costs nothing at all, not even a place in the ledger: that is no goal.
            figure.goal = Goal("<=", 1.1) if base == ANSWERED else None
            bench.figures.append(figure)
