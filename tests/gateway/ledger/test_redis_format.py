"""What an earlier gateway left in Redis: today's shows it as it was, and brings it to its end.

`recorded/redis-version-1.json` was written by the gateway of 26 November 2026, while one delivery was on its way to
each vendor; others had failed, were in doubt, refused, blocked, voided, trimmed and erased. It is never written anew: a
gateway that cannot read it has to make the ledger's version rise, and bring it up.
"""

import json
from base64 import b64decode
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from gateway.configuration.file import loads
from gateway.ledger._redis.address import Address
from gateway.ledger.redis import VERSION, RedisLedger
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from tests.gateway.conftest import VENDORS, Asking, MovableClock, asked, configured, event
from tests.redis_servers import Server

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "recorded" / "redis-version-1.json").read_text("utf-8"))
THEN = datetime(2026, 11, 27, 0, 30, tzinfo=UTC)
"""Some while after it was recorded, and before any vendor's window has closed."""
WAITED = ("late0", "late1", "late2", "again")
"""Events that had not been sent, or had certainly not arrived."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with the keys as they were recorded."""
    one = Server(tmp_path / "server")
    with Redis(port=one.port) as client, client.pipeline(transaction=False) as pipe:
        for key, kind, value in RECORDED["keys"]:
            match kind:
                case "string":
                    pipe.set(key, b64decode(value))
                case "hash":
                    pipe.hset(key, mapping={b64decode(name): b64decode(held) for name, held in value.items()})
                case "zset":
                    pipe.zadd(key, {b64decode(member): score for member, score in value.items()})
                case _:
                    pipe.rpush(key, *map(b64decode, value))
        pipe.execute()
    yield one
    one.kill()


@asynccontextmanager
async def opened(server: Server, *, running: bool) -> AsyncGenerator[Asking]:
    vendors = {name: SimulatedProvider(name, clock=lambda: THEN) for name in VENDORS}
    mounts = {name: vendor.transport() for name, vendor in vendors.items()}
    clock = MovableClock()
    clock.ahead = THEN - datetime.now(UTC)
    ledger = RedisLedger(Address.read(f"redis://127.0.0.1:{server.port}/0"))
    gateway = Gateway(loads(configured(), {}), ledger, clock=clock, mounts=mounts)
    if running:
        await gateway.start()
    else:
        await ledger.open()
    async with asked(gateway, vendors) as asking:
        yield asking


async def statuses(asking: Asking) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for one in RECORDED["statuses"]:
        deliveries = (await asking.get(f"/v1/events/{one}"))["deliveries"]
        found[one] = {name: delivery["status"] for name, delivery in deliveries.items()}
    return found


async def test_all_that_was_kept_is_shown_as_it_was(server: Server) -> None:
    async with opened(server, running=False) as asking:
        ledger = asking.gateway.ledger
        assert isinstance(ledger, RedisLedger)
        assert RECORDED["statuses"] == await statuses(asking)
        assert [] == (await ledger.add_up())["problems"]
        trail = [row.action for _, row in await ledger.trail("default", None, 20)]
        assert {"erase", "void", "link"} <= {action.partition(".")[0] for action in trail}, trail
        assert [{"subscription_id": "sub_other"}] == (await asking.get("/v1/customers/other"))["links"]["flowglad"]
        assert (await asking.get("/v1/events/old"))["trimmed"] is True


async def test_all_that_waited_goes_on_and_nothing_that_was_done_goes_again(server: Server) -> None:
    before = RECORDED["statuses"]
    async with opened(server, running=True) as asking:
        for one in (*WAITED, "flying"):
            await asking.settled(one)
        after = await statuses(asking)
        assert {one: dict.fromkeys(VENDORS, "accepted") for one in WAITED} == {one: after[one] for one in WAITED}
        # What was on its way is in doubt: it goes again where the vendor tells repeats, and nowhere else.
        assert "unknown" == after["flying"]["wingback"]
        assert dict.fromkeys(("flexprice", "flowglad", "paygentic"), "accepted") == {
            name: status for name, status in after["flying"].items() if name != "wingback"
        }
        untouched = [one for one in before if one not in {*WAITED, "flying", "stranger"}]
        assert {one: before[one] for one in untouched} == {one: after[one] for one in untouched}
        for name, vendor in asking.vendors.items():
            assert len(WAITED) + (name != "wingback") == vendor.rows_taken, name

        old = [f"done{number}" for number in range(12)]
        again = [event(one, timestamp="2026-11-26T20:00:00Z", properties={"region": "eu"}) for one in old]
        answer = await asking.send([*again, event("late0"), event("done0", quantity=9), event("brand-new")])
        told = [(result["status"], result.get("replayed")) for result in answer["results"]]
        assert {True} == {replayed for _, replayed in told[:13]}
        assert [("conflict", False), ("delivered", False)] == told[13:]
        ledger = asking.gateway.ledger
        assert isinstance(ledger, RedisLedger)
        assert [] == (await ledger.add_up())["problems"]


def test_the_version_rises_together_with_what_is_recorded() -> None:
    """A newer version has a recording of its own beside this one, and tests that bring the older ones up to it."""
    assert VERSION == 1
