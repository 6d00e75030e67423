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

__all__ = ["CUSTOMERS", "CUT", "SETUPS", "VENDORS", "Setup", "configured"]

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


SETUPS = st.builds(
    Setup,
    mode=st.tuples(st.sampled_from(VENDORS), st.sampled_from(["live", "shadow", "off"])),
    renamed=st.booleans(),
    bound=st.just(frozenset(VENDORS)) | st.sampled_from(VENDORS).map(lambda name: frozenset(VENDORS) - {name}),
    routes=st.sampled_from(["none", "customers", "shares", "from"]),
    negative=st.booleans(),
)


def configured(setup: Setup, profile: str) -> Configuration:
    """Return the configuration."""
    settings: dict[str, dict[str, Any]] = {name: {"api_key": "k"} for name in VENDORS}
    settings["paygentic"] |= {"profile": profile, "merchant_id": "org_1"}
    settings["wingback"]["allow_negative"] = setup.negative
    bound = sorted(setup.bound)
    modes = dict.fromkeys(VENDORS, "live") | dict([setup.mode])
    links = {"flowglad": {"subscription_id": "sub_1"}, "wingback": {"customer_id": CONTRACT}}
    meter = "bm_other" if setup.renamed else "bm_calls"
    data: dict[str, Any] = {
        "destinations": {
            name: {"provider": name, "rate": "none", "settings": settings[name], "mode": modes[name]}
            for name in VENDORS
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
        "customers": {name: links | {"paygentic": {"customer_id": f"cus_{name}"}} for name in CUSTOMERS},
        "routes": _routes(setup.routes),
        "delivery": {"retry": {"first": "1s", "max": "1m", "give_up": "1h", "attempts": 4}},
    }
    return loads(yaml.safe_dump(data), {})


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
