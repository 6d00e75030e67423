"""The configuration that is measured: four destinations on loopback, one meter, links for every customer."""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.events import CUSTOMERS, customer
from gateway.configuration import Configuration, Destination
from gateway.configuration.file import loads

__all__ = ["EVENTS_DOOR", "FOUR", "configuration"]

FOUR = ("flowglad", "paygentic", "flexprice", "wingback")
EVENTS_DOOR = "paygentic_events"
"""The destination whose door takes one row a request."""

# The vendors' own rate limits would be all that is measured, so they are off where they can be set.
UNLIMITED = {"rate": "none"} if "rate" in Destination.model_fields else {}

_SETTINGS = {
    "flowglad": {},
    "paygentic": {"profile": "usage-v0", "merchant_id": "org_bench"},
    EVENTS_DOOR: {"profile": "events"},
    "flexprice": {},
    "wingback": {},
}
_BINDINGS = {
    "flowglad": {"price_slug": "api_calls"},
    "paygentic": {"billable_metric_id": "bm_calls", "price": "0.001"},
    EVENTS_DOOR: {"event_type": "api_call"},
    "flexprice": {"event_name": "api_call", "quantity_property": "quantity"},
    "wingback": {"feature_slug": "API_CALLS"},
}


def configuration(
    url: str,
    ledger: str | Path,
    destinations: Sequence[str] = FOUR,
    *,
    in_flight: int | None = None,
    timeout: str | None = None,
) -> Configuration:
    """Return the configuration with every destination under `url`, at a path that is its name.

    `in_flight`: requests at a time to each destination, and `timeout`: of each, where it is not the default.
    """
    links = {
        customer(number): {
            name: link
            for name, link in {
                "flowglad": {"subscription_id": f"sub_{number:04d}"},
                "paygentic": {"customer_id": f"cus_{number:04d}"},
                "wingback": {"customer_id": f"Cust_00000000-0000-4000-8000-{number:012x}"},
            }.items()
            if name in destinations
        }
        for number in range(CUSTOMERS)
    }
    data = {
        "ledger": _kept(str(ledger)),
        "destinations": {
            name: {
                "provider": name.partition("_")[0],
                "settings": {"api_key": "bench-key", "base_url": f"{url}/{name}", **_SETTINGS[name]},
                **UNLIMITED,
            }
            for name in destinations
        },
        "meters": {"api_calls": {"bindings": {name: _BINDINGS[name] for name in destinations}}},
        "customers": links,
        "intake": {"max_queue": 10**9},  # what is held back here is more than should ever wait
        "delivery": {
            name: value for name, value in {"max_in_flight": in_flight, "timeout": timeout}.items() if value is not None
        },
    }
    return loads(json.dumps(data), {}, source="bench")


def _kept(ledger: str) -> dict[str, object]:
    """Return where events are kept: on a server, on a cluster whose masters have no replicas, or in a file."""
    if ledger.startswith("redis+cluster"):
        return {"url": ledger, "replicas": 0}
    return {"url": ledger if ledger.startswith("redis") else f"sqlite:///{ledger}"}
