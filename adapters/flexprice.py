"""Flexprice: events in bulk, queued with one status for all. What it cannot bill it takes all the same.

Its key is the pair of `event_id` and `timestamp`, so both are always ours. A 400 names no row, and rows
before the culprit may be queued. A negative or unreadable quantity is billed as 0 without a word.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal

from pydantic import Field, model_validator

from adapters._base import Adapter
from adapters._corrections import Amend
from adapters._dialects import OneVerdict
from adapters._models import Binding, Link, Settings
from adapters._spec import (
    Dedupe,
    Door,
    Envelope,
    HeaderKey,
    JsonValue,
    KeyRule,
    ProviderSpec,
    QuantityRule,
    Rate,
    Refusal,
    Roles,
    Row,
    Rule,
    Source,
    State,
    TimeRule,
    Usage,
)
from adapters._text import texts
from canonical_schema import ErrorCode

__all__ = ["Flexprice"]

SEEN = date(2026, 11, 23)
SERVER = "https://github.com/flexprice/flexprice/tree/e4b5303fde24581003faf0b05c08feb605c2ef93"


class FlexpriceSettings(Settings):
    """What depends on how the vendor's server is run."""

    allow_amend: bool = Field(
        default=True,
        description="Correct by sending an event again. Off where the server locks event ids for 24 h after the first.",
    )


class EventBinding(Binding):
    """A meter is an event name; the vendor's metric says which property holds the quantity."""

    names = ("event_name",)
    default = "event_name"

    event_name: str | None = Field(default=None, pattern=r"^\S(.*\S)?$", description="Exact, case-sensitive.")
    quantity_property: str = Field(default="quantity", min_length=1, description="The property that is summed.")
    quantity_properties: Mapping[str, str] | None = Field(
        default=None, min_length=1, description="For `quantities`: which property takes which, all in one row."
    )

    @model_validator(mode="after")
    def _one_way(self) -> "EventBinding":
        if self.quantity_properties is not None and self.quantity is not None:
            raise ValueError("give quantity or quantity_properties, not both")
        targets = list((self.quantity_properties or {}).values())
        if "" in targets or len(set(targets)) < len(targets):
            raise ValueError("quantity_properties: each quantity needs a property of its own")
        return self

    def takes(self) -> tuple[str, ...]:
        return super().takes() if self.quantity_properties is None else tuple(self.quantity_properties)


class CustomerLink(Link):
    """The canonical id serves, unless a link names another."""

    names = ("external_customer_id",)
    default = "external_customer_id"

    external_customer_id: str | None = Field(default=None, min_length=1, description="The customer's `external_id`.")


BULK = Door(
    path="/events/bulk",
    rows=("events",),
    max_rows=1000,
    max_bytes=10_000_000,
    binding=EventBinding,
    link=CustomerLink,
    roles=Roles(
        key="event_id",
        customer=("external_customer_id",),
        meter=("event_name",),
        quantity="properties.{quantity}",
        timestamp="timestamp",
    ),
    quantity=QuantityRule(places=8, minimum=Decimal(0), maximum=Decimal("9999999999.99999999"), as_string=True),
    time=TimeRule(style="rfc3339", resolution=timedelta(milliseconds=1)),
    dedupe=Dedupe(window=None, repeat="silent", different="last_wins", by=("key", "timestamp")),
    key=KeyRule(forbidden=("::", "/")),
    refusal=Refusal.SOME,
    receipt="queued",
    dialect=OneVerdict(success=202, says={"message": "Events accepted for processing"}),
    envelope=Envelope(text=("message", "error.message", "error"), code=("code",)),
    rules=(
        Rule(statuses=(400,), text="exceeds the maximum size", state=State.REFUSED, error=ErrorCode.PAYLOAD_TOO_LARGE),
        Rule(
            statuses=(400,),
            code="validation_error",
            state=State.REJECTED,
            error=ErrorCode.PROVIDER_REJECTED,
            says="Request validation failed",
        ),
    ),
    rates=(Rate(requests=100, per=timedelta(minutes=1)),),
    aggregations=frozenset({"sum", "count", "max", "latest", "unique"}),
    corrections=Amend(
        replaces=frozenset({"sum", "max", "latest"}),
        voids=frozenset({"sum", "max"}),
        setting="allow_amend",
        source=Source(url=SERVER, seen=SEEN, grade="code", fact="the newest copy of event_id and timestamp is billed"),
    ),
)


class Flexprice(Adapter[FlexpriceSettings, EventBinding, CustomerLink]):
    """Flexprice's bulk ingestion."""

    Settings = FlexpriceSettings
    spec = ProviderSpec(
        name="flexprice",
        title="Flexprice",
        base_url="https://us.api.flexprice.io/v1",
        auth=HeaderKey(name="x-api-key"),
        doors={"bulk": BULK},
        cautions=(
            "202 promises nothing about billing: unknown event names and customers are taken without a word.",
            "Event ids must not be sent again with another timestamp: they would be billed twice.",
            "A server that locks event ids for 24 h skips corrections without a word: read the usage back after one.",
        ),
        sources=(
            Source(url=SERVER, seen=SEEN, grade="code", fact="1 to 1000 events, one status, a 400 may queue a prefix"),
            Source(url=SERVER, seen=SEEN, grade="code", fact="deduplicated by timestamp and event_id, newest wins"),
            Source(url=SERVER, seen=SEEN, grade="code", fact="Decimal(25,15) or (18,8): 10 integer digits, 8 places"),
            Source(
                url=SERVER, seen=SEEN, grade="unverified", fact="whether the hosted service locks event ids for 24 h"
            ),
            Source(url=SERVER, seen=SEEN, grade="code", fact="four error envelopes; negatives are billed as 0"),
            Source(url="https://docs.flexprice.io", seen=SEEN, grade="unverified", fact="100 bulk requests a minute"),
        ),
    )

    def encode(self, usage: Usage[EventBinding, CustomerLink]) -> Row:
        named = usage.binding.quantity_properties or {}
        quantities = {
            named.get(measure.name, measure.binding.quantity_property): self.wire_quantity(measure.quantity)
            for measure in usage.measures
        }
        row: dict[str, JsonValue] = {
            "event_id": usage.key,
            "event_name": usage.binding.event_name,
            "external_customer_id": usage.link.external_customer_id,
            "timestamp": self.wire_time(usage.timestamp),
            "properties": {**texts(usage.properties), **quantities},
        }
        return {**row, "source": usage.source} if usage.source else row
