"""Wingback: a bare array of additive rows, answered with the rows that failed. There is no idempotency of any kind.

A repeat is billed again, so an answer that was lost leaves its rows `unknown`: compare the entitlement
counters, then resolve. A second validation runs later at the vendor and is never reported back.
"""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import cast

from pydantic import Field

from adapters._asks import Ask
from adapters._base import Adapter
from adapters._customers import LookedUp, cut_off, matched, only_one
from adapters._dialects import IndexedFailures
from adapters._facts import Envelope, HeaderKey, QuantityRule, Rate, ReadBack, Refusal, Roles, Rule, Source, TimeRule
from adapters._inventory import RemoteCustomer, customers_of
from adapters._models import Binding, Link, Settings
from adapters._readback import Read, Take, Unread, UnreadKind, Wanted, Window, digits, listed, rfc3339, said, shown
from adapters._spec import Deltas, Door, ProviderSpec
from adapters._text import texts
from adapters._values import Fault, JsonValue, Reply, Row, State, Usage
from canonical_schema import ErrorCode

__all__ = ["Wingback"]

SEEN = date(2026, 11, 23)
PAGE = "https://docs.wingback.com/api-reference/usage/post_c_usage_bulk"
SINGLE = "https://docs.wingback.com/api-reference/usage/post_c_usage"
ACCESS = "https://docs.wingback.com/api-reference/entitlement/get_c_entitlement_customerid_access"


class WingbackSettings(Settings):
    """The vendor's words leave two things open; both stay off until an operator has tried them in the sandbox."""

    allow_absolute: bool = Field(default=False, description="Send `kind: absolute` as `is_absolute`.")
    allow_negative: bool = Field(default=False, description="Send negative quantities as negative units.")


class FeatureBinding(Binding):
    """A meter is a feature."""

    names = ("feature_slug",)
    default = "feature_slug"

    feature_slug: str | None = Field(default=None, min_length=1, description="The metered feature's slug.")


class CustomerLink(Link):
    """Only Wingback's own ids are taken."""

    names = ("customer_id",)

    customer_id: str | None = Field(
        default=None,
        pattern=r"(?i)^cust_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        description="Wingback's id for the customer: `Cust_<uuid>`.",
    )


def _row(error: ErrorCode, text: str, says: str | None = None) -> Rule:
    return Rule(row=True, statuses=(400,), text=text, state=State.REJECTED, error=error, says=says)


BULK = Door(
    path="/v1/c/usage/bulk",
    max_rows=1000,
    binding=FeatureBinding,
    link=CustomerLink,
    roles=Roles(
        key=None,
        event_id="metadata.gateway_event_id",
        customer=("customer_id",),
        meter=("feature_slug",),
        quantity="units",
        timestamp="timestamp",
    ),
    quantity=QuantityRule(
        places=12, minimum=Decimal(0), maximum=Decimal(10) ** 26, as_string=True, negative="allow_negative"
    ),
    time=TimeRule(style="rfc3339", resolution=timedelta(microseconds=1)),
    absolute="allow_absolute",
    dedupe=None,
    refusal=Refusal.SOME,
    dialect=IndexedFailures(
        statuses=(200, 201, 202, 207, 400, 422),
        index="index",
        status="status",
        feedback="feedback",
        text="value",
        error={"type": "error"},
    ),
    envelope=Envelope(text=("feedback.*.value",)),
    rules=(
        _row(ErrorCode.UNKNOWN_CUSTOMER, "Contract not found", "Contract not found"),
        _row(ErrorCode.OUTSIDE_TIME_WINDOW, "before contract activation"),
        _row(ErrorCode.UNKNOWN_BINDING, "(?i)feature not found", "Feature not found"),
    ),
    rates=(Rate(requests=100, rows=150_000, per=timedelta(minutes=1)),),
    aggregations=frozenset({"sum", "count"}),
    corrections=Deltas(
        aggregations=frozenset({"sum", "count"}),
        instead="nothing recorded can be changed or deleted: credit it there, or ask the vendor",
        source=Source(url=PAGE, seen=SEEN, grade="unverified", fact="the stated range of units is signed"),
    ),
    customers=Source(
        url="https://docs.wingback.com/api-reference/customer/get_c_customer",
        seen=SEEN,
        grade="unverified",
        fact="GET /v1/c/customer?customer_reference= finds customers; whether it matches exactly is not said",
    ),
    probe=Source(
        url="https://docs.wingback.com/api-reference/customer/get_c_customer",
        seen=SEEN,
        grade="docs",
        fact="GET /v1/c/customer lists customers; it wants a filter, and takes status and limit",
    ),
    read_back=ReadBack(
        kind="counters",
        settles=timedelta(minutes=10),
        by_customer=True,
        window="the customer's current billing period, whole and no other",
        source=Source(
            url=ACCESS,
            seen=SEEN,
            grade="unverified",
            fact="used_unit_count of features charged by usage; near-realtime",
        ),
    ),
)


class Wingback(Adapter[WingbackSettings, FeatureBinding, CustomerLink]):
    """Wingback's bulk usage upload."""

    Settings = WingbackSettings
    by_place = True
    spec = ProviderSpec(
        name="wingback",
        title="Wingback",
        base_url="https://api.wingback.com",
        auth=HeaderKey(name="wb-key"),
        doors={"bulk": BULK},
        cautions=(
            "No idempotency: a lost answer is parked as unknown, never resent.",
            "A later validation stage at the vendor drops rows without telling anyone; reconcile the counters.",
            "Usage that comes after its period has closed may not be billed: give the closing a delay there.",
            "Usage names no contract: which one gets it, of a customer who has several, is not known.",
        ),
        sources=(
            Source(url=PAGE, seen=SEEN, grade="docs", fact="bare array, indexed failures, the others are committed"),
            Source(url=PAGE, seen=SEEN, grade="docs", fact="100 requests and 150,000 events a minute"),
            Source(url=SINGLE, seen=SEEN, grade="docs", fact="units: 12 places, up to about 10^26; no idempotency"),
            Source(url=PAGE, seen=SEEN, grade="unverified", fact="status of a partly refused bulk; rows in a request"),
            Source(
                url=PAGE, seen=SEEN, grade="unverified", fact="negative units, is_absolute, unknown feature's words"
            ),
            Source(
                url=PAGE,
                seen=SEEN,
                grade="unverified",
                fact="usage for a closed period, and for one of several contracts",
            ),
        ),
    )

    def list_customers(self) -> Ask[tuple[RemoteCustomer, ...] | Unread]:
        """Read active customers that have a reference of ours. Features are listed nowhere.

        An `offset` is no number here: it is the word of the page before.
        """
        rows: list[Mapping[str, JsonValue]] = []
        following: JsonValue = None
        while True:
            query: dict[str, str | int] = {"status": "active", "limit": 100}
            if isinstance(following, str):
                query |= {"offset": following, "direction": "forward"}
            page = listed((yield self.reading("/v1/c/customer", query)), "customers", "hits")
            if isinstance(page, Unread):
                return page
            before, following, total = following, page[1].get("forward"), page[1].get("total")
            rows += page[0]
            if not (len(rows) < total if isinstance(total, int) else page[0] and following):
                break
            if not page[0] or not isinstance(following, str) or following == before:
                return Unread(kind=UnreadKind.TROUBLE, why="customers: more is promised, and no word to go on with")
        return customers_of(rows, "customer_reference", {"customer_id": "id"})

    def look_up(self, customer: str) -> Ask[LookedUp]:
        """Find the one customer of whom our id is the reference. Whatever else the filter lets through is no match."""
        answer = yield self.reading("/v1/c/customer", {"customer_reference": customer, "limit": 100})
        found = matched(answer, "customers", "hits")
        if isinstance(found, LookedUp):
            return found
        rows, around = found
        ids = [row.get("id") for row in rows if row.get("customer_reference") == customer]
        # One of those that are not shown may be it, too.
        return cut_off(rows, 100, around) or only_one("customer_id", "customer", ids)

    def encode(self, usage: Usage[FeatureBinding, CustomerLink]) -> Row:
        row: dict[str, JsonValue] = {
            "customer_id": usage.link.customer_id,
            "feature_slug": usage.binding.feature_slug,
            "units": self.wire_quantity(usage.quantity),
            "timestamp": self.wire_time(usage.timestamp),
            "metadata": {**texts(usage.properties), "gateway_event_id": usage.event_id},
        }
        return {**row, "is_absolute": True} if usage.absolute else row

    def probe(self) -> Ask[Reply | Fault]:
        """List one active customer."""
        return (yield self.reading("/v1/c/customer", {"status": "active", "limit": 1}))

    def read_usage(self, wanted: Wanted, take: Take) -> Ask[Read | Unread]:
        """Read one customer's counters of the current period, which the window must hold as a whole so far."""
        assert isinstance(wanted.link, CustomerLink)
        told = said((yield self.reading(f"/v1/c/entitlement/{wanted.link.customer_id}/access")), "entitlements")
        if isinstance(told, Unread):
            return told
        # Documented as an object, seen in production as a list with one for each contract.
        contracts = [one for one in (told if isinstance(told, list) else [told]) if isinstance(one, Mapping)]
        running = [one for one in contracts if _at(one, "contract", "status") == "active"] or contracts
        if len(running) != 1:
            why = f"the customer has {len(running)} running contracts: which of them gets usage is not known"
            return Unread(kind=UnreadKind.UNSUPPORTED, why=why)
        contract = _at(running[0], "contract", "contract_id")
        terms = said((yield self.reading(f"/v1/c/contract/{contract}")), "contract")
        if isinstance(terms, Unread):
            return terms
        period = _period(terms)
        if period is None:
            return Unread(kind=UnreadKind.TROUBLE, why="contract: an answer without the current period")
        if wanted.window.start > period.start or wanted.window.end < min(period.end, wanted.now):
            why = f"Wingback counts the current period alone: ask for {shown(period)}, or more"
            return Unread(kind=UnreadKind.WINDOW, why=why)
        counters = dict(_counters(running[0]))
        slugs = [_slug(binding) for binding in wanted.bindings.values()]
        counted: dict[tuple[str, str], Decimal] = {}
        unread: dict[str, Unread] = {}
        for name, binding in wanted.bindings.items():
            slug = _slug(binding)
            used = digits(counters.get(slug))
            if slugs.count(slug) > 1:
                why = f"several meters share the feature {slug!r}, and its counter cannot be told apart"
                unread[name] = Unread(kind=UnreadKind.UNSUPPORTED, why=why)
            elif used is None:
                why = f"the customer's contract shows no counter for the feature {slug!r}"
                unread[name] = Unread(kind=UnreadKind.UNSUPPORTED, why=why)
            else:
                counted[name, binding.quantity or ""] = used
        evidence = f"contract {contract}, period {shown(period)}"
        return Read(window=period, counted=counted, unread=unread, evidence=evidence)


def _slug(binding: Binding) -> str:
    assert isinstance(binding, FeatureBinding)
    return str(binding.feature_slug)


def _at(value: object, *path: str) -> JsonValue | None:
    for name in path:
        value = cast("Mapping[str, object]", value).get(name) if isinstance(value, Mapping) else None
    return cast("JsonValue | None", value)


def _period(terms: object) -> Window | None:
    for place in (("contract_summary",), ()):
        start = rfc3339(_at(terms, *place, "billing_information", "current_period", "start"))
        end = rfc3339(_at(terms, *place, "billing_information", "current_period", "end"))
        if start is not None and end is not None:
            return Window(start=start, end=end)
    return None


def _counters(access: object) -> Iterator[tuple[str, JsonValue | None]]:
    features = _at(access, "plan", "features")
    for feature in features if isinstance(features, list) else ():
        yield str(_at(feature, "slug")), _at(feature, "entitlement_details", "used_unit_count")
