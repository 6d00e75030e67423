"""Errors that leave the gateway.

GatewayError
├── ConfigurationError      wrong before the first event; stop at start
├── RequestRefused          the request as a whole is wrong; 4xx as a problem, nothing is stored
└── LedgerUnavailable       nothing can be promised; 503, the sender keeps the event
"""

from canonical_schema import ErrorCode

__all__ = ["ConfigurationError", "GatewayError", "LedgerUnavailable", "RequestRefused"]


class GatewayError(Exception):
    """Base of every error that is ours."""


class ConfigurationError(GatewayError):
    """Raised when the configuration cannot be used as it stands; names the key, the line and the mend."""


class RequestRefused(GatewayError):
    """Raised when a request as a whole is refused, before anything is stored."""

    def __init__(self, status: int, code: ErrorCode, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}


class LedgerUnavailable(GatewayError):
    """Raised when the ledger cannot promise to keep an event: full, read-only, gone."""

    retry_after = 5
    """Seconds after which a sender may try again."""
