"""The states of a delivery and of an event, and how the second follows from the first."""

from collections.abc import Iterable
from enum import StrEnum

__all__ = ["DeliveryStatus", "EventStatus", "event_status", "worst"]


class DeliveryStatus(StrEnum):
    """Where one event stands at one destination. Each delivery has exactly one."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """The provider had it already: a success."""
    REJECTED = "rejected"
    """Permanent; nothing is stored there."""
    UNKNOWN = "unknown"
    """It may have arrived. Parked, never blindly resent."""
    DEAD = "dead"
    """Gave up: attempts and time are spent, or the provider's time window closed."""
    FILTERED = "filtered"
    """Not for this destination."""
    PENDING = "pending"
    RETRYING = "retrying"
    BLOCKED = "blocked"
    """An operator must act; goes on by itself once mended."""

    @property
    def final(self) -> bool:
        """True where the gateway will do nothing more by itself."""
        return self not in _OPEN

    @property
    def success(self) -> bool:
        """True where the provider has the event."""
        return self in _SUCCESS


_OPEN = frozenset({DeliveryStatus.PENDING, DeliveryStatus.RETRYING, DeliveryStatus.BLOCKED})
_SUCCESS = frozenset({DeliveryStatus.ACCEPTED, DeliveryStatus.DUPLICATE})

_WORST_FIRST = (
    DeliveryStatus.UNKNOWN,
    DeliveryStatus.REJECTED,
    DeliveryStatus.DEAD,
    DeliveryStatus.BLOCKED,
    DeliveryStatus.RETRYING,
    DeliveryStatus.PENDING,
    DeliveryStatus.DUPLICATE,
    DeliveryStatus.ACCEPTED,
    DeliveryStatus.FILTERED,
)
_RANK = {status: rank for rank, status in enumerate(_WORST_FIRST)}


class EventStatus(StrEnum):
    """What became of one event as a whole, over its live, unfiltered deliveries."""

    DELIVERED = "delivered"
    PENDING = "pending"
    PARTIAL = "partial"
    FAILED = "failed"
    UNKNOWN = "unknown"
    UNROUTED = "unrouted"
    """No destination takes it. Stored, alarmed, goes on by itself once there is a way."""
    INVALID = "invalid"
    """Refused by the gateway; not stored."""
    CONFLICT = "conflict"
    """The same id came before with other content; not stored."""


def worst(statuses: Iterable[DeliveryStatus]) -> DeliveryStatus:
    """Return the status that needs attention most: a delivery in parts has its worst part's.

    Raises ValueError when there are none.
    """
    return min(statuses, key=_RANK.__getitem__)


def event_status(live: Iterable[DeliveryStatus]) -> EventStatus:
    """Return an event's status from its deliveries to live destinations.

    `live` leaves out shadow destinations and deliveries filtered as `no_binding` or `route`;
    a delivery filtered as `zero` is among them and counts as delivered.
    """
    seen = set(live)
    if not seen:
        return EventStatus.UNROUTED
    if DeliveryStatus.UNKNOWN in seen:
        return EventStatus.UNKNOWN
    lost = seen & {DeliveryStatus.REJECTED, DeliveryStatus.DEAD}
    if lost:
        return EventStatus.FAILED if lost == seen else EventStatus.PARTIAL
    if seen & _OPEN:
        return EventStatus.PENDING
    return EventStatus.DELIVERED
