"""Asking vendors from the command line, without a gateway: what stands in an account."""

from datetime import timedelta
from typing import NamedTuple, TypeVar

from adapters import AnyAdapter, Ask
from adapters._inventory import CanListMeters
from adapters._readback import Unread
from gateway.asking import ask
from gateway.configuration import Configuration
from gateway.configuration.inventory import Finding, held_against
from gateway.transport import Transport

__all__ = ["Compared", "asked", "compared"]

T = TypeVar("T")
PATIENCE = timedelta(seconds=30)
STEPS = 2000
"""Pages of one listing: an account may have many customers."""


class Compared(NamedTuple):
    """What came of holding a configuration against the vendors."""

    findings: list[Finding]
    read: dict[str, str]
    """By destination: what was read, or why nothing was."""


async def asked(adapter: AnyAdapter, question: Ask[T]) -> T:
    """Return the answer to one question, over connections of its own."""
    transport = Transport(adapter, timeout=PATIENCE, connections=1)
    try:
        return await ask(transport, question, steps=STEPS)
    finally:
        await transport.close()


async def compared(configuration: Configuration) -> Compared:
    """Hold every destination that is not off against its vendor's account. One that cannot be read is an error."""
    findings: list[Finding] = []
    read: dict[str, str] = {}
    for name, destination in configuration.destinations.items():
        adapter = destination.adapter
        if destination.mode == "off":
            continue
        if not isinstance(adapter, CanListMeters):
            read[name] = f"{adapter.spec.title} lists no meters: compare the bindings by hand"
            continue
        there = await asked(adapter, adapter.list_meters())
        if isinstance(there, Unread):
            findings.append(Finding(f"destinations.{name}", "error", there.why))
            read[name] = f"not read: {there.why}"
        else:
            findings += held_against(configuration, name, there)
            read[name] = f"{len(there)} meters read"
    return Compared(findings, read)
