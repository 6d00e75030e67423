"""What another process writes while one is about to write: nothing of it is undone or passed over."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest

from canonical_schema import fingerprint
from gateway.errors import LedgerUnavailable
from gateway.ledger import ClaimKind, Code, Group, Ledger, Plan, Work, WorkState
from gateway.ledger._kept import Erasure
from gateway.ledger.redis import RedisLedger
from tests.gateway.ledger.conftest import TENANT, batch_of, change, event, processes, recorded, rendered, sending, taken
from tests.redis_servers import Server

PLAN = Plan(live=("a",))
Look = Callable[[RedisLedger, str], Awaitable[Sequence[Work]]]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[RedisLedger, str, Callable[[], Awaitable[Any]]], None]:
    """Have something happen before a ledger's next call of a script reaches the server."""

    def happens(ledger: RedisLedger, script: str, what: Callable[[], Awaitable[Any]]) -> None:
        (link,) = ledger._links
        run, waiting = link.run, [what]

        async def late(name: str, *arguments: Any, **more: Any) -> Any:
            if name == script and waiting:
                await waiting.pop()()
            return await run(name, *arguments, **more)

        monkeypatch.setattr(link, "run", late)

    return happens


def forgetting(customer: str) -> Erasure:
    return Erasure(tenant=TENANT, customer=customer, key=bytes(32))


async def ended(ledger: Ledger) -> int:
    """Record a batch of two customers that is accepted."""
    sent = [event("e1", customer="ann"), event("e2", customer="bob")]
    batch = batch_of(await ledger.record(TENANT, 1000, sent, [PLAN, PLAN]))
    work, number = await sending(ledger)
    await ledger.settle([change(work, number, [0, 1], Code.ACCEPTED)], [])
    return batch


async def trimmed(ledger: Ledger, batch: int, letters: int | None = None) -> None:
    events = (await ledger.snapshots([batch]))[batch].events
    assert [] == await ledger.trim({batch: b"".join(map(fingerprint, events))}, None, letters)


async def test_two_customers_of_one_batch_are_forgotten_at_the_same_time(ledger: Ledger) -> None:
    batch = await ended(ledger)
    customers = [forgetting("ann"), forgetting("bob")]
    await asyncio.gather(*(ledger.erase(batch, one) for one in customers))
    snapshot = (await ledger.snapshots([batch]))[batch]
    assert [one.alias for one in customers] == [one.customer for one in snapshot.events]
    assert snapshot.remains is not None
    assert {0, 1} == snapshot.remains.erased


@pytest.mark.parametrize("script", ["bodies", "route"])
async def test_what_is_trimmed_meanwhile_is_given_no_delivery(server: Server, meanwhile: Any, script: str) -> None:
    async with processes(server, 2) as (one, other):
        batch = await ended(one)
        meanwhile(other, script, lambda: trimmed(one, batch))
        assert 0 == await other.extend(batch, [0, 1], [Plan(live=("b",))] * 2, 5000)
        assert [] == await taken(other, now=20_000_000, destination="b")
        assert [] == (await other.add_up())["problems"]


async def test_what_is_forgotten_meanwhile_is_given_no_delivery(server: Server, meanwhile: Any) -> None:
    async with processes(server, 2) as (one, other):
        batch = await ended(one)
        meanwhile(other, "route", lambda: one.erase(batch, forgetting("ann")))
        assert 1 == await other.extend(batch, [0, 1], [Plan(live=("b",))] * 2, 5000)
        (work,) = await taken(other, now=20_000_000, destination="b")
        assert [1] == work.members


async def test_what_is_trimmed_while_it_is_looked_at_is_left_out(server: Server, meanwhile: Any) -> None:
    async with processes(server, 2) as (one, other):
        batch = await recorded(one, "e1")
        kept = await recorded(one, "e2", received=2000)
        for work in await taken(one):
            (number,) = await one.intend([rendered(work)], 5000)
            group = Group(state=WorkState.REJECTED, due=5000, since=1000)
            await one.settle([change(work, number, [0], Code.REJECTED, group)], [])
        meanwhile(other, "bodies", lambda: trimmed(one, batch, 1500))
        assert [kept] == [work.batch for work in await other.walk("a", WorkState.REJECTED, 0, 10)]


async def test_what_is_past_remembering_while_it_is_looked_at_is_not_known(server: Server, meanwhile: Any) -> None:
    async with processes(server, 2) as (one, other):
        batch = await ended(one)
        kept = await recorded(one, "e3")
        await trimmed(one, batch)
        meanwhile(other, "bodies", lambda: one.forget(5000, 10))
        assert {kept} == set(await other.snapshots([batch, kept]))


async def test_a_repeat_of_what_is_past_remembering_while_it_is_looked_at_is_to_come_again(
    server: Server, meanwhile: Any
) -> None:
    async with processes(server, 2) as (one, other):
        batch = await ended(one)
        await recorded(one, "e3")
        await trimmed(one, batch)
        meanwhile(other, "bodies", lambda: one.forget(5000, 10))
        again = partial(other.record, TENANT, 6000, [event("e1", customer="ann")], [PLAN])
        with pytest.raises(LedgerUnavailable, match="past remembering"):
            await again()
        assert [ClaimKind.NEW] == [claim.kind for claim in await again()]


@pytest.mark.parametrize("look", [RedisLedger.abandoned, partial(RedisLedger.held, state=WorkState.SENDING)])
async def test_what_a_process_sends_that_just_came_is_its_own(server: Server, meanwhile: Any, look: Look) -> None:
    async with contextlib.AsyncExitStack() as stack:
        (one,) = await stack.enter_async_context(processes(server, 1))
        await recorded(one, "e1")

        async def comes() -> None:
            (other,) = await stack.enter_async_context(processes(server, 1))
            (work,) = await taken(other, now=20_000_000)
            await other.intend([rendered(work)], 20_000_000)

        meanwhile(one, "walk", comes)
        assert [] == await look(one, "a")
