"""Every door, each as a destination of its name, and a catalogue with one of them."""

from typing import Any

import yaml

from gateway.catalogue import Catalogue
from gateway.configuration.file import loads
from tests.gateway.lanes.world import CONTRACT

SETTINGS: dict[str, dict[str, Any]] = {
    "flowglad": {"provider": "flowglad", "settings": {"api_key": "k"}},
    "events": {"provider": "paygentic", "settings": {"api_key": "k"}},
    "usage": {"provider": "paygentic", "settings": {"api_key": "k", "profile": "usage-v0", "merchant_id": "org_1"}},
    "flexprice": {"provider": "flexprice", "settings": {"api_key": "k"}},
    "wingback": {"provider": "wingback", "settings": {"api_key": "k"}},
}
LINKS: dict[str, Any] = {
    "flowglad": {"subscription_id": "sub_1"},
    "usage": {"customer_id": "cus_1"},
    "wingback": {"customer_id": CONTRACT},
}


def catalogue(name: str, binding: object, *, aggregation: str = "sum", **settings: Any) -> Catalogue:
    """Return a catalogue with one meter, `calls`, bound at one destination, and links for `acme`."""
    destination = {**SETTINGS[name], "settings": SETTINGS[name]["settings"] | settings}
    whole = {
        "destinations": {name: destination},
        "meters": {"calls": {"aggregation": aggregation, "bindings": {name: binding}}},
        "customers": {"acme": {name: LINKS[name]}} if name in LINKS else {},
    }
    return Catalogue(loads(yaml.safe_dump(whole), {}))
