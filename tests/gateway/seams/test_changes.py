"""Several tenants, and a configuration that changes under what is going on."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.configuration.file import loads
from gateway.configuration.keys import sha256
from gateway.errors import ConfigurationError
from gateway.ledger import AuditRow, Document, SqliteLedger, WorkState
from gateway.links.book import KIND as LINKS
from gateway.reconciling.ledger_side import LedgerSide
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from tests.gateway.conftest import Asking, House, MovableClock, asked, configured, event
from tests.gateway.lanes.world import Gate
from tests.gateway.seams.conftest import APART, OLD, filled, posted, standing
from tests.waiting import until

pytestmark = pytest.mark.anyio

SHORT = {"destinations": {"paygentic": {"settings": {"dedupe_window": "1ms"}}}}
OURS, THEIRS = (f"ugw_{name}_{'x' * 40}" for name in ("ours", "theirs"))
TWO: dict[str, Any] = {"auth": {"keys": [
    {"name": "ours", "sha256": sha256(OURS), "scopes": ["admin"]},
    {"name": "theirs", "sha256": sha256(THEIRS), "scopes": ["admin"], "tenant": "theirs"},
]}}  # fmt: skip
ONE = {"auth": {"keys": TWO["auth"]["keys"][:1]}}


def as_key(asking: Asking, key: str) -> Asking:
    asking.client.headers["authorization"] = f"Bearer {key}"
    return asking


async def test_history_of_one_tenant_is_filled_in_whole_whatever_lies_between(house: House) -> None:
    async with house({**OLD, **TWO}) as asking:
        for number in range(3):
            await as_key(asking, OURS).send(event(f"e{number}", meter="calls"), query="?ack=stored")
            await as_key(asking, THEIRS).send(event(f"e{number}", meter="calls"), query="?ack=stored")
    async with house({**APART, **TWO}) as asking:
        for key in (OURS, THEIRS):
            assert {"fed": 3} == await filled(as_key(asking, key))


async def test_a_backfill_whose_tenant_is_gone_ends_and_says_why(house: House) -> None:
    async with house({**OLD, **TWO}) as asking:
        for number in range(3):
            await as_key(asking, THEIRS).send(event(f"e{number}", meter="calls"), query="?ack=stored")
    async with house({**APART, **TWO}) as asking:
        job = await posted(as_key(asking, THEIRS), "/v1/backfills", to="flexprice", source="ledger", rate=0.001)

        async def begun() -> Any:
            return (await asking.get(f"/v1/backfills/{job['id']}"))["counts"]

        async def ended() -> bool:
            body = await asking.gateway.ledger.document("backfill", "theirs", job["id"])
            return b"running" not in (body or b"")

        await until(begun)
        await asking.gateway.reload(loads(configured({**APART, **ONE}), {}))
        await until(ended)
    async with house({**APART, **TWO}) as asking:
        found = await as_key(asking, THEIRS).get(f"/v1/backfills/{job['id']}")
        assert ("failed", {"fed": 1}) == (found["state"], found["counts"])
        assert "no API key is of tenant theirs any more" in found["why"]
        assert {"fed": 2, "there_already": 1} == await filled(asking), "begun again it goes on"


async def test_a_backfill_whose_destination_is_gone_says_what_it_waits_for(house: House) -> None:
    async with house(OLD) as asking:
        await asking.send([event("e1", meter="calls"), event("e2", meter="calls")])
    async with house(APART) as asking:
        job = await posted(asking, "/v1/backfills", to="flexprice", source="ledger", rate=0.001)
        await asking.gateway.reload(loads(configured(OLD), {}))
        assert "it waits: flexprice is switched off or removed" == await why_changes(asking, job["id"], None)
        await asking.gateway.reload(loads(configured(APART), {}))
        assert await why_changes(asking, job["id"], "it waits: flexprice is switched off or removed") is None


async def why_changes(asking: Asking, job_id: str, before: str | None) -> str | None:
    """Return what a job that goes on says next."""

    async def news() -> Any:
        found = await asking.get(f"/v1/backfills/{job_id}")
        assert "running" == found["state"]
        return found if found["why"] != before else None

    return (await until(news, "it says nothing else"))["why"]


async def test_what_was_being_sent_to_a_destination_that_is_gone_is_shown_as_blocked_and_goes_on_in_doubt(
    house: House, sums: Callable[[], None]
) -> None:
    hasty = {**APART, "delivery": {"grace": "1ms"}}
    async with house(hasty) as asking:
        for name in ("flowglad", "flexprice"):
            asking.vendors[name].fail("latency", seconds=60)
        await asking.send(event("e1", meter="calls"), query="?ack=stored")
        for name in ("flowglad", "flexprice"):
            await until(lambda name=name: asking.vendors[name].requests > 0)
    for name in ("flowglad", "flexprice"):
        asking.vendors[name].clear()
    gone = {**hasty, "destinations": {**OLD["destinations"], "flowglad": None},
            "meters": {**OLD["meters"], "calls": {"bindings": {"flexprice": {}}}},
            "customers": {"acme": None}}  # fmt: skip
    async with house(gone) as asking:
        for name in ("flowglad", "flexprice"):
            shown = await standing(asking, "e1", name)
            assert "blocked" == shown["status"]
            assert f"destination {name} is switched off or removed" in shown["error"]["message"]
            assert [2] == [work.group.doubt for work in await asking.gateway.ledger.held(name, WorkState.HELD)]
        sums()
    async with house(APART) as asking:
        await asking.settled("e1")
        assert {("acme", "calls"): 3} == asking.vendors["flexprice"].billed()
        assert {("sub_acme", "calls"): 3} == asking.vendors["flowglad"].billed()
        sums()


async def test_another_vendor_under_the_name_of_one_that_has_deliveries_is_refused(house: House) -> None:
    flowglad = {**OLD["destinations"], "flexprice": None}
    there = {**OLD, "destinations": flowglad, "meters": {**OLD["meters"], "calls": {"bindings": {"flowglad": {}}}}}
    other = {**there, "destinations": {**flowglad, "flowglad": {"provider": "flexprice"}}, "customers": {"acme": None}}
    async with house(other):
        pass  # nothing was ever sent there
    async with house(there) as asking:
        asking.vendors["flowglad"].fail("unavailable", times=None)
        await asking.send(event("e1", meter="calls"), query="?ack=stored")
        with pytest.raises(ConfigurationError, match="is flexprice, and 1 deliveries of the ledger"):
            await asking.gateway.reload(loads(configured(other), {}))
        assert 1 == asking.gateway.generation.number
        asking.vendors["flowglad"].clear()
        await asking.settled("e1")
    with pytest.raises(ConfigurationError, match="give flexprice a name of its own"):
        async with house(other):
            pass
    async with house(there) as asking:  # and nobody has the ledger
        assert {("sub_acme", "calls"): 3} == asking.vendors["flowglad"].billed()


async def test_another_door_of_a_vendor_waits_until_nothing_does_that_was_made_for_the_one_before(house: House) -> None:
    other = {
        "destinations": {"paygentic": {"settings": {"profile": "events", "merchant_id": None}}},
        "meters": {"api_calls": {"bindings": {"paygentic": {"billable_metric_id": None, "event_type": "calls"}}}},
    }
    async with house() as asking:
        asking.vendors["paygentic"].fail("lost_answer", times=None)
        await asking.send(event("e1"), query="?ack=stored")
        await until(lambda: asking.vendors["paygentic"].requests > 0)
        with pytest.raises(
            ConfigurationError, match="is events, and 1 deliveries that wait, or are unknown, were made"
        ):
            await asking.gateway.reload(loads(configured(other), {}))
        assert 1 == asking.gateway.generation.number
    with pytest.raises(ConfigurationError, match="or keep usage-v0 until they are settled"):
        async with house(other):
            pass
    async with house() as asking:
        asking.vendors["paygentic"].clear()
        await asking.settled("e1")
        await asking.gateway.reload(loads(configured(other), {}))


async def test_a_reload_changes_when_usage_is_read_back(house: House, clock: MovableClock) -> None:
    async with house({**SHORT, "delivery": {"read_back": "365d"}}) as asking:
        asking.vendors["paygentic"].fail("lost_answer")
        await asking.send(event("doubt"), query="?ack=stored")
        await asking.settled("doubt")
        assert "unknown" == (await standing(asking, "doubt"))["status"]
        await asking.gateway.reload(loads(configured({**SHORT, "delivery": {"read_back": "1d"}}), {}))
        for _ in range(20):
            await asyncio.sleep(0)
        clock.ahead = timedelta(days=1)
        asking.gateway._chores["read back"].wake()
        await asking.settled("doubt")

        async def found() -> bool:
            return "accepted" == (await standing(asking, "doubt"))["status"]

        await until(found)


async def test_a_reload_keeps_nobody_waiting_for_a_vendor_that_is_slow(
    tmp_path: Path, vendors: dict[str, SimulatedProvider]
) -> None:
    gate = Gate()
    gate.inner = vendors["wingback"].transport()
    configuration = loads(configured({"meters": {"calls": {"bindings": {"flexprice": {}}}}}), {})
    mounts = {name: vendor.transport() for name, vendor in vendors.items()} | {"wingback": gate}
    gateway = Gateway(configuration, SqliteLedger(tmp_path / "ledger.db"), mounts=mounts)
    await gateway.start()
    async with asked(gateway, vendors) as asking:
        await asking.send(event("e1"), query="?ack=stored")
        await until(lambda: gate.waiting == 1)
        reading = asyncio.create_task(gateway.reload(configuration))
        assert "delivered" == (await asking.one(event("e2", meter="calls"), query="?ack=all"))["status"]
        assert not reading.done(), "what is on its way to the slow one is heard by the lane that sent it"
        gate.open.set()
        await reading
        assert 2 == gateway.generation.number
        assert "delivered" == (await asking.one(event("e3"), query="?ack=all"))["status"]
        assert "delivered" == (await asking.get("/v1/events/e1"))["status"]
    assert 0 == gate.cancelled
    assert {"e1": 1, "e3": 1} == {row.key: row.copies for row in vendors["wingback"].stored}


async def test_usage_is_read_by_the_configuration_that_it_was_asked_under(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = {
        "destinations": {"flexprice": None},
        "meters": {
            "api_calls": {"bindings": {"flexprice": None}},
            "jobs": None,
            "logins": {"bindings": {"flexprice": None}},
            "llm_call": {"bindings": {"flexprice": None}},
        },
    }
    path = "/v1/usage?customer=acme&meter=api_calls&from=2026-01-01&to=2030-01-01"

    async def figures() -> dict[str, Any]:
        return {one["destination"]: one["figures"] for one in (await asking.get(path))["destinations"]}

    async with house() as asking:
        await asking.send(event("e1"))
        before, plain = await figures(), LedgerSide.read

        async def reading(side: LedgerSide) -> None:
            await asking.gateway.reload(loads(configured(without), {}))
            await plain(side)

        with monkeypatch.context() as planted:
            planted.setattr(LedgerSide, "read", reading)
            assert before == await figures()
        assert {"flexprice"} == before.keys() - (await figures()).keys()


async def test_a_link_that_is_put_in_the_instant_of_a_reload_holds_from_its_answer_on(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, going, on = asking.gateway, asyncio.Event(), asyncio.Event()
    keep = gateway.ledger.keep

    async def slow(documents: Sequence[Document], audit: Sequence[AuditRow] = ()) -> None:
        if any(one.kind == LINKS for one in documents):
            going.set()
            await on.wait()
        await keep(documents, audit)

    monkeypatch.setattr(gateway.ledger, "keep", slow)
    link = {"links": {"flowglad": {"subscription_id": "sub_other"}}}
    putting = asyncio.create_task(asking.client.put("/v1/customers/acme", json=link))
    await going.wait()
    await gateway.reload(loads(configured(), {}))
    await asking.one(event("e1"))
    on.set()
    assert (await putting).is_success
    await asking.one(event("e2", quantity=5))
    assert {("sub_acme", "api_calls"): 3, ("sub_other", "api_calls"): 5} == asking.vendors["flowglad"].billed()
