"""The one answer to a batch, whatever the providers said. Absent members are omitted, never null."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from canonical_schema.errors import ErrorItem
from canonical_schema.status import DeliveryStatus, EventStatus

__all__ = [
    "Attempt",
    "BatchResult",
    "DeliveryDetail",
    "DeliveryResult",
    "EventDetail",
    "EventResult",
    "FilterReason",
    "PartResult",
    "Receipt",
    "Summary",
]

FilterReason = Literal["no_binding", "route", "zero", "voided"]
Receipt = Literal["queued", "confirmed"]


class PartResult(TypedDict):
    """One row of a delivery that needs several: an event with `quantities`, say."""

    status: DeliveryStatus
    provider_event_id: NotRequired[str]
    receipt: NotRequired[Receipt]
    reason: NotRequired[FilterReason]
    unexpected: NotRequired[bool]
    error: NotRequired[ErrorItem]


class DeliveryResult(TypedDict):
    """One event at one destination."""

    provider: str
    status: DeliveryStatus
    attempts: int
    """Requests that carried this event, answered or not."""
    provider_event_id: NotRequired[str]
    receipt: NotRequired[Receipt]
    """`queued`: the provider only queues what it takes, and may still drop it."""
    reason: NotRequired[FilterReason]
    unexpected: NotRequired[bool]
    """A duplicate that no earlier attempt of ours explains."""
    next_attempt_at: NotRequired[str]
    deadline: NotRequired[str]
    """Where the provider takes usage only so long after it happened, and this one is not there yet: until when."""
    shadow: NotRequired[bool]
    error: NotRequired[ErrorItem]
    parts: NotRequired[dict[str, PartResult]]


class Attempt(TypedDict):
    """One request that carried this event."""

    at: str
    duration_ms: int
    http_status: NotRequired[int]
    outcome: str
    error: NotRequired[ErrorItem]


class DeliveryDetail(DeliveryResult):
    """A delivery with every attempt, oldest first."""

    history: list[Attempt]


class EventResult(TypedDict):
    """What became of one event of a request."""

    index: int
    id: NotRequired[str]
    """Absent where the event was so broken that no id could be read."""
    status: EventStatus
    stored: bool
    replayed: bool
    deliveries: dict[str, DeliveryResult]
    error: NotRequired[ErrorItem]
    trimmed: NotRequired[bool]
    """The full record is kept no longer: this is how it ended."""


class Summary(TypedDict):
    """How many events of a request ended in each status; the counts add up to `total`."""

    total: int
    delivered: int
    pending: int
    partial: int
    failed: int
    unknown: int
    unrouted: int
    invalid: int
    conflict: int


class BatchResult(TypedDict):
    """The answer to `POST /v1/events`: one entry for each event, in the order sent."""

    object: Literal["batch_result"]
    batch_id: str
    summary: Summary
    results: list[EventResult]


class EventDetail(TypedDict):
    """The answer to `GET /v1/events/{id}`."""

    id: str
    status: EventStatus
    received_at: str
    event: NotRequired[dict[str, object]]
    """Absent where the record is trimmed."""
    deliveries: dict[str, DeliveryDetail]
    trimmed: NotRequired[bool]
    """Nothing but how it ended is kept: of each delivery the status, and no attempts."""
    archive: NotRequired[str]
    """The segment of the archive that has the full record."""
    erased: NotRequired[bool]
    """The customer was erased: the event shows a pseudonym, and no properties."""
