"""`usage-gateway simulate`: simulated vendors on a port, for tests in any language."""

import asyncio
import os
import signal
from typing import Annotated

from cyclopts import Parameter, validators

from adapters import providers as adapters
from gateway import logs
from gateway.cli._out import CommandFailed, Exit, Json, hint, machine, say
from gateway.cli.providers import known
from gateway.simulator import FAULTS, SimulatedProvider, running

__all__ = ["simulate"]


def simulate(
    *provider: str,
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535), help="0: any free one.")] = 9000,
    as_json: Json = False,
) -> int:
    """Run simulated vendors on one port of 127.0.0.1, each under its own path, until Ctrl-C.

    Each stores, tells repeats, refuses and answers as its adapter declares. Without a provider: all of them.
    Faults are scripted at /_control. Nothing is kept when it stops.

    Parameters
    ----------
    provider
        Which vendors.
    """
    logs.configure()
    vendors = [SimulatedProvider(known(name)) for name in dict.fromkeys(provider or adapters())]
    try:
        return asyncio.run(_simulate(vendors, port, as_json=as_json))
    except OSError as error:
        raise CommandFailed(f"cannot listen on 127.0.0.1:{port}: {os.strerror(error.errno or 0)}") from None


async def _simulate(vendors: list[SimulatedProvider], port: int, *, as_json: bool) -> Exit:
    stopped = asyncio.Event()
    heard: list[signal.Signals] = []
    loop = asyncio.get_running_loop()

    def hear(one: signal.Signals) -> None:
        heard.append(one)
        stopped.set()

    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, hear, one)
    async with running(vendors, port) as url:
        where = {vendor.name: f"{url}/{vendor.name}" for vendor in vendors}
        if as_json:
            machine({"object": "simulators", "control": f"{url}/_control", "base_urls": where})
        say("Simulated vendors, each at the base_url to configure:", "bold")
        for vendor in vendors:
            for door in vendor.spec.doors.values():
                say(f"  {vendor.spec.title:10} {where[vendor.name]}   {door.method} {door.path}")
        first = vendors[0].name
        hint(f"What one has:      curl {url}/_control/{first}/stored   (or calls, billed, faults)")
        hint(f'Make one fail:     curl {url}/_control/{first}/fail -d \'{{"name": "lost_answer"}}\'')
        hint(f"Faults there are:  {', '.join(FAULTS)}")
        hint("Ctrl-C ends it.")
        await stopped.wait()
    return Exit.INTERRUPTED if signal.SIGINT in heard else Exit.OK
