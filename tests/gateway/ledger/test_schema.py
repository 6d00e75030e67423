"""A ledger file of an older version becomes one of this version, with everything that was in it."""

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path

import msgspec
import pytest
import zstandard

from canonical_schema import ErrorCode, ErrorItem
from gateway.errors import LedgerUnavailable
from gateway.ledger import AttemptRow, AuditRow, ClaimKind, Code, Part, Plan, SqliteLedger, WorkState, ref_of
from gateway.ledger._schema import UPGRADES, VERSION
from gateway.ledger.check import add_up
from tests.gateway.ledger.conftest import SqliteStore, codes, event, events, opened, places, recorded, strays, totals

# What version 1 wrote, to the byte: the table definitions and the form of every column.
VERSION_1 = """
CREATE TABLE batches (
    batch INTEGER PRIMARY KEY, tenant TEXT NOT NULL, received INTEGER NOT NULL, size INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE ids (digest BLOB PRIMARY KEY, ref INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tracks (
    batch INTEGER NOT NULL, destination TEXT NOT NULL, shadow INTEGER NOT NULL, codes BLOB NOT NULL,
    PRIMARY KEY (batch, destination)
) WITHOUT ROWID;
CREATE TABLE work (
    id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, batch INTEGER NOT NULL, members BLOB NOT NULL,
    state TEXT NOT NULL, due INTEGER NOT NULL, attempts INTEGER NOT NULL, doubt INTEGER NOT NULL,
    since INTEGER NOT NULL, sent INTEGER, error BLOB, parts BLOB
);
CREATE INDEX work_due ON work (destination, state, due);
CREATE INDEX work_batch ON work (batch, destination);
CREATE TABLE attempts (id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, destination TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX attempts_batch ON attempts (batch, destination);
CREATE TABLE parts (
    batch INTEGER NOT NULL, destination TEXT NOT NULL, place INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (batch, destination, place)
) WITHOUT ROWID;
CREATE TABLE unrouted (batch INTEGER PRIMARY KEY, members BLOB NOT NULL);
CREATE TABLE audit (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX audit_tenant ON audit (tenant, id);
CREATE TABLE destinations (name TEXT PRIMARY KEY, provider TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
RECEIVED = 1_795_700_000_000_000
ERROR = ErrorItem(code=ErrorCode.FORBIDDEN, message="held", retryable=True)
PLAN = Plan(live=("a",))
ATTEMPT = AttemptRow(
    batch=1, destination="a", members=[0], at=RECEIVED + 5, duration_ms=7, http_status=200, outcome="accepted"
)
AUDIT = AuditRow(at=RECEIVED, tenant="default", actor="op", action="retry", target="e1", reason="asked for")
PARTS = [Part("in", "e1:in", b'{"n":1}', Code.ACCEPTED, "p1"), Part("out", "e1:out", b'{"n":2}', Code.ACCEPTED)]


def packed(value: object) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(msgspec.msgpack.encode(value))


def lines(*texts: str) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress("\n".join(texts).encode())


def known_as(tenant: str, event_id: str) -> bytes:
    return blake2b(f"{tenant}\0{event_id}".encode(), digest_size=16).digest()


def fill(connection: sqlite3.Connection) -> None:
    """Two events at two destinations, one of them settled and one on its way; one event of another tenant, unrouted."""
    calls = '{"id":"%s","customer":"acme","meter":"calls","quantity":%s}'
    batches = [
        (1, "default", RECEIVED, 2, lines(calls % ("e1", "1"), calls % ("e2", "1"))),
        (7, "other", RECEIVED + 9, 1, lines(calls % ("e1", "2.50"))),
    ]
    connection.executemany("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", batches)
    ids = [
        (known_as("default", "e1"), ref_of(1, 0)),
        (known_as("default", "e2"), ref_of(1, 1)),
        (known_as("other", "e1"), ref_of(7, 0)),
    ]
    connection.executemany("INSERT INTO ids VALUES (?, ?)", ids)
    tracks = [(1, "a", 0, bytes([Code.ACCEPTED, Code.RETRYING])), (1, "b", 0, bytes([Code.BLOCKED, Code.NO_BINDING]))]
    connection.executemany("INSERT INTO tracks VALUES (?, ?, ?, ?)", tracks)
    error = msgspec.json.encode(ERROR)
    rendered = packed([[Part("", "e2", b'{"n":3}')]])
    work = [
        (4, "a", 1, b"\1\0", "ready", RECEIVED + 50, 1, 2, RECEIVED, RECEIVED + 5, error, rendered),
        (5, "b", 1, b"\0\0", "held", RECEIVED, 0, 0, RECEIVED, None, error, None),
    ]
    connection.executemany("INSERT INTO work VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", work)
    connection.execute("INSERT INTO attempts VALUES (1, 1, 'a', ?)", (packed(ATTEMPT),))
    connection.execute("INSERT INTO parts VALUES (1, 'a', 0, ?)", (packed([PARTS]),))
    connection.execute("INSERT INTO unrouted VALUES (7, ?)", (b"\0\0",))
    connection.execute("INSERT INTO audit VALUES (3, 'default', ?)", (msgspec.json.encode(AUDIT),))
    connection.executemany("INSERT INTO destinations VALUES (?, ?)", [("a", "flexprice"), ("b", "wingback")])


@contextmanager
def raw(path: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


@pytest.fixture
def old(tmp_path: Path) -> SqliteStore:
    """A file as version 1 left it."""
    store = SqliteStore(tmp_path)
    with raw(store.path) as connection:
        connection.executescript(VERSION_1)
        fill(connection)
    return store


async def test_everything_that_version_1_stored_is_found(old: SqliteStore) -> None:
    async with opened(old) as ledger:
        shots = await ledger.snapshots([1, 7])
        assert [
            ("default", RECEIVED, events("e1", "e2")),
            ("other", RECEIVED + 9, [event("e1", quantity=Decimal("2.50"))]),
        ] == [(shot.tenant, shot.received, shot.events) for shot in shots.values()]
        first, second = shots[1].tracks
        assert [("a", "flexprice"), ("b", "wingback")] == [(one.destination, one.provider) for one in (first, second)]
        assert ([ATTEMPT], {0: PARTS}) == (first.attempts, first.parts)
        assert [Code.ACCEPTED, Code.RETRYING] == await codes(ledger, 1, "a")
        assert [Code.BLOCKED, Code.NO_BINDING] == await codes(ledger, 1, "b")
        assert {WorkState.HELD: [0]} == await places(ledger, 1, "b")
        (work,) = await ledger.take("a", RECEIVED + 50, 10)
        assert ("default", RECEIVED, [1], events("e2")) == (work.tenant, work.received, work.members, work.events)
        assert (1, 2, RECEIVED + 5, ERROR) == (work.group.attempts, work.group.doubt, work.group.sent, work.group.error)
        assert [[Part("", "e2", b'{"n":3}')]] == work.parts
        assert [(7, "other", [event("e1", quantity=Decimal("2.50"))], [0])] == [
            (one.batch, one.tenant, list(one.events), list(one.members)) for one in await strays(ledger)
        ]
        assert [(3, AUDIT)] == list(await ledger.trail("default", None, 10))
        assert {"a", "b"} == set(await totals(ledger))


async def test_ids_of_version_1_are_known_and_new_batches_come_after_it(old: SqliteStore) -> None:
    for _ in range(2):  # the second time as a file of this version
        async with opened(old) as ledger:
            assert [ref_of(1, 0), ref_of(7, 0), None] == [
                await ledger.find("default", "e1"),
                await ledger.find("other", "e1"),
                await ledger.find("other", "e2"),
            ]
            claims = await ledger.record(
                "default", RECEIVED + 99, [event("e2"), event("e1", meter="other")], [PLAN] * 2
            )
            assert [(ref_of(1, 1), ClaimKind.REPLAY, ()), (ref_of(1, 0), ClaimKind.CONFLICT, ("meter",))] == [
                (claim.ref, claim.kind, claim.fields) for claim in claims
            ]
    async with opened(old) as ledger:
        assert 7 < await recorded(ledger, "e9")
    assert [] == add_up(old.path)["problems"]


async def test_a_file_that_was_upgraded_has_the_schema_of_a_new_one(old: SqliteStore, tmp_path: Path) -> None:
    fresh = SqliteStore(tmp_path / "fresh")
    fresh.path.parent.mkdir()
    seen: list[object] = []
    for store in (fresh, old):
        async with opened(store):
            pass
        with raw(store.path) as connection:
            query = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
            seen.append((connection.execute(query).fetchall(), connection.execute("PRAGMA user_version").fetchall()))
    assert seen[0] == seen[1]


async def test_an_upgrade_that_fails_leaves_the_file_as_it_was(
    old: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half_way (one)")
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setitem(UPGRADES, 1, (*UPGRADES[1], failing))  # pyright: ignore[reportArgumentType]
        with pytest.raises(LedgerUnavailable, match="disk is full"):
            await SqliteLedger(old.path).open()
    with raw(old.path) as connection:
        assert [(1,)] == connection.execute("PRAGMA user_version").fetchall()
        assert [] == connection.execute("SELECT name FROM sqlite_schema WHERE name = 'half_way'").fetchall()
    async with opened(old) as ledger:
        assert ref_of(1, 0) == await ledger.find("default", "e1")


async def test_a_file_of_an_older_version_is_not_added_up(old: SqliteStore) -> None:
    with pytest.raises(LedgerUnavailable, match=f"schema version 1, this is for version {VERSION}: start the gateway"):
        add_up(old.path)
