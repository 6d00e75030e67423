"""Paygentic's `usage-v0`: batches of billable metrics, answered row by row; a row can be refunded as a whole."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal

from pydantic import Field

from adapters._asks import Ask
from adapters._base import Adapter
from adapters._dialects import OneVerdict, TwoLists
from adapters._facts import QuantityRule, ReadBack, Refusal, Roles, Rule, Source
from adapters._models import Binding, Link
from adapters._readback import Read, Take, Unread, UnreadKind, UsageRow, Wanted, digits, goes_on, listed, rfc3339
from adapters._spec import Door, TakeBack
from adapters._text import texts
from adapters._values import JsonValue, Measure, Row, State, Usage
from adapters.paygentic.both import (
    DEDUPE,
    ENVELOPE,
    INVENTORY,
    LEGACY,
    PROBE,
    SEEN,
    SPEC,
    TIME,
    B,
    L,
    PaygenticSettings,
    edges,
)
from canonical_schema import ErrorCode, plain

__all__ = ["USAGE_V0", "CustomerLink", "MetricBinding", "read_usage_v0", "usage_members"]


class MetricBinding(Binding):
    """A meter is a billable metric, with a unit price where its price model is dynamic."""

    names = ("billable_metric_id",)

    billable_metric_id: str | None = Field(default=None, min_length=1, description="`bm_...`.")
    price: Decimal | None = Field(default=None, ge=0, description="Per unit, in major units of the currency.")
    entitlement_id: str | None = Field(default=None, min_length=1, description="A reservation of funds: `com_...`.")

    def together(self) -> object:
        return self.entitlement_id


class CustomerLink(Link):
    """Only Paygentic's own ids are taken."""

    names = ("customer_id",)

    customer_id: str | None = Field(default=None, pattern=r"^cus_\w+$", description="`cus_...`.")


def _row(error: ErrorCode, text: str, state: State = State.REJECTED, says: str | None = None) -> Rule:
    return Rule(row=True, statuses=(207,), text=text, state=state, error=error, says=says)


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
        # Whatever the words: other usage must not wait because one event cannot be refunded, nor because a key that
        # may report usage may not refund it.
        Rule(statuses=(404, 405, 410), state=State.REJECTED, error=ErrorCode.NOT_FOUND, says="Usage event not found"),
        Rule(statuses=(403,), state=State.REJECTED, error=ErrorCode.FORBIDDEN),
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
    inventory=INVENTORY,
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
    customers=Source(
        url=SPEC, seen=SEEN, grade="docs", fact="GET /v0/customers?organizationId=&externalId= matches exactly"
    ),
    probe=PROBE,
    read_back=ReadBack(
        kind="events",
        settles=timedelta(minutes=10),
        window="any",
        finds=Source(url=LEGACY, seen=SEEN, grade="docs", fact="GET /v0/usage takes customerId and a span of time"),
        source=Source(
            url=LEGACY, seen=SEEN, grade="unverified", fact="GET /v0/usage: whether its ends are included, its delay"
        ),
    ),
)


def usage_members(
    adapter: Adapter[PaygenticSettings, B, L], customer: str | None, binding: Binding, usage: Usage[B, L]
) -> Row:
    """Return what a row of this door has beside key and time."""
    row: dict[str, JsonValue] = {
        "customerId": customer,
        "merchantId": adapter.settings.merchant_id,
        "properties": [_metric(adapter, measure) for measure in usage.measures],
    }
    if isinstance(binding, MetricBinding) and binding.entitlement_id is not None:
        row["entitlementId"] = binding.entitlement_id
    return row | {"metadata": texts(usage.properties)} if usage.properties else row


def _metric(adapter: Adapter[PaygenticSettings, B, L], measure: Measure[B]) -> Row:
    binding = measure.binding
    assert isinstance(binding, MetricBinding)
    price = {} if binding.price is None else {"price": plain(binding.price)}
    return {
        "billableMetricId": binding.billable_metric_id,
        "quantity": adapter.wire_quantity(measure.quantity),
        **price,
    }


def read_usage_v0(adapter: Adapter[PaygenticSettings, B, L], wanted: Wanted, take: Take) -> Ask[Read | Unread]:
    """List all metrics at once, of one customer or of the merchant."""
    metrics: dict[str, list[tuple[str, str]]] = {}
    for name, binding in wanted.bindings.items():
        assert isinstance(binding, MetricBinding)
        metrics.setdefault(str(binding.billable_metric_id), []).append((name, binding.quantity or ""))
    about = edges(adapter, wanted, "startTime", "endTime")
    if isinstance(wanted.link, CustomerLink):
        about["customerId"] = str(wanted.link.customer_id)
    else:
        about["merchantId"] = str(adapter.settings.merchant_id)
    offset, before = 0, set[str]()
    while True:
        page = listed((yield adapter.reading("/v0/usage", {**about, "limit": 100, "offset": offset})), "usage", "data")
        if isinstance(page, Unread):
            return page
        rows, around = page
        for row in rows:
            instant, measures = rfc3339(row.get("timestamp")), row.get("properties")
            if instant is None or not isinstance(measures, list):
                return Unread(kind=UnreadKind.TROUBLE, why="usage: a row without timestamp or properties")
            evidence = str(row.get("id"))
            if instant not in wanted.window or evidence in before or row.get("refund") is not None:
                continue
            key, customer = str(row.get("idempotencyKey")), str(row.get("customerId"))
            for one in measures:
                if not isinstance(one, Mapping):
                    continue
                for name, measure in metrics.get(str(one.get("billableMetricId")), ()):
                    quantity = digits(one.get("quantity")) or Decimal(0)
                    take(UsageRow(name, measure, key, customer, instant, quantity, evidence))
        before = {str(row.get("id")) for row in rows}
        offset += len(rows)
        more = goes_on(len(rows), 100, offset, around, "usage")
        if isinstance(more, Unread):
            return more
        if not more:
            return Read(window=wanted.window)
