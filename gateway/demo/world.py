"""What the demo starts with: the configuration, the vendors with their faults, the events."""

import re
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path

from adapters import Binding, Link
from canonical_schema import format_time, parse_time
from gateway.configuration import Configuration, Destination
from gateway.configuration.file import loads
from gateway.simulator import SimulatedProvider

__all__ = ["BATCH", "batches", "configuration", "named", "vendors"]

BATCH = 25
"""Events a request, as a product would send them while it runs."""

UNKNOWN_CUSTOMERS = {"oscorp", "newco"}
"""Customers whom no vendor knows. The configuration links the first all the same."""
UNKNOWN_PRICES = {"video_renders_2025"}

LOST_AT_FLOWGLAD = "evt_0036"
THROTTLED_AT_PAYGENTIC = "evt_0094"
REFUSED_BY_FLEXPRICE = "evt_0178"
LOST_AT_WINGBACK = "evt_0200"

_TIME = re.compile(rb'(?<="timestamp": ")[^"]+')


def configuration(vendors_at: str, folder: Path) -> Configuration:
    """Return the demo's configuration: vendors under one base URL, the ledger in a folder."""
    text = files("gateway.demo").joinpath("config.yaml").read_text("utf-8")
    return loads(text, {"VENDORS": vendors_at, "FOLDER": str(folder)}, source="gateway/demo/config.yaml")


def vendors() -> list[SimulatedProvider]:
    """Return the four vendors: each knows what the configuration names, with exceptions, and has one bad moment."""
    made = {name: _vendor(one) for name, one in _plain().destinations.items()}
    made["flowglad"].fail("lost_answer", when=LOST_AT_FLOWGLAD)
    made["paygentic"].fail("throttled", when=THROTTLED_AT_PAYGENTIC, retry_after=1)
    made["flexprice"].refuse(REFUSED_BY_FLEXPRICE)
    made["wingback"].fail("reset_after", when=LOST_AT_WINGBACK)
    return list(made.values())


def _plain() -> Configuration:
    return configuration("http://127.0.0.1", Path())


def _vendor(destination: Destination) -> SimulatedProvider:
    plain, name = _plain(), destination.name
    links = {
        customer: by.get(name, ()) for customer, by in plain.customers.items() if customer not in UNKNOWN_CUSTOMERS
    }
    customers = {named(link) for rows in links.values() for link in rows} or set(links)
    bindings = [row.bind({}) for meter in plain.meters.values() for row in meter.bindings.get(name, ())]
    properties = {
        named(binding): tuple(several.values())
        for binding in bindings
        if (several := getattr(binding, "quantity_properties", None))
    }
    return SimulatedProvider(
        destination.provider,
        known_customers=customers,
        known_meters={named(binding) for binding in bindings} - UNKNOWN_PRICES,
        quantity_properties=properties,
    )


def named(model: Binding | Link) -> str:
    """Return the provider's name for a meter or a customer."""
    return next(str(value) for name in model.names if (value := getattr(model, name)) is not None)


def batches(now: datetime) -> list[list[bytes]]:
    """Return the sample events as lines, in batches, moved in time so that the last one happened just now."""
    lines = files("gateway.demo").joinpath("events.ndjson").read_bytes().splitlines()
    newest = max(parse_time(found[0].decode()) for line in lines if (found := _TIME.search(line)))
    moved = [_TIME.sub(lambda found: _later(found[0], now - newest), line) for line in lines]
    return [moved[first : first + BATCH] for first in range(0, len(moved), BATCH)]


def _later(stamp: bytes, by: timedelta) -> bytes:
    return format_time(parse_time(stamp.decode()) + by).encode()
