"""Paygentic: two doors that must never be mixed for one merchant.

`events` takes one event a request and queues it. `usage-v0`, the older door, takes batches of billable metrics
and answers row by row; it was taken out of the vendor's description in April 2026 and may fail on newer plans.
"""

from collections.abc import Mapping

from adapters._asks import Ask
from adapters._base import Adapter
from adapters._customers import LookedUp, cut_off, matched, only_one
from adapters._facts import Aggregation, Bearer, Source
from adapters._inventory import RemoteCustomer, RemoteMeter, by_offset, customers_of, texts_of
from adapters._readback import Read, Take, Unread, Wanted
from adapters._spec import ProviderSpec
from adapters._values import Fault, JsonValue, Reply, Row, Usage
from adapters.paygentic.both import LEGACY, NO_MERCHANT, SEEN, SPEC, PaygenticSettings
from adapters.paygentic.events import EVENTS, EventBinding, SubjectLink, event_members, read_events
from adapters.paygentic.usage_v0 import USAGE_V0, CustomerLink, MetricBinding, read_usage_v0, usage_members

__all__ = ["Paygentic"]


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
            "usage-v0 wants usage within the billing period that it is from: what comes of later usage is not known.",
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
        rows, around = found
        ids = [row.get("id") for row in rows if row.get("externalId") == customer]
        counts = around.get("pagination")
        cut = cut_off(rows, 10, counts if isinstance(counts, Mapping) else {})
        return cut or only_one("customer_id", "customer", ids)

    def encode(self, usage: Usage[EventBinding | MetricBinding, SubjectLink | CustomerLink]) -> Row:
        row: dict[str, JsonValue] = {"idempotencyKey": usage.key, "timestamp": self.wire_time(usage.timestamp)}
        if isinstance(usage.link, SubjectLink) and isinstance(usage.binding, EventBinding):
            return {**row, **event_members(self, usage.binding, usage.link, usage)}
        return {**row, **usage_members(self, usage.link.customer_id, usage.binding, usage)}

    def take_back(self, theirs: str, reason: str) -> Row:
        return {"id": theirs, "refunded": True, "reason": reason}

    def probe(self) -> Ask[Reply | Fault]:
        """List one subscription."""
        return (yield self.reading("/v0/subscriptions", {"limit": 1}))

    def read_usage(self, wanted: Wanted, take: Take) -> Ask[Read | Unread]:
        """List usage by metric, newest first; of the older door all metrics at once."""
        if self.settings.profile == "usage-v0":
            return (yield from read_usage_v0(self, wanted, take))
        return (yield from read_events(self, wanted, take))

    def list_meters(self) -> Ask[tuple[RemoteMeter, ...] | Unread]:
        """Read the billable metrics: by event type at the one door, by id at the other."""
        if self.settings.merchant_id is None:
            return NO_MERCHANT
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
            return NO_MERCHANT
        query = {"organizationId": self.settings.merchant_id}
        rows = yield from by_offset(self.reading, "/v0/customers", "customers", "data", query=query)
        return customers_of(rows, "externalId", {"customer_id": "id"})


_AGGREGATIONS: Mapping[str, Aggregation] = {
    "SUM": "sum",
    "COUNT": "count",
    "MAX": "max",
    "LATEST": "latest",
    "UNIQUE_COUNT": "unique",
}


def _quantity(metric: Row) -> dict[str, str]:
    """Return where a metric takes the quantity from: a name alone, for `$.name`; nothing where it reads none."""
    value = None if metric.get("aggregation") in {"COUNT", "UNIQUE_COUNT"} else metric.get("valueProperty")
    return {"quantity_field": value.removeprefix("$.")} if isinstance(value, str) and value else {}
