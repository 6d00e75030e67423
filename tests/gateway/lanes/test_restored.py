"""After a restore: what was accepted since the backup comes again, and is billed once or parked, and never twice."""

import shutil
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from gateway.cli import main
from gateway.errors import LedgerUnavailable
from gateway.ledger import RESTORE, Code, Plan, RestoredAt, SqliteLedger, WorkState
from gateway.ledger._redis.address import Address
from gateway.ledger.backup import back_up, restore
from gateway.ledger.check import add_up
from gateway.ledger.copying import copy as copied
from gateway.ledger.doubting import doubt
from gateway.ledger.redis import RedisLedger
from gateway.reconciling.confirming import Confirming
from gateway.times import to_micros
from tests.gateway.conftest import Asking, House, MovableClock, event
from tests.gateway.lanes.world import World, used
from tests.gateway.ledger.conftest import BACKENDS, SqliteStore, Store, again, change, codes, opened, recorded, rendered
from tests.gateway.ledger.conftest import taken as ready
from tests.redis_servers import Server

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
NOW = 1_795_700_000_000_000


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.__name__)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return request.param(tmp_path)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy.db"


def statuses(shown: Any) -> dict[str, str]:
    return {name: one["status"] for name, one in shown["deliveries"].items()}


def billed(asking: Asking) -> Any:
    return {name: vendor.billed() for name, vendor in asking.vendors.items()}


async def repeated(house: House, clock: MovableClock, tmp_path: Path, later: timedelta) -> tuple[Any, Any, Any]:
    """Have an event delivered after a backup, restore that, and have its sender repeat it; return what became of it."""
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    sent = event("since", timestamp=clock.now().isoformat())
    async with house() as asking:
        await asking.send(event("before"))
        back_up(path, copy, to_micros(clock.now()))
        assert "delivered" == (await asking.one(sent))["status"]
        before = billed(asking)
    restore(path, copy, to_micros(clock.now()))
    clock.ahead += later
    async with house() as asking:
        shown = await asking.one(sent, query="?ack=all")
        assert not shown["replayed"]
        after = billed(asking)
        if later > HOUR:
            assert "unknown" == shown["deliveries"]["paygentic"]["status"]
            assert 1 == await Confirming(asking.gateway).confirm("paygentic"), "its vendor lists it"
        assert "unknown" == shown["deliveries"]["wingback"]["status"]
        said = {"id": "since", "destination": "wingback", "resolution": "resend", "reason": "it is not there"}
        assert (await asking.client.post("/v1/deliveries/resolve", json=said)).is_success
        await asking.settled("since")
        shown_then = (await asking.get("/v1/events/since"))["deliveries"]
        assert "accepted" == shown_then["wingback"]["status"], "a person said so: it is not doubted again"
    assert [] == add_up(path)["problems"]
    return shown, before, after


async def test_what_comes_again_is_sent_where_repeats_are_told_and_parked_elsewhere(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    shown, before, after = await repeated(house, clock, tmp_path, timedelta(0))
    found = statuses(shown)
    assert ("duplicate", "unknown") == (found["flowglad"], found["wingback"])
    assert {"accepted"} == {found["paygentic"], found["flexprice"]}
    assert before == after
    message = shown["deliveries"]["wingback"]["error"]["message"]
    assert message.startswith("the ledger was restored from a backup of 20")


async def test_where_repeats_are_forgotten_it_is_parked_and_found_by_reading_back(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    _, before, after = await repeated(house, clock, tmp_path, 24 * HOUR)
    assert before == after


async def test_what_happens_after_a_restore_is_as_new_as_ever(
    house: House, clock: MovableClock, tmp_path: Path, copy: Path
) -> None:
    async with house() as asking:
        await asking.send(event("before"))
        back_up(tmp_path / "ledger.db", copy, to_micros(clock.now()))
    restore(tmp_path / "ledger.db", copy, to_micros(clock.now()))
    async with house() as asking:
        batch = [event("past", timestamp=(clock.now() - HOUR).isoformat()), event("now"), event("none")]
        batch[1]["timestamp"] = clock.now().isoformat()
        results = (await asking.send(batch, query="?ack=all"))["results"]
        assert ["unknown", "accepted", "accepted"] == [statuses(one)["wingback"] for one in results]


async def test_what_is_in_doubt_by_a_restore_is_not_said_to_have_stayed_here(
    house: House, clock: MovableClock, tmp_path: Path, copy: Path
) -> None:
    waits = {"delivery": {"retry": {"first": "1h", "max": "1h"}}}
    async with house(waits) as asking:
        asking.vendors["wingback"].fail("throttled", times=None)
        one = (await asking.one(event("e1"), prefer="wait=1"))["deliveries"]["wingback"]
        assert ("retrying", "rate_limited") == (one["status"], one["error"]["code"])
        back_up(tmp_path / "ledger.db", copy, to_micros(clock.now()))
        asking.vendors["wingback"].clear()
    restore(tmp_path / "ledger.db", copy, to_micros(clock.now()))
    clock.ahead += 2 * HOUR
    async with house() as asking:
        await asking.settled("e1")
        one = (await asking.get("/v1/events/e1"))["deliveries"]["wingback"]
        assert "unknown" == one["status"]
        assert one["error"]["message"].startswith("the ledger was restored from a backup of 20")


async def test_what_was_given_a_way_since_the_backup_is_not_given_it_again(
    house: House, clock: MovableClock, tmp_path: Path, copy: Path
) -> None:
    unknown = {"meters": {"api_calls": None}}
    async with house(unknown) as asking:
        assert "unrouted" == (await asking.one(event("e1")))["status"]
        back_up(tmp_path / "ledger.db", copy, to_micros(clock.now()))
    async with house() as asking:
        await asking.routed("e1")
        assert "delivered" == (await asking.get("/v1/events/e1"))["status"]
        before = billed(asking)
    restore(tmp_path / "ledger.db", copy, to_micros(clock.now()))
    async with house() as asking:
        await asking.routed("e1")
        assert "unknown" == statuses(await asking.get("/v1/events/e1"))["wingback"]
        assert before == billed(asking)


@pytest.mark.parametrize("by", ["a backup", "a file of before"])
async def test_a_file_that_is_put_in_place_by_hand_is_recognised(
    house: House, clock: MovableClock, tmp_path: Path, copy: Path, by: str
) -> None:
    path = tmp_path / "ledger.db"
    sent = event("e1", timestamp=clock.now().isoformat())
    async with house(running=False) as asking:
        await asking.send(event("open"), query="?ack=stored")
        if by == "a backup":
            back_up(path, copy, to_micros(clock.now()))
    if by == "a file of before":
        shutil.copy(path, copy)
    async with house() as asking:
        await asking.send(sent)
        await asking.settled("open")
        before = billed(asking)
    shutil.copy(copy, path)
    async with house() as asking:
        await asking.settled("open")
        shown = await asking.one(sent, query="?ack=all")
        assert "unknown" == statuses(shown)["wingback"]
        assert "unknown" == statuses(await asking.get("/v1/events/open"))["wingback"]
        assert before == billed(asking)
        said: dict[str, Any] = {"destination": "wingback", "resolution": "resend", "reason": "nothing of it is there"}
        for more, count in ({"dry_run": True}, 2), ({"filter": {"meter": "none"}}, 0), ({}, 2), ({}, 0):
            told = await asking.client.post("/v1/deliveries/resolve", json={"filter": {}, **said, **more})
            assert count == told.json()["resolved"]
        for name in ("open", "e1"):
            await asking.settled(name)
            assert "accepted" == statuses(await asking.get(f"/v1/events/{name}"))["wingback"]
        (row,) = [row for row in (await asking.get("/v1/audit"))["data"] if row["action"] == "restore"]
        assert f"{'a backup' if by == 'a backup' else 'an older file'} was put in place" == row["actor"]
    async with house() as asking:
        assert 1 == len([row for row in (await asking.get("/v1/audit"))["data"] if row["action"] == "restore"])
    assert [] == add_up(path)["problems"]


async def test_a_ledger_that_is_opened_again_or_begun_anew_is_none_from_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    for number in range(4):
        ledger = SqliteLedger(path)
        await ledger.open()
        assert not [work for work in await ready(ledger) if work.group.doubt]
        await recorded(ledger, f"e{number}")
        await ledger.close()
        lock = path.with_name("ledger.db.lock")
        if number == 1:  # the power went before the ledger was told which opening this is
            held = lock.read_bytes()
            there = held[:32] if held[:32].strip() else held[32:]
            lock.write_bytes(b"0" * 32 + there if number % 2 else there + b"0" * 32)
        if number == 2:
            for end in ("", "-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)


async def test_a_ledger_that_was_taken_elsewhere_is_as_it_was(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.open()
    await recorded(ledger, "e1")
    await ledger.close()
    (tmp_path / "there").mkdir()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "there" / "ledger.db")
    moved = SqliteLedger(tmp_path / "there" / "ledger.db")
    await moved.open()
    assert [0] == [work.group.doubt for work in await ready(moved)]
    await moved.close()


async def test_a_ledger_of_either_kind_is_told_that_it_was_put_back(store: Store) -> None:
    async with opened(store) as ledger:
        await recorded(ledger, "e1", "e2", "e3", "e4", plan=Plan(live=("a", "b")), received=NOW - 50)
        (work,) = await ready(ledger, now=NOW)
        (held_by,) = await ledger.intend([rendered(work, [0])], NOW - 40)
        await ledger.settle([change(work, held_by, [0], Code.ACCEPTED)], [])
        (work,) = await ready(ledger, now=NOW)
        await ledger.intend([rendered(work, [1])], NOW - 30)
        (work,) = await ready(ledger, now=NOW)
        blocked = change(work, work.id, [2], Code.BLOCKED, again())
        assert blocked.group is not None
        blocked.group.state = WorkState.BLOCKED
        await ledger.settle([blocked], [])
        for left in (7, 0):
            assert left == (await doubt(ledger, NOW - 20, NOW))["in_doubt"]
        states = [WorkState.READY, WorkState.SENDING, WorkState.BLOCKED]
        found = [one for name in ("a", "b") for state in states for one in await ledger.held(name, state)]
        assert {(2, True)} == {(one.group.doubt, one.group.sent in {NOW - 20, NOW - 30}) for one in found}
        assert 7 == sum(len(one.members) for one in found)
        assert [Code.ACCEPTED, Code.PENDING, Code.BLOCKED, Code.PENDING] == await codes(ledger, work.batch)
        told = await ledger.document(RESTORE, "", "last")
        assert RestoredAt(NOW - 20, NOW) == msgspec.json.decode(told or b"", type=RestoredAt)
    assert [] == await store.problems()


async def test_a_file_that_was_moved_to_a_server_is_opened_again_only_when_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(tmp_path / "redis")
    path = tmp_path / "ledger.db"
    async with opened(SqliteStore(tmp_path)) as ledger:
        await recorded(ledger, "e1", received=NOW)
    await copied(path, RedisLedger(Address.read(f"redis://127.0.0.1:{server.port}/0"), observer=True))
    server.kill()
    with pytest.raises(LedgerUnavailable, match="ledger restored --as-of") as refused:
        await SqliteLedger(path).open()
    when = str(refused.value).rpartition("--as-of ")[2].strip("`")
    config = tmp_path / "gateway.yaml"
    config.write_text(f'ledger: {{url: "sqlite:///{path}"}}\n')
    command = ["ledger", "restored", "--config", str(config), "--as-of", when]
    assert 0 == await anyio.to_thread.run_sync(main, command)
    assert "1 deliveries may have been sent since" in " ".join(capsys.readouterr().err.split())
    async with opened(SqliteStore(tmp_path)) as ledger:
        assert [2] == [work.group.doubt for work in await ready(ledger, now=NOW)]


async def test_what_may_be_there_is_not_rejected_as_the_vendor_would_not_take_it_now(tmp_path: Path) -> None:
    async with World(tmp_path, "flowglad") as world:
        await world.record(used("before", quantity=Decimal("0.5")))
        now = to_micros(world.clock.now())
        await doubt(world.ledger, now, now)
        await world.record(used("after", quantity=Decimal("0.5")))
        await world.now()
        assert {"before": "unknown", "after": "rejected"} == await world.statuses()


@pytest.mark.parametrize(("days", "becomes"), [(34, "unknown"), (36, "accepted")])
async def test_what_is_given_a_way_long_after_a_restore_is_no_repeat(tmp_path: Path, days: int, becomes: str) -> None:
    async with World(tmp_path, "wingback") as world:
        happened = world.clock.now() - HOUR
        now = to_micros(world.clock.now())
        await doubt(world.ledger, now, now)
        await world.lane._restored.read(world.ledger)
        world.clock.advance(timedelta(days=days))
        await world.record(used("e1", timestamp=happened))
        await world.now()
        assert {"e1": becomes} == await world.statuses()


async def test_what_comes_again_and_is_voided_before_it_could_leave_is_voided_at_the_vendor(
    house: House, clock: MovableClock, tmp_path: Path, copy: Path
) -> None:
    """It may have been delivered since the backup: that it never left is not known of it."""
    path, void = tmp_path / "ledger.db", {"reason": "a meter ran twice"}
    sent = event("e1", meter="jobs", timestamp=clock.now().isoformat())
    async with house() as asking:
        await asking.send(event("before", meter="jobs"))
        back_up(path, copy, to_micros(clock.now()))
        assert "delivered" == (await asking.one(sent))["status"]
        assert {("acme", "jobs"): 6} == asking.vendors["flexprice"].billed()
    restore(path, copy, to_micros(clock.now()))
    async with house(running=False) as asking:
        await asking.one(sent, query="?ack=stored")
        foreseen = await asking.client.post("/v1/events/e1/void", json={**void, "dry_run": True})
        assert "waits" == foreseen.json()["deliveries"]["flexprice"]["does"]
        answer = await asking.client.post("/v1/events/e1/void", json=void, headers={"prefer": "respond-async"})
        assert {"flexprice": "pending"} == statuses(answer.json())
    async with house() as asking:
        await asking.settled("e1~c1")
        for name in ("e1", "e1~c1"):
            assert "accepted" == statuses(await asking.get(f"/v1/events/{name}"))["flexprice"]
        assert {("acme", "jobs"): 3} == asking.vendors["flexprice"].billed()


async def test_what_happens_after_a_restore_and_never_left_is_voided_in_the_ledger_alone(
    house: House, clock: MovableClock
) -> None:
    async with house(running=False) as asking:
        now = to_micros(clock.now())
        await doubt(asking.gateway.ledger, now, now)
    async with house(running=False) as asking:
        await asking.one(event("e1", timestamp=clock.now().isoformat()), query="?ack=stored")
        said = {"reason": "a meter ran twice"}
        answer = await asking.client.post("/v1/events/e1/void", json=said, headers={"prefer": "respond-async"})
        assert {"filtered"} == set(statuses(answer.json()).values())


async def test_a_refund_that_may_have_been_made_since_the_backup_is_not_made_again(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    async with house() as asking:
        await asking.send(event("e1"))
    async with house(running=False) as asking:
        answer = await asking.client.post(
            "/v1/events/e1/void", json={"reason": "a meter ran twice"}, headers={"prefer": "respond-async"}
        )
        assert "pending" == statuses(answer.json())["paygentic"]
        now = to_micros(clock.now())
        await doubt(asking.gateway.ledger, now, now)
    async with house() as asking:
        await asking.settled("e1~c1")
        assert "unknown" == statuses(await asking.get("/v1/events/e1~c1"))["paygentic"]
        assert {("cus_acme", "bm_calls"): 3} == asking.vendors["paygentic"].billed()


async def test_a_correction_whose_id_another_one_may_have_had_since_the_backup_is_not_taken_for_its_repeat(
    house: House, clock: MovableClock, tmp_path: Path, copy: Path
) -> None:
    """Where the first row of an id stays, another difference under it would count as there, and never be billed."""
    alone = {"meters": {"api_calls": {"bindings": {"paygentic": None, "flexprice": None, "wingback": None}}}}

    async def corrected(quantity: int) -> Any:
        said = {"quantity": quantity, "reason": "it was more"}
        assert (await asking.client.post("/v1/events/e1/correct", json=said)).is_success
        await asking.settled("e1~c1")
        return statuses(await asking.get("/v1/events/e1~c1"))["flowglad"]

    async with house(alone) as asking:
        await asking.send(event("e1"))
        back_up(tmp_path / "ledger.db", copy, to_micros(clock.now()))
        assert "accepted" == await corrected(5)
        before = asking.vendors["flowglad"].billed()
    restore(tmp_path / "ledger.db", copy, to_micros(clock.now()))
    async with house(alone) as asking:
        assert "unknown" == await corrected(7)
        assert before == asking.vendors["flowglad"].billed()
        said = {"id": "e1~c1", "destination": "flowglad", "resolution": "resend", "reason": "none was made"}
        assert (await asking.client.post("/v1/deliveries/resolve", json=said)).is_success
        await asking.settled("e1~c1")
        assert "duplicate" == statuses(await asking.get("/v1/events/e1~c1"))["flowglad"], "a person has said so"


async def test_an_amendment_in_doubt_by_a_restore_goes_again(
    house: House, clock: MovableClock, tmp_path: Path, copy: Path
) -> None:
    """It has the id of what it amends, and says the whole quantity: whatever was said since the backup, it holds."""

    async def corrected(quantity: int) -> Any:
        said = {"quantity": quantity, "reason": "it was more"}
        assert (await asking.client.post("/v1/events/e1/correct", json=said)).is_success
        await asking.settled("e1~c1")
        return statuses(await asking.get("/v1/events/e1~c1"))["flexprice"]

    async with house() as asking:
        await asking.send(event("e1", meter="jobs"))
        back_up(tmp_path / "ledger.db", copy, to_micros(clock.now()))
        assert "accepted" == await corrected(5)
    restore(tmp_path / "ledger.db", copy, to_micros(clock.now()))
    async with house() as asking:
        assert "accepted" == await corrected(7)
        assert {("acme", "jobs"): 7} == asking.vendors["flexprice"].billed()
