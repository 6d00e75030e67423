"""Usage read back from the simulated vendors is what they hold, and what cannot be read is never a zero."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import (
    AnyAdapter,
    Ask,
    CanReadCharges,
    CanReadUsage,
    Fault,
    FaultKind,
    Read,
    Reply,
    Request,
    Unread,
    UnreadKind,
    UsageRow,
    Wanted,
    Window,
    encode_row,
    provider,
)
from adapters._values import JsonValue
from gateway.simulator import SimulatedProvider
from tests.adapters.worlds import DOORS, KEY, NAMED, adapter_of, bound, usage_of

NOVEMBER = Window(start=datetime(2026, 11, 1, tzinfo=UTC), end=datetime(2026, 12, 1, tzinfo=UTC))
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
READ_BACK = [(name, profile, one) for name, profile in DOORS if (one := provider(name).spec.doors[profile].read_back)]
every_reading = pytest.mark.parametrize(("name", "profile"), [(name, profile) for name, profile, _ in READ_BACK])
every_listing = pytest.mark.parametrize(
    ("name", "profile"), [(name, profile) for name, profile, one in READ_BACK if one.kind == "events"]
)


class Shop:
    """One adapter and its simulated vendor, with what was sent."""

    def __init__(self, name: str, profile: str) -> None:
        self.adapter = adapter_of(name, profile)
        self.names = [NAMED[name, profile].names(index) for index in (0, 1)]
        properties = {meter: NAMED[name, profile].quantity[index] for index, (meter, _) in enumerate(self.names)}
        self.vendor = SimulatedProvider(name, api_key=KEY, quantity_properties=properties, clock=lambda: NOW)
        self.asked: list[Request] = []

    def send(self, *rows: tuple[str, int, int, datetime]) -> None:
        """Send rows: key, quantity, which meter and customer, when."""
        door = self.adapter.door
        encoded = [
            encode_row(self.adapter.encode(usage_of(self.adapter, key, Decimal(quantity), index=index, timestamp=at)))
            for key, quantity, index, at in rows
        ]
        for first in range(0, len(encoded), door.max_rows):
            answer = self.answer(self.adapter.request(encoded[first : first + door.max_rows]))
            assert isinstance(answer, Reply)
            assert 200 <= answer.status < 300, answer

    def answer(self, request: Request) -> Reply | Fault:
        parts = urlsplit(request.url)
        path = self.vendor.relative(request.url, self.adapter.base_url)
        told = self.vendor.handle(request.method, path or "", request.headers, request.body, parts.query).reply
        return told or Fault(kind=FaultKind.NO_ANSWER, name="ReadError")

    def drive(self, asked: Ask[Any]) -> Any:
        answer: Reply | Fault | None = None
        while True:
            try:
                request = next(asked) if answer is None else asked.send(answer)
            except StopIteration as ended:
                return ended.value
            self.asked.append(request)
            answer = self.answer(request)

    def read(
        self, window: Window = NOVEMBER, only: int | None = None, meters: Iterable[int] = (0, 1)
    ) -> tuple[Read | Unread, list[UsageRow]]:
        """Read back, of all customers or of one."""
        assert isinstance(self.adapter, CanReadUsage)
        rows: list[UsageRow] = []
        bindings = {f"m{index}": bound(self.adapter, index)[0] for index in meters}
        link = None if only is None else bound(self.adapter, only)[1]
        wanted = Wanted(window=window, bindings=bindings, link=link, now=NOW)
        return self.drive(self.adapter.read_usage(wanted, rows.append)), rows


moments = st.integers(0, 40 * 86_400_000).map(
    lambda ms: datetime(2026, 10, 25, tzinfo=UTC) + timedelta(milliseconds=ms)
)
edges = st.sampled_from(
    [NOVEMBER.start, NOVEMBER.end, NOVEMBER.start - timedelta(milliseconds=1), NOVEMBER.end - timedelta(milliseconds=1)]
)
histories = st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 1), moments | edges), max_size=260).map(
    lambda rows: [(f"evt_{number}", *row) for number, row in enumerate(rows)]
)


@every_listing
@settings(deadline=None)
@given(history=histories)
def test_what_is_listed_is_what_was_sent_inside_the_half_open_window(
    name: str, profile: str, history: list[tuple[str, int, int, datetime]]
) -> None:
    shop = Shop(name, profile)
    shop.send(*history)
    told, rows = shop.read()
    inside = [row for row in history if row[3] in NOVEMBER]
    wanted = Counter(
        (f"m{index}", key, shop.names[index][1], at, Decimal(quantity)) for key, quantity, index, at in inside
    )
    assert isinstance(told, Read)
    assert NOVEMBER == told.window
    assert wanted == Counter((row.meter, row.key, row.customer, row.instant, row.quantity) for row in rows)


@every_listing
def test_one_customer_is_told_from_the_others(name: str, profile: str) -> None:
    shop = Shop(name, profile)
    shop.send(("a", 1, 0, NOW), ("b", 2, 1, NOW))
    for index in (0, 1):
        _, rows = shop.read(only=index)
        assert ["ab"[index]] == [row.key for row in rows]


def test_flexprice_lists_every_copy_and_the_newest_has_the_greatest_version() -> None:
    shop = Shop("flexprice", "bulk")
    shop.send(("a", 5, 0, NOW))
    shop.send(("a", 5, 0, NOW))
    shop.send(("a", 7, 0, NOW))
    _, rows = shop.read()
    assert [5, 5, 7] == [int(row.quantity) for row in sorted(rows, key=lambda row: row.version)]
    assert 1 == len({(row.key, row.instant) for row in rows})


def test_more_copies_than_a_page_do_not_break_the_walk() -> None:
    shop = Shop("flexprice", "bulk")
    shop.send(*[(f"e{n}", 1, 0, NOW + timedelta(milliseconds=n // 7)) for n in range(1201)])
    _, rows = shop.read()
    assert 1201 == len({row.key for row in rows})
    assert 4 <= len(shop.asked)


def test_flowglad_sends_no_filter_and_its_prices_are_found_by_slug() -> None:
    shop = Shop("flowglad", "bulk")
    shop.send(("a", 1, 0, NOW), *[(f"b{n}", 1, 1, NOW) for n in range(250)])
    told, rows = shop.read()
    assert isinstance(told, Read)
    assert 251 == len(rows)
    paths = [urlsplit(one.url) for one in shop.asked]
    assert {"limit", "cursor"} >= {pair.split("=")[0] for path in paths for pair in path.query.split("&")}
    assert ["/prices", *["/usage-events"] * 3] == [path.path.removeprefix("/api/v1") for path in paths]


def test_a_price_that_flowglad_does_not_list_is_unread_and_not_zero() -> None:
    told, _ = Shop("flowglad", "bulk").read(meters=[0])
    assert isinstance(told, Read)
    assert {"m0": UnreadKind.UNSUPPORTED} == {name: why.kind for name, why in told.unread.items()}


def test_paygentic_needs_the_merchant_to_list_metrics() -> None:
    shop = Shop("paygentic", "events")
    shop.adapter = adapter_of("paygentic", "events", merchant_id=None)
    told, _ = shop.read()
    assert isinstance(told, Unread)
    assert "merchant_id" in told.why


def test_what_paygentic_refunded_is_not_usage() -> None:
    shop = Shop("paygentic", "usage-v0")
    shop.send(("a", 4, 0, NOW))

    def refunded(request: Request) -> Reply | Fault:
        answer = Shop.answer(shop, request)
        assert isinstance(answer, Reply)
        return replace(answer, body=answer.body.replace(b'"refund":null', b'"refund":{"reason":"x"}'))

    shop.answer = refunded  # type: ignore[method-assign]
    assert [] == shop.read()[1]


def test_wingback_counts_its_current_period_and_refuses_another_window() -> None:
    shop = Shop("wingback", "bulk")
    shop.send(("a", 4, 0, NOW), ("b", 5, 0, NOW), ("c", 9, 1, NOW), ("old", 7, 0, NOVEMBER.start - timedelta(days=1)))
    whole, rows = shop.read(only=0)
    assert isinstance(whole, Read)
    assert [] == rows
    assert {("m0", ""): Decimal(9), ("m1", ""): Decimal(0)} == whole.counted
    wider, _ = shop.read(Window(start=NOVEMBER.start - timedelta(days=9), end=NOVEMBER.end), only=0)
    assert isinstance(wider, Read)
    assert NOVEMBER == wider.window
    for window in (
        Window(start=NOVEMBER.start + timedelta(days=1), end=NOVEMBER.end),
        Window(start=NOVEMBER.start, end=NOW - timedelta(days=1)),
    ):
        told, _ = shop.read(window, only=0)
        assert isinstance(told, Unread)
        assert UnreadKind.WINDOW is told.kind
        assert "2026-11-01" in told.why


def test_a_feature_that_two_meters_share_cannot_be_told_apart() -> None:
    shop = Shop("wingback", "bulk")
    assert isinstance(shop.adapter, CanReadUsage)
    binding, link = bound(shop.adapter, 0)
    wanted = Wanted(window=NOVEMBER, bindings={"one": binding, "two": binding}, link=link, now=NOW)
    told = shop.drive(shop.adapter.read_usage(wanted, list[UsageRow]().append))
    assert isinstance(told, Read)
    assert {"one", "two"} == set(told.unread)


MEMBERS = [
    "data",
    "events",
    "items",
    "id",
    "properties",
    "timestamp",
    "time",
    "hasMore",
    "has_more",
    "nextCursor",
    "iter_last_key",
    "usageDate",
    "amount",
    "contract",
    "plan",
    "features",
]
ANSWERS = st.one_of(
    st.builds(
        Reply,
        status=st.sampled_from([200, 201, 401, 404, 429, 500, 503]),
        body=st.one_of(
            st.binary(max_size=20),
            st.recursive(
                st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "x", "2026-11-02T00:00:00Z"]),
                lambda inner: (
                    st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4)
                ),
                max_leaves=12,
            ).map(msgspec.json.encode),
        ),
    ),
    st.just(Fault(kind=FaultKind.NO_ANSWER, name="ReadTimeout", timeout=True)),
)


@every_reading
@settings(deadline=None)
@given(answers=st.lists(ANSWERS, min_size=1, max_size=12))
def test_no_answer_makes_an_adapter_stumble_or_go_on_for_ever(
    name: str, profile: str, answers: list[Reply | Fault]
) -> None:
    shop = Shop(name, profile)
    waiting = list(answers)
    enough = Fault(kind=FaultKind.NEVER_LEFT, name="TooManyRequests")
    shop.answer = lambda _: waiting.pop(0) if waiting else enough  # type: ignore[method-assign]
    told, _ = shop.read(only=0)
    assert isinstance(told, Read | Unread)


@every_reading
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_fault_on_any_page_is_unread(name: str, profile: str, after: int) -> None:
    shop = Shop(name, profile)
    shop.send(*[(f"e{n}", 1, n % 2, NOW) for n in range(450 if name != "flexprice" else 1300)])
    shop.vendor.fail("lost_answer", times=None, after=after)
    read_back = shop.adapter.door.read_back
    told, _ = shop.read(only=0 if read_back is not None and read_back.by_customer else None)
    reads = len(shop.asked)
    assert isinstance(told, Unread) if reads > after else isinstance(told, Read)
    assert reads <= after + 1


def test_every_door_says_what_reading_back_is_worth() -> None:
    for name, profile in DOORS:
        adapter: AnyAdapter = adapter_of(name, profile)
        assert isinstance(adapter, CanReadUsage) is (adapter.door.read_back is not None)


def test_charges_are_money_and_say_so() -> None:
    shop = Shop("flexprice", "bulk")
    assert isinstance(shop.adapter, CanReadCharges)
    shop.send(("a", 250, 0, NOW), ("old", 50, 0, NOVEMBER.start - timedelta(days=40)), ("b", 9, 1, NOW))
    link = bound(shop.adapter, 0)[1]
    wanted = Wanted(window=NOVEMBER, bindings={}, link=link, now=NOW)
    billed = shop.drive(shop.adapter.read_charges(wanted, lifetime=False))
    assert (Decimal("2.5"), "usd", False, False) == (billed.amount, billed.currency, billed.exact, billed.lifetime)
    assert [("api_call", Decimal("2.5"), Decimal(250))] == [(c.name, c.amount, c.quantity) for c in billed.charges]
    assert Decimal(3) == shop.drive(shop.adapter.read_charges(wanted, lifetime=True)).amount
    asked: JsonValue = msgspec.json.decode(shop.asked[-1].body)
    assert {
        "subscription_id": "subs_customer-one",
        "start_time": "2026-11-01T00:00:00Z",
        "end_time": "2026-12-01T00:00:00Z",
        "lifetime_usage": True,
    } == asked


@pytest.mark.parametrize("body", [b"{}", b'{"message": "ok"}', b'{"amount": "many"}', b'{"charges": []}'])
def test_an_answer_without_an_amount_is_no_bill_of_nothing(body: bytes) -> None:
    shop = Shop("flexprice", "bulk")
    assert isinstance(shop.adapter, CanReadCharges)
    waiting = [Reply(status=200, body=b'{"items": [{"id": "subs_1"}]}'), Reply(status=200, body=body)]
    shop.answer = lambda _: waiting.pop(0)  # type: ignore[method-assign]
    wanted = Wanted(window=NOVEMBER, bindings={}, link=bound(shop.adapter, 0)[1], now=NOW)
    told = shop.drive(shop.adapter.read_charges(wanted, lifetime=False))
    assert Unread(kind=UnreadKind.TROUBLE, why="subscription usage: an answer without an amount") == told
