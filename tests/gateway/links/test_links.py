"""Links at hand, and what goes on because of them: in step with the ledger, and never more than is needed."""

from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from canonical_schema import ErrorCode, ErrorItem
from gateway.configuration import Configuration
from gateway.configuration.file import loads
from gateway.ledger import Change, Code, Group, Ledger, Plan, SqliteLedger, WorkState
from gateway.links.book import FRESH, Book
from gateway.links.book import Change as LinkChange
from gateway.links.unblocking import MOST, PAGE, Unblocking
from tests.gateway.clocks import START, ManualClock
from tests.gateway.ledger.conftest import event

CONFIGURATION: Configuration = loads(
    "{destinations: {a: {provider: flowglad, settings: {api_key: k}}}, meters: {calls: {}},"
    " customers: {seeded: {a: {subscription_id: seed}}}}",
    {},
)
NUMBERS = count()
UNMAPPED = ErrorItem(code=ErrorCode.UNMAPPED_CUSTOMER, message="no link", retryable=True)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncGenerator[SqliteLedger]:
    made = SqliteLedger(tmp_path / "ledger.db")
    await made.open()
    yield made
    await made.close()


def change(customer: str, subscription: str) -> LinkChange:
    return LinkChange(customer=customer, links={"a": {"subscription_id": subscription}})


async def put(book: Book, *changes: LinkChange) -> None:
    await book.put("default", changes, "ops", "asked for", whole=True)


def names(book: Book, customer: str, tenant: str = "default") -> list[Any]:
    return [row.model_dump()["subscription_id"] for row in book.rows(tenant, customer, "a")]


async def test_what_was_put_is_at_hand_at_once_and_seeds_are_the_default_tenants(ledger: Ledger) -> None:
    book = Book(CONFIGURATION, ledger, ManualClock())
    await put(book, change("acme", "one"))
    assert (["one"], ["seed"], []) == (names(book, "acme"), names(book, "seeded"), names(book, "seeded", "blue"))


async def test_what_another_process_put_is_seen_within_a_minute(ledger: Ledger) -> None:
    clock = ManualClock()
    book, other = Book(CONFIGURATION, ledger, clock), Book(CONFIGURATION, ledger, clock)
    await book.learn("default", ["acme"])
    await put(other, change("acme", "one"))
    clock.advance(FRESH)
    await book.learn("default", ["acme"])
    assert ["one"] == names(book, "acme")
    await put(other, change("acme", "two"))
    clock.advance(FRESH - timedelta(microseconds=1))
    await book.learn("default", ["acme"])
    assert ["one"] == names(book, "acme")
    clock.advance(timedelta(microseconds=1))
    await book.learn("default", ["acme"])
    assert ["two"] == names(book, "acme")


async def test_memory_is_bounded_however_many_customers_there_are(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.links.book.REMEMBERED", 100)
    book = Book(CONFIGURATION, ledger, ManualClock())
    for start in range(0, 1000, 250):
        await put(book, *(change(f"c{index}", f"s{index}") for index in range(start, start + 250)))
    await book.learn("default", [f"c{index}" for index in range(80)])
    assert [[f"s{index}"] for index in range(80)] == [names(book, f"c{index}") for index in range(80)]
    assert 100 == len(book._held)
    await book.learn("default", [f"c{index}" for index in range(300)])
    assert [[f"s{index}"] for index in range(300)] == [names(book, f"c{index}") for index in range(300)]


async def test_a_tenant_without_links_costs_no_look_for_each_customer(ledger: Ledger) -> None:
    book = Book(CONFIGURATION, ledger, ManualClock())
    await book.learn("default", ["acme"])
    asked: list[object] = []
    book._ledger = _Counting(asked)  # type: ignore[assignment]
    for index in range(100):
        await book.learn("default", [f"c{index}"])
    assert ([], {}) == (asked, dict(book._held))


class _Counting:
    def __init__(self, asked: list[object]) -> None:
        self._asked = asked

    def __getattr__(self, name: str) -> object:
        self._asked.append(name)
        raise AttributeError(name)


async def test_links_of_a_destination_that_is_another_one_by_now_do_not_stop_anything(ledger: Ledger) -> None:
    await put(Book(CONFIGURATION, ledger, ManualClock()), change("acme", "one"))
    other = loads("destinations: {a: {provider: wingback, settings: {api_key: k}}}\nmeters: {calls: {}}", {})
    book = Book(other, ledger, ManualClock())
    await book.learn("default", ["acme"])
    assert () == book.rows("default", "acme", "a")


# Letting go.


async def blocked(ledger: Ledger, customers: Sequence[str], error: ErrorItem = UNMAPPED, doubt: int = 0) -> int:
    """Record one event a customer, in one batch, and block them."""
    events = [
        event(f"{start}-{index}", customer=customer, quantity=Decimal(1))
        for start in [next(NUMBERS)]
        for index, customer in enumerate(customers)
    ]
    await ledger.record("default", 1000, events, [Plan(live=("a",))] * len(events))
    (work,) = await ledger.take("a", 2000, len(events))
    group = Group(state=WorkState.BLOCKED, due=1000, since=1000, error=error, doubt=doubt)
    one = Change(work=work.id, batch=work.batch, destination="a", members=work.members, code=Code.BLOCKED, group=group)
    await ledger.settle([one], [])
    return work.batch


async def statuses(ledger: Ledger, batch: int) -> list[Code]:
    ((track),) = (await ledger.snapshots([batch]))[batch].tracks
    return [Code(byte) for byte in track.codes]


async def walked(unblocking: Unblocking, clock: ManualClock) -> int:
    """Take steps until there is nothing to do; return how many."""
    steps = 0
    while (until := await unblocking.step()) is not None:
        clock.advance_to(until)
        steps += 1
    return steps


async def test_only_what_the_link_is_for_is_let_go(ledger: Ledger) -> None:
    clock, woken = ManualClock(), list[str]()
    batch = await blocked(ledger, ["acme", "globex", "acme", "initech"])
    other = await blocked(ledger, ["acme"], ErrorItem(code=ErrorCode.UNKNOWN_METER, message="no", retryable=True))
    unblocking = Unblocking(ledger, clock, woken.append)
    unblocking.free("a", [("default", "acme"), ("blue", "globex")])
    await walked(unblocking, clock)
    assert [Code.PENDING, Code.BLOCKED, Code.PENDING, Code.BLOCKED] == await statuses(ledger, batch)
    assert [Code.BLOCKED] == await statuses(ledger, other)
    assert ["a"] == woken
    (ready,) = await ledger.take("a", 2**60, 10)
    assert ([0, 2], None) == (ready.members, ready.group.error)


async def test_many_links_are_served_by_one_walk_a_page_at_a_time(ledger: Ledger) -> None:
    clock = ManualClock()
    batches = [await blocked(ledger, [f"c{index}", "nobody"]) for index in range(3 * PAGE)]
    unblocking = Unblocking(ledger, clock, lambda _: None)
    for index in range(3 * PAGE):
        unblocking.free("a", [("default", f"c{index}")])
    assert await walked(unblocking, clock) <= 8, "pages and a last look, however many links"
    assert {(Code.PENDING, Code.BLOCKED)} == {tuple(await statuses(ledger, batch)) for batch in batches}


async def test_a_link_that_comes_while_it_walks_is_served_from_the_beginning(ledger: Ledger) -> None:
    clock = ManualClock()
    first = await blocked(ledger, ["late"])
    for index in range(PAGE + 5):
        await blocked(ledger, [f"c{index}"])
    unblocking = Unblocking(ledger, clock, lambda _: None)
    unblocking.free("a", [("default", "c0")])
    await unblocking.step()
    unblocking.free("a", [("default", "late")])
    await walked(unblocking, clock)
    assert [Code.PENDING] == await statuses(ledger, first)


async def test_what_is_blocked_just_as_the_link_comes_is_seen_by_a_last_look(ledger: Ledger) -> None:
    clock = ManualClock()
    unblocking = Unblocking(ledger, clock, lambda _: None)
    unblocking.free("a", [("default", "acme")])
    assert START + timedelta(seconds=1) == await unblocking.step()
    batch = await blocked(ledger, ["acme"])
    await walked(unblocking, clock)
    assert [Code.PENDING] == await statuses(ledger, batch)


async def test_of_very_many_customers_everything_that_waits_for_a_link_goes(ledger: Ledger) -> None:
    clock = ManualClock()
    batch = await blocked(ledger, ["acme", "globex"])
    unblocking = Unblocking(ledger, clock, lambda _: None)
    unblocking.free("a", (("default", f"c{index}") for index in range(MOST + 1)))
    await walked(unblocking, clock)
    assert [Code.PENDING] * 2 == await statuses(ledger, batch)


async def test_what_may_have_arrived_is_never_let_go_by_a_link(ledger: Ledger) -> None:
    clock = ManualClock()
    batch = await blocked(ledger, ["acme"], doubt=2)
    unblocking = Unblocking(ledger, clock, lambda _: None)
    unblocking.free("a", [("default", "acme")])
    await walked(unblocking, clock)
    assert [Code.BLOCKED] == await statuses(ledger, batch)
