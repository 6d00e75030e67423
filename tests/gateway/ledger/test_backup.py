"""A backup is one instant of a ledger in use; after a restore nothing is billed twice, nothing silently forgotten."""

import asyncio
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.cli import main
from gateway.errors import LedgerUnavailable
from gateway.ledger import Plan, SqliteLedger
from gateway.ledger.backup import back_up, restore
from gateway.ledger.check import add_up
from tests.gateway.conftest import House, MovableClock, event
from tests.gateway.ledger.conftest import event as stored

ROOT = Path(__file__).parents[3]
NOW = 1_795_700_000_000_000


def command(tmp_path: Path, *argv: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command on the ledger of a test, in its folder."""
    (tmp_path / "gateway.yaml").write_text('ledger: {url: "sqlite:///ledger.db"}\n')
    return subprocess.run(
        [sys.executable, "-m", "gateway", "ledger", *argv, "--config", "gateway.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )


async def ran(tmp_path: Path, *argv: str) -> Any:
    done = await anyio.to_thread.run_sync(lambda: command(tmp_path, *argv, "--json"))
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


async def test_what_was_sent_since_the_backup_is_in_doubt(house: House, clock: MovableClock, tmp_path: Path) -> None:
    async with house() as asking:
        await asking.one(event("done"))
    async with house(running=False) as asking:
        await asking.one(event("open"), query="?ack=stored")
        made = await ran(tmp_path, "backup", "--to", "copy.db")
        assert 2 == made["events"]
    async with house() as asking:
        assert "delivered" == (await asking.one(event("open"), query="?ack=all"))["status"]
        await asking.one(event("since"))
        vendors = {name: vendor.billed() for name, vendor in asking.vendors.items()}
        refused = await anyio.to_thread.run_sync(lambda: command(tmp_path, "restore", "--from", "copy.db"))
        assert b"in use by a gateway: stop it first" in refused.stderr

    told = await ran(tmp_path, "restore", "--from", "copy.db")
    assert (2, 4, made["at"]) == (told["events"], told["in_doubt"], told["at"])
    assert [] == add_up(tmp_path / "ledger.db")["problems"]
    assert [] == add_up(tmp_path / told["moved"])["problems"]
    async with house() as asking:
        shown = await asking.one(event("open"), query="?ack=all")
        assert {"flowglad": "duplicate", "paygentic": "accepted", "flexprice": "accepted", "wingback": "unknown"} == {
            name: one["status"] for name, one in shown["deliveries"].items()
        }
        assert vendors == {name: vendor.billed() for name, vendor in asking.vendors.items()}
        error = shown["deliveries"]["wingback"]["error"]["message"]
        assert f"restored from a backup of {made['at']}: it may have been sent since" == error.removeprefix(
            "the ledger was "
        )
        assert "delivered" == (await asking.one(event("done")))["status"]
        assert 404 == (await asking.client.get("/v1/events/since")).status_code
        (audited,) = [row for row in (await asking.get("/v1/audit"))["data"] if row["action"] == "restore"]
        assert "4 deliveries in doubt" == audited["after"]
        # Numbers of batches that were given since are not given again: the archive may know them.
        await asking.one(event("later"))
        assert 10**12 < max(await asking.gateway.ledger.batches_before(None, 1))
    assert [] == add_up(tmp_path / "ledger.db")["problems"]


async def test_people_are_told_what_is_gone_and_since_when(house: House, tmp_path: Path) -> None:
    async with house() as asking:
        await asking.one(event("e1", quantity="2.5"))
        await asking.one(event("e2", meter="nobody_knows"))
    assert 0 == command(tmp_path, "backup", "--to", "copy.db").returncode
    async with house() as asking:
        link = {"links": {"flowglad": [{"subscription_id": "sub_new"}]}, "reason": "it moved"}
        assert (await asking.client.put("/v1/customers/acme", json=link)).is_success
    done = command(tmp_path, "restore", "--from", "copy.db")
    assert 0 == done.returncode
    said = b" ".join((done.stdout + done.stderr).split()).decode()
    assert "Events accepted after 20" in said
    assert "2 were rejected or dead" in said
    assert "1 had no route" in said
    assert "What was decided since is not in it: 1 link." in said


async def test_a_backup_of_a_ledger_that_is_written_to_is_one_instant(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.open()
    try:
        for number in range(20):
            writing = [
                ledger.record("default", NOW, [stored(f"e{number}-{n}-{i}") for i in range(9)], [Plan(live=("a",))] * 9)
                for n in range(5)
            ]
            copies = anyio.to_thread.run_sync(back_up, ledger.path, tmp_path / f"copy{number}.db", NOW)
            async with anyio.create_task_group() as group:
                for one in writing:
                    group.start_soon(_awaited, one)
                group.start_soon(_awaited, copies)
            sums = add_up(tmp_path / f"copy{number}.db")
            assert ([], 0) == (sums["problems"], sums["events"] % 9)
    finally:
        await ledger.close()


async def _awaited(one: Any) -> None:
    await one


async def test_nobody_else_reads_a_ledger_or_a_copy_of_it(tmp_path: Path) -> None:
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    ledger = SqliteLedger(path)
    await ledger.open()
    try:
        await ledger.record("default", NOW, [stored("e1")], [Plan(live=("a",))])
        assert {0o600} == {path.with_name(path.name + end).stat().st_mode & 0o777 for end in ("", "-wal", "-shm")}
        back_up(path, copy, NOW)
    finally:
        await ledger.close()
    path.chmod(0o640)
    restore(path, copy, NOW)
    assert {0o600} == {one.stat().st_mode & 0o777 for one in (copy, path)}
    path.chmod(0o640)
    ledger = SqliteLedger(path)
    await ledger.open()
    await ledger.close()
    assert 0o640 == path.stat().st_mode & 0o777, "who lets a group read it may"


async def test_what_cannot_be_done_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    with pytest.raises(LedgerUnavailable, match="nothing was stored"):
        back_up(path, copy, NOW)
    ledger = SqliteLedger(path)
    await ledger.open()
    await ledger.record("default", NOW, [stored("e1")], [Plan(live=("a",))])
    await ledger.close()
    back_up(path, copy, NOW)
    with pytest.raises(LedgerUnavailable, match="is there already"):
        back_up(path, copy, NOW)
    with pytest.raises(LedgerUnavailable, match="cannot be copied"):
        back_up(path, tmp_path / "nowhere" / "copy.db", NOW)
    before = path.read_bytes()
    with pytest.raises(LedgerUnavailable, match="does not exist"):
        restore(path, tmp_path / "nothing.db", NOW)
    with pytest.raises(LedgerUnavailable, match="is no backup"):
        restore(path, path, NOW)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no ledger at all" * 1000)
    with pytest.raises(LedgerUnavailable, match="cannot be restored"):
        restore(path, damaged, NOW)
    assert before == path.read_bytes()
    restore(path, copy, NOW)
    restore(tmp_path / "elsewhere.db", copy, NOW)
    with closing(sqlite3.connect(path)) as connection:
        assert [(2, NOW)] == connection.execute("SELECT doubt, sent FROM work").fetchall()


async def test_a_restore_that_is_refused_takes_nothing_from_what_an_older_file_is_recognised_by(tmp_path: Path) -> None:
    path, copy, older = tmp_path / "ledger.db", tmp_path / "copy.db", tmp_path / "older.db"
    await _one_event(path)
    back_up(path, copy, NOW)
    shutil.copy(path, older)
    ledger = SqliteLedger(path)
    await ledger.open()
    with pytest.raises(LedgerUnavailable, match="in use by a gateway"):
        restore(path, copy, NOW)
    await ledger.close()
    with pytest.raises(LedgerUnavailable, match="is no backup"):
        restore(path, older, NOW)
    shutil.copy(older, path)
    assert await _restored(path)


async def test_what_was_restored_is_not_taken_for_an_older_file_besides(tmp_path: Path) -> None:
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    await _one_event(path)
    back_up(path, copy, NOW)
    restore(path, copy, NOW)
    assert ["ledger restore"] == await _restored(path)


async def test_a_backup_that_was_put_over_a_file_of_a_killed_gateway_is_not_mixed_with_its_log(tmp_path: Path) -> None:
    path, copy, there = tmp_path / "ledger.db", tmp_path / "copy.db", tmp_path / "there.db"
    ledger = SqliteLedger(path)
    await ledger.open()
    await ledger.record("default", NOW, [stored("e1")], [Plan(live=("a",))])
    back_up(path, copy, NOW)
    for number in range(20):
        await ledger.record("default", NOW, [stored(f"since{number}")], [Plan(live=("a",))])
    shutil.copy(f"{path}-wal", f"{there}-wal")  # as kill -9 leaves it
    await ledger.close()
    shutil.copy(copy, there)

    assert ["a backup was put in place"] == await _restored(there)
    sums = add_up(there)
    assert ([], 1) == (sums["problems"], sums["events"])
    assert 1 == len(_kept_aside(there))


def _kept_aside(path: Path) -> list[bytes]:
    return [log.read_bytes() for log in path.parent.glob(f"{path.name}-wal.before-*")]


async def _restored(path: Path) -> list[str]:
    """Open a ledger; return by what it is known to be restored, by the audit trail."""
    ledger = SqliteLedger(path)
    await ledger.open()
    try:
        return [row.actor for _, row in await ledger.trail("default", None, 10) if row.action == "restore"]
    finally:
        await ledger.close()


@pytest.mark.parametrize("damage", ["the record of the backup", "a page"])
async def test_a_damaged_backup_is_refused_in_words(tmp_path: Path, damage: str) -> None:
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    await _one_event(path)
    back_up(path, copy, NOW)
    if damage == "a page":
        copy.write_bytes(copy.read_bytes()[:4096] + bytes(4096) + copy.read_bytes()[8192:])
    else:
        copy.write_bytes(copy.read_bytes().replace(b'{"at":', b'{"a\x00":'))
    with pytest.raises(LedgerUnavailable, match=r"copy\.db"):
        restore(path, copy, NOW)


def test_the_commands_of_the_document_are_those_that_work(tmp_path: Path) -> None:
    """Every command of docs/backup.md runs as it stands there, in its order."""
    text = (ROOT / "docs" / "backup.md").read_text("utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert ["ledger backup", "ledger restore", "check --config", "ledger restored"] == [
        " ".join(line.split()[1:3]) for line in lines
    ]
    (tmp_path / "gateway.yaml").write_text('ledger: {url: "sqlite:///ledger.db"}\n')
    copy = tmp_path / "copy.db"
    asyncio.run(_one_event(tmp_path / "ledger.db"))
    said = b""
    for line in lines:
        program, *argv = shlex.split(line.replace("/backups/usage-gateway-2026-11-23.db", str(copy)))
        assert "usage-gateway" == program
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *argv],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        said += done.stderr + done.stdout
    assert b"the ledger adds up: 1 events" in said
    assert b"1 deliveries may have been sent since" in said


async def _one_event(path: Path) -> None:
    ledger = SqliteLedger(path)
    await ledger.open()
    await ledger.record("default", NOW, [stored("e1")], [Plan(live=("a",))])
    await ledger.close()


def test_a_redis_server_is_backed_up_by_its_own_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text('ledger: {url: "redis://127.0.0.1:1/0"}\n')
    assert 1 == main(["ledger", "backup", "--config", str(config), "--to", str(tmp_path / "copy.db")])
    assert 1 == main(["ledger", "restore", "--config", str(config), "--from", str(tmp_path / "copy.db")])
    assert 2 == capsys.readouterr().err.count("the ledger is a Redis server: back it up and restore it as one")
