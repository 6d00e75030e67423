"""Paygentic's `events`: one event a request, queued; listed by metric."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal

from pydantic import Field

from adapters._asks import Ask
from adapters._base import Adapter
from adapters._dialects import OneVerdict
from adapters._facts import QuantityRule, ReadBack, Refusal, Roles, Rule, Source
from adapters._inventory import by_offset
from adapters._models import Binding, Link
from adapters._readback import Read, Take, Unread, UnreadKind, UsageRow, Wanted, digits, goes_on, listed, rfc3339
from adapters._spec import Deltas, Door
from adapters._values import Row, State, Usage
from adapters.paygentic.both import DEDUPE, ENVELOPE, INVENTORY, PROBE, SEEN, SPEC, TIME, B, L, PaygenticSettings, edges
from canonical_schema import ErrorCode

__all__ = ["EVENTS", "EventBinding", "SubjectLink", "event_members", "read_events"]

SOURCE = "usage-gateway"
"""Constant, since the vendor may tell repeats by source and key together."""


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


class SubjectLink(Link):
    """The canonical id serves as `externalSubject`, where its characters allow it."""

    names = ("external_subject", "customer_id")
    default = "external_subject"

    external_subject: str | None = Field(default=None, pattern=r"^[a-zA-Z0-9_-]{1,255}$")
    customer_id: str | None = Field(default=None, pattern=r"^cus_\w+$")


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
    counts="rows",
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


def event_members(
    adapter: Adapter[PaygenticSettings, B, L], binding: EventBinding, link: SubjectLink, usage: Usage[B, L]
) -> Row:
    """Return what a row of this door has beside key and time."""
    theirs = link.customer_id
    return {
        "type": binding.event_type,
        "source": SOURCE,
        **({"externalSubject": link.external_subject} if theirs is None else {"subject": theirs}),
        "data": {**usage.properties, binding.quantity_field: adapter.wire_quantity(usage.quantity)},
    }


def read_events(adapter: Adapter[PaygenticSettings, B, L], wanted: Wanted, take: Take) -> Ask[Read | Unread]:
    """List the events of each metric that a meter may be."""
    if adapter.settings.merchant_id is None:
        why = "Paygentic lists events by metric, and metrics by merchant: set settings.merchant_id"
        return Unread(kind=UnreadKind.UNSUPPORTED, why=why)
    metrics = yield from _metrics(adapter, adapter.settings.merchant_id)
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
        trouble = yield from _events(adapter, wanted, name, binding, metric, take)
        if trouble is not None:
            return trouble
    return Read(window=wanted.window, exact=False, unread=unread)


def _metrics(adapter: Adapter[PaygenticSettings, B, L], merchant: str) -> Ask[list[tuple[str, str, str]] | Unread]:
    """Return every metric: event type, value property, id."""
    query = {"merchantId": merchant}
    rows = yield from by_offset(adapter.reading, "/v0/billableMetrics", "billable metrics", "data", query=query)
    if isinstance(rows, Unread):
        return rows
    return [(str(row.get("eventType")), str(row.get("valueProperty")), str(row.get("id"))) for row in rows]


def _events(
    adapter: Adapter[PaygenticSettings, B, L], wanted: Wanted, name: str, binding: EventBinding, metric: str, take: Take
) -> Ask[Unread | None]:
    link = wanted.link
    about = edges(adapter, wanted, "from", "to")
    if isinstance(link, SubjectLink):
        theirs = link.customer_id
        about |= {"subject": theirs} if theirs is not None else {"externalSubject": str(link.external_subject)}
    offset, before = 0, set[str]()
    while True:
        path = f"/v0/billableMetrics/{metric}/events"
        page = listed((yield adapter.reading(path, {**about, "limit": 200, "offset": offset})), "events", "events")
        if isinstance(page, Unread):
            return page
        rows, around = page
        for row in rows:
            instant, data = rfc3339(row.get("time")), row.get("data")
            if instant is None or not isinstance(data, Mapping):
                return Unread(kind=UnreadKind.TROUBLE, why="events: a row without time or data")
            # What arrives while we page moves older rows onto the next page, where they are seen again.
            if instant not in wanted.window or str(row.get("id")) in before:
                continue
            quantity = digits(data.get(binding.quantity_field)) or Decimal(0)
            theirs = row.get("externalSubject") or row.get("subject")
            key, evidence = str(row.get("idempotencyKey")), str(row.get("id"))
            take(UsageRow(name, binding.quantity or "", key, str(theirs), instant, quantity, evidence))
        before = {str(row.get("id")) for row in rows}
        offset += len(rows)
        more = goes_on(len(rows), 200, offset, around, "events")
        if not more or isinstance(more, Unread):
            return more or None
