"""Events find ways to destinations, at once or later, and no way twice."""

from pathlib import Path
from typing import Any

import pytest

from gateway.ledger import Change, Code, Ledger, Plan, SqliteLedger, WorkState
from tests.gateway.ledger.conftest import (
    SqliteStore,
    Store,
    change,
    codes,
    event,
    opened,
    places,
    recorded,
    rendered,
    sending,
    strays,
)


async def test_events_without_a_way_are_routed_once_there_is_one(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1", "e2", plan=Plan(filtered=(("x", Code.NO_BINDING),)))
    (found,) = await strays(ledger)
    assert (batch, "default", [0, 1, 2], [1000] * 3) == (found.batch, found.tenant, list(found.members), found.receipts)
    assert [event(f"e{index}") for index in range(3)] == list(found.events)
    await ledger.route(batch, [0, 2], [Plan(live=("a",), shadow=("s",)), Plan()], 8000)
    assert [Code.PENDING, Code.NONE, Code.NONE] == await codes(ledger, batch)
    assert [Code.PENDING, Code.NONE, Code.NONE] == await codes(ledger, batch, "s")
    assert [Code.NO_BINDING] * 3 == await codes(ledger, batch, "x")
    (found,) = await strays(ledger)
    assert [1, 2] == list(found.members)
    await ledger.route(batch, [1, 2], [Plan(live=("x",))] * 2, 8000)
    assert [] == await strays(ledger)
    assert [Code.NO_BINDING, Code.PENDING, Code.PENDING] == await codes(ledger, batch, "x")


async def test_what_goes_nowhere_else_waits_for_no_way(ledger: Ledger) -> None:
    history, other = Plan(shadow=("s",), whole=True), Plan(shadow=("s",))
    await recorded(ledger, "e0", "e1", plan=history)
    assert 2 == len(await ledger.record("default", 1000, [event("e2"), event("e3")], [history, other]))
    assert [["e3"]] == [[one.id for one in found.events] for found in await strays(ledger)]


async def test_routing_twice_delivers_once(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1", plan=Plan())
    for _ in range(2):
        await ledger.route(batch, [0], [Plan(live=("a",))], 8000)
    await ledger.route(batch, [0, 1], [Plan(live=("a", "b"))] * 2, 8000)
    await ledger.route(batch, [0, 1], [Plan(live=("a", "b"))] * 2, 8000)
    await ledger.route(batch + 1, [0], [Plan(live=("a",))], 8000)
    assert {WorkState.READY: [0, 1]} == await places(ledger, batch)
    assert {WorkState.READY: [1]} == await places(ledger, batch, "b")


async def test_a_shadow_delivery_is_not_sent_again_when_its_destination_goes_live(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", plan=Plan(shadow=("a",)))
    work, held_by = await sending(ledger)
    await ledger.settle([change(work, held_by, [0], Code.ACCEPTED)], [])
    await ledger.route(batch, [0], [Plan(live=("a", "b"))], 8000)
    assert ({}, [Code.ACCEPTED]) == (await places(ledger, batch), await codes(ledger, batch))
    assert {WorkState.READY: [0]} == await places(ledger, batch, "b")
    assert [False, False] == [track.shadow for track in (await ledger.snapshots([batch]))[batch].tracks]
    assert [] == await strays(ledger)


async def test_what_one_event_of_a_batch_counts_on_stays_live(ledger: Ledger) -> None:
    claims = await ledger.record("default", 1000, [event("e0"), event("e1")], [Plan(live=("a",)), Plan()])
    assert 2 == len(claims)
    (found,) = await strays(ledger)
    batch = found.batch
    await ledger.route(batch, found.members, [Plan(live=("b",), shadow=("a",))], 8000)
    assert {"a": [1], "b": []} == await looking_on(ledger, batch)


async def looking_on(ledger: Ledger, batch: int) -> dict[str, list[int]]:
    """Return by destination whose deliveries are part of nobody's outcome."""
    tracks = (await ledger.snapshots([batch]))[batch].tracks
    return {
        track.destination: [index for index, code in enumerate(track.codes) if code and track.looks_on(index)]
        for track in tracks
    }


async def test_each_delivery_of_a_batch_looks_on_for_itself(store: Store, ledger: Ledger) -> None:
    trial, looks, both = Plan(live=("b",), shadow=("a",)), Plan(shadow=("a",)), Plan(live=("a", "b"))
    batch = await recorded(ledger, "e0", "e1", plan=trial)
    await ledger.extend(batch, [0, 1], [Plan(shadow=("c",))] * 2, 8000)
    assert {"a": [0, 1], "b": [], "c": [0, 1]} == await looking_on(ledger, batch)
    assert 0 == await ledger.extend(batch, [1], [Plan(live=("a",))], 8000)  # it is there, and counts from now on
    assert {"a": [0], "b": [], "c": [0, 1]} == await looking_on(ledger, batch)
    other = await recorded(ledger, "e2", "e3", "e4", plan=Plan())
    await ledger.extend(other, [0, 1], [both, looks], 8000)
    await ledger.extend(other, [2], [looks], 8000)
    assert {"a": [1, 2], "b": []} == await looking_on(ledger, other)
    await ledger.route(other, [1, 2], [both, both], 8000)
    assert {"a": [], "b": []} == await looking_on(ledger, other)
    async with opened(store.cut()) as again:
        assert {"a": [0], "b": [], "c": [0, 1]} == await looking_on(again, batch)


async def test_stored_events_are_given_deliveries_that_they_do_not_have(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1", "e2", plan=Plan(live=("a",), filtered=(("b", Code.NO_ROUTE),)))
    assert 2 == await ledger.extend(batch, [0, 2], [Plan(live=("b",))] * 2, 8000)
    assert [Code.PENDING, Code.NO_ROUTE, Code.PENDING] == await codes(ledger, batch, "b")
    assert [0, 2] == (await places(ledger, batch, "b"))[WorkState.READY]
    assert 1 == await ledger.extend(batch, [0, 1, 2], [Plan(live=("b",))] * 3, 9000), "one had none"
    assert 0 == await ledger.extend(batch, [0, 1, 2], [Plan(live=("a", "b"))] * 3, 9000), "all have one"
    assert 3 == await ledger.extend(batch, [0, 1, 2], [Plan(shadow=("s",))] * 3, 9000)
    assert [] == await strays(ledger), "a shadow delivery takes no event's way"


async def test_what_ended_at_a_destination_is_not_begun_again(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", plan=Plan(live=("a",)))
    (work,) = await ledger.take("a", 5000, 10)
    (held,) = await ledger.intend([rendered(work)], 5000)
    await ledger.settle(
        [Change(work=held, batch=batch, destination="a", members=[0], code=Code.ACCEPTED, group=None)], []
    )
    assert 0 == await ledger.extend(batch, [0], [Plan(live=("a",))], 8000)
    assert [Code.ACCEPTED] == await codes(ledger, batch)


async def test_a_way_is_found_for_what_had_none_by_extending_too(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e0", "e1", plan=Plan())
    await ledger.extend(batch, [0, 1], [Plan(live=("a",)), Plan(shadow=("a",))], 8000)
    (found,) = await strays(ledger)
    assert [1] == list(found.members)


@pytest.mark.parametrize("page", [{"PAGE": 2}, {"PAGE_EVENTS": 3}, {}], ids=str)
async def test_any_number_of_batches_is_walked_while_they_find_their_way(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, page: dict[str, int]
) -> None:
    for backend in ("sqlite", "_redis.routing"):
        for name, size in page.items():
            monkeypatch.setattr(f"gateway.ledger.{backend}.{name}", size)
    batches = [await recorded(ledger, f"e{number}", f"f{number}", plan=Plan()) for number in range(6)]
    met: list[int] = []
    async for found in ledger.unrouted():
        met.append(found.batch)
        if found.batch != batches[2]:
            await ledger.route(found.batch, found.members, [Plan(live=("a",))] * 2, 8000)
    assert batches == met
    assert [batches[2]] == [found.batch for found in await strays(ledger)]


async def test_few_events_without_a_way_are_at_hand_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ledger.sqlite.PAGE_EVENTS", 3)
    async with opened(SqliteStore(tmp_path)) as ledger:
        assert isinstance(ledger, SqliteLedger)
        for number in range(6):
            await recorded(ledger, f"e{number}", f"f{number}", plan=Plan())
        read, loaded, load = 0, list[int](), ledger._load

        def counted(connection: Any, batch: int) -> Any:
            loaded.append(batch)
            return load(connection, batch)

        monkeypatch.setattr(ledger, "_load", counted)
        async for _ in ledger.unrouted():
            read += 1
            assert len(loaded) <= read + 1
        assert 6 == read
