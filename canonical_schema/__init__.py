"""What clients say and hear: the event, its quantities and times, statuses, errors and the merged answer."""

from canonical_schema.cloudevents import read_cloudevent
from canonical_schema.contract import MAX_PROPERTY_BYTES, UsageEvent, read_by_contract, to_event
from canonical_schema.correction import PLAIN, Correction, CorrectionAction, Quantities, quantities_json
from canonical_schema.errors import ErrorCode, ErrorItem, Problem
from canonical_schema.event import (
    Event,
    InvalidEvent,
    Kind,
    Property,
    correction_json,
    decode_event,
    decode_events,
    differences,
    encode_event,
    encode_events,
    event_json,
)
from canonical_schema.fingerprint import FINGERPRINT, fingerprint
from canonical_schema.quantity import InvalidQuantity, parse_quantity, plain, to_quantity
from canonical_schema.reading import read_event
from canonical_schema.result import (
    Attempt,
    BatchResult,
    DeliveryDetail,
    DeliveryResult,
    EventDetail,
    EventResult,
    FilterReason,
    PartResult,
    Receipt,
    Summary,
)
from canonical_schema.status import DeliveryStatus, EventStatus, event_status, worst
from canonical_schema.times import format_time, parse_time

__all__ = [
    "FINGERPRINT",
    "MAX_PROPERTY_BYTES",
    "PLAIN",
    "Attempt",
    "BatchResult",
    "Correction",
    "CorrectionAction",
    "DeliveryDetail",
    "DeliveryResult",
    "DeliveryStatus",
    "ErrorCode",
    "ErrorItem",
    "Event",
    "EventDetail",
    "EventResult",
    "EventStatus",
    "FilterReason",
    "InvalidEvent",
    "InvalidQuantity",
    "Kind",
    "PartResult",
    "Problem",
    "Property",
    "Quantities",
    "Receipt",
    "Summary",
    "UsageEvent",
    "correction_json",
    "decode_event",
    "decode_events",
    "differences",
    "encode_event",
    "encode_events",
    "event_json",
    "event_status",
    "fingerprint",
    "format_time",
    "parse_quantity",
    "parse_time",
    "plain",
    "quantities_json",
    "read_by_contract",
    "read_cloudevent",
    "read_event",
    "to_event",
    "to_quantity",
    "worst",
]
