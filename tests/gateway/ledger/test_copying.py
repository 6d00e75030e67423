"""A ledger that moves from a file to a Redis server: all of it, once, also where the copy was interrupted."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from canonical_schema import ErrorCode, ErrorItem, fingerprint
from gateway.errors import LedgerUnavailable
from gateway.ledger import (
    AttemptRow,
    AuditRow,
    Change,
    ClaimKind,
    Code,
    Document,
    Erasure,
    Group,
    Ledger,
    Part,
    Plan,
    WorkState,
)
from gateway.ledger._redis.address import Address
from gateway.ledger.backup import back_up, restore
from gateway.ledger.copying import copy
from gateway.ledger.redis import RedisLedger
from tests.gateway.ledger.conftest import (
    TENANT,
    SqliteStore,
    event,
    opened,
    processes,
    recorded,
    rendered,
    strays,
    taken,
    totals,
)
from tests.redis_servers import Server

ERROR = ErrorItem(code=ErrorCode.FORBIDDEN, message="no", retryable=True)
AUDIT = AuditRow(at=5, tenant=TENANT, actor="ada", action="retry", target="e1", reason="asked for")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path / "server")
    yield one
    one.kill()


def ledger_on(server: Server, *, observer: bool = False, partitions: int | None = None) -> RedisLedger:
    address = Address.read(f"redis://127.0.0.1:{server.port}/0")
    return RedisLedger(address, observer=observer, partitions=partitions)


async def filled(ledger: Ledger) -> None:
    """Put something of every kind into a ledger."""
    plan = Plan(live=("a", "b"), shadow=("s",), filtered=(("x", Code.NO_BINDING),), windows=(("b", 500),))
    for number in range(6):
        await recorded(ledger, *(f"e{number}-{index}" for index in range(7)), plan=plan, received=1000 + number)
    await ledger.extend(1, [2, 5], [Plan(live=("s",))] * 2, 4000)  # they count from now on
    await recorded(ledger, "lonely", plan=Plan())
    works = list(await ledger.take("a", 5000, 21))
    numbers = await ledger.intend([rendered(work, work.members[:6]) for work in works], 5000)
    first, second, _ = works
    changes = [
        Change(
            work=numbers[0], batch=first.batch, destination="a", members=[0, 1, 2], code=Code.ACCEPTED, group=None,
            parts=[[Part("in", "k1", b"{}"), Part("out", "k2", b"{}")]] * 3,
        ),
        Change(
            work=numbers[1], batch=second.batch, destination="a", members=[1, 3], code=Code.UNKNOWN,
            group=Group(state=WorkState.UNKNOWN, due=1, since=1000, attempts=1, doubt=2, sent=5000, error=ERROR),
            parts=[[Part("", "k", b"{}", Code.UNKNOWN)]] * 2,
        ),
    ]  # fmt: skip
    attempt = AttemptRow(
        batch=second.batch, destination="a", members=[0, 1, 3], at=5000, duration_ms=3, http_status=None,
        outcome="unknown", error=ERROR, others={3: ("accepted", None)}, provider_event_ids={1: "u1"},
    )  # fmt: skip
    await ledger.settle(changes, [attempt], [AUDIT])
    await ledger.keep([Document(kind="link", tenant=TENANT, name="acme", body=b"{}")])
    await ledger.name({"a": "flexprice", "b": "wingback"})
    done = await recorded(ledger, "t1", "t2", received=2000)
    (work,) = await ledger.pieces(done, "a")
    (number,) = await ledger.intend([rendered(work)], 6000)
    change = Change(work=number, batch=done, destination="a", members=[0, 1], code=Code.ACCEPTED, group=None)
    await ledger.settle([change], [])
    events = (await ledger.snapshots([done]))[done].events
    assert [] == list(await ledger.trim({done: b"".join(map(fingerprint, events))}, "000001", None))
    gone = await ledger.record(
        TENANT, 3000, [event("g1", customer="gone"), event("g2")], [Plan(filtered=(("x", Code.ZERO),))] * 2
    )
    await ledger.erase(gone[0].ref >> 16, Erasure(tenant=TENANT, customer="gone", key=b"k", abandon=True))


async def shown(ledger: Ledger) -> dict[str, Any]:
    """Return everything that clients can see, by event."""
    seen: dict[str, Any] = {}
    for batch in await ledger.batches_after(0, 1000):
        shot = (await ledger.snapshots([batch]))[batch]
        for index, one in enumerate(shot.events):
            tracks = {
                track.destination: (
                    track.provider,
                    track.looks_on(index),
                    track.codes[index],
                    [msgspec.structs.asdict(group) for group, members in track.work if index in members],
                    [(row.outcome, row.others.get(index), row.provider_event_ids.get(index)) for row in track.attempts
                     if index in row.members],
                    track.parts.get(index),
                )
                for track in shot.tracks
            }  # fmt: skip
            seen[one.id] = (shot.tenant, shot.received_at(index), one, tracks)
    return seen


@pytest.mark.parametrize("partitions", [1, 3])
async def test_everything_is_there_as_it_was_and_once(tmp_path: Path, server: Server, partitions: int) -> None:
    store = SqliteStore(tmp_path)
    async with opened(store) as source:
        await filled(source)
        before, sums, secret = await shown(source), await totals(source), await source.secret("erasure")
    made = await copy(store.path, ledger_on(server, observer=True, partitions=partitions))
    assert 47 == made["events"]
    with pytest.raises(LedgerUnavailable, match="was moved to a server at 20"):
        await store.ledger().open()
    with pytest.raises(LedgerUnavailable, match="has ended"):  # it may have been used since
        await copy(store.path, ledger_on(server, observer=True))
    target = ledger_on(server)
    await target.open()
    try:
        assert before == await shown(target)
        assert (sums, secret) == (await totals(target), await target.secret("erasure"))
        assert b"{}" == await target.document("link", TENANT, "acme")
        assert [AUDIT] == [row for _, row in await target.trail(TENANT, None, 10)]
        assert {"lonely"} == {one.id for found in await strays(target) for one in found.events} - {"g2"}
        assert 13 == sum(len(work.members) for work in await target.held("a", WorkState.SENDING) if work.parts)
        sent = [event("t1"), event("t2", quantity=Decimal(2)), event("e0-0"), event("new")]
        claims = await target.record(TENANT, 9000, sent, [Plan(live=("a",))] * 4)
        kinds = [ClaimKind.REPLAY, ClaimKind.CONFLICT, ClaimKind.REPLAY, ClaimKind.NEW]
        assert kinds == [claim.kind for claim in claims]
        assert [] == (await target.add_up())["problems"]
    finally:
        await target.close()


async def test_a_file_that_was_restored_from_a_backup_can_be_copied(tmp_path: Path, server: Server) -> None:
    store = SqliteStore(tmp_path)
    async with opened(store) as source:
        await recorded(source, "e1", "e2")
    back_up(store.path, tmp_path / "copy", 1500)
    restore(store.path, tmp_path / "copy", 2000)
    made = await copy(store.path, ledger_on(server, observer=True))
    assert (2, 2) == (made["events"], made["destinations"]["a"]["pending"])


async def test_a_copy_that_was_interrupted_goes_on_and_nobody_works_on_half_of_it(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path)
    async with opened(store) as source:
        await filled(source)
        before = await shown(source)
    put, left = RedisLedger.put, 4

    async def failing(self: RedisLedger, partition: int, mark: int, arguments: Any) -> None:
        nonlocal left
        left -= 1
        await put(self, partition, mark, arguments)
        if left == 0:  # it was written, and nobody was told
            raise LedgerUnavailable("the cable")

    monkeypatch.setattr(RedisLedger, "put", failing)
    with pytest.raises(LedgerUnavailable, match="cable"):
        await copy(store.path, ledger_on(server, observer=True))
    with pytest.raises(LedgerUnavailable, match="has not ended"):
        await ledger_on(server).open()
    monkeypatch.setattr(RedisLedger, "put", put)
    await copy(store.path, ledger_on(server, observer=True))
    target = ledger_on(server)
    await target.open()
    try:
        assert before == await shown(target)
    finally:
        await target.close()


async def test_what_holds_something_else_and_a_file_in_use_are_refused(tmp_path: Path, server: Server) -> None:
    store = SqliteStore(tmp_path)
    async with opened(store) as source:
        await recorded(source, "e1")
        with pytest.raises(LedgerUnavailable, match="in use"):
            await copy(store.path, ledger_on(server, observer=True))
    other = ledger_on(server)
    await other.open()
    await recorded(other, "e1")
    await other.close()
    with pytest.raises(LedgerUnavailable, match="holds events already"):
        await copy(store.path, ledger_on(server, observer=True))


async def test_nothing_is_copied_under_a_gateway_that_would_send_it(tmp_path: Path, server: Server) -> None:
    store = SqliteStore(tmp_path)
    async with opened(store) as source:
        await recorded(source, "e1")
    async with processes(server, 1) as (other,):
        with pytest.raises(LedgerUnavailable, match="1 gateway has the ledger on the server open"):
            await copy(store.path, ledger_on(server, observer=True))
        assert [] == await taken(other)
    assert 1 == (await copy(store.path, ledger_on(server, observer=True)))["events"]
