"""Redis as it grows sideways: what the server could take at most, one to four processes, one to three masters.

Clients, gateways and servers share the processors of one machine. Where there are two, more processes cannot take in
more by the clock: read the costs, which say what each event takes of all of them together.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from bench.accept import SIZES, TURNS
from bench.events import bodies, texts
from bench.handle import Child, spawned
from bench.load import as_requests, closed
from bench.measure import Bench, Figure, Goal, Sample, ratio
from bench.redis import server_of, url_of
from tests.redis_servers import Cluster, Server

__all__ = ["scaling"]

PIPELINE = 64
PROCESSES = (1, 2, 4)


async def scaling(bench: Bench) -> None:
    """Accepting beside bare XADDs; then over more processes, and over more masters."""
    with server_of(bench, "always") as server:
        await _ceiling(bench, server)
    with server_of(bench, "always") as server:
        await _processes(bench, server)
    with contextlib.ExitStack() as stack:
        alone = stack.enter_context(server_of(bench, "always"))
        folder = bench.folder / f"cluster-{bench.prefix()}"
        cluster = Cluster(folder, replicas=False)
        stack.callback(shutil.rmtree, folder)
        stack.callback(cluster.kill)
        for server in cluster.masters:  # none is to be taken for dead because it is busy
            server.command("CONFIG", "SET", "cluster-node-timeout", 60_000)
        await _masters(bench, alone, cluster)


def spent(servers: Sequence[Server]) -> list[float]:
    """Return the processor seconds of each server so far."""
    told = [server.command("INFO", "cpu") for server in servers]
    return [float(one["used_cpu_user"]) + float(one["used_cpu_sys"]) for one in told]


async def _posted(children: Sequence[Child], prefix: str, count: int) -> tuple[float, float]:
    """Send events of 1000 a body evenly to several processes; return the seconds, and their processor seconds."""
    connections = SIZES[1000][0]
    requests = as_requests(bodies(prefix, count, 1000))
    before = [await child.cpu() for child in children]
    share = [requests[at :: len(children)] for at in range(len(children))]
    runs = await asyncio.gather(
        *(closed(child.port, some, connections, patience=120) for child, some in zip(children, share, strict=True))
    )
    for run in runs:
        run.require(202)
    after = [await child.cpu() for child in children]
    return max(run.seconds for run in runs), sum(after) - sum(before)


async def _ceiling(bench: Bench, server: Server) -> None:
    count = bench.pick(20_000, 100_000)
    bare: list[Sample] = []
    taken: list[Sample] = []
    async with spawned("service", bench.providers.url, ledger=url_of(server)) as gateway:
        await _posted([gateway], bench.prefix(), count // 4)
        for _ in range(bench.pick(*TURNS)):
            (before,) = spent([server])
            seconds = await asyncio.to_thread(_added, server.port, list(texts(bench.prefix(), count)))
            (after,) = spent([server])
            bare.append(Sample(count, seconds, after - before))
            server.command("DEL", "bench")
            seconds, cpu = await _posted([gateway], bench.prefix(), count)
            taken.append(Sample(count, seconds, cpu))
    bench.add("scaling", f"XADD an event, {PIPELINE} in flight, Redis always", bare, note="CPU: of the server")
    bench.add(
        "scaling", "ack=stored, 1000 a body, Redis always", taken, against="bare XADD", base=bare, goal=Goal(">=", 0.5)
    )


def _added(port: int, events: Sequence[str]) -> float:
    """Add each event to a stream, over one connection, and return the seconds."""
    commands: list[bytes] = []
    for event in events:
        body = event.encode()
        commands.append(b"*5\r\n$4\r\nXADD\r\n$5\r\nbench\r\n$1\r\n*\r\n$1\r\ne\r\n$%d\r\n%s\r\n" % (len(body), body))
    trips = [b"".join(commands[at : at + PIPELINE]) for at in range(0, len(commands), PIPELINE)]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        for place, trip in enumerate(trips):
            connection.sendall(trip)
            missing = 2 * min(PIPELINE, len(commands) - place * PIPELINE)  # each answer has a length and an id
            while missing:
                missing -= connection.recv(65536).count(b"\r\n")
        return time.perf_counter() - began


async def _processes(bench: Bench, server: Server) -> None:
    count = bench.pick(24_000, 120_000)
    turns: dict[int, list[Sample]] = {number: [] for number in PROCESSES}
    async with AsyncExitStack() as stack:
        url, ledger = bench.providers.url, url_of(server)
        children = [
            await stack.enter_async_context(spawned("service", url, ledger=ledger)) for _ in range(PROCESSES[-1])
        ]
        await _posted(children, bench.prefix(), count // 2)
        for _ in range(bench.pick(*TURNS)):
            for number in PROCESSES:
                (before,) = spent([server])
                seconds, cpu = await _posted(children[:number], bench.prefix(), count)
                turns[number].append(Sample(count, seconds, cpu + spent([server])[0] - before))
    first = turns[1]
    for number in PROCESSES:
        what = f"ack=stored, 1000 a body, {number} process{'' if number == 1 else 'es'}"
        figure = bench.add("scaling", what, turns[number], note="CPU: with the server's")
        if number > 1:
            figure.against = "one process"
            figure.ratio = ratio([turn.rate for turn in turns[number]], [turn.rate for turn in first])
            figure.cpu_ratio = ratio([turn.cost for turn in first], [turn.cost for turn in turns[number]])
            figure.note += f"; efficiency by cost {figure.cpu_ratio:.2f}, {os.cpu_count()} processors for all"


async def _masters(bench: Bench, alone: Server, cluster: Cluster) -> None:
    count = bench.pick(24_000, 120_000)
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in cluster.masters)
    places = {1: ([alone], url_of(alone)), 3: (cluster.masters, f"redis+cluster://{hosts}")}
    turns: dict[int, list[Sample]] = {number: [] for number in places}
    busiest: dict[int, list[float]] = {number: [] for number in places}
    async with AsyncExitStack() as stack:
        children = {
            number: await stack.enter_async_context(spawned("service", bench.providers.url, ledger=ledger))
            for number, (_, ledger) in places.items()
        }
        for child in children.values():
            await _posted([child], bench.prefix(), count // 4)
        for _ in range(bench.pick(*TURNS)):
            for number, (servers, _) in places.items():
                before = spent(servers)
                seconds, cpu = await _posted([children[number]], bench.prefix(), count)
                each = [after - one for after, one in zip(spent(servers), before, strict=True)]
                turns[number].append(Sample(count, seconds, cpu + sum(each)))
                busiest[number].append(max(each) / count * 1e6)
    one, three = turns[1], turns[3]
    bench.add("scaling", "ack=stored, 1000 a body, 1 master", one, note="CPU: with the server's")
    figure = bench.add("scaling", "ack=stored, 1000 a body, 3 masters", three, against="one master")
    figure.ratio = ratio([turn.rate for turn in three], [turn.rate for turn in one])
    figure.cpu_ratio = ratio([turn.cost for turn in one], [turn.cost for turn in three])
    figure.note = f"CPU: with the servers'; {os.cpu_count()} processors for all"
    efficiency = ratio(busiest[1], busiest[3]) / 3
    bench.figures.append(
        Figure(
            "scaling",
            "what the busiest of 3 masters takes an event",
            cost=sorted(busiest[3])[len(busiest[3]) // 2],
            against="a third of one alone",
            ratio=efficiency,
            note="efficiency, were the masters on machines of their own and the gateways many",
        )
    )
