"""What a provider lets us do about usage that it has: one of a closed set of ways, with where that was seen.

Where a way does not reach, a correction is refused for that destination, in words that say what is left to do.
A provider that cancels a row by our key (Stripe's adjustments, Orb's deprecation) or by its own id (Chargebee's
deletion) is a `TakeBack`; one that amends a row in place an `Amend`; one whose sums take negatives `Deltas`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from adapters._spec import Aggregation, Door, Source

__all__ = ["Amend", "Corrections", "Deltas", "TakeBack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amend:
    """The row again, under its key and its instant, with another quantity: it takes the first one's place."""

    replaces: "frozenset[Aggregation]"
    """The aggregations for which another quantity corrects the bill."""
    voids: "frozenset[Aggregation]"
    """Those for which a quantity of 0 is as good as no row."""
    setting: str | None = None
    """The setting that an operator may switch it off with, or on."""
    source: "Source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deltas:
    """A further row adds the difference. Downwards only where the door takes negative quantities."""

    aggregations: "frozenset[Aggregation]"
    down: bool = True
    """Whether a negative quantity lowers the bill; where the door's rule has a setting for negatives, with that."""
    instead: str
    """What is left to do where it cannot be expressed."""
    source: "Source"


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBack:
    """A request of its own takes a whole row back; a replacement is then a row under a key of its own."""

    word: str
    """What the provider calls it: refund, cancel, delete."""
    door: "Door"
    """Where the request goes; its path may name members of the row, which then stand there: `/usage/{id}`."""
    by: Literal["provider_event_id"] = "provider_event_id"
    """How the provider finds the row. Its own id is known from the answer to the row, and only from there."""
    aggregations: "frozenset[Aggregation]"
    instead: str
    """What is left to do where it cannot be expressed."""
    source: "Source"


Corrections = Amend | Deltas | TakeBack
