"""Claim, store, enqueue: one atomic step, durable when it returns. For every backend."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from random import Random

import pytest

from canonical_schema import DeliveryStatus
from gateway.errors import LedgerUnavailable
from gateway.ledger import AuditRow, Claim, ClaimKind, Code, Ledger, Plan, WorkState, ref_of, split_ref
from tests.gateway.ledger.conftest import Store, batch_of, codes, event, events, opened, places, recorded, totals

NEW, REPLAY, CONFLICT = ClaimKind.NEW, ClaimKind.REPLAY, ClaimKind.CONFLICT
PLAN = Plan(live=("a",))


def kinds(claims: Sequence[Claim]) -> list[ClaimKind]:
    return [claim.kind for claim in claims]


async def test_a_new_event_is_stored_with_its_deliveries(ledger: Ledger) -> None:
    plan = Plan(live=("a", "b"), shadow=("s",), filtered=(("x", Code.NO_BINDING),))
    batch = await recorded(ledger, "e1", "e2", plan=plan, received=77)
    snapshot = (await ledger.snapshots([batch]))[batch]
    assert ("default", 77, events("e1", "e2")) == (snapshot.tenant, snapshot.received, snapshot.events)
    assert [("a", False), ("b", False), ("s", True), ("x", False)] == [
        (track.destination, track.shadow) for track in snapshot.tracks
    ]
    assert [Code.PENDING] * 2 == await codes(ledger, batch, "s")
    assert [Code.NO_BINDING] * 2 == await codes(ledger, batch, "x")
    assert {WorkState.READY: [0, 1]} == await places(ledger, batch, "b")
    assert {} == await places(ledger, batch, "x")
    assert {
        "a": {DeliveryStatus.PENDING: 2},
        "b": {DeliveryStatus.PENDING: 2},
        "s": {DeliveryStatus.PENDING: 2},
        "x": {DeliveryStatus.FILTERED: 2},
    } == await totals(ledger)


async def test_the_same_content_is_a_replay_and_other_content_a_conflict_that_names_fields(ledger: Ledger) -> None:
    batch = await recorded(ledger, "e1")
    again = [event("e1"), event("e1", quantity=Decimal("1.00")), event("e1", quantity=Decimal(2), customer="other")]
    claims = await ledger.record("default", 2000, again, [PLAN] * 3)
    assert [REPLAY, REPLAY, CONFLICT] == kinds(claims)
    assert [(batch, 0)] * 3 == [split_ref(claim.ref) for claim in claims]
    assert {"customer", "quantity"} == set(claims[2].fields)
    assert {"a": {DeliveryStatus.PENDING: 1}} == await totals(ledger)


async def test_the_first_of_an_id_wins_within_a_request(ledger: Ledger) -> None:
    sent = [event("e1"), event("e2"), event("e1"), event("e1", meter="other"), event("e2")]
    claims = await ledger.record("default", 1000, sent, [PLAN] * 5)
    assert [NEW, NEW, REPLAY, CONFLICT, REPLAY] == kinds(claims)
    assert [0, 1, 0, 0, 1] == [split_ref(claim.ref)[1] for claim in claims]
    assert [Code.PENDING] * 2 == await codes(ledger, batch_of(claims))


async def test_new_and_known_ids_may_be_mixed(ledger: Ledger) -> None:
    first = await recorded(ledger, "e1", "e2", "e3")
    claims = await ledger.record("default", 2000, events("e9", "e2", "e8", "e3"), [PLAN] * 4)
    assert [NEW, REPLAY, NEW, REPLAY] == kinds(claims)
    second = split_ref(claims[0].ref)[0]
    assert [(second, 0), (first, 1), (second, 1), (first, 2)] == [split_ref(claim.ref) for claim in claims]
    assert events("e9", "e8") == (await ledger.snapshots([second]))[second].events


async def test_a_tenant_scopes_ids(ledger: Ledger) -> None:
    ours = await recorded(ledger, "e1")
    claims = await ledger.record("other", 1000, events("e1"), [PLAN])
    assert [NEW] == kinds(claims)
    assert ours != split_ref(claims[0].ref)[0]
    assert (claims[0].ref, None) == (await ledger.find("other", "e1"), await ledger.find("third", "e1"))


async def test_many_ids_are_looked_up_in_one_go(ledger: Ledger) -> None:
    first = await recorded(ledger, "e1", "e2", "e3")
    second = await recorded(ledger, *(f"f{number}" for number in range(300)))
    await ledger.record("other", 1000, events("e4"), [PLAN])
    asked = ["e3", "nobody", "e1", "e4", "e3", *(f"f{number}" for number in range(0, 300, 2))]
    found = await ledger.refs("default", asked)
    assert {"e1": ref_of(first, 0), "e3": ref_of(first, 2)} | {
        f"f{number}": ref_of(second, number) for number in range(0, 300, 2)
    } == found
    assert ({}, {}) == (await ledger.refs("default", []), await ledger.refs("default", ["nobody"]))


async def test_an_empty_request_stores_nothing(ledger: Ledger) -> None:
    assert [] == list(await ledger.record("default", 1000, [], []))
    assert [] == list(await ledger.batches_before(None, 10))


async def test_of_many_concurrent_repeats_of_a_batch_one_is_new(ledger: Ledger) -> None:
    sent = events(*(f"e{index}" for index in range(20)))
    answers = await asyncio.gather(*(ledger.record("default", 1000, sent, [PLAN] * 20) for _ in range(96)))
    assert {(NEW,) * 20: 1, (REPLAY,) * 20: 95} == Counter(tuple(kinds(claims)) for claims in answers)
    assert {tuple(claim.ref for claim in answers[0])} == {tuple(claim.ref for claim in claims) for claims in answers}
    assert {"a": {DeliveryStatus.PENDING: 20}} == await totals(ledger)


async def test_of_concurrent_rivals_for_an_id_one_wins_and_the_others_conflict(ledger: Ledger) -> None:
    rivals = [event("e1", quantity=Decimal(number)) for number in range(40)]
    answers = await asyncio.gather(*(ledger.record("default", 1000, [rival], [PLAN]) for rival in rivals))
    assert {NEW: 1, CONFLICT: 39} == Counter(claims[0].kind for claims in answers)
    (winner,) = [rival for rival, claims in zip(rivals, answers, strict=True) if claims[0].kind is NEW]
    batch = split_ref(answers[0][0].ref)[0]
    assert [winner] == (await ledger.snapshots([batch]))[batch].events


async def test_events_that_come_together_each_keep_the_time_of_their_own_receipt(store: Store) -> None:
    sent = {f"e{number}": 5000 + 7 * number for number in range(40)}
    async with opened(store) as ledger:
        answers = await asyncio.gather(
            *(ledger.record("default", received, events(one), [PLAN]) for one, received in sent.items())
        )
        assert {NEW} == {claims[0].kind for claims in answers}
    refs = dict(zip(sent, (split_ref(claims[0].ref) for claims in answers), strict=True))
    async with opened(store) as ledger:
        shots = await ledger.snapshots(sorted({batch for batch, _ in refs.values()}))
        assert sent == {one: shots[batch].received_at(index) for one, (batch, index) in refs.items()}
        assert list(sent) == [shots[batch].events[index].id for batch, index in refs.values()]
        taken = await ledger.take("a", 10_000, 100)
        assert sent == {event.id: work.received_at(place) for work in taken for place, event in enumerate(work.events)}
        assert all(min(map(shot.received_at, range(len(shot.events)))) == shot.received for shot in shots.values())


async def test_what_counts_for_one_request_does_not_count_for_another_that_comes_with_it(ledger: Ledger) -> None:
    plans = [Plan(live=("a",)), Plan(shadow=("a",)), Plan(live=("b",), filtered=(("a", Code.NO_ROUTE),))]
    answers = await asyncio.gather(
        *(ledger.record("default", 1000, events(f"e{number}"), [plans[number % 3]]) for number in range(30))
    )
    for number, claims in enumerate(answers):
        batch, index = split_ref(claims[0].ref)
        (track,) = [one for one in (await ledger.snapshots([batch]))[batch].tracks if one.destination == "a"]
        assert (number % 3 == 1) is track.shadow
        assert (Code.NO_ROUTE if number % 3 == 2 else Code.PENDING) == track.codes[index]


async def test_tenants_share_no_batch(ledger: Ledger) -> None:
    answers = await asyncio.gather(
        *(ledger.record(f"t{number % 3}", 1000, events(f"e{number}"), [PLAN]) for number in range(30))
    )
    for number, claims in enumerate(answers):
        batch, index = split_ref(claims[0].ref)
        shot = (await ledger.snapshots([batch]))[batch]
        assert (f"t{number % 3}", f"e{number}") == (shot.tenant, shot.events[index].id)


async def test_what_a_call_promised_is_there_after_a_loss_of_power(store: Store, ledger: Ledger) -> None:
    batch = await recorded(ledger, "e1", "e2")
    async with opened(store.cut()) as left:
        assert batch == split_ref(await left.find("default", "e1") or 0)[0]
        assert {WorkState.READY: [0, 1]} == await places(left, batch)
        assert [REPLAY] == kinds(await left.record("default", 1, events("e2"), [PLAN]))


async def test_what_was_closed_is_there_when_it_is_opened(store: Store) -> None:
    async with opened(store) as before:
        batch = await recorded(before, "e1")
    async with opened(store) as after:
        assert (batch, [Code.PENDING]) == (split_ref(await after.find("default", "e1") or 0)[0], [Code.PENDING])
        assert batch < await recorded(after, "e2")


async def test_a_full_store_promises_nothing_and_keeps_nothing_of_it(store: Store, ledger: Ledger) -> None:
    await recorded(ledger, "e0")
    before = await totals(ledger), await ledger.batches_before(None, 10)
    big = [event(f"big{index}", properties={"note": Random(index).randbytes(7000).hex()}) for index in range(40)]
    async with store.full(ledger):
        answers = await asyncio.gather(
            *(ledger.record("default", 2000, big[index : index + 4], [PLAN] * 4) for index in range(0, 40, 4)),
            return_exceptions=True,
        )
        assert [LedgerUnavailable] * 10 == [type(answer) for answer in answers]
    assert before == (await totals(ledger), await ledger.batches_before(None, 10))
    assert await ledger.find("default", "big1") is None
    others = events(*(f"o{index}" for index in range(40)))
    claims = await ledger.record("default", 3000, others, [PLAN] * 40)
    assert [NEW] * 40 == kinds(claims)
    batch = batch_of(claims)
    assert others == (await ledger.snapshots([batch]))[batch].events
    assert [NEW] * 40 == kinds(await ledger.record("default", 4000, big, [PLAN] * 40))


async def test_a_caller_who_goes_away_takes_nobody_along(ledger: Ledger) -> None:
    gone = asyncio.ensure_future(ledger.record("default", 1000, events("e1"), [PLAN]))
    stays = asyncio.ensure_future(ledger.record("default", 1000, events("e2"), [PLAN]))
    await asyncio.sleep(0)
    gone.cancel()
    assert [NEW] == kinds(await stays)
    with pytest.raises(asyncio.CancelledError):
        await gone
    (claim,) = await ledger.record("default", 1000, events("e1"), [PLAN])
    assert claim.kind in {NEW, REPLAY}


async def test_a_mistake_in_one_call_is_its_own_and_nobody_elses(ledger: Ledger) -> None:
    wrong = ledger.record("default", 2**70, events("e1"), [PLAN])
    good = ledger.record("default", 1000, events("e2"), [PLAN])
    first, second = await asyncio.gather(wrong, good, return_exceptions=True)
    assert isinstance(first, Exception)
    assert not isinstance(first, LedgerUnavailable)
    assert not isinstance(second, BaseException)
    assert [NEW] == kinds(second)
    assert await ledger.find("default", "e1") is None


async def test_a_closed_ledger_says_so(store: Store) -> None:
    async with opened(store) as ledger:
        batch = await recorded(ledger, "e1")
    for call in (
        ledger.record("default", 1, events("e2"), [PLAN]),
        ledger.find("default", "e1"),
        ledger.snapshots([batch]),
        ledger.take("a", 5000, 10),
        ledger.settle([], []),
        ledger.counts(),
    ):
        with pytest.raises(LedgerUnavailable):
            await call


async def test_batches_are_listed_newest_first_and_below_a_number(ledger: Ledger) -> None:
    numbers = [await recorded(ledger, f"e{index}") for index in range(5)]
    assert numbers[::-1] == list(await ledger.batches_before(None, 10))
    assert numbers[1:3][::-1] == list(await ledger.batches_before(numbers[3], 2))
    assert numbers == list(await ledger.batches_after(0, 10))
    assert numbers[1:3] == list(await ledger.batches_after(numbers[0], 2))
    assert {} == await ledger.snapshots([max(numbers) + 1])


async def test_the_audit_is_written_with_the_events_and_only_where_all_of_them_are_new(ledger: Ledger) -> None:
    row = AuditRow(at=1, tenant="default", actor="ada", action="void", target="e1", reason="a wrong meter reading")
    await ledger.record("default", 1000, events("c1", "c2"), [PLAN, PLAN], [row])
    assert [(1, row)] == list(await ledger.trail("default", None, 10))
    claims = await ledger.record("default", 1001, events("c2", "c3"), [PLAN, PLAN], [row])
    assert [REPLAY, NEW] == kinds(claims)
    assert [(1, row)] == list(await ledger.trail("default", None, 10))
