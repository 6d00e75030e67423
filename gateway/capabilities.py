"""A provider's declaration in words: for people, for the documents, and for `GET /v1/destinations`."""

from datetime import timedelta
from typing import Any

from adapters import Door, ProviderSpec

__all__ = ["capabilities"]


def capabilities(spec: ProviderSpec, door: Door) -> dict[str, Any]:
    """Return what one door of a provider can and cannot do, with how sure that is."""
    quantity, dedupe = door.quantity, door.dedupe
    made: dict[str, Any] = {
        "endpoint": f"{door.method} {door.path}",
        "max_rows": door.max_rows,
        "quantity": {
            "places": quantity.places,
            "minimum": None if quantity.minimum is None else format(quantity.minimum, "f"),
            "maximum": None if quantity.maximum is None else format(quantity.maximum, "f"),
        },
        "zero": door.zero,
        "absolute": "no" if door.absolute is None else f"with {door.absolute}",
        "aggregations": sorted(door.aggregations),
        "several_measures": door.several_measures,
        "repeats": "billed again" if dedupe is None else f"known by {door.roles.key} {_window(dedupe.window)}",
        "lost_answer": "unknown" if dedupe is None else "sent again",
        "refused_batch": door.refusal.value,
        "receipt": door.receipt or "stored",
        "time_resolution_ms": door.time.resolution / timedelta(milliseconds=1),
        "corrections": door.corrections,
        "binding_fields": list(door.binding.names),
        "link_fields": list(door.link.names),
        "weakest_fact": spec.weakest,
        "cautions": list(spec.cautions),
    }
    made["quantity"] = {name: value for name, value in made["quantity"].items() if value is not None}
    return made


def _window(window: timedelta | None) -> str:
    return "for ever" if window is None else f"for {window // timedelta(hours=1)} h"
