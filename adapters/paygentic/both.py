"""What both doors of Paygentic share: settings, sources, and how repeats, times and errors look."""

from datetime import date, timedelta
from typing import Literal, Self, TypeVar

from pydantic import Field, model_validator

from adapters._base import Adapter
from adapters._facts import Dedupe, Envelope, Source, TimeRule
from adapters._models import Binding, Duration, Link, Settings
from adapters._readback import Unread, UnreadKind, Wanted

__all__ = [
    "DEDUPE",
    "ENVELOPE",
    "INVENTORY",
    "LEGACY",
    "NO_MERCHANT",
    "PROBE",
    "SEEN",
    "SPEC",
    "TIME",
    "PaygenticSettings",
    "edges",
]

B = TypeVar("B", bound=Binding)
L = TypeVar("L", bound=Link)

SEEN = date(2026, 11, 23)
SPEC = "https://github.com/paygentic/cli/tree/ed6977762a99de5acabccc2b1819856841f3a869"
LEGACY = "https://github.com/paygentic/sdk-node/tree/ef1973134f26e57dd288c342cdc28955c4bfdacc"
DEDUPE = Dedupe(window=timedelta(hours=24), setting="dedupe_window", repeat="same", different="unverified")
TIME = TimeRule(style="rfc3339", resolution=timedelta(milliseconds=1))
ENVELOPE = Envelope(text=("message",), code=("error", "code"), issues=("errors",), at="field")

INVENTORY = Source(
    url=SPEC,
    seen=SEEN,
    grade="docs",
    fact="GET /v0/billableMetrics by merchantId and /v0/customers by organizationId: pages by limit and offset",
)

PROBE = Source(
    url=SPEC, seen=SEEN, grade="docs", fact="GET /v0/subscriptions lists subscriptions; no parameter is required"
)

EDGE = timedelta(milliseconds=1)
"""Asked beyond both ends, since nobody says whether they are included."""

NO_MERCHANT = Unread(kind=UnreadKind.UNSUPPORTED, why="Paygentic lists by merchant: set settings.merchant_id")


class PaygenticSettings(Settings):
    """Which door, and for whom."""

    profile: Literal["events", "usage-v0"] = Field(default="events", description="Never mix both for one merchant.")
    merchant_id: str | None = Field(default=None, pattern=r"^org_\w+$", description="`org_...`; usage-v0 needs it.")
    dedupe_window: Duration = Field(
        default=timedelta(hours=24), description="How long a repeat is told; the vendor names no figure."
    )

    @model_validator(mode="after")
    def _merchant(self) -> Self:
        if self.profile == "usage-v0" and self.merchant_id is None:
            raise ValueError("profile usage-v0 needs merchant_id: your organization's `org_...` id")
        return self


def edges(adapter: Adapter[PaygenticSettings, B, L], wanted: Wanted, start: str, end: str) -> dict[str, str | int]:
    """Return the query for a window, under the names that the listing has for its ends."""
    window = wanted.window.widened(EDGE)
    return {start: adapter.wire_time(window.start), end: adapter.wire_time(window.end)}
