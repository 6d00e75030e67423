"""Flexprice: events in bulk, queued with one status for all. What it cannot bill it takes all the same.

Its key is the pair of `event_id` and `timestamp`, so both are always ours. A 400 names no row, and rows
before the culprit may be queued. A negative or unreadable quantity is billed as 0 without a word.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal

from pydantic import Field, model_validator

from adapters._asks import Ask
from adapters._base import Adapter
from adapters._dialects import OneVerdict
from adapters._facts import (
    Aggregation,
    Dedupe,
    Envelope,
    HeaderKey,
    KeyRule,
    QuantityRule,
    Rate,
    ReadBack,
    Refusal,
    Roles,
    Rule,
    Source,
    TimeRule,
)
from adapters._inventory import RemoteCustomer, RemoteMeter, by_offset, customers_of, texts_of
from adapters._models import Binding, Link, Settings
from adapters._readback import (
    Billed,
    Charged,
    Read,
    Take,
    Unread,
    UnreadKind,
    UsageRow,
    Wanted,
    Window,
    digits,
    listed,
    rfc3339,
    said,
)
from adapters._spec import Amend, Door, ProviderSpec
from adapters._text import texts
from adapters._values import Fault, JsonValue, Reply, Row, State, Usage
from canonical_schema import ErrorCode

__all__ = ["Flexprice"]

SEEN = date(2026, 11, 23)
SERVER = "https://github.com/flexprice/flexprice/tree/e4b5303fde24581003faf0b05c08feb605c2ef93"


class FlexpriceSettings(Settings):
    """What depends on how the vendor's server is run."""

    allow_amend: bool = Field(
        default=False,
        description="Correct by sending an event again. Not where the server skips repeats of an id for 24 h, without a"
        " word: whether the hosted service does is not verified.",
    )


class EventBinding(Binding):
    """A meter is an event name; the vendor's metric says which property holds the quantity."""

    names = ("event_name",)
    default = "event_name"
    several = "quantity_properties"

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
    inventory=Source(
        url="https://docs.flexprice.io",
        seen=SEEN,
        grade="unverified",
        fact="POST /features/search and /customers/search; that a feature comes with its meter",
    ),
    aggregations=frozenset({"sum", "count", "max", "latest", "unique"}),
    counts="rows",
    corrections=Amend(
        replaces=frozenset({"sum", "max", "latest"}),
        voids=frozenset({"sum", "max"}),
        setting="allow_amend",
        source=Source(url=SERVER, seen=SEEN, grade="code", fact="the newest copy of event_id and timestamp is billed"),
    ),
    probe=Source(
        url=SERVER, seen=SEEN, grade="code", fact="POST /customers/search reads; a key for events alone gets 403"
    ),
    read_back=ReadBack(
        kind="events",
        settles=timedelta(hours=1),
        copies=True,
        exact=True,
        window="any; both ends are included by the vendor, and the later is left out here",
        finds=Source(url=SERVER, seen=SEEN, grade="code", fact="POST /events/query takes event_id"),
        source=Source(
            url=SERVER,
            seen=SEEN,
            grade="code",
            fact="POST /events/query: both ends included, copies until merged; how soon a 202 shows is not stated",
        ),
    ),
)

PAGE = 500


class Flexprice(Adapter[FlexpriceSettings, EventBinding, CustomerLink]):
    """Flexprice's bulk ingestion."""

    Settings = FlexpriceSettings
    by_place = True
    spec = ProviderSpec(
        name="flexprice",
        title="Flexprice",
        base_url="https://us.api.flexprice.io/v1",
        auth=HeaderKey(name="x-api-key"),
        doors={"bulk": BULK},
        cautions=(
            "202 promises nothing about billing: unknown event names and customers are taken without a word.",
            "A meter that counts counts events, whatever they say: quantities other than 1 are refused, 0 is left out.",
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
            Source(url=SERVER, seen=SEEN, grade="code", fact="COUNT: 1 for each event id, whatever its properties"),
            Source(url=SERVER, seen=SEEN, grade="code", fact="four error envelopes; negatives are billed as 0"),
            Source(url="https://docs.flexprice.io", seen=SEEN, grade="unverified", fact="100 bulk requests a minute"),
        ),
    )

    def list_meters(self) -> Ask[tuple[RemoteMeter, ...] | Unread]:
        """Read metered features with the meters behind them, which name the events."""
        about = {"status": "published", "expand": "meters"}
        rows = yield from by_offset(self.reading, "/features/search", "features", "items", body=about)
        if isinstance(rows, Unread):
            return rows
        made: list[RemoteMeter] = []
        for row in rows:
            if row.get("type", "metered") != "metered":
                continue
            meter = row.get("meter")
            if not isinstance(meter, Mapping):
                why = "features: they come without their meters, so no event name can be read"
                return Unread(kind=UnreadKind.UNSUPPORTED, why=why)
            adds = meter.get("aggregation")
            kind, place = (adds.get("type"), adds.get("field")) if isinstance(adds, Mapping) else (None, None)
            kind = str(kind).upper()
            place = place if isinstance(place, str) and kind not in _NO_QUANTITY else None
            binding = texts_of(meter, {"event_name": "event_name"})
            if binding:
                made.append(
                    RemoteMeter(
                        binding=binding,
                        title=str(row.get("name") or binding["event_name"]),
                        aggregation=_AGGREGATIONS.get(kind),
                        quantity={"quantity_property": place} if place else {},
                    )
                )
        return tuple(made)

    def list_customers(self) -> Ask[tuple[RemoteCustomer, ...] | Unread]:
        """Read customers, whose external id is what usage is billed to."""
        about = {"status": "published"}
        rows = yield from by_offset(self.reading, "/customers/search", "customers", "items", body=about)
        return customers_of(rows, "external_id", {"external_customer_id": "external_id"})

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

    def probe(self) -> Ask[Reply | Fault]:
        """List one customer. Not events: those are read from a store that taking events in can do without."""
        return (yield self.reading("/customers/search", body={"limit": 1}))

    def read_usage(self, wanted: Wanted, take: Take) -> Ask[Read | Unread]:
        """List raw events of each event name, newest first. Copies are listed until the vendor merges them."""
        exact = True
        events: dict[str, list[tuple[str, EventBinding]]] = {}
        for name, binding in wanted.bindings.items():
            assert isinstance(binding, EventBinding)
            events.setdefault(str(binding.event_name), []).append((name, binding))
        for event_name, bound in events.items():
            whole = yield from self._listing(wanted, event_name, bound, take)
            if isinstance(whole, Unread):
                return whole
            exact = exact and whole
        return Read(window=wanted.window, exact=exact)

    def _listing(
        self, wanted: Wanted, event_name: str, bound: list[tuple[str, EventBinding]], take: Take
    ) -> Ask[bool | Unread]:
        """List one event name's rows. Returns whether every quantity was written exactly."""
        last, exact = wanted.window.end, True
        cursor: str | None = None
        while True:
            asked: dict[str, JsonValue] = {
                "event_name": event_name,
                "start_time": self.wire_time(wanted.window.start),
                "end_time": self.wire_time(last),
                "page_size": PAGE,
            }
            if wanted.key is not None:
                asked["event_id"] = wanted.key
            elif isinstance(wanted.link, CustomerLink):
                asked["external_customer_id"] = wanted.link.external_customer_id
            if cursor is not None:
                asked["iter_last_key"] = cursor
            page = listed((yield self.reading("/events/query", body=asked)), "events", "events")
            if isinstance(page, Unread):
                return page
            rows, around = page
            for row in rows:
                instant, held = rfc3339(row.get("timestamp")), row.get("properties")
                if instant is None:
                    return Unread(kind=UnreadKind.TROUBLE, why="events: a row without timestamp")
                last = min(last, instant)
                if instant not in wanted.window:
                    continue
                key, stored = str(row.get("id")), rfc3339(row.get("ingested_at"))
                # Go leaves trailing zeros out, so the text itself does not sort.
                version = "" if stored is None else stored.isoformat(timespec="microseconds")
                for name, binding in bound:
                    for measure, where in _properties(binding):
                        value = held.get(where) if isinstance(held, Mapping) else None
                        if value is None and (binding.quantity_properties is not None or len(bound) > 1):
                            continue
                        exact = exact and (value is None or isinstance(value, str))
                        quantity = max(digits(value) or Decimal(0), Decimal(0))  # negatives are billed as 0
                        customer = str(row.get("external_customer_id"))
                        take(UsageRow(name, measure, key, customer, instant, quantity, key, version))
            following = around.get("iter_last_key")
            if not around.get("has_more"):
                return exact
            if not isinstance(following, str) or following == cursor:
                return Unread(kind=UnreadKind.TROUBLE, why="events: more is promised, and no cursor to it given")
            cursor = following

    def read_charges(self, wanted: Wanted, *, lifetime: bool) -> Ask[Billed | Unread]:
        """Read what the customer's only running subscription is charged: doubles, in major units."""
        assert isinstance(wanted.link, CustomerLink)
        body: dict[str, JsonValue] = {
            "external_customer_id": wanted.link.external_customer_id,
            "subscription_status": ["active", "trialing"],
        }
        page = listed((yield self.reading("/subscriptions/search", body=body)), "subscriptions", "items")
        if isinstance(page, Unread):
            return page
        ids = [row.get("id") for row in page[0]]
        if len(ids) != 1 or not isinstance(ids[0], str):
            why = f"the customer has {len(ids)} running subscriptions: charges are read where there is one"
            return Unread(kind=UnreadKind.UNSUPPORTED, why=why)
        body = {
            "subscription_id": ids[0],
            "start_time": self.wire_time(wanted.window.start),
            "end_time": self.wire_time(wanted.window.end),
            "lifetime_usage": lifetime,
        }
        told = said((yield self.reading("/subscriptions/usage", body=body)), "subscription usage")
        if isinstance(told, Unread):
            return told
        if not isinstance(told, Mapping) or not isinstance(charges := told.get("charges") or [], list):
            return Unread(kind=UnreadKind.TROUBLE, why="subscription usage: an answer without charges")
        amount = digits(told.get("amount"))
        if amount is None:
            return Unread(kind=UnreadKind.TROUBLE, why="subscription usage: an answer without an amount")
        start, end = rfc3339(told.get("start_time")), rfc3339(told.get("end_time"))
        currency = str(told.get("currency") or "")
        return Billed(
            window=Window(start=start or wanted.window.start, end=end or wanted.window.end),
            amount=amount,
            currency=currency,
            charges=tuple(
                Charged(
                    str(one.get("meter_display_name") or one.get("meter_id") or ""),
                    digits(one.get("amount")) or Decimal(0),
                    str(one.get("currency") or currency),
                    digits(one.get("quantity")) or Decimal(0),
                )
                for one in charges
                if isinstance(one, Mapping)
            ),
            lifetime=lifetime,
        )


def _properties(binding: EventBinding) -> list[tuple[str, str]]:
    """Return each measure of a binding with the property that holds it."""
    if binding.quantity_properties is not None:
        return list(binding.quantity_properties.items())
    return [(binding.quantity or "", binding.quantity_property)]


_NO_QUANTITY = frozenset({"COUNT", "COUNT_UNIQUE"})
"""What these read of an event is no quantity: nothing, or the property whose values are told apart."""

_AGGREGATIONS: Mapping[str, Aggregation] = {
    "SUM": "sum",
    "COUNT": "count",
    "MAX": "max",
    "LATEST": "latest",
    "COUNT_UNIQUE": "unique",
}
