"""The ledger's backends, each as a store that can be opened, lose its power and run full.

A new backend joins `BACKENDS`; every test of this folder but those named for a backend then runs on it.
"""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytest

from canonical_schema import DeliveryStatus, ErrorCode, ErrorItem, Event
from gateway.ledger import (
    Change,
    Claim,
    Code,
    Group,
    Ledger,
    Part,
    Plan,
    Portion,
    SqliteLedger,
    Unrouted,
    Work,
    WorkState,
    split_ref,
)
from gateway.ledger._redis.address import Address
from gateway.ledger.check import add_up
from gateway.ledger.redis import RedisLedger
from tests.redis_servers import Server

TENANT = "default"
ERROR = ErrorItem(code=ErrorCode.UNAUTHORIZED, message="refused", retryable=True)
ALL = 10_000


class Store(Protocol):
    """Where a ledger keeps things."""

    def ledger(self) -> Ledger:
        """Return a ledger on this store, not yet open."""
        ...

    def cut(self) -> "Store":
        """Return what would be left of the store if the power went now."""
        ...

    def full(self, ledger: Ledger) -> AbstractAsyncContextManager[None]:
        """Leave an open ledger no room for anything as long as this lasts."""
        ...

    async def problems(self) -> list[str]:
        """Return what does not add up in it."""
        ...


class SqliteStore:
    """A file. What a loss of power leaves of it is the database and its log, copied while they are open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cuts = 0
        self.path = folder / "ledger.db"

    def ledger(self) -> SqliteLedger:
        return SqliteLedger(self.path)

    def cut(self) -> "SqliteStore":
        self._cuts += 1
        left = SqliteStore(self._folder / f"cut{self._cuts}")
        left._folder.mkdir()
        for end in ("", "-wal"):
            if (file := self.path.with_name(self.path.name + end)).exists():
                shutil.copy(file, left.path.with_name(left.path.name + end))
        return left

    async def problems(self) -> list[str]:
        return add_up(self.path)["problems"]

    @contextlib.asynccontextmanager
    async def full(self, ledger: Ledger) -> AsyncGenerator[None]:
        assert isinstance(ledger, SqliteLedger)
        writer = ledger._writer
        await writer.do(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchone())
        try:
            yield
        finally:
            await writer.do(lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchone())


class RedisStore:
    """A real server that writes each command down before it answers. What kill -9 leaves is its log."""

    _usual: ClassVar[Server | None] = None
    """The server of this process's tests; emptied for each, and made anew when its log has grown."""

    def __init__(self, folder: Path, server: Server | None = None) -> None:
        self._folder = folder
        self._cuts = 0
        self.server = server or self._emptied()

    @classmethod
    def _emptied(cls) -> Server:
        server = cls._usual
        if server is None or int(server.command("INFO", "persistence")["aof_current_size"]) > 2_000_000:
            server = cls._usual = Server(Path(tempfile.mkdtemp(prefix="redis-")))
        server.command("FLUSHALL")
        return server

    def ledger(self, kind: type[RedisLedger] = RedisLedger) -> RedisLedger:
        return kind(Address.read(f"redis://127.0.0.1:{self.server.port}/0"))

    def cut(self) -> "RedisStore":
        self._cuts += 1
        folder = self._folder / f"cut{self._cuts}"
        left = self.server.copied(folder)
        left.command("DEL", "{ug}:o")  # those who shared it are gone with the power, and nobody waits to see it
        return RedisStore(folder, left)

    async def problems(self) -> list[str]:
        async with opened(self) as ledger:
            assert isinstance(ledger, RedisLedger)
            return (await ledger.add_up())["problems"]

    @contextlib.asynccontextmanager
    async def full(self, ledger: Ledger) -> AsyncGenerator[None]:
        assert isinstance(ledger, RedisLedger)
        self.server.command("CONFIG", "SET", "maxmemory", "1")
        try:
            yield
        finally:
            self.server.command("CONFIG", "SET", "maxmemory", "0")


BACKENDS = [SqliteStore, RedisStore]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.__name__)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return request.param(tmp_path)


@pytest.fixture
async def ledger(store: Store) -> AsyncGenerator[Ledger]:
    async with opened(store) as one:
        yield one


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Redis server for one test alone."""
    one = Server(tmp_path / "server")
    yield one
    one.kill()


@contextlib.asynccontextmanager
async def processes(server: Server, count: int, **settings: Any) -> AsyncGenerator[list[RedisLedger]]:
    """Give as many ledgers as so many processes would open."""
    async with contextlib.AsyncExitStack() as stack:
        address = Address.read(f"redis://127.0.0.1:{server.port}/0")
        ledgers = [RedisLedger(address, **settings) for _ in range(count)]
        for ledger in ledgers:
            await ledger.open()
            stack.push_async_callback(ledger.close)
        yield ledgers


@contextlib.asynccontextmanager
async def opened(store: Store) -> AsyncGenerator[Ledger]:
    """Open a ledger, and close it."""
    ledger = store.ledger()
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


def event(event_id: str, **members: Any) -> Event:
    """Return an event of one call by one customer, or as it is said."""
    usual: dict[str, Any] = {"customer": "acme", "meter": "calls", "quantity": Decimal(1)}
    return Event(id=event_id, **usual | members)


def events(*ids: str) -> list[Event]:
    return [event(event_id) for event_id in ids]


async def recorded(ledger: Ledger, *ids: str, plan: Plan | None = None, received: int = 1000) -> int:
    """Record new events in one batch, and return its number."""
    claims = await ledger.record(TENANT, received, events(*ids), [plan or Plan(live=("a",))] * len(ids))
    return batch_of(claims)


def batch_of(claims: Sequence[Claim]) -> int:
    (batch,) = {split_ref(claim.ref)[0] for claim in claims}
    return batch


def rendered(work: Work, members: list[int] | None = None) -> Portion:
    """Return a piece of work, or some of it, as it would be sent."""
    chosen = work.members if members is None else members
    return Portion(work=work, members=chosen, parts=[[part(work.batch, index)] for index in chosen])


def part(batch: int, index: int) -> Part:
    """Return a row that says whose it is."""
    return Part("", f"k{batch}-{index}", f'{{"of":"{batch}-{index}"}}'.encode())


async def codes(ledger: Ledger, batch: int, destination: str = "a") -> list[Code]:
    """Return what every event of a batch is at a destination."""
    for track in (await ledger.snapshots([batch]))[batch].tracks:
        if track.destination == destination:
            return [Code(byte) for byte in track.codes]
    return []


async def places(ledger: Ledger, batch: int, destination: str = "a") -> dict[WorkState, list[int]]:
    """Return where the work on a batch stands."""
    found: dict[WorkState, list[int]] = {}
    for track in (await ledger.snapshots([batch]))[batch].tracks:
        if track.destination == destination:
            for group, members in track.work:
                found.setdefault(group.state, []).extend(members)
    return {state: sorted(members) for state, members in found.items()}


async def totals(ledger: Ledger) -> dict[str, dict[DeliveryStatus, int]]:
    return {name: dict(counted) for name, counted in (await ledger.counts()).items()}


async def taken(ledger: Ledger, limit: int = ALL, now: int = 5000, destination: str = "a") -> list[Work]:
    return list(await ledger.take(destination, now, limit))


async def strays(ledger: Ledger) -> list[Unrouted]:
    """Return what has no way."""
    return [one async for one in ledger.unrouted()]


async def sending(ledger: Ledger, members: list[int] | None = None, now: int = 5000) -> tuple[Work, int]:
    """Intend to send the only piece of ready work, or some of it; return it and where it is now."""
    (work,) = await taken(ledger)
    (held_by,) = await ledger.intend([rendered(work, members)], now)
    return work, held_by


def change(
    work: Work, held_by: int, members: list[int], code: Code, group: Group | None = None, *, parts: bool = False
) -> Change:
    return Change(
        work=held_by,
        batch=work.batch,
        destination=work.destination,
        members=members,
        code=code,
        group=group,
        parts=[[part(work.batch, index)] for index in members] if parts else None,
    )


def again(due: int = 9000, *, attempts: int = 0, doubt: int = 0) -> Group:
    return Group(state=WorkState.READY, due=due, since=1000, attempts=attempts, doubt=doubt)
