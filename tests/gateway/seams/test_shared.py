"""Several gateways on one Redis server: what one process alone may do at a time, and what they must not undo."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard

from gateway.app import create_app
from gateway.configuration.file import loads
from gateway.ledger._redis.address import Address
from gateway.ledger.redis import RedisLedger
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from tests.gateway.conftest import CONTRACT, Asking, MovableClock, configured, event
from tests.gateway.seams.conftest import OLD, corrected, posted
from tests.redis_servers import Server
from tests.waiting import until

pytestmark = pytest.mark.anyio

ANOTHER = "Cust_0b8f3a44-3d0e-4f0e-9a53-5b1f4f7a2c11"

Sharing = Callable[..., AbstractAsyncContextManager[list[Asking]]]


@pytest.fixture
def sharing(tmp_path: Path, vendors: dict[str, SimulatedProvider], clock: MovableClock) -> Sharing:
    """Open some gateways that share a ledger, and their vendors."""
    server = Server(tmp_path / "redis")

    @contextlib.asynccontextmanager
    async def opened(changes: Mapping[str, Any] | None = None, count: int = 2) -> AsyncGenerator[list[Asking]]:
        async with contextlib.AsyncExitStack() as stack:
            made: list[Asking] = []
            for _ in range(count):
                configuration = loads(configured(changes), {})
                mounts = {name: vendors[one.provider].transport() for name, one in configuration.destinations.items()}
                ledger = RedisLedger(Address.read(f"redis://127.0.0.1:{server.port}/0"), lease=timedelta(seconds=5))
                gateway = Gateway(configuration, ledger, clock=clock, mounts=mounts)
                await gateway.start()
                stack.push_async_callback(gateway.stop)
                transport = httpx.ASGITransport(create_app(gateway), raise_app_exceptions=False)
                client = httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=30)
                made.append(Asking(gateway, await stack.enter_async_context(client), vendors))
            yield made

    return opened


async def test_a_period_that_two_close_at_once_is_closed_once_with_one_report(
    sharing: Sharing, clock: MovableClock
) -> None:
    async with sharing() as (one, other):
        month = f"{clock.now().replace(day=1) - timedelta(days=1):%Y-%m}"
        reports = await asyncio.gather(*(posted(each, f"/v1/periods/{month}/close") for each in (one, other, one)))
        assert 1 == len({report["at"] for report in reports})
        closed = [row for row in (await one.get("/v1/audit"))["data"] if row["action"] == "close"]
        assert 1 == len(closed)


async def test_links_that_two_put_at_once_are_both_there(sharing: Sharing) -> None:
    async with sharing() as (one, other):
        links = [("flowglad", "subscription_id"), ("paygentic", "customer_id")]
        for number in range(10):
            puts = [
                each.client.post(
                    "/v1/customers",
                    json={"reason": "x", "customers": [{"id": f"c{number}", "links": {name: [{field: "cus_s"}]}}]},
                )
                for each, (name, field) in zip((one, other), links, strict=True)
            ]
            for answer in await asyncio.gather(*puts):
                assert answer.is_success, answer.text
            gone = [one.client.delete(f"/v1/customers/c{number}?destination=flowglad")]
            gone.append(
                other.client.put(f"/v1/customers/c{number}", json={"links": {"wingback": [{"customer_id": CONTRACT}]}})
            )
            assert {"flowglad", "paygentic"} == set((await one.get(f"/v1/customers/c{number}"))["links"])
            await asyncio.gather(*gone)
            assert {"wingback"} == set((await one.get(f"/v1/customers/c{number}"))["links"])


async def test_what_is_corrected_here_while_it_is_filled_in_there_is_filled_in_as_it_says(
    sharing: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sharing(OLD, 1) as (asking,):
        await asking.send(event("e1", meter="calls"))
    amends = {"settings": {"allow_amend": True}}
    both = {**OLD, "destinations": {**OLD["destinations"], "flexprice": amends}}
    async with sharing(both) as (one, other):
        ledger = one.gateway.ledger
        extend, at_it, may_go = ledger.extend, asyncio.Event(), asyncio.Event()

        async def slow(*args: Any) -> int:
            at_it.set()
            await may_go.wait()
            return await extend(*args)

        for each in (one, other):  # whichever of them fills it in
            monkeypatch.setattr(each.gateway.ledger, "extend", slow)
        await posted(one, "/v1/backfills", to="flexprice", source="ledger")
        await at_it.wait()
        correcting = asyncio.create_task(corrected(other, "e1", quantity=5))
        await asyncio.sleep(0.3)
        may_go.set()
        await correcting
        for name in ("e1", "e1~c1"):
            await one.settled(name)
        assert {("acme", "calls"): 5} == one.vendors["flexprice"].billed()


async def test_the_rate_of_a_backfill_is_one_for_all(sharing: Sharing, clock: MovableClock) -> None:
    async with sharing(OLD, 1) as (asking,):
        for number in range(6):
            await asking.send(event(f"e{number}", meter="calls"))
    async with sharing({**OLD, "destinations": {**OLD["destinations"], "flexprice": {}}}) as (one, other):
        job = await posted(one, "/v1/backfills", to="flexprice", source="ledger", rate=0.001)
        for each in (one, other) * 5:
            await each.gateway._chores["backfill"]._step()
        found = await other.get(f"/v1/backfills/{job['id']}")
        assert {"fed": 1} == found["counts"]
        assert "due" not in found
        clock.ahead += timedelta(seconds=1001)
        for each in (other, one) * 5:
            await each.gateway._chores["backfill"]._step()
        assert {"fed": 2} == (await one.get(f"/v1/backfills/{job['id']}"))["counts"]


async def test_a_comparison_is_made_once_whoever_is_asked(sharing: Sharing, clock: MovableClock) -> None:
    async with sharing() as (one, other):
        await one.send(event("e1"))
        window = {"from": (clock.now() - timedelta(hours=1)).isoformat(), "to": clock.now().isoformat()}
        before = sum(vendor.requests for vendor in one.vendors.values())
        answer = await other.client.post("/v1/reconciliations", json=window, headers={"prefer": "respond-async"})
        asked = answer.json()

        async def reported() -> bool:
            return "report" in await one.get(f"/v1/reconciliations/{asked['id']}")

        await until(reported)
        once = sum(vendor.requests for vendor in one.vendors.values()) - before
        for each in (one, other) * 3:
            await each.gateway._chores["reconciliation"]._step()
        assert once == sum(vendor.requests for vendor in one.vendors.values()) - before


async def test_one_process_looks_at_night(sharing: Sharing, clock: MovableClock) -> None:
    short = {"destinations": {"paygentic": {"settings": {"dedupe_window": "1ms"}}}, "delivery": {"read_back": "1d"}}
    async with sharing(short) as (one, other):
        vendor = one.vendors["paygentic"]
        vendor.fail("lost_answer")
        await one.send(event("doubt"), query="?ack=stored")
        await one.settled("doubt")
        assert "unknown" == (await one.get("/v1/events/doubt"))["deliveries"]["paygentic"]["status"]
        before = vendor.requests
        clock.ahead += timedelta(days=1)
        await asyncio.gather(*(each.gateway._chores["read back"]._step() for each in (one, other)))
        read = vendor.requests - before
        assert "accepted" == (await one.get("/v1/events/doubt"))["deliveries"]["paygentic"]["status"]
        assert 1 == read, "one of them asked"


async def test_a_running_value_goes_on_when_another_process_is_told_that_the_one_before_it_arrived(
    sharing: Sharing,
) -> None:
    async with sharing({"destinations": {"wingback": {"settings": {"allow_absolute": True}}}}) as (one, other):
        one.vendors["wingback"].fail("lost_answer")
        for number in range(2):
            await one.send(event(f"a{number}", kind="absolute"), query="?ack=stored")

        async def parked() -> bool:
            return "unknown" == (await one.get("/v1/events/a0"))["deliveries"]["wingback"]["status"]

        await until(parked)
        said = {"id": "a0", "destination": "wingback", "resolution": "accepted", "reason": "we looked"}
        answer = await other.client.post("/v1/deliveries/resolve", json=said)  # the first one leads
        assert answer.is_success
        for each in (one, other):
            await each.gateway._chores["take over"]._step()
        await one.settled("a1")
        assert "accepted" == (await one.get("/v1/events/a1"))["deliveries"]["wingback"]["status"]


async def test_running_values_keep_their_order_where_the_clocks_of_two_machines_differ(
    sharing: Sharing, clock: MovableClock
) -> None:
    async with sharing({"destinations": {"wingback": {"settings": {"allow_absolute": True}}}}) as (one, other):
        other.gateway.clock = ahead = MovableClock()
        ahead.ahead = timedelta(milliseconds=300)
        await other.send(event("first", kind="absolute"), query="?ack=stored")
        await one.send(event("second", kind="absolute"), query="?ack=stored")  # the first one leads
        await until(lambda: 2 == len(one.vendors["wingback"].stored))
        assert ["first", "second"] == [row.key for row in one.vendors["wingback"].stored]


async def test_whoever_is_asked_to_forget_a_customer_the_archive_does_too(
    sharing: Sharing, clock: MovableClock, tmp_path: Path
) -> None:
    keeps = {"retention": {"archive": str(tmp_path / "archive")}}
    async with sharing(keeps) as (one, other):
        await one.send([event("e1"), event("e2")])
        clock.ahead = timedelta(days=40)
        await one.gateway._chores["retention"]._step()
        (segment,) = (tmp_path / "archive").glob("segment-*")
        assert b"acme" in plain(segment)
        answer = await other.client.post("/v1/customers/acme/erase", json={"reason": "law"})
        assert (200, None) == (answer.status_code, answer.json()["archived"])
        await one.gateway._chores["take over"]._step()
        (segment,) = (tmp_path / "archive").glob("segment-*")
        assert b"acme" not in plain(segment)
        assert [] == list(await one.gateway.ledger.documents("erasing", "", None, 10))


def plain(segment: Path) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(segment.read_bytes()).read()


async def test_whoever_leads_no_more_lets_go_of_the_archive(
    sharing: Sharing, clock: MovableClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sharing({"retention": {"archive": str(tmp_path / "archive")}}) as (one, other):
        await one.send(event("e1"))
        clock.ahead = timedelta(days=40)
        await one.gateway._chores["retention"]._step()
        leader = other.gateway.ledger
        monkeypatch.setattr(RedisLedger, "leads", property(lambda ledger: ledger is leader))
        for each in (one, other):
            await each.gateway._chores["retention"]._step()
        archive = other.gateway.keeper._archive
        assert archive is not None
        assert 1 == len(archive.segments)


async def test_what_one_holds_that_does_not_know_a_destination_goes_on_where_it_is_known(sharing: Sharing) -> None:
    async with sharing(OLD, 1) as (asking,):
        await asking.send(event("e0", meter="calls"))
    slowly = {"retry": {"first": "1h", "max": "1h"}}
    apart = {**OLD, "destinations": {**OLD["destinations"], "flexprice": {}}, "delivery": slowly}
    async with sharing(apart, 1) as (knows,):
        knows.vendors["flexprice"].fail("unavailable", times=None)
        await knows.send(event("e1", meter="calls"), query="?ack=stored")
        await until(lambda: knows.vendors["flexprice"].requests > 0)
        async with sharing(OLD, 1) as (older,):  # started anew by a file of before
            assert "blocked" == (await older.get("/v1/events/e1"))["deliveries"]["flexprice"]["status"]
        await knows.gateway._chores["take over"]._step()
        assert "retrying" == (await knows.get("/v1/events/e1"))["deliveries"]["flexprice"]["status"]


async def test_a_correction_does_not_go_by_a_link_that_the_one_who_sent_had_not_seen(sharing: Sharing) -> None:
    async with sharing({"destinations": {"wingback": {"settings": {"allow_negative": True}}}}) as (one, other):
        await other.one(event("e0"))
        put = await one.client.put("/v1/customers/acme", json={"links": {"wingback": [{"customer_id": ANOTHER}]}})
        assert put.is_success
        await other.one(event("e1"))
        assert {(CONTRACT, "API_CALLS"): 6} == one.vendors["wingback"].billed(), "a link is seen within a minute"
        said = await corrected(one, "e1", quantity=1)
        assert "rejected" == said["deliveries"]["wingback"]["status"]
        assert {(CONTRACT, "API_CALLS"): 6} == one.vendors["wingback"].billed()


async def test_a_correction_does_not_go_by_a_binding_that_the_one_who_sent_had_not_read(sharing: Sharing) -> None:
    before = {"destinations": {"wingback": {"settings": {"allow_negative": True}}}}
    after = {**before, "meters": {"api_calls": {"bindings": {"wingback": {"feature_slug": "CALLS"}}}}}
    async with sharing(before) as (one, other):
        await one.gateway.reload(loads(configured(after), {}))
        await other.one(event("e1"))  # it lets go on what it can while it waits for a slow vendor, say
        assert {(CONTRACT, "API_CALLS"): 3} == one.vendors["wingback"].billed()
        await other.gateway.reload(loads(configured(after), {}))
        said = await corrected(one, "e1", quantity=1)
        assert "rejected" == said["deliveries"]["wingback"]["status"]
        assert {(CONTRACT, "API_CALLS"): 3} == one.vendors["wingback"].billed()


async def test_a_correction_does_not_go_by_a_binding_that_the_one_who_sent_read_far_too_late(
    sharing: Sharing, clock: MovableClock
) -> None:
    before = {"destinations": {"wingback": {"settings": {"allow_negative": True}}}}
    after = {**before, "meters": {"api_calls": {"bindings": {"wingback": {"feature_slug": "CALLS"}}}}}
    async with sharing(before) as (one, other):
        await one.gateway.reload(loads(configured(after), {}))
        clock.ahead = timedelta(hours=1)
        await other.one(event("e1"))
        clock.ahead += timedelta(minutes=1)
        await other.gateway.reload(loads(configured(after), {}))
        for asked, quantity in ((other, 1), (one, 2)):
            said = await corrected(asked, "e1", quantity=quantity)
            assert "rejected" == said["deliveries"]["wingback"]["status"]
        assert {(CONTRACT, "API_CALLS"): 3} == one.vendors["wingback"].billed()


async def test_one_that_has_not_read_a_binding_corrects_nothing_that_another_sent_by_it(sharing: Sharing) -> None:
    before = {"destinations": {"wingback": {"settings": {"allow_negative": True}}}}
    after = {**before, "meters": {"api_calls": {"bindings": {"wingback": {"feature_slug": "CALLS"}}}}}
    async with sharing(before) as (one, other):
        await one.gateway.reload(loads(configured(after), {}))
        await one.one(event("e1"))
        await one.one(event("e2", meter="jobs"))
        said = await corrected(other, "e1", quantity=1)
        assert "rejected" == said["deliveries"]["wingback"]["status"]
        assert {(CONTRACT, "CALLS"): 3} == one.vendors["wingback"].billed()
        said = await corrected(other, "e2", quantity=1)
        assert "accepted" == said["deliveries"]["flexprice"]["status"], "that is named as before"
