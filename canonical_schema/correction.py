"""What makes an event a correction: which event it corrects, and from what to what."""

from decimal import Decimal
from typing import Any, Literal, TypeAlias

import msgspec

from canonical_schema.quantity import plain

__all__ = ["PLAIN", "Correction", "CorrectionAction", "Quantities", "quantities_json"]

Quantities: TypeAlias = dict[str, Decimal]
"""What an event says in numbers, by the name of the quantity. Empty: nothing, the event is void."""

PLAIN = ""
"""The name of the plain `quantity` among `Quantities`."""

CorrectionAction: TypeAlias = Literal["void", "replace", "refund"]
"""`refund` is the first half of a replacement, for providers that can only take a whole event back."""


class Correction(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a correction says about another event. Made by the gateway alone: no sender can write one."""

    of: str
    """The id of the event that was sent, also where earlier corrections changed it."""
    number: int
    """Its place among the corrections of that event, from 1."""
    action: CorrectionAction
    before: Quantities
    after: Quantities
    reason: str
    actor: str


def quantities_json(quantities: Quantities) -> dict[str, Any]:
    """Return quantities as events show them: exact decimal strings, under `quantity` or `quantities`."""
    if not quantities:
        return {}
    if PLAIN in quantities:
        return {"quantity": plain(quantities[PLAIN])}
    return {"quantities": {name: plain(each) for name, each in quantities.items()}}
