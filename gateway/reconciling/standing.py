"""What a delivery's status means for figures: whether it counts at the provider, and why where it does not."""

from collections.abc import Mapping

from canonical_schema import DeliveryStatus, ErrorCode
from gateway.ledger import Code
from gateway.reconciling._model import Standing

__all__ = ["standing_of"]


def standing_of(code: Code, error: ErrorCode | None) -> Standing | None:
    """Return what a delivery's status means for figures; `None`: it is not meant for this destination."""
    if code is Code.NONE:
        return None
    match code.status:
        case DeliveryStatus.ACCEPTED | DeliveryStatus.DUPLICATE:
            return Standing.DELIVERED
        case DeliveryStatus.PENDING | DeliveryStatus.RETRYING:
            return Standing.PENDING
        case DeliveryStatus.BLOCKED:
            unmapped = error in {ErrorCode.UNMAPPED_CUSTOMER, ErrorCode.UNKNOWN_METER}
            return Standing.UNMAPPED if unmapped else Standing.PENDING
        case DeliveryStatus.UNKNOWN:
            return Standing.UNKNOWN
        case DeliveryStatus.REJECTED | DeliveryStatus.DEAD:
            return _REFUSED.get(error, Standing.REJECTED) if error is not None else Standing.REJECTED
        case DeliveryStatus.FILTERED:
            return None


_REFUSED: Mapping[ErrorCode, Standing] = {
    ErrorCode.QUANTITY_NOT_REPRESENTABLE: Standing.CAPABILITY,
    ErrorCode.UNSUPPORTED: Standing.CAPABILITY,
    ErrorCode.OUTSIDE_TIME_WINDOW: Standing.LATE,
    ErrorCode.EXPIRED: Standing.LATE,
    ErrorCode.UNMAPPED_CUSTOMER: Standing.UNMAPPED,
    ErrorCode.UNKNOWN_CUSTOMER: Standing.UNMAPPED,
    ErrorCode.UNKNOWN_SUBSCRIPTION: Standing.UNMAPPED,
    ErrorCode.UNKNOWN_BINDING: Standing.UNMAPPED,
    ErrorCode.UNKNOWN_METER: Standing.UNMAPPED,
}
