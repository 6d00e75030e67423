"""Paygentic: two doors that must never be mixed for one merchant.

`events` takes one event a request and queues it. `usage-v0`, the older door, takes batches of billable metrics
and answers row by row; it was taken out of the vendor's description in April 2026 and may fail on newer plans.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, model_validator

from adapters._asks import Ask
from adapters._base import Adapter
from adapters._customers import LookedUp, matched, only_one
from adapters._dialects import OneVerdict, TwoLists
from adapters._facts import (
    Aggregation,
    Bearer,
    Dedupe,
    Envelope,
    QuantityRule,
    ReadBack,
    Refusal,
    Roles,
    Rule,
    Source,
    TimeRule,
)
from adapters._inventory import RemoteCustomer, RemoteMeter, by_offset, texts_of
from adapters._models import Binding, Duration, Link, Settings
from adapters._readback import Read, Take, Unread, UnreadKind, UsageRow, Wanted, digits, listed, rfc3339
from adapters._spec import Deltas, Door, ProviderSpec, TakeBack
from adapters._text import texts
from adapters._values import Fault, JsonValue, Measure, Reply, Row, State, Usage
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


INVENTORY = Source(
    url=SPEC,
    seen=SEEN,
    grade="docs",
    fact="GET /v0/billableMetrics by merchantId and /v0/customers by organizationId: pages by limit and offset",
)

PROBE = Source(
    url=SPEC, seen=SEEN, grade="docs", fact="GET /v0/subscriptions lists subscriptions; no parameter is required"
)

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
    inventory=INVENTORY,
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
    probe=PROBE,
    read_back=ReadBack(
        kind="events",
        settles=timedelta(hours=1),
        exact=False,
        window="any",
        finds=Source(
            url=SPEC,
            seen=SEEN,
            grade="docs",
            fact="GET /v0/billableMetrics/{id}/events takes subject or externalSubject, and a span of time",
        ),
        source=Source(
            url=SPEC,
            seen=SEEN,
            grade="unverified",
            fact="billableMetrics/{id}/events: whether the ends are included, how soon an event shows, repeats",
        ),
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
        # Whatever the words: other usage must not wait because one event cannot be refunded.
        Rule(statuses=(404,), state=State.REJECTED, error=ErrorCode.NOT_FOUND, says="Usage event not found"),
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

EDGE = timedelta(milliseconds=1)
"""Asked beyond both ends, since nobody says whether they are included."""


class Paygentic(Adapter[PaygenticSettings, EventBinding | MetricBinding, SubjectLink | CustomerLink]):
    """Paygentic's metered events, and its older usage batches."""

    Settings = PaygenticSettings
    by_place = True
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

    def look_up(self, customer: str) -> Ask[LookedUp]:
        """Find the one customer of whom our id is the external one."""
        query = {"organizationId": str(self.settings.merchant_id), "externalId": customer, "limit": 10}
        found = matched((yield self.reading("/v0/customers", query)), "customers", "data")
        if isinstance(found, LookedUp):
            return found
        rows, _ = found
        return only_one("customer_id", "customer", [row.get("id") for row in rows if row.get("externalId") == customer])

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

    def probe(self) -> Ask[Reply | Fault]:
        """List one subscription."""
        return (yield self.reading("/v0/subscriptions", {"limit": 1}))

    def read_usage(self, wanted: Wanted, take: Take) -> Ask[Read | Unread]:
        """List usage by metric, newest first; of the older door all metrics at once."""
        if self.settings.profile == "usage-v0":
            return (yield from self._usage(wanted, take))
        if self.settings.merchant_id is None:
            why = "Paygentic lists events by metric, and metrics by merchant: set settings.merchant_id"
            return Unread(kind=UnreadKind.UNSUPPORTED, why=why)
        metrics = yield from self._metrics(self.settings.merchant_id)
        if isinstance(metrics, Unread):
            return metrics
        unread: dict[str, Unread] = {}
        for name, binding in wanted.bindings.items():
            assert isinstance(binding, EventBinding)
            found = [(field, one) for kind, field, one in metrics if kind == binding.event_type]
            ours = (binding.quantity_field, "$." + binding.quantity_field)
            metric = next((one for field, one in found if field in ours), found[0][1] if found else None)
            if metric is None:
                why = f"no billable metric has the event type {binding.event_type!r}: nothing can be read for it"
                unread[name] = Unread(kind=UnreadKind.UNSUPPORTED, why=why)
                continue
            trouble = yield from self._events(wanted, name, binding, metric, take)
            if trouble is not None:
                return trouble
        return Read(window=wanted.window, exact=False, unread=unread)

    def list_meters(self) -> Ask[tuple[RemoteMeter, ...] | Unread]:
        """Read the billable metrics: by event type at the one door, by id at the other."""
        if self.settings.merchant_id is None:
            return _NO_MERCHANT
        query = {"merchantId": self.settings.merchant_id}
        rows = yield from by_offset(self.reading, "/v0/billableMetrics", "billable metrics", "data", query=query)
        if isinstance(rows, Unread):
            return rows
        names = {"event_type": "eventType"} if self.door is EVENTS else {"billable_metric_id": "id"}
        return tuple(
            RemoteMeter(
                binding=named,
                title=str(row.get("name") or next(iter(named.values()))),
                aggregation=_AGGREGATIONS.get(str(row.get("aggregation"))),
                quantity=_quantity(row) if self.door is EVENTS else {},
            )
            for row in rows
            if (named := texts_of(row, names))
        )

    def list_customers(self) -> Ask[tuple[RemoteCustomer, ...] | Unread]:
        """Read the merchant's customers that have an external id."""
        if self.settings.merchant_id is None:
            return _NO_MERCHANT
        query = {"organizationId": self.settings.merchant_id}
        rows = yield from by_offset(self.reading, "/v0/customers", "customers", "data", query=query)
        if isinstance(rows, Unread):
            return rows
        return tuple(
            RemoteCustomer(customer=ours, links=(texts_of(row, {"customer_id": "id"}),))
            for row in rows
            if isinstance(ours := row.get("externalId"), str) and ours
        )

    def _metrics(self, merchant: str) -> Ask[list[tuple[str, str, str]] | Unread]:
        """Return every metric: event type, value property, id."""
        made: list[tuple[str, str, str]] = []
        offset = 0
        while True:
            query = {"merchantId": merchant, "limit": 100, "offset": offset}
            page = listed((yield self.reading("/v0/billableMetrics", query)), "billable metrics", "data")
            if isinstance(page, Unread):
                return page
            made += [(str(row.get("eventType")), str(row.get("valueProperty")), str(row.get("id"))) for row in page[0]]
            offset += len(page[0])
            if len(page[0]) < 100:
                return made

    def _events(self, wanted: Wanted, name: str, binding: EventBinding, metric: str, take: Take) -> Ask[Unread | None]:
        link = wanted.link
        about = _edges(self, wanted, "from", "to")
        if isinstance(link, SubjectLink):
            theirs = link.customer_id
            about |= {"subject": theirs} if theirs is not None else {"externalSubject": str(link.external_subject)}
        offset, before = 0, set[str]()
        while True:
            path = f"/v0/billableMetrics/{metric}/events"
            page = listed((yield self.reading(path, {**about, "limit": 200, "offset": offset})), "events", "events")
            if isinstance(page, Unread):
                return page
            rows, _ = page
            for row in rows:
                instant, data = rfc3339(row.get("time")), row.get("data")
                if instant is None or not isinstance(data, Mapping):
                    return Unread(kind=UnreadKind.TROUBLE, why="events: a row without time or data")
                # What arrives while we page moves older rows onto the next page, where they are seen again.
                if instant not in wanted.window or str(row.get("id")) in before:
                    continue
                quantity = digits(data.get(binding.quantity_field)) or Decimal(0)
                theirs = row.get("subject") if row.get("externalSubject") is None else row.get("externalSubject")
                key, evidence = str(row.get("idempotencyKey")), str(row.get("id"))
                take(UsageRow(name, binding.quantity or "", key, str(theirs), instant, quantity, evidence))
            before = {str(row.get("id")) for row in rows}
            offset += len(rows)
            if len(rows) < 200:
                return None

    def _usage(self, wanted: Wanted, take: Take) -> Ask[Read | Unread]:
        metrics: dict[str, list[tuple[str, str]]] = {}
        for name, binding in wanted.bindings.items():
            assert isinstance(binding, MetricBinding)
            metrics.setdefault(str(binding.billable_metric_id), []).append((name, binding.quantity or ""))
        about = _edges(self, wanted, "startTime", "endTime")
        if isinstance(wanted.link, CustomerLink):
            about["customerId"] = str(wanted.link.customer_id)
        else:
            about["merchantId"] = str(self.settings.merchant_id)
        offset, before = 0, set[str]()
        while True:
            page = listed((yield self.reading("/v0/usage", {**about, "limit": 100, "offset": offset})), "usage", "data")
            if isinstance(page, Unread):
                return page
            rows, _ = page
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
            if len(rows) < 100:
                return Read(window=wanted.window)


def _edges(adapter: "Paygentic", wanted: Wanted, start: str, end: str) -> dict[str, str | int]:
    window = wanted.window.widened(EDGE)
    return {start: adapter.wire_time(window.start), end: adapter.wire_time(window.end)}


_AGGREGATIONS: Mapping[str, Aggregation] = {
    "SUM": "sum",
    "COUNT": "count",
    "MAX": "max",
    "LATEST": "latest",
    "UNIQUE_COUNT": "unique",
}
_NO_MERCHANT = Unread(kind=UnreadKind.UNSUPPORTED, why="Paygentic lists by merchant: set settings.merchant_id")


def _quantity(metric: Row) -> dict[str, str]:
    """Return where a metric takes the quantity from: a name alone, for `$.name`."""
    value = metric.get("valueProperty")
    return {"quantity_field": value.removeprefix("$.")} if isinstance(value, str) and value else {}
