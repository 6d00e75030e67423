"""What the laws need: adapters set up, usage of every kind, and a small honest vendor that keeps a ledger."""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, cast

import msgspec
import pytest
from hypothesis import strategies as st

from adapters import (
    AnyAdapter,
    Binding,
    Door,
    Link,
    Measure,
    Outcome,
    Reply,
    Request,
    Row,
    Sent,
    State,
    Usage,
    encode_row,
    provider,
    providers,
)
from adapters._facts import Refusal
from adapters._values import JsonValue, Scalar
from canonical_schema import ErrorCode

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = "sk_live_8eC3ret0fTheHouse"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DECODER = msgspec.json.Decoder(float_hook=Decimal)


class Basic:
    """A way of one's own to say who asks: the key as a user's name, as HTTP Basic has it."""

    def headers(self, secret: str) -> dict[str, str]:
        return {"authorization": "Basic " + b64encode(f"{secret}:".encode()).decode()}


@dataclass(frozen=True, slots=True)
class Named:
    """How a door names two meters and two customers, and where it then finds the quantity."""

    bindings: tuple[Mapping[str, object], ...]
    links: tuple[Mapping[str, object], ...]
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    quantity: tuple[str, ...] = ("", "")
    """What `{quantity}` in the roles stands for, by binding."""

    def names(self, index: int) -> tuple[str, str]:
        """Return the meter and the customer in the vendor's words."""
        meter = next(str(v) for k, v in self.bindings[index].items() if k in METER_NAMES)
        return meter, str(next(iter(self.links[index].values())))


METER_NAMES = {
    "price_slug", "price_id", "usage_meter_id", "usage_meter_slug", "event_name", "event_type", "billable_metric_id",
    "feature_slug",
}  # fmt: skip

NAMED: Mapping[tuple[str, str], Named] = {
    ("flowglad", "bulk"): Named(
        ({"price_slug": "api_calls"}, {"usage_meter_id": "usage_meter_7"}),
        ({"subscription_id": "sub_customerone"}, {"subscription_id": "sub_customertwo"}),
    ),
    ("paygentic", "events"): Named(
        ({"event_type": "api.calls"}, {"event_type": "tokens", "quantity_field": "tokens_used"}),
        ({"external_subject": "customer-one"}, {"customer_id": "cus_customertwo"}),
        settings={"merchant_id": "org_1"},
        quantity=("quantity", "tokens_used"),
    ),
    ("paygentic", "usage-v0"): Named(
        ({"billable_metric_id": "bm_calls"}, {"billable_metric_id": "bm_tokens", "price": "0.000125"}),
        ({"customer_id": "cus_customerone"}, {"customer_id": "cus_customertwo"}),
        settings={"profile": "usage-v0", "merchant_id": "org_1"},
    ),
    ("flexprice", "bulk"): Named(
        ({"event_name": "api_call"}, {"event_name": "tokens", "quantity_property": "tokens_used"}),
        ({"external_customer_id": "customer-one"}, {"external_customer_id": "customer-two"}),
        quantity=("quantity", "tokens_used"),
    ),
    ("wingback", "bulk"): Named(
        ({"feature_slug": "API_CALLS"}, {"feature_slug": "TOKENS"}),
        (
            {"customer_id": "Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670"},
            {"customer_id": "Cust_0b8f3a44-3d0e-4f0e-9a53-5b1f4f7a2c11"},
        ),
    ),
}
DOORS = [(name, profile) for name, kind in providers().items() for profile in kind.spec.doors]
DONE = {State.ACCEPTED, State.DUPLICATE}
every_door = pytest.mark.parametrize(("name", "profile"), DOORS)


def adapter_of(name: str, profile: str, **settings: object) -> AnyAdapter:
    """Return an adapter behind one door, with the key `KEY`."""
    kind = provider(name)
    given = {"api_key": KEY, **NAMED[name, profile].settings, **settings}
    return kind(kind.Settings.model_validate(given))


def bound(adapter: AnyAdapter, index: int = 0) -> tuple[Binding, Link]:
    """Return one of the door's two meters and one of its two customers."""
    named = NAMED[adapter.spec.name, profile_of(adapter)]
    door = adapter.door
    return door.binding.model_validate(named.bindings[index]), door.link.model_validate(named.links[index])


def profile_of(adapter: AnyAdapter) -> str:
    """Return the name of an adapter's door."""
    return next(name for name, door in adapter.spec.doors.items() if door is adapter.door)


def usage_of(
    adapter: AnyAdapter,
    key: str = "evt_1",
    quantity: Decimal = Decimal(3),
    *,
    index: int = 0,
    timestamp: datetime = NOW,
    properties: Mapping[str, Scalar] | None = None,
    absolute: bool = False,
    source: str | None = None,
) -> Usage[Binding, Link]:
    """Return one row's worth of usage as the gateway would hand it over: floored, with an exact quantity."""
    binding, link = bound(adapter, index)
    return Usage(
        key=key,
        event_id=key,
        customer="acme",
        meter="calls",
        timestamp=timestamp - (timestamp - EPOCH) % adapter.door.time.resolution,
        measures=(Measure(name="", quantity=quantity, binding=binding),),
        link=link,
        absolute=absolute,
        source=source,
        properties=properties or {},
    )


def rows_of(adapter: AnyAdapter, count: int) -> list[Sent]:
    """Return rows as they were sent, keyed `evt_0`, `evt_1` and so on."""
    usages = [usage_of(adapter, f"evt_{index}", index=index % 2) for index in range(count)]
    return [Sent(key=usage.key, row=decoded(encode_row(adapter.encode(usage)))) for usage in usages]


def decoded(row: bytes) -> Row:
    """Return what a vendor reads, with every digit."""
    return cast("Row", DECODER.decode(row))


def json_reply(status: int, body: object, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a reply with a JSON body, as a transport hands it over."""
    said = {"content-type": "application/json", **(headers or {})}
    return Reply(status=status, headers=said, body=msgspec.json.encode(body))


def text_reply(status: int, body: str = "", headers: Mapping[str, str] | None = None) -> Reply:
    """Return a reply whose body is no JSON."""
    return Reply(status=status, headers={"content-type": "text/plain", **(headers or {})}, body=body.encode())


def walk(value: JsonValue, path: str) -> Iterator[JsonValue]:
    """Yield what stands at a role's path; `[]` walks a list. Written apart from the adapters' own."""
    name, _, rest = path.partition(".")
    if not isinstance(value, Mapping) or name.removesuffix("[]") not in value:
        return
    inner = value[name.removesuffix("[]")]
    for item in inner if name.endswith("[]") and isinstance(inner, list) else [inner]:
        if rest:
            yield from walk(item, rest)
        else:
            yield item


# Usage of every kind that a door takes.


def quantities(adapter: AnyAdapter) -> st.SearchStrategy[Decimal]:
    """Quantities that the door bills as they are, in every spelling a Decimal has."""
    rule = adapter.quantity
    digits = min(rule.digits or 38, 38)

    @st.composite
    def draw(draw: Any) -> Decimal:
        places = draw(st.integers(0, rule.places))
        low = -(10**digits) if rule.minimum is None else int(rule.minimum)
        high = 10**digits if rule.maximum is None else int(rule.maximum)
        size = 10**places
        number = draw(st.integers(max(low * size, -(10**digits) + 1), min(high * size, 10**digits - 1)))
        exact = Decimal(number).scaleb(-places, CONTEXT)
        return draw(st.sampled_from([exact, exact.normalize(CONTEXT)]))

    return draw()


CONTEXT = Context(prec=120)

INSTANTS = st.one_of(
    st.datetimes(datetime(1969, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.builds(
        lambda year, month, micro: datetime(year, month, 1, tzinfo=UTC) - timedelta(microseconds=micro),
        st.integers(2020, 2030),
        st.integers(1, 12),
        st.integers(0, 1_000_000),
    ),
)
OVERWRITING = (
    "quantity", "tokens_used", "amount", "units", "usageDate", "timestamp", "event_id", "transactionId", "customer_id",
    "gateway_event_id", "idempotencyKey", "properties", "data", "metadata", "is_absolute", "",
)  # fmt: skip
SCALARS: st.SearchStrategy[Scalar] = st.one_of(
    st.text(max_size=30),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.decimals(allow_nan=False, allow_infinity=False, places=6),
    st.sampled_from(["1000000", Decimal("1E+6"), "line\nend", "\u2028", '"', "\\"]),
)
PROPERTIES = st.dictionaries(st.one_of(st.sampled_from(OVERWRITING), st.text(max_size=10)), SCALARS, max_size=5)


# A vendor that keeps a ledger.

CODES = (
    ErrorCode.UNKNOWN_CUSTOMER, ErrorCode.UNKNOWN_SUBSCRIPTION, ErrorCode.UNKNOWN_BINDING,
    ErrorCode.OUTSIDE_TIME_WINDOW, ErrorCode.PROVIDER_REJECTED,
)  # fmt: skip


@dataclass(slots=True)
class World:
    """One honest vendor behind one door: what it says is true, though not every answer arrives."""

    door: Door
    auth: Mapping[str, str]
    bad: frozenset[str] = frozenset()
    """Events that it refuses, by their ids."""
    billed: Counter[str] = field(default_factory=Counter[str])
    """How many times each event is on the bill."""
    known: set[tuple[object, ...]] = field(default_factory=set[tuple[object, ...]])

    def take(self, request: Request, *, store: bool = True) -> Reply:
        """Work on one request; `store=False`: nothing of it arrives."""
        if any(request.headers.get(name) != value for name, value in self.auth.items()):
            return json_reply(401, {"message": "Unauthorized"})
        if (request.method, request.url.endswith(self.door.path)) != (self.door.method, True):
            return text_reply(404, "Not Found")
        sent = [Sent(key=self._key(row), row=row) for row in self._rows(request.body)]
        truth = {
            row.key: Outcome(state=State.REJECTED, code=ErrorCode.PROVIDER_REJECTED)
            if row.key in self.bad
            else Outcome(state=State.ACCEPTED)
            for row in sent
        }
        keep = [row for row in sent if row.key not in self.bad]
        named = self.door.dialect.row_by_row
        if not named and len(keep) < len(sent):
            first = next(index for index, row in enumerate(sent) if row.key in self.bad)
            keep = [] if self.door.refusal is Refusal.WHOLE else sent[:first]
        for row in keep if store else ():
            if not self._bill(row):
                truth[row.key] = Outcome(state=State.DUPLICATE)
        return self.door.dialect.render(self.door, sent, truth)

    def _rows(self, body: bytes) -> Sequence[Row]:
        read = DECODER.decode(body)
        match self.door.rows:
            case "one":
                return [read]
            case "list":
                return read
            case (under,):
                assert [under] == list(read)
                return read[under]

    def _key(self, row: Row) -> str:
        path = self.door.roles.key or self.door.roles.event_id or ""
        (key,) = walk(row, path)
        return str(key)

    def _bill(self, row: Sent) -> bool:
        """Put a row on the bill, unless the vendor remembers it."""
        if self.door.dedupe is not None:
            paths = {"meter": self.door.roles.meter, "timestamp": (self.door.roles.timestamp,)}
            identity = tuple(
                row.key if role == "key" else str([list(walk(row.row, path)) for path in paths[role]])
                for role in self.door.dedupe.by
            )
            if identity in self.known:
                return False
            self.known.add(identity)
        self.billed[row.key] += 1
        return True
