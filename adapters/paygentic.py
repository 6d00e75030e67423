"""Paygentic: two doors that must never be mixed for one merchant.

`events` takes one event a request and queues it. `usage-v0`, the older door, takes batches of billable metrics
and answers row by row; it was taken out of the vendor's description in April 2026 and may fail on newer plans.
"""

from datetime import date, timedelta
from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, model_validator

from adapters._base import Adapter
from adapters._corrections import Deltas, TakeBack
from adapters._dialects import OneVerdict, TwoLists
from adapters._models import Binding, Duration, Link, Settings
from adapters._spec import (
    Bearer,
    Dedupe,
    Door,
    Envelope,
    JsonValue,
    Measure,
    ProviderSpec,
    QuantityRule,
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
from canonical_schema import ErrorCode, plain

__all__ = ["Paygentic"]

SEEN = date(2026, 11, 23)
SPEC = "https://github.com/paygentic/cli/tree/ed6977762a99de5acabccc2b1819856841f3a869"
LEGACY = "https://github.com/paygentic/sdk-node/tree/ef1973134f26e57dd288c342cdc28955c4bfdacc"
SOURCE = "usage-gateway"
"""Constant, since the vendor may tell repeats by source and key together."""


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


class EventBinding(Binding):
    """A meter is an event type; the vendor's metric says which member of `data` holds the quantity."""

    names = ("event_type",)
    default = "event_type"

    event_type: str | None = Field(default=None, min_length=1, description="The metric's `eventType`.")
    quantity_field: str = Field(
        default="quantity",
        pattern=r"^[^$.\[\]]+$",
        description="The metric's `valueProperty`, by its name alone: `tokens` for `$.tokens`.",
    )


class MetricBinding(Binding):
    """A meter is a billable metric, with a unit price where its price model is dynamic."""

    names = ("billable_metric_id",)

    billable_metric_id: str | None = Field(default=None, min_length=1, description="`bm_...`.")
    price: Decimal | None = Field(default=None, ge=0, description="Per unit, in major units of the currency.")
    entitlement_id: str | None = Field(default=None, min_length=1, description="A reservation of funds: `com_...`.")

    def together(self) -> object:
        return self.entitlement_id


class SubjectLink(Link):
    """The canonical id serves as `externalSubject`, where its characters allow it."""

    names = ("external_subject", "customer_id")
    default = "external_subject"

    external_subject: str | None = Field(default=None, pattern=r"^[a-zA-Z0-9_-]{1,255}$")
    customer_id: str | None = Field(default=None, pattern=r"^cus_\w+$")


class CustomerLink(Link):
    """Only Paygentic's own ids are taken."""

    names = ("customer_id",)

    customer_id: str | None = Field(default=None, pattern=r"^cus_\w+$", description="`cus_...`.")


DEDUPE = Dedupe(window=timedelta(hours=24), setting="dedupe_window", repeat="same", different="unverified")
TIME = TimeRule(style="rfc3339", resolution=timedelta(milliseconds=1))
ENVELOPE = Envelope(text=("message",), code=("error", "code"), issues=("errors",), at="field")


def _row(error: ErrorCode, text: str, state: State = State.REJECTED, says: str | None = None) -> Rule:
    return Rule(row=True, statuses=(207,), text=text, state=state, error=error, says=says)


EVENTS = Door(
    path="/v0/events",
    rows="one",
    binding=EventBinding,
    link=SubjectLink,
    roles=Roles(
        key="idempotencyKey",
        customer=("subject", "externalSubject"),
        meter=("type",),
        quantity="data.{quantity}",
        timestamp="timestamp",
    ),
    quantity=QuantityRule(places=15, minimum=-(Decimal(10) ** 15), maximum=Decimal(10) ** 15, digits=15),
    time=TIME,
    dedupe=DEDUPE,
    refusal=Refusal.WHOLE,
    receipt="queued",
    dialect=OneVerdict(success=202, says={"object": "event"}, id_at="id"),
    envelope=ENVELOPE,
    rules=(
        Rule(
            statuses=(422,),
            code="invalid_event_type",
            state=State.REJECTED,
            error=ErrorCode.UNKNOWN_BINDING,
            says="No billable metric has this event type",
        ),
        Rule(
            statuses=(422,),
            text="(?i)billable metric|event type",
            state=State.REJECTED,
            error=ErrorCode.UNKNOWN_BINDING,
        ),
        # A bare "not found" may as well be about the address.
        Rule(
            statuses=(404,),
            code="not_found",
            text="(?i)customer|subject",
            state=State.REJECTED,
            error=ErrorCode.UNKNOWN_CUSTOMER,
        ),
    ),
    aggregations=frozenset({"sum", "count", "max", "latest", "unique"}),
    corrections=Deltas(
        aggregations=frozenset({"sum"}),
        instead="an event cannot be changed or deleted: credit it there",
        source=Source(url=SPEC, seen=SEEN, grade="docs", fact="the number inside data has no bound"),
    ),
)

REFUND = Door(
    path="/v0/usage/{id}",
    method="PATCH",
    rows="one",
    binding=MetricBinding,
    link=CustomerLink,
    roles=Roles(key=None, customer=(), meter=(), quantity="", timestamp=""),
    quantity=QuantityRule(places=0),
    time=TIME,
    # A refund cannot be taken back, and nobody says what a second one does: a lost answer waits for a person.
    dedupe=None,
    refusal=Refusal.WHOLE,
    dialect=OneVerdict(success=200, says={"object": "usageEvent"}, id_at="id"),
    envelope=ENVELOPE,
    rules=(
        Rule(
            statuses=(404,),
            code="not_found",
            text="(?i)usage",
            state=State.REJECTED,
            error=ErrorCode.NOT_FOUND,
            says="Usage event not found",
        ),
    ),
)

USAGE_V0 = Door(
    path="/v0/usage/batch",
    rows=("events",),
    max_rows=1000,
    binding=MetricBinding,
    link=CustomerLink,
    roles=Roles(
        key="idempotencyKey",
        customer=("customerId",),
        meter=("properties[].billableMetricId",),
        quantity="properties[].quantity",
        timestamp="timestamp",
    ),
    quantity=QuantityRule(places=0, minimum=Decimal(1), maximum=Decimal(2**53 - 1)),
    time=TIME,
    several_measures=True,
    zero="refused",
    dedupe=DEDUPE,
    refusal=Refusal.SOME,
    dialect=TwoLists(
        full=201,
        partial=207,
        stored="successful",
        failed="failed",
        key="idempotencyKey",
        id="id",
        index="index",
        text="error",
        also={"object": "batchUsageEvents"},
    ),
    envelope=ENVELOPE,
    rules=(
        _row(ErrorCode.UNKNOWN_BINDING, "Invalid billable metric ID", says="Invalid billable metric ID"),
        _row(ErrorCode.UNKNOWN_CUSTOMER, "Customer not found", says="Customer not found"),
        # The vendor gives no code and tells us to send failed items again: words of trouble are no refusal.
        _row(
            ErrorCode.PROVIDER_UNAVAILABLE, r"(?i)time-?out|timed out|deadline|internal (server )?error", State.UNKNOWN
        ),
        _row(
            ErrorCode.PROVIDER_UNAVAILABLE,
            r"(?i)try again|please retry|temporar|rate limit|too many requests|service unavailable",
            State.NOT_STORED,
        ),
    ),
    aggregations=frozenset({"sum", "count"}),
    corrections=TakeBack(
        word="refund",
        door=REFUND,
        aggregations=frozenset({"sum", "count"}),
        instead="refund it by hand in the vendor's dashboard",
        source=Source(
            url=LEGACY, seen=SEEN, grade="docs", fact="PATCH /v0/usage/{id} refunds a usage event, irreversibly"
        ),
    ),
)


class Paygentic(Adapter[PaygenticSettings, EventBinding | MetricBinding, SubjectLink | CustomerLink]):
    """Paygentic's metered events, and its older usage batches."""

    Settings = PaygenticSettings
    spec = ProviderSpec(
        name="paygentic",
        title="Paygentic",
        base_url="https://api.paygentic.io",
        auth=Bearer(),
        doors={"events": EVENTS, "usage-v0": USAGE_V0},
        cautions=(
            "usage-v0 was withdrawn from the vendor's description on 2026-04-27; use it only where your plan needs it.",
            "An accepted event is queued: nothing in the answer proves that it was billed.",
        ),
        sources=(
            Source(url=SPEC, seen=SEEN, grade="docs", fact="events: one a request, 202, deduplicated after the answer"),
            Source(url=LEGACY, seen=SEEN, grade="docs", fact="usage-v0: 201 or 207 with successful, failed, summary"),
            Source(
                url=LEGACY, seen=SEEN, grade="docs", fact="usage-v0: whole quantities of at least 1, price a string"
            ),
            Source(url=SPEC, seen=SEEN, grade="unverified", fact="dedupe window and scope; numbers read as doubles"),
            Source(
                url=LEGACY, seen=SEEN, grade="unverified", fact="whether usage-v0 still answers; a wholly failed batch"
            ),
        ),
    )

    def encode(self, usage: Usage[EventBinding | MetricBinding, SubjectLink | CustomerLink]) -> Row:
        row: dict[str, JsonValue] = {"idempotencyKey": usage.key, "timestamp": self.wire_time(usage.timestamp)}
        if isinstance(usage.link, SubjectLink) and isinstance(usage.binding, EventBinding):
            theirs = usage.link.customer_id
            return {
                **row,
                "type": usage.binding.event_type,
                "source": SOURCE,
                **({"externalSubject": usage.link.external_subject} if theirs is None else {"subject": theirs}),
                "data": {**usage.properties, usage.binding.quantity_field: self.wire_quantity(usage.quantity)},
            }
        row |= {
            "customerId": usage.link.customer_id,
            "merchantId": self.settings.merchant_id,
            "properties": [self._metric(measure) for measure in usage.measures],
        }
        if isinstance(usage.binding, MetricBinding) and usage.binding.entitlement_id is not None:
            row["entitlementId"] = usage.binding.entitlement_id
        return row | {"metadata": texts(usage.properties)} if usage.properties else row

    def take_back(self, theirs: str, reason: str) -> Row:
        return {"id": theirs, "refunded": True, "reason": reason}

    def _metric(self, measure: Measure[EventBinding | MetricBinding]) -> Row:
        binding = measure.binding
        assert isinstance(binding, MetricBinding)
        price = {} if binding.price is None else {"price": plain(binding.price)}
        return {
            "billableMetricId": binding.billable_metric_id,
            "quantity": self.wire_quantity(measure.quantity),
            **price,
        }
