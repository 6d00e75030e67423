"""Flowglad: whole batches in one transaction, repeats left out of the answer, business faults as HTTP 500.

Domain errors were 404, 400 and 409 in older servers and are 500 in newer ones, so they are known by their
words. Only the first bad row is named, sometimes without its index. A rate limit looks like a bad key (401).
"""

from datetime import date, timedelta
from decimal import Decimal

from pydantic import Field

from adapters._base import Adapter
from adapters._corrections import Deltas
from adapters._dialects import EchoedRows
from adapters._models import Binding, Link, Settings
from adapters._spec import (
    Bearer,
    Dedupe,
    Door,
    Envelope,
    JsonValue,
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
from canonical_schema import ErrorCode

__all__ = ["Flowglad"]

SEEN = date(2026, 11, 23)
SERVER = "https://github.com/flowglad/flowglad/tree/49b3368f6a18f504ef85d623820e9bfdf076cdf7"
METERS = {
    "price_slug": "priceSlug",
    "price_id": "priceId",
    "usage_meter_id": "usageMeterId",
    "usage_meter_slug": "usageMeterSlug",
}


class PriceBinding(Binding):
    """A meter is a price, or a usage meter whose default price may be free of charge: prefer a price."""

    names = tuple(METERS)
    default = "price_slug"

    price_slug: str | None = Field(default=None, min_length=1)
    price_id: str | None = Field(default=None, min_length=1)
    usage_meter_id: str | None = Field(default=None, min_length=1)
    usage_meter_slug: str | None = Field(default=None, min_length=1)


class SubscriptionLink(Link):
    """Usage belongs to a subscription, by Flowglad's own id."""

    names = ("subscription_id",)

    subscription_id: str | None = Field(default=None, min_length=1, description="Flowglad's id: `sub_...`.")


def _domain(error: ErrorCode, text: str, says: str | None = None) -> Rule:
    """Return the rule for a sentence of the vendor's domain, which may stand behind the names of what wraps it."""
    text = rf"^(?:[A-Za-z ]+: )*{text}"
    return Rule(statuses=(500, 404, 400, 409), text=text, state=State.REJECTED, error=error, says=says)


BULK = Door(
    path="/usage-events/bulk",
    rows=("usageEvents",),
    max_rows=100,
    binding=PriceBinding,
    link=SubscriptionLink,
    roles=Roles(
        key="transactionId",
        customer=("subscriptionId",),
        meter=tuple(METERS.values()),
        quantity="amount",
        timestamp="usageDate",
    ),
    quantity=QuantityRule(places=0, minimum=Decimal(1), maximum=Decimal(2**31 - 1)),
    time=TimeRule(style="epoch_ms", resolution=timedelta(milliseconds=1)),
    zero="refused",
    dedupe=Dedupe(window=None, repeat="absent", different="first_wins", by=("key", "meter")),
    refusal=Refusal.WHOLE,
    dialect=EchoedRows(success=200, under="usageEvents", key="transactionId", id="id"),
    envelope=Envelope(text=("error", "message"), code=("code",), issues=("error", "issues"), at="path"),
    # Names of things stand inside these sentences, so an index counts only where the vendor writes it.
    rules=(
        _domain(
            ErrorCode.UNKNOWN_SUBSCRIPTION,
            r"Subscription not found: .*?(\(usage event at index (?P<index>\d+)\))?$",
            "Subscription not found: {customer} (usage event at index {index})",
        ),
        _domain(
            ErrorCode.UNKNOWN_BINDING,
            r"(Price|UsageMeter) not found: .*?(\((not in customer's pricing model, )?index (?P<index>\d+)\))?$",
            "Price not found: with slug {meter} (not in customer's pricing model)",
        ),
        _domain(ErrorCode.UNKNOWN_BINDING, r"Invalid priceId: .*? at index (?P<index>\d+) is type "),
        _domain(ErrorCode.UNSUPPORTED, r"Invalid properties: .*? at index (?P<index>\d+)\b"),
        _domain(ErrorCode.OUTSIDE_TIME_WINDOW, r"Invalid billingPeriod: .*? at index (?P<index>\d+)\b"),
        _domain(ErrorCode.UNKNOWN_CUSTOMER, "Cannot create usage event for archived customer"),
        _domain(ErrorCode.CONFLICT, "UsageEvent conflict: "),
    ),
    aggregations=frozenset({"sum", "count", "unique"}),
    corrections=Deltas(
        aggregations=frozenset({"sum"}),
        down=False,
        instead="nothing recorded can be lowered or deleted: give credits there, or ask the vendor",
        source=Source(url=SERVER, seen=SEEN, grade="code", fact="amounts of at least 1, no update, no delete"),
    ),
)


class Flowglad(Adapter[Settings, PriceBinding, SubscriptionLink]):
    """Flowglad's bulk usage events."""

    Settings = Settings
    spec = ProviderSpec(
        name="flowglad",
        title="Flowglad",
        base_url="https://app.flowglad.com/api/v1",
        auth=Bearer(),
        doors={"bulk": BULK},
        cautions=(
            "A meter named by usage_meter_* bills its default price, which may be free of charge.",
            "Late usage lands on the billing period that is current when it arrives.",
            "A 401 can also mean that the key is rate limited.",
        ),
        sources=(
            Source(url=SERVER, seen=SEEN, grade="code", fact="one transaction a batch; duplicates are left out"),
            Source(url=SERVER, seen=SEEN, grade="code", fact="amount: a positive 32-bit integer"),
            Source(url=SERVER, seen=SEEN, grade="code", fact="unique by transactionId and meter, for ever"),
            Source(url=SERVER, seen=SEEN, grade="code", fact="domain errors: 500, or 404, 400, 409, by their words"),
            Source(
                url=SERVER, seen=SEEN, grade="unverified", fact="rows and bytes of a request: none stated, 100 kept"
            ),
        ),
    )

    def encode(self, usage: Usage[PriceBinding, SubscriptionLink]) -> Row:
        (named,) = (
            {theirs: value} for ours, theirs in METERS.items() if (value := getattr(usage.binding, ours)) is not None
        )
        row: dict[str, JsonValue] = {
            "subscriptionId": usage.link.subscription_id,
            **named,
            "amount": self.wire_quantity(usage.quantity),
            "transactionId": usage.key,
            "usageDate": self.wire_time(usage.timestamp),
        }
        return {**row, "properties": dict(usage.properties)} if usage.properties else row
