"""The process under test: one role, commands as JSON lines on standard input, answers on standard output."""

import asyncio
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from bench.baselines import Loop, Sender
from bench.books import Books
from bench.events import bodies
from bench.setting import configuration
from canonical_schema import DeliveryStatus, Event, EventStatus
from gateway.accepting import Accepting, Ack
from gateway.answers import Answer
from gateway.app import create_app
from gateway.garbage import collect_rarely
from gateway.intake import Bad, admit, parse
from gateway.ledger import Ledger, SqliteLedger
from gateway.logs import configure
from gateway.opening import ledger_of
from gateway.service import Gateway

FAR = 20_000
"""Deliveries that take longer than it matters when their end is looked for."""
PATIENCE = 600.0
"""Seconds after which a drain that does not end is a failure."""


class Held(Gateway):
    """Stores and answers, and sends nothing until told to."""

    async def start(self) -> None:
        await self.open()


class Floor(Gateway):
    """Reads and judges every event as the gateway does, keeps nothing, and answers with the counts alone."""

    async def start(self) -> None:
        pass

    async def stop(self, grace: timedelta | None = None) -> None:
        pass


class FloorDoor(Accepting):
    """The floor's."""

    async def accept(self, tenant: str, sent: Sequence[Event | Bad], ack: Ack, wait: float) -> Answer:
        floor = self._gateway
        now, given = floor.clock.now(), floor.configuration
        admitted = list(admit(sent, floor.catalogue, given.intake, now, given.retention.events))
        good = sum(isinstance(event, Event) for event in admitted)
        answer = Answer()
        answer.count(EventStatus.PENDING, good)
        answer.count(EventStatus.INVALID, len(admitted) - good)
        return answer


class OneByOne(SqliteLedger):
    """Makes each request durable by itself, where the ledger lets those that wait share a flush."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._turn = asyncio.Lock()

    async def record(self, *args: Any, **named: Any) -> Any:
        async with self._turn:
            return await super().record(*args, **named)


class Service:
    """A gateway of one kind, behind the server that runs it in earnest, or without one."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._kind: type[Gateway] = {"floor": Floor, "held": Held, "live": Gateway}[given["kind"]]
        self._configuration = configuration(
            given["url"],
            given["ledger"],
            given["destinations"],
            in_flight=given["in_flight"],
            timeout=given["patience"],
        )
        self._one_by_one: bool = given["one_by_one"]
        self._serves: bool = given["serve"]

    async def open(self) -> dict[str, Any]:
        """Open the ledger, and listen where this is a server; tell the port and how long opening took."""
        self._gateway = self._kind(self._configuration, self._made_ledger())
        began = time.perf_counter()
        if not self._serves:
            await self._gateway.start()
            collect_rarely()  # as `serve` does
            return {"seconds": time.perf_counter() - began}
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        options = uvicorn.Config(
            create_app(self._gateway, FloorDoor(self._gateway) if self._kind is Floor else None),
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        self._server = uvicorn.Server(options)
        self._serving = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started:
            await asyncio.sleep(0.005)
            if self._serving.done():
                self._serving.result()
        collect_rarely()
        return {"port": listener.getsockname()[1], "seconds": time.perf_counter() - began}

    def _made_ledger(self) -> Ledger:
        settings = self._configuration.ledger
        if self._one_by_one:
            return OneByOne(settings.path)
        return ledger_of(settings, self._configuration.delivery.timeout)

    async def close(self) -> None:
        """Stop listening, and close the ledger."""
        if self._serves:
            self._server.should_exit = True
            await self._serving
        else:
            await self._gateway.stop()

    async def do_reopen(self) -> dict[str, Any]:
        """Close and open again, as after a restart: nothing is left in memory. Not for a server."""
        await self.close()
        return await self.open()

    async def do_fill(self, prefix: str, events: int, size: int) -> None:
        """Accept events without the network between."""
        accepting = Accepting(self._gateway)
        for body in bodies(prefix, events, size):
            await accepting.accept("default", parse(body, "application/json", size), "stored", 0)

    async def do_settled_fill(self, prefix: str, events: int) -> None:
        """Put events into the ledger as they are long after delivery, without delivering them."""
        from bench.growth_fill import fill

        await fill(self._gateway, prefix, events)

    async def do_drain(self) -> dict[str, Any]:
        """Deliver all that is stored; tell how long that took."""
        began, cpu = time.perf_counter(), time.process_time()
        lanes = [asyncio.create_task(lane.run()) for lane in self._gateway.lanes.values()]
        await self.do_settled()
        spent = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        for task in lanes:
            task.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
        return spent

    async def do_settled(self) -> None:
        """Return when nothing waits. Raises RuntimeError where something is blocked, or it takes too long."""
        until = time.monotonic() + PATIENCE
        while depths := list((await self._gateway.ledger.depth()).values()):
            if any(depth.blocked for depth in depths) or time.monotonic() > until:
                raise RuntimeError(f"not delivered: {depths}")
            far = sum(depth.ready + depth.sending for depth in depths) > FAR
            await asyncio.sleep(0.1 if far else 0.01)  # each look takes a millisecond of what is measured

    async def do_timed_settled(self) -> float:
        """Return when nothing waits, with the seconds that this took."""
        began = time.perf_counter()
        await self.do_settled()
        return time.perf_counter() - began

    async def do_counts(self) -> dict[str, dict[str, int]]:
        """Return how many deliveries have which status, by destination."""
        counted = await self._gateway.ledger.counts()
        return {name: {DeliveryStatus(each).value: n for each, n in seen.items()} for name, seen in counted.items()}


def _usage() -> dict[str, float]:
    """Return processor seconds of all threads, and MiB of resident memory."""
    used = {"cpu": time.process_time(), "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # elsewhere than on Linux the peak has to do
        return used | {"resident": used["peak"]}
    return used | {"resident": pages * os.sysconf("SC_PAGE_SIZE") / 2**20}


async def _main(given: Mapping[str, Any]) -> None:
    roles = {"service": Service, "sender": Sender, "books": Books, "loop": Loop}
    role = roles[given["role"]](given)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    _say(await role.open())
    while line := await lines.readline():
        command = json.loads(line)
        name = command.pop("do")
        if name == "stop":
            break
        try:
            _say(_usage() if name == "usage" else await getattr(role, f"do_{name}")(**command))
        except Exception as error:  # noqa: BLE001  told to the other process, which gives up
            _say({"failed": f"{name}: {type(error).__name__}: {error}"})
    await role.close()
    _say("stopped")


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with open(os.devnull, "w") as nowhere:
        configure(nowhere)  # log lines are made as in earnest, and go nowhere
        uvloop.run(_main(json.loads(sys.argv[1])))
