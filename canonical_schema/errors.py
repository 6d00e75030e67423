"""The closed set of error codes, and the two shapes in which they reach a client."""

from enum import StrEnum
from typing import NotRequired

from typing_extensions import TypedDict

__all__ = ["ErrorCode", "ErrorItem", "Problem"]


class ErrorCode(StrEnum):
    """What went wrong, in items and problems alike."""

    INVALID_EVENT = "invalid_event"
    INVALID_REQUEST = "invalid_request"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    UNKNOWN_METER = "unknown_meter"
    UNMAPPED_CUSTOMER = "unmapped_customer"
    """The gateway has no link that names this customer for the destination."""
    UNKNOWN_CUSTOMER = "unknown_customer"
    UNKNOWN_SUBSCRIPTION = "unknown_subscription"
    UNKNOWN_BINDING = "unknown_binding"
    """The provider does not know the price, metric or feature."""
    QUANTITY_NOT_REPRESENTABLE = "quantity_not_representable"
    OUTSIDE_TIME_WINDOW = "outside_time_window"
    UNSUPPORTED = "unsupported"
    """The provider cannot express it."""
    CONFLICT = "conflict"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    TIMEOUT = "timeout"
    PROTOCOL_ERROR = "protocol_error"
    """An answer that makes no sense."""
    PROVIDER_REJECTED = "provider_rejected"
    """Permanent, and none of the above."""
    EXPIRED = "expired"


class ErrorItem(TypedDict):
    """An error of one event or one delivery. Absent members are omitted, never null."""

    code: ErrorCode
    message: str
    field: NotRequired[str]
    """The member of the event that is wrong, as a path: `quantities.input`."""
    fields: NotRequired[list[str]]
    """In a conflict: the members that differ."""
    retryable: NotRequired[bool]
    """Whether the gateway, or an operator with it, can still bring the delivery home."""
    provider_status: NotRequired[int]
    """The row's own status where the provider gives one, else the HTTP status."""
    provider_code: NotRequired[str]


class Problem(TypedDict):
    """A request that was refused as a whole: RFC 9457, with a code and the request's id."""

    type: str
    title: str
    status: int
    detail: str
    code: ErrorCode
    request_id: str
