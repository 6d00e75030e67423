"""What is old is archived and trimmed by itself, and a repeat is still a repeat; a customer can be forgotten."""

import asyncio
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import anyio
import pytest

from gateway.archive import Archive
from gateway.errors import LedgerUnavailable
from tests.gateway.conftest import House, MovableClock, event
from tests.gateway.keeping import adds_up, archived, erase, keeping, kept

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.anyio


async def test_an_old_record_goes_to_the_archive_and_a_repeat_is_still_a_repeat(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    async with house(keeping(tmp_path)) as asking:
        first = await asking.one(event(properties={"region": "eu"}))
        full = await asking.get("/v1/events/e1")
        await kept(asking)
        assert full == await asking.get("/v1/events/e1")

        clock.ahead = timedelta(days=2)
        await kept(asking)
        (record,) = archived(tmp_path)
        assert full == {name: record[name] for name in full}
        assert {"tenant": "default", "batch": 1, "place": 0}.items() <= record.items()

        assert {"data": []} == await asking.get("/v1/events")
        shown = await asking.get("/v1/events/e1")
        assert ("delivered", True, "000001") == (shown["status"], shown["trimmed"], shown["archive"])
        assert "event" not in shown
        assert {name: one["status"] for name, one in first["deliveries"].items()} == {
            name: one["status"] for name, one in shown["deliveries"].items()
        }
        calls = asking.calls
        again = await asking.one(event(properties={"region": "eu"}))
        assert ("delivered", True, True) == (again["status"], again["replayed"], again["trimmed"])
        other = await asking.one(event(properties={"region": "us"}))
        assert ("conflict", False) == (other["status"], other["stored"])
        assert "fields" not in other["error"]
        assert "came before with other content: send this" in other["error"]["message"]
        assert calls == asking.calls

        clock.ahead = timedelta(days=9)
        await kept(asking)
        assert (await asking.one(event(properties={"region": "eu"})))["replayed"]
    adds_up(tmp_path)


async def test_a_segment_ends_where_it_is_full(
    house: House, clock: MovableClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.retention.SEGMENT", 3)
    async with house(keeping(tmp_path)) as asking:
        for number in range(8):
            await asking.send(event(f"e{number}"))
        clock.ahead = timedelta(days=2)
        await asking.gateway.keeper.step()
        assert ["e0", "e1", "e2"] == [record["id"] for record in archived(tmp_path)]
        await kept(asking)
        assert [f"e{number}" for number in range(8)] == [record["id"] for record in archived(tmp_path)]
    adds_up(tmp_path)


async def test_what_is_being_archived_is_finished_before_another_takes_the_archive(
    house: House, clock: MovableClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(keeping(tmp_path)) as asking:
        await asking.one(event())
        clock.ahead = timedelta(days=2)
        began, may_end, take = threading.Event(), threading.Event(), Archive.take

        def slow(*given: Any) -> Any:
            began.set()
            assert may_end.wait(30)
            return take(*given)

        monkeypatch.setattr(Archive, "take", slow)
        step = asyncio.create_task(asking.gateway.keeper.step())
        await asyncio.to_thread(began.wait, 30)
        step.cancel()
        closing = asyncio.create_task(asking.gateway.keeper.close())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not closing.done()
        may_end.set()
        await closing
        assert step.cancelled()
        assert ["e1"] == [record["id"] for record in archived(tmp_path)]
        await kept(asking)
        assert ["e1"] == [record["id"] for record in archived(tmp_path)], "and not once more"
        assert (await asking.get("/v1/events/e1"))["trimmed"]


async def test_ids_are_forgotten_in_the_end(house: House, clock: MovableClock, tmp_path: Path) -> None:
    async with house(keeping(tmp_path)) as asking:
        await asking.send([event("e1"), event("e2")])
        clock.ahead = timedelta(days=2)
        await asking.send(event("e3"))
        await kept(asking)
        clock.ahead = timedelta(days=11)
        await kept(asking)
        assert 404 == (await asking.client.get("/v1/events/e1")).status_code
        assert (await asking.get("/v1/events/e3"))["trimmed"]
        assert not (await asking.one(event("e1")))["replayed"]
    assert 2 == adds_up(tmp_path)["events"]


async def test_without_an_archive_nothing_is_dropped_unless_the_operator_says_so(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    async with house(keeping(tmp_path, archive=None)) as asking:
        await asking.one(event())
        clock.ahead = timedelta(days=400)
        await kept(asking)
        assert "event" in await asking.get("/v1/events/e1")
    async with house(keeping(tmp_path, archive=None, trim="always", ids="500d")) as asking:
        await kept(asking)
        shown = await asking.get("/v1/events/e1")
        assert shown["trimmed"]
        assert "archive" not in shown


async def test_what_can_be_repaired_stays_until_its_bound(house: House, clock: MovableClock, tmp_path: Path) -> None:
    wrong = event("e1", quantity="2.5")  # two vendors take whole numbers only
    async with house(keeping(tmp_path)) as asking:
        assert "partial" == (await asking.one(wrong))["status"]
        await asking.one(event("e2", meter="nobody_knows"))
        clock.ahead = timedelta(days=5)
        await kept(asking)
        assert {"e1", "e2"} == {one["id"] for one in (await asking.get("/v1/events"))["data"]}
    async with house(keeping(tmp_path, letters="4d")) as asking:
        await kept(asking)
        assert ["e2"] == [one["id"] for one in (await asking.get("/v1/events"))["data"]]
        assert ("partial", True) == ((await asking.one(wrong))["status"], (await asking.one(wrong))["trimmed"])
    assert ["e1"] == [record["id"] for record in archived(tmp_path)]
    adds_up(tmp_path)


async def test_what_is_no_longer_kept_is_not_said_to_be_decided(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    async with house(keeping(tmp_path, letters="4d")) as asking:
        asking.vendors["wingback"].fail("lost_answer")
        assert "unknown" == (await asking.one(event()))["deliveries"]["wingback"]["status"]
        clock.ahead = timedelta(days=5)
        await kept(asking)
        assert "unknown" == (await asking.get("/v1/events/e1"))["deliveries"]["wingback"]["status"]
        body = {"id": "e1", "destination": "wingback", "resolution": "accepted", "reason": "counted"}
        answer = await asking.client.post("/v1/deliveries/resolve", json=body)
        assert (409, True) == (answer.status_code, "is no longer kept" in answer.json()["detail"])
        answer = await asking.client.post("/v1/deliveries/retry", json={"ids": ["e1"]})
        (left,) = answer.json()["skipped"]
        assert "no longer kept" in left["why"]


async def test_it_goes_on_by_itself_and_an_archive_that_cannot_be_used_costs_nothing(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    (tmp_path / "archive").write_text("in the way")
    async with house(keeping(tmp_path)) as asking:
        await asking.one(event())
        clock.ahead = timedelta(days=2)
        await kept(asking)
        assert "event" in await asking.get("/v1/events/e1")
        (tmp_path / "archive").unlink()
        await kept(asking)
        assert ["e1"] == [record["id"] for record in archived(tmp_path)]


# As much of a gateway as has something to trim: it dies at one of the steps to disk.
KILLED = """
import asyncio, os, signal, sqlite3, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from gateway.configuration.sections import Retention
from gateway.ledger import SqliteLedger, _keeping
from gateway.retention import Keeper
folder, stop, calls = Path(sys.argv[1]), int(sys.argv[2]), 0
def dying(function):
    def instead(*given, **named):
        global calls
        calls += 1
        if calls == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)
    return instead
class Ahead:
    def now(self):
        return datetime.now(UTC) + timedelta(days=2)
async def main():
    ledger = SqliteLedger(folder / "ledger.db")
    await ledger.open()
    os.fsync, Path.rename = dying(os.fsync), dying(Path.rename)
    _keeping.trim = dying(_keeping.trim)
    keeper = Keeper(ledger, Retention(events=timedelta(days=1), archive=folder / "archive"), Ahead())
    ledger.trim = dying(ledger.trim)
    await keeper.step()
    os.kill(os.getpid(), signal.SIGTERM)
asyncio.run(main())
"""


async def test_killed_at_any_step_no_record_is_archived_twice_or_lost(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    async with house() as asking:
        for batch in range(3):
            await asking.send([event(f"e{batch}-{n}") for n in range(3)])
    wanted = sorted(f"e{batch}-{n}" for batch in range(3) for n in range(3))
    before = (tmp_path / "ledger.db").read_bytes()
    for stop in range(1, 30):
        (tmp_path / "ledger.db").write_bytes(before)
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(stop)]
        done = await anyio.run_process(command, cwd=ROOT, check=False)
        clock.ahead = timedelta(days=2)
        async with house(keeping(tmp_path)) as asking:
            await kept(asking)
            assert wanted == sorted(record["id"] for record in archived(tmp_path))
            for one in wanted:
                assert "000001" == (await asking.get(f"/v1/events/{one}"))["archive"]
        adds_up(tmp_path)
        for left in (tmp_path / "archive").iterdir():
            left.unlink()
        if done.returncode != -signal.SIGKILL:
            assert (-signal.SIGTERM, True) == (done.returncode, stop > 5)
            return
    raise AssertionError("it has more steps than that")


async def test_what_is_trimmed_or_erased_cannot_be_corrected(house: House, clock: MovableClock, tmp_path: Path) -> None:
    async with house(keeping(tmp_path)) as asking:
        await asking.one(event("old"))
        clock.ahead = timedelta(days=2)
        await kept(asking)
        await asking.one(event("new"))
        assert 200 == (await erase(asking)).status_code
        calls = asking.calls
        for name, status, words in (("old", 404, "is no longer kept"), ("new", 409, "its customer was erased")):
            answer = await asking.client.post(f"/v1/events/{name}/void", json={"reason": "wrong"})
            assert status == answer.status_code
            assert words in answer.json()["detail"]
        assert calls == asking.calls


async def test_what_is_still_to_be_corrected_stays_as_long_as_its_correction_waits(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    async with house(keeping(tmp_path)) as asking:
        await asking.one(event("e1"))
        await asking.one(event("e2"))
    off = {"destinations": {"flexprice": {"mode": "off"}}}
    async with house({**keeping(tmp_path), **off}) as asking:
        answer = await asking.client.post("/v1/events/e1/correct", json={"quantity": 5, "reason": "late"})
        assert "blocked" == answer.json()["deliveries"]["flexprice"]["status"]
        clock.ahead = timedelta(days=2)
        await kept(asking)
        assert ["e2"] == [record["id"] for record in archived(tmp_path)]
    async with house(keeping(tmp_path)) as asking:
        await asking.settled("e1~c2")
        found = await asking.get("/v1/events/e1~c2")
        assert "accepted" == found["deliveries"]["flexprice"]["status"]
        await kept(asking)
        assert {"e1", "e2", "e1~c1", "e1~c2"} == {record["id"] for record in archived(tmp_path)}
    adds_up(tmp_path)


async def test_what_changed_since_it_was_archived_is_archived_as_it_is_now(
    house: House, clock: MovableClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the process ends between the two: until the next round a person may have a letter sent again."""
    async with house(keeping(tmp_path, letters="4d")) as asking:
        asking.vendors["flowglad"].refuse("e1")
        assert "rejected" == (await asking.one(event("e1")))["deliveries"]["flowglad"]["status"]
        await asking.one(event("e2"))
        clock.ahead = timedelta(days=5)
        with monkeypatch.context() as patch:
            patch.setattr(asking.gateway.ledger, "trim", AsyncMock(side_effect=LedgerUnavailable("away")))
            with pytest.raises(LedgerUnavailable):
                await asking.gateway.keeper.step()
        assert ["e1", "e2"] == [record["id"] for record in archived(tmp_path)]
        asking.vendors["flowglad"].clear()
        answer = await asking.client.post("/v1/deliveries/retry", json={"ids": ["e1"]})
        assert 1 == len(answer.json()["retried"])
        await asking.settled("e1")
        for _ in range(2):
            await kept(asking)
        records = {record["id"]: record for record in archived(tmp_path)}
        assert ["e1", "e2"] == sorted(record["id"] for record in archived(tmp_path))
        assert "accepted" == records["e1"]["deliveries"]["flowglad"]["status"]
        assert (await asking.get("/v1/events/e1"))["trimmed"]
    adds_up(tmp_path)


async def test_a_number_that_was_given_before_a_disk_was_put_back_is_not_taken_for_archived(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("ledger.db", "ledger.db.lock")]
    async with house(keeping(tmp_path)) as asking:
        await asking.one(event("e1"))
    disk = [file.read_bytes() for file in files]
    async with house(keeping(tmp_path)) as asking:
        await asking.one(event("e2"))
        clock.ahead = timedelta(days=2)
        await kept(asking)
    assert ["e1", "e2"] == [record["id"] for record in archived(tmp_path)]
    for file, held in zip(files, disk, strict=True):  # the archive is on another one
        file.write_bytes(held)
    async with house(keeping(tmp_path)) as asking:
        await asking.one(event("e3"))
        clock.ahead = timedelta(days=4)
        await kept(asking)
        assert (await asking.get("/v1/events/e3"))["trimmed"]
    assert ["e1", "e2", "e3"] == [record["id"] for record in archived(tmp_path)]
