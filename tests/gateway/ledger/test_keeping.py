"""What is old is trimmed to what a repeat needs, and forgotten in the end; a customer can be erased. Every backend."""

from collections.abc import AsyncGenerator
from decimal import Decimal

import msgspec
import pytest

from canonical_schema import DeliveryStatus, ErrorCode, ErrorItem, Event, fingerprint
from gateway.ledger import (
    AttemptRow,
    AuditRow,
    Change,
    ClaimKind,
    Code,
    Erasure,
    Group,
    Ledger,
    Part,
    Plan,
    Remains,
    WorkState,
    ref_of,
)
from tests.gateway.ledger.conftest import (
    TENANT,
    Store,
    batch_of,
    codes,
    event,
    events,
    opened,
    places,
    recorded,
    rendered,
    strays,
    totals,
)

LIVE = Plan(live=("a",))
KEY = b"k" * 32
GONE = Erasure(tenant=TENANT, customer="acme", key=KEY)
ERROR = ErrorItem(code=ErrorCode.UNKNOWN_CUSTOMER, message="acme is not known", retryable=False, provider_code="acme")


@pytest.fixture(autouse=True)
async def adding_up(store: Store) -> AsyncGenerator[None]:
    """Whatever is trimmed, forgotten or erased: the ledger adds up afterwards."""
    yield
    assert [] == await store.problems()


async def settle(
    ledger: Ledger, batch: int, code: Code, state: WorkState | None = None, destination: str = "a"
) -> None:
    """Send all of a batch's work and hear one answer for it."""
    works = list(await ledger.pieces(batch, destination))
    portions = [rendered(work) for work in works]
    numbers = await ledger.intend(portions, 2000)
    changes = [
        Change(
            work=number,
            batch=batch,
            destination=destination,
            members=portion.members,
            code=code,
            group=None if state is None else Group(state=state, due=0, since=1000, attempts=1, error=ERROR),
            parts=[
                [Part("in", "k-in", b'{"of":"acme"}', code), Part("out", "k-out", b'{"of":"acme"}', code)]
                for _ in portion.members
            ],
        )
        for number, portion in zip(numbers, portions, strict=True)
    ]
    attempt = AttemptRow(
        batch=batch,
        destination=destination,
        members=[index for portion in portions for index in portion.members],
        at=2000,
        duration_ms=5,
        http_status=200,
        outcome="accepted",
        error=ERROR,
        others={0: ("rejected", ERROR)},
        provider_event_ids={0: "usg_acme"},
    )
    await ledger.settle(changes, [attempt])


async def prints(ledger: Ledger, *batches: int) -> dict[int, bytes]:
    found = await ledger.snapshots(batches)
    return {batch: b"".join(map(fingerprint, shot.events)) for batch, shot in found.items()}


async def trimmed(ledger: Ledger, *batches: int, segment: str | None = "000001") -> None:
    assert [] == list(await ledger.trim(await prints(ledger, *batches), segment, None))


async def test_what_was_trimmed_is_counted_from_an_instant_on(ledger: Ledger) -> None:
    old, young = await recorded(ledger, "e1"), await recorded(ledger, "e2", received=5000)
    for batch in (old, young, await recorded(ledger, "e3", received=6000)):
        await settle(ledger, batch, Code.ACCEPTED)
    assert 0 == await ledger.trimmed(TENANT, 0)
    await trimmed(ledger, old, young)
    assert (2, 1, 0) == tuple([await ledger.trimmed(TENANT, since) for since in (0, 5000, 5001)])
    assert 0 == await ledger.trimmed("another", 0)


async def test_only_what_is_old_and_settled_may_be_trimmed(ledger: Ledger) -> None:
    done = await recorded(ledger, "e1")
    await settle(ledger, done, Code.ACCEPTED)
    await recorded(ledger, "e2")  # on its way
    unrouted = await recorded(ledger, "e3", plan=Plan())
    letter = await recorded(ledger, "e4")
    await settle(ledger, letter, Code.REJECTED, WorkState.REJECTED)
    blocked = await recorded(ledger, "e5")
    await settle(ledger, blocked, Code.BLOCKED, WorkState.BLOCKED)
    young = await recorded(ledger, "e6", received=5000)
    await settle(ledger, young, Code.DUPLICATE)

    assert ([done], None) == await ledger.trimmable(5000, None, 0, 10)
    assert ([done, letter], None) == await ledger.trimmable(5000, 5000, 0, 10)
    assert ([done], None) == await ledger.trimmable(5000, 1000, 0, 10)
    assert ([done], done) == await ledger.trimmable(5000, 5000, 0, 1)
    assert ([letter], None) == await ledger.trimmable(5000, 5000, done, 9)
    assert ([], None) == await ledger.trimmable(1000, 1000, 0, 10)

    left = await ledger.trim(await prints(ledger, done, unrouted, letter, blocked), None, None)
    assert [unrouted, letter, blocked] == sorted(left)
    assert [] == list(await ledger.trim(await prints(ledger, letter), None, 5000))
    assert ([young], None) == await ledger.trimmable(9000, 9000, 0, 10)


async def test_ids_statuses_and_the_way_to_the_archive_are_left(store: Store) -> None:
    async with opened(store) as ledger:
        batch = await recorded(ledger, "e1", "e2", plan=Plan(live=("a",), filtered=(("b", Code.NO_BINDING),)))
        await settle(ledger, batch, Code.ACCEPTED)
        kept = await prints(ledger, batch)
        await trimmed(ledger, batch)
        before = await totals(ledger)
    async with opened(store) as ledger:
        shot = (await ledger.snapshots([batch]))[batch]
        assert Remains(prints=kept[batch], trimmed=True, segment="000001") == shot.remains
        assert (TENANT, 1000, []) == (shot.tenant, shot.received, shot.events)
        assert [("a", bytes([4, 4]), [], {}), ("b", bytes([11, 11]), [], {})] == [
            (track.destination, track.codes, track.attempts, track.parts) for track in shot.tracks
        ]
        assert ref_of(batch, 1) == await ledger.find(TENANT, "e2")
        assert before == await totals(ledger) == {"a": {"accepted": 2}, "b": {"filtered": 2}}
        assert [] == list(await ledger.batches_before(None, 10))


async def test_a_repeat_of_what_was_trimmed_is_known_and_other_content_is_a_conflict(store: Store) -> None:
    async with opened(store) as ledger:
        batch = await recorded(ledger, "e1", "e2")
        await settle(ledger, batch, Code.ACCEPTED)
        await trimmed(ledger, batch)
        for sent, kind in (
            (event("e1"), ClaimKind.REPLAY),
            (event("e2", quantity=Decimal("1.00")), ClaimKind.REPLAY),
            (event("e2", quantity=Decimal(2)), ClaimKind.CONFLICT),
            (event("e1", source="x"), ClaimKind.CONFLICT),
        ):
            (claim,) = await ledger.record(TENANT, 9000, [sent], [LIVE])
            assert (kind, batch, ()) == (claim.kind, claim.ref >> 16, claim.fields)
        # The number of a batch is never given twice, whatever is trimmed.
        assert batch < await recorded(ledger, "e3")


async def test_ids_are_forgotten_only_where_the_record_is_trimmed_and_old(store: Store) -> None:
    async with opened(store) as ledger:
        first, second, third = [await recorded(ledger, f"e{n}", received=1000 * n) for n in (1, 2, 3)]
        for batch in (first, second, third):
            await settle(ledger, batch, Code.ACCEPTED)
        assert 0 == await ledger.forget(9000, 10)
        await trimmed(ledger, first, second)
        assert 1 == await ledger.forget(2000, 10)
        assert [None, ref_of(second, 0)] == [await ledger.find(TENANT, "e1"), await ledger.find(TENANT, "e2")]
        assert {second, third} == set(await ledger.snapshots([first, second, third]))
        await trimmed(ledger, third)
        assert 1 == await ledger.forget(9000, 10)  # the newest stays
        assert ref_of(third, 0) == await ledger.find(TENANT, "e3")
    async with opened(store) as ledger:
        assert third < await recorded(ledger, "e1")
        assert {"a": {"accepted": 1, "pending": 1}} == await totals(ledger)


async def test_what_is_forgotten_of_events_that_went_different_ways_leaves_the_sums_right(ledger: Ledger) -> None:
    ways = [LIVE, Plan(live=("b",))]
    batch = batch_of(await ledger.record(TENANT, 1000, events("e1", "e2"), ways))
    for destination in ("a", "b"):
        await settle(ledger, batch, Code.ACCEPTED, destination=destination)
    await recorded(ledger, "e3")
    await trimmed(ledger, batch)
    assert 1 == await ledger.forget(2000, 10)
    assert {"a": {"pending": 1}} == {name: counted for name, counted in (await totals(ledger)).items() if counted}


async def test_a_secret_is_drawn_once_and_kept(store: Store) -> None:
    async with opened(store) as ledger:
        one, other = await ledger.secret("one"), await ledger.secret("other")
        assert 32 == len(one) == len(other)
        assert one != other
    async with opened(store) as ledger:
        assert one == await ledger.secret("one")


async def mixed(ledger: Ledger, plan: Plan = LIVE) -> tuple[int, list[Event]]:
    """Record two events of one customer around one of another."""
    sent = [
        event("e1", subscription="s1", source="erp", properties={"who": "acme's own"}),
        event("e2", customer="other", properties={"a": 1}),
        event("e3", quantity=Decimal("2.5")),
    ]
    claims = await ledger.record(TENANT, 1000, sent, [plan] * 3)
    return claims[0].ref >> 16, sent


async def test_a_customer_is_erased_and_what_was_measured_stays(store: Store) -> None:
    async with opened(store) as ledger:
        batch, sent = await mixed(ledger)
        await settle(ledger, batch, Code.ACCEPTED)
        elsewhere = await recorded(ledger, "e9", plan=LIVE)
        assert ([batch, elsewhere], None) == await ledger.holding(TENANT, "acme", 0, 10)
        assert ([batch], batch) == await ledger.holding(TENANT, "acme", 0, 1)
        assert ([], None) == await ledger.holding(TENANT, "acm", 0, 10)
        assert ([], None) == await ledger.holding("another", "acme", 0, 10)

        await ledger.snapshots([batch])  # what is at hand is not what is kept
        assert (2, {}) == await ledger.erase(batch, GONE)
        assert (0, {}) == await ledger.erase(batch, GONE)
        assert (0, {}) == await ledger.erase(batch, msgspec.structs.replace(GONE, tenant="another"))
        assert ([elsewhere], None) == await ledger.holding(TENANT, "acme", 0, 10)
        assert [GONE.alias] * 2 == [one.customer for one in (await ledger.snapshots([batch]))[batch].events[::2]]
    for again in (store, store.cut()):
        async with opened(again) as ledger:
            shot = (await ledger.snapshots([batch]))[batch]
            first, second, third = shot.events
            assert sent[1] == second
            assert (GONE.alias, Decimal(1), None, {}) == (
                first.customer,
                first.quantity,
                first.source,
                first.properties,
            )
            assert (GONE.alias, Decimal("2.5"), None) == (third.customer, third.quantity, third.subscription)
            assert first.subscription is not None
            assert first.subscription.startswith("erased_")
            assert frozenset({0, 2}) == (shot.remains or Remains(prints=b"")).erased
            (track,) = shot.tracks
            assert {1} == set(track.parts)
            (attempt,) = track.attempts
            assert {} == attempt.provider_event_ids
            assert b"acme" not in msgspec.msgpack.encode([shot.events[0], shot.events[2], attempt])
            # A repeat is still a repeat, by what was sent; and another customer's content is told member by member.
            claims = await ledger.record(
                TENANT, 9000, [*sent, event("e3"), event("e2", customer="x", properties={"a": 1})], [LIVE] * 5
            )
            assert [ClaimKind.REPLAY] * 3 + [ClaimKind.CONFLICT] * 2 == [claim.kind for claim in claims]
            assert [(), ("customer",)] == [claim.fields for claim in claims[3:]]
            assert {"accepted": 3} == {name: n for name, n in (await totals(ledger))["a"].items() if n > 1}


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (Code.BLOCKED, WorkState.BLOCKED),
        (Code.RETRYING, WorkState.READY),
        (Code.UNKNOWN, WorkState.UNKNOWN),
        (Code.REJECTED, WorkState.REJECTED),
        (Code.DEAD, WorkState.DEAD),
    ],
)
async def test_what_could_still_be_billed_is_not_erased_unless_it_is_given_up(
    ledger: Ledger, code: Code, state: WorkState
) -> None:
    batch, sent = await mixed(ledger)
    await settle(ledger, batch, code, state)
    assert (2, {state: 2}) == await ledger.erase(batch, GONE)
    assert sent == (await ledger.snapshots([batch]))[batch].events
    assert {state: [0, 1, 2]} == await places(ledger, batch)

    assert (2, {state: 2}) == await ledger.erase(batch, msgspec.structs.replace(GONE, abandon=True))
    assert {state: [1]} == await places(ledger, batch)
    ended = Code.REJECTED if code is Code.REJECTED else Code.DEAD
    assert [ended, code, ended] == await codes(ledger, batch)
    (work,) = await ledger.pieces(batch, "a")
    assert ([sent[1]], 1) == (work.events, len(work.parts or ()))


async def test_what_is_being_sent_is_never_erased(ledger: Ledger) -> None:
    batch, sent = await mixed(ledger)
    await ledger.intend([rendered(work, [2]) for work in await ledger.pieces(batch, "a")], 2000)
    abandon = msgspec.structs.replace(GONE, abandon=True)
    assert (2, {WorkState.READY: 1, WorkState.SENDING: 1}) == await ledger.erase(batch, abandon)
    assert sent == (await ledger.snapshots([batch]))[batch].events


async def test_the_unrouted_are_given_up_with_their_customer(ledger: Ledger) -> None:
    batch, _ = await mixed(ledger, Plan())
    assert (2, {"unrouted": 2}) == await ledger.erase(batch, GONE)
    assert (2, {"unrouted": 2}) == await ledger.erase(batch, msgspec.structs.replace(GONE, abandon=True))
    assert [[1]] == [list(found.members) for found in await strays(ledger)]


async def test_what_is_trimmed_after_it_was_erased_keeps_the_fingerprints_of_what_was_sent(ledger: Ledger) -> None:
    batch, sent = await mixed(ledger)
    await settle(ledger, batch, Code.ACCEPTED)
    await ledger.erase(batch, GONE)
    await trimmed(ledger, batch)
    assert (0, {}) == await ledger.erase(batch, msgspec.structs.replace(GONE, customer="other"))
    claims = await ledger.record(TENANT, 9000, sent, [LIVE] * 3)
    assert [ClaimKind.REPLAY] * 3 == [claim.kind for claim in claims]
    assert {DeliveryStatus.ACCEPTED: 3} == (await totals(ledger))["a"]


async def test_what_is_trimmed_or_erased_gets_no_further_deliveries(ledger: Ledger) -> None:
    plans = [Plan(live=("b",))] * 3
    batch, _ = await mixed(ledger)
    await settle(ledger, batch, Code.ACCEPTED)
    await ledger.erase(batch, GONE)
    assert 1 == await ledger.extend(batch, [0, 1, 2], plans, 3000)
    assert [Code.NONE, Code.PENDING, Code.NONE] == await codes(ledger, batch, "b")
    await settle(ledger, batch, Code.ACCEPTED, destination="b")
    await trimmed(ledger, batch)
    assert 0 == await ledger.extend(batch, [0, 1, 2], [Plan(live=("c",))] * 3, 3000)
    assert [] == list(await ledger.batches_after(0, 10))


async def test_the_trail_names_an_erased_customer_no_longer(ledger: Ledger) -> None:
    linked = AuditRow(at=1, tenant=TENANT, actor="op", action="link", target="acme", reason="put", after='{"a":1}')
    others = [msgspec.structs.replace(linked, target="acme2"), msgspec.structs.replace(linked, tenant="another")]
    await ledger.note([linked, *others])
    assert 1 == await ledger.unname(GONE)
    assert 0 == await ledger.unname(GONE)
    rows = [row for tenant in (TENANT, "another") for _, row in await ledger.trail(tenant, None, 10)]
    assert [others[0], msgspec.structs.replace(linked, target=GONE.alias, after=None), others[1]] == rows


async def test_an_erased_name_is_out_of_what_people_wrote_where_it_stands_alone(ledger: Ledger) -> None:
    reasons = {
        'acme asked, "acme" said (acme)': f'{GONE.alias} asked, "{GONE.alias}" said ({GONE.alias})',
        "acme's bill; acme-eu too": f"{GONE.alias}'s bill; {GONE.alias}-eu too",
        "of acmeter, pacme and acme_2": "of acmeter, pacme and acme_2",
        "of ACME": "of ACME",
    }
    rows = [
        AuditRow(at=1, tenant=tenant, actor="admin", action="void", target="e1", reason=reason, before="1", after="2")
        for tenant in (TENANT, "another")
        for reason in reasons
    ]
    await ledger.note(rows)
    assert 2 == await ledger.unname(GONE)
    assert 0 == await ledger.unname(GONE)
    assert list(reasons.values()) == [row.reason for _, row in reversed(await ledger.trail(TENANT, None, 10))]
    assert list(reasons) == [row.reason for _, row in reversed(await ledger.trail("another", None, 10))]
    assert {("1", "2")} == {(row.before, row.after) for _, row in await ledger.trail(TENANT, None, 10)}


@pytest.mark.parametrize("customer", ["a", "5 ", "Zoë (GmbH)", "\\d+", 'a"b\\'])
async def test_any_customer_can_be_unnamed_and_words_of_two_letters_name_nobody(ledger: Ledger, customer: str) -> None:
    gone = msgspec.structs.replace(GONE, customer=customer)
    said = f"a wrong meter ran 5 hours for {customer}, and 1 more"
    await ledger.note([AuditRow(at=1, tenant=TENANT, actor="admin", action="void", target="e1", reason=said)])
    await ledger.unname(gone)
    ((_, row),) = await ledger.trail(TENANT, None, 10)
    assert (said if len(customer) < 3 else said.replace(customer, gone.alias)) == row.reason
