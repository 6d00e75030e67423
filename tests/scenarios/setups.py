"""How a whole gateway is set up, as far as that changes while it is at work."""

from datetime import timedelta
from typing import Any, Literal, NamedTuple

import yaml
from hypothesis import strategies as st

from gateway.configuration import Configuration
from gateway.configuration.file import loads
from tests.gateway.clocks import START
from tests.gateway.lanes.world import CONTRACT
from tests.scenarios.books import HALVES

__all__ = ["CUSTOMERS", "CUT", "SETUPS", "VENDORS", "Setup", "configured", "customer_of", "link"]

VENDORS = ("flowglad", "flexprice", "paygentic", "wingback")
CUSTOMERS = ("acme", "globex")
NAMED = {
    "flowglad": "price_slug",
    "flexprice": "event_name",
    "events": "event_type",
    "usage-v0": "billable_metric_id",
    "wingback": "feature_slug",
}
CUT = START + timedelta(hours=8)


class Setup(NamedTuple):
    """A configuration, as far as it changes."""

    mode: tuple[str, Literal["live", "shadow", "off"]] = ("flowglad", "live")
    """What one destination does; the others are live."""
    renamed: bool = False
    """Whether the vendors know the meter by another name."""
    bound: frozenset[str] = frozenset(VENDORS)
    """Which destinations have a name for the meter."""
    routes: Literal["none", "customers", "shares", "from"] = "none"
    negative: bool = True
    """Whether Wingback takes what is below zero."""
    amended: bool = False
    """Whether Flexprice is corrected by sending events again."""
    gone: str | None = None
    """A destination that is not configured."""
    linked: bool = True
    """Whether the configuration names the customers at the vendors."""


SETUPS = st.builds(
    Setup,
    mode=st.tuples(st.sampled_from(VENDORS), st.sampled_from(["live", "shadow", "off"])),
    renamed=st.booleans(),
    bound=st.just(frozenset(VENDORS)) | st.sampled_from(VENDORS).map(lambda name: frozenset(VENDORS) - {name}),
    routes=st.sampled_from(["none", "customers", "shares", "from"]),
    negative=st.booleans(),
    amended=st.booleans(),
    gone=st.none() | st.sampled_from(VENDORS),
    linked=st.sampled_from([True, True, False]),
)


def configured(setup: Setup, profile: str) -> Configuration:
    """Return the configuration."""
    there = [name for name in VENDORS if name != setup.gone]
    settings: dict[str, dict[str, Any]] = {name: {"api_key": "k"} for name in there}
    settings.get("paygentic", {}).update(profile=profile, merchant_id="org_1")
    settings.get("wingback", {}).update(allow_negative=setup.negative)
    settings.get("flexprice", {}).update(allow_amend=setup.amended)
    bound = sorted(setup.bound.intersection(there))
    modes = dict.fromkeys(VENDORS, "live") | dict([setup.mode])
    meter = "bm_other" if setup.renamed else "bm_calls"
    data: dict[str, Any] = {
        "destinations": {
            name: {"provider": name, "rate": "none", "settings": settings[name], "mode": modes[name]} for name in there
        },
        "meters": {
            "calls": {"bindings": {name: {NAMED[_door(name, profile)]: meter} for name in bound}},
            "halves": {
                "bindings": {
                    name: [{NAMED[_door(name, profile)]: f"{meter}_{half}", "quantity": half} for half in HALVES]
                    for name in bound
                }
            },
        },
        "customers": {customer: {name: link(name, customer) for name in there} for customer in CUSTOMERS}
        if setup.linked
        else {},
        "routes": [route for route in _routes(setup.routes) if route["destination"] in there],
        "delivery": {"retry": {"first": "1s", "max": "1m", "give_up": "1h", "attempts": 4}},
    }
    return loads(yaml.safe_dump(data), {})


def link(name: str, customer: str, renamed: int = 0) -> dict[str, str]:
    """Return how a vendor names a customer: each has names of its own."""
    match name:
        case "flowglad":
            return {"subscription_id": f"sub_{customer}_{renamed}"}
        case "wingback":
            return {"customer_id": f"{CONTRACT[:-2]}{CUSTOMERS.index(customer)}{renamed}"}
        case "paygentic":
            return {"customer_id": f"cus_{customer}_{renamed}"}
        case _:
            return {"external_customer_id": f"{customer}_{renamed}"}


def customer_of(name: str, vendors: str) -> str:
    """Return whom a vendor means by a name of its own; flexprice and paygentic may know a customer by ours."""
    known = {next(iter(link(name, one, renamed).values())): one for one in CUSTOMERS for renamed in (0, 1)}
    return known.get(vendors, vendors)


def _door(name: str, profile: str) -> str:
    return profile if name == "paygentic" else name


def _routes(kind: str) -> list[dict[str, Any]]:
    """Let two destinations share: each bills some of the events."""
    first, second = {"destination": "flowglad"}, {"destination": "wingback"}
    match kind:
        case "customers":
            return [first | {"customers": ["acme"]}, second | {"except": ["acme"]}]
        case "shares":
            return [first | {"percent": 50, "mode": "shadow"}, first | {"percent": 50}]
        case "from":
            return [first | {"until": CUT.isoformat()}, second | {"from": CUT.isoformat()}]
        case _:
            return []
