"""Flowglad: whole batches in one transaction, repeats left out of the answer, business faults as HTTP 500.

Domain errors were 404, 400 and 409 in older servers and are 500 in newer ones, so they are known by their
words. Only the first bad row is named, sometimes without its index. A rate limit looks like a bad key (401).
"""

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from urllib.parse import quote

from pydantic import Field

from adapters._asks import Ask
from adapters._base import Adapter
from adapters._customers import LookedUp, Match, matched, only_one
from adapters._dialects import EchoedRows
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
from adapters._inventory import RemoteCustomer, RemoteMeter, by_cursor, texts_of
from adapters._models import Binding, Link, Settings
from adapters._readback import Read, Take, Unread, UnreadKind, UsageRow, Wanted, digits, epoch_ms, listed, next_cursor
from adapters._spec import Deltas, Door, ProviderSpec
from adapters._values import Fault, JsonValue, Reply, Row, State, Usage
from adapters._words import first
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
    surprising = dict.fromkeys(
        ("usage_meter_id", "usage_meter_slug"),
        ("default_price", "bills the default price, which may be free of charge: name a price_slug or price_id"),
    )

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
    inventory=Source(
        url=f"{SERVER}/platform/flowglad-next/openapi.json",
        seen=SEEN,
        grade="docs",
        fact="GET /prices, /usage-meters, /customers and /subscriptions: pages by cursor, without filters",
    ),
    customers=Source(
        url=f"{SERVER}/platform/flowglad-next/openapi.json",
        seen=SEEN,
        grade="docs",
        fact="GET /customers/{externalId}/billing lists currentSubscriptions",
    ),
    probe=Source(
        url=f"{SERVER}/platform/flowglad-next/openapi.json",
        seen=SEEN,
        grade="docs",
        fact="GET /usage-meters?limit=1 lists one meter",
    ),
    read_back=ReadBack(
        kind="events",
        settles=timedelta(minutes=1),
        window="any; the vendor filters nothing, so every read lists all that the key can see",
        source=Source(
            url=SERVER, seen=SEEN, grade="code", fact="GET /usage-events: cursor and limit alone, 100 rows a page"
        ),
    ),
)

PAGE = 100


class Flowglad(Adapter[Settings, PriceBinding, SubscriptionLink]):
    """Flowglad's bulk usage events."""

    Settings = Settings
    by_place = True
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
            "New accounts were switched off in March 2026: ask the vendor whether the service goes on.",
        ),
        sources=(
            Source(url=SERVER, seen=SEEN, grade="code", fact="one transaction a batch; duplicates are left out"),
            Source(url=SERVER, seen=SEEN, grade="code", fact="amount: a positive 32-bit integer"),
            Source(url=SERVER, seen=SEEN, grade="code", fact="unique by transactionId and meter, for ever"),
            Source(url=SERVER, seen=SEEN, grade="code", fact="domain errors: 500, or 404, 400, 409, by their words"),
            Source(
                url=SERVER, seen=SEEN, grade="unverified", fact="rows and bytes of a request: none stated, 100 kept"
            ),
            Source(
                url=SERVER, seen=SEEN, grade="unverified", fact="whether the hosted service goes on: sign-ups are off"
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

    def probe(self) -> Ask[Reply | Fault]:
        """List one usage meter."""
        return (yield self.reading("/usage-meters", {"limit": 1}))

    def read_usage(self, wanted: Wanted, take: Take) -> Ask[Read | Unread]:
        """Walk the whole list, oldest first: the vendor ignores every filter. Meters are known by ids there."""
        meters = yield from self._meters(wanted.bindings)
        if isinstance(meters, Unread):
            return meters
        theirs = wanted.link.subscription_id if isinstance(wanted.link, SubscriptionLink) else None
        cursor: str | None = None
        while True:
            query = {"limit": PAGE} if cursor is None else {"limit": PAGE, "cursor": cursor}
            page = listed((yield self.reading("/usage-events", query)), "usage events", "data", "items")
            if isinstance(page, Unread):
                return page
            rows, around = page
            for row in rows:
                instant, amount = epoch_ms(row.get("usageDate")), digits(row.get("amount"))
                if instant is None or amount is None:
                    return Unread(kind=UnreadKind.TROUBLE, why="usage events: a row without usageDate or amount")
                if instant not in wanted.window or theirs not in (None, row.get("subscriptionId")):
                    continue
                named = ((kind, row.get(kind)) for kind in ("priceId", "usageMeterId"))
                for meter in next((meters[one] for one in named if one in meters), ()):
                    key, customer = str(row.get("transactionId")), str(row.get("subscriptionId"))
                    measure = wanted.bindings[meter].quantity or ""
                    take(UsageRow(meter, measure, key, customer, instant, amount, str(row.get("id"))))
            following = next_cursor(around, cursor, "usage events")
            if isinstance(following, Unread):
                return following
            if following is None:
                absent = {name: _unlisted(binding) for name, binding in wanted.bindings.items()}
                found = {name for names in meters.values() for name in names}
                return Read(
                    window=wanted.window, unread={name: why for name, why in absent.items() if name not in found}
                )
            cursor = following

    def look_up(self, customer: str) -> Ask[LookedUp]:
        """Find the one current subscription of a customer, known here by its external id."""
        answer = yield self.reading(f"/customers/{quote(customer, safe='')}/billing")
        if isinstance(answer, Reply) and answer.status == 404 and first(answer.json, ("code",)) == "NOT_FOUND":
            return LookedUp(match=Match.ABSENT, message="the provider knows no customer of this id")
        found = matched(answer, "billing", "currentSubscriptions", "subscriptions")
        if isinstance(found, LookedUp):
            return found
        rows, _ = found
        return only_one("subscription_id", "current subscription", [row.get("id") for row in rows if _current(row)])

    def list_meters(self) -> Ask[tuple[RemoteMeter, ...] | Unread]:
        """Read usage prices, and usage meters, which bill their default price."""
        meters = yield from by_cursor(self.reading, "/usage-meters", "usage meters")
        prices = [] if isinstance(meters, Unread) else (yield from by_cursor(self.reading, "/prices", "prices"))
        if isinstance(meters, Unread):
            return meters
        if isinstance(prices, Unread):
            return prices
        adds_up: dict[str, Aggregation | None] = {
            str(row.get("id")): _AGGREGATIONS.get(str(row.get("aggregationType"))) for row in meters
        }
        usage = [row for row in prices if row.get("type") == "usage"]
        free = {str(row.get("usageMeterId")) for row in usage if row.get("isDefault") and _free(row)}
        made = [
            RemoteMeter(
                binding=texts_of(row, {"price_slug": "slug", "price_id": "id"}),
                title=str(row.get("name") or row.get("slug") or row.get("id")),
                aggregation=adds_up.get(str(row.get("usageMeterId"))),
                caution="" if row.get("active", True) and not _free(row) else _doubt(row),
            )
            for row in usage
        ]
        for row in meters:
            caution = "its default price is free of charge: name a price" if str(row.get("id")) in free else ""
            binding = texts_of(row, {"usage_meter_slug": "slug", "usage_meter_id": "id"})
            title, adds = str(row.get("name") or row.get("slug")), adds_up[str(row.get("id"))]
            made.append(RemoteMeter(binding=binding, title=title, aggregation=adds, caution=caution))
        return tuple(made)

    def list_customers(self) -> Ask[tuple[RemoteCustomer, ...] | Unread]:
        """Read customers, and the current subscriptions that usage is billed to."""
        customers = yield from by_cursor(self.reading, "/customers", "customers")
        if isinstance(customers, Unread):
            return customers
        subscriptions = yield from by_cursor(self.reading, "/subscriptions", "subscriptions")
        if isinstance(subscriptions, Unread):
            return subscriptions
        current: dict[str, list[dict[str, str]]] = {}
        for row in subscriptions:
            if _current(row):
                current.setdefault(str(row.get("customerId")), []).append(texts_of(row, {"subscription_id": "id"}))
        return tuple(
            RemoteCustomer(customer=ours, links=tuple(current.get(str(row.get("id")), ())))
            for row in customers
            if not row.get("archived") and isinstance(ours := row.get("externalId"), str) and ours
        )

    def _meters(self, bindings: Mapping[str, Binding]) -> Ask[dict[tuple[str, object], list[str]] | Unread]:
        """Return which of the bindings each price and usage meter stands for; slugs are looked up."""
        found: dict[tuple[str, object], list[str]] = {}
        slugs: dict[str, dict[str, list[str]]] = {"/prices": {}, "/usage-meters": {}}
        for name, binding in bindings.items():
            assert isinstance(binding, PriceBinding)
            if binding.price_id is not None:
                found.setdefault(("priceId", binding.price_id), []).append(name)
            elif binding.usage_meter_id is not None:
                found.setdefault(("usageMeterId", binding.usage_meter_id), []).append(name)
            elif binding.price_slug is not None:
                slugs["/prices"].setdefault(binding.price_slug, []).append(name)
            else:
                slugs["/usage-meters"].setdefault(str(binding.usage_meter_slug), []).append(name)
        for path, wanted in slugs.items():
            kind = "priceId" if path == "/prices" else "usageMeterId"
            rows = [] if not wanted else (yield from by_cursor(self.reading, path, path[1:]))
            if isinstance(rows, Unread):
                return rows
            for row in rows:
                if (names := wanted.get(str(row.get("slug")))) is not None:
                    found.setdefault((kind, row.get("id")), []).extend(names)
        return found


_AGGREGATIONS: Mapping[str, Aggregation] = {"sum": "sum", "count_distinct_properties": "unique"}


def _free(price: Mapping[str, JsonValue]) -> bool:
    return price.get("unitPrice") in {0, "0"}


def _doubt(price: Mapping[str, JsonValue]) -> str:
    return "the price is not active" if not price.get("active", True) else "the price is free of charge"


CURRENT = frozenset({"active", "trialing", "past_due", "unpaid", "cancellation_scheduled", "credit_trial"})


def _current(row: Mapping[str, JsonValue]) -> bool:
    return row.get("status") in CURRENT


def _unlisted(binding: Binding) -> Unread:
    named = next(f"{name} {value!r}" for name in METERS if (value := getattr(binding, name)) is not None)
    return Unread(kind=UnreadKind.UNSUPPORTED, why=f"Flowglad lists no {named}: nothing can be read for it")
