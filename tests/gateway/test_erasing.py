"""A customer is forgotten in the ledger and in the archive, or whoever asked is told what is left to do."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli import main
from tests.gateway.conftest import House, MovableClock, event
from tests.gateway.keeping import adds_up, archived, erase, keeping, kept


async def test_an_archive_that_cannot_be_changed_is_told_and_the_customer_is_forgotten_once_it_can(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    async with house(keeping(tmp_path)) as asking:
        await asking.one(event())
        clock.ahead = timedelta(days=2)
        await kept(asking)
        segment, away = tmp_path / "archive" / "segment-000001.ndjson.zst", tmp_path / "away"
        segment.rename(away)
        answer = await erase(asking)
        problem = answer.json()
        assert (503, "ledger_unavailable") == (answer.status_code, problem["code"])
        assert "segment-000001.ndjson.zst" in problem["detail"]
        assert problem["detail"].endswith("ask again once it can be changed")
        assert int(answer.headers["retry-after"]) > 0

        away.rename(segment)
        assert 1 == (await erase(asking)).json()["archived"]
        assert "acme" not in str(archived(tmp_path))


async def test_an_erased_customer_is_nowhere_and_quantities_are_still_there(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    secret = {"properties": {"who": "acme-person"}, "source": "acme-erp", "subscription": "acme-eu"}
    async with house(keeping(tmp_path)) as asking:
        await asking.one(event("old", quantity=7, **secret))
        await asking.one(event("other", customer="globex", meter="jobs"))
        clock.ahead = timedelta(days=2)
        await kept(asking)
        await asking.one(event("new", quantity=5, **secret))
        answer = await erase(asking)
        assert 200 == answer.status_code, answer.text
        told = answer.json()
        assert (1, 1, {}, True) == (told["events"], told["archived"], told["abandoned"], told["configured"])

        shown = await asking.get("/v1/events/new")
        assert (True, told["pseudonym"], "5") == (
            shown["erased"],
            shown["event"]["customer"],
            shown["event"]["quantity"],
        )
        by_name = {record["id"]: record for record in archived(tmp_path)}
        assert (told["pseudonym"], "7") == (by_name["old"]["event"]["customer"], by_name["old"]["event"]["quantity"])
        assert "globex" == by_name["other"]["event"]["customer"]
        assert by_name["old"]["event"]["subscription"] == shown["event"]["subscription"]
        calls = asking.calls
        for name, quantity in (("old", 7), ("new", 5)):
            assert (await asking.one(event(name, quantity=quantity, **secret)))["replayed"]
            assert "conflict" == (await asking.one(event(name, quantity=1, **secret)))["status"]
        assert calls == asking.calls
        (audited,) = [row for row in (await asking.get("/v1/audit"))["data"] if row["action"] == "erase"]
        assert (told["pseudonym"], "asked for") == (audited["target"], audited["reason"])
        assert (0, told["pseudonym"]) == ((again := (await erase(asking)).json())["events"], again["pseudonym"])
    adds_up(tmp_path)
    everything = b"".join(path.read_bytes() for path in (tmp_path / "archive").iterdir() if path.suffix != ".zst")
    everything += json.dumps(archived(tmp_path)).encode()
    assert b"acme" not in everything


async def test_an_erased_name_is_not_left_in_the_reasons_of_corrections(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    async with house(keeping(tmp_path)) as asking:
        for name in ("old", "new"):
            await asking.one(event(name, meter="jobs"))
            body = {"reason": f"acme complained of {name}", "quantity": 2}
            assert 200 == (await asking.client.post(f"/v1/events/{name}/correct", json=body)).status_code
            if name == "old":
                clock.ahead = timedelta(days=2)
                await kept(asking)
        alias = (await erase(asking, reason="acme asked for it")).json()["pseudonym"]
        reasons = [row["reason"] for row in (await asking.get("/v1/audit"))["data"]]
        assert [f"{alias} asked for it", f"{alias} complained of new", f"{alias} complained of old"] == reasons
        assert f"{alias} complained of new" == (await asking.get("/v1/events/new~c1"))["event"]["corrects"]["reason"]
        by_name = {record["id"]: record for record in archived(tmp_path)}
        assert f"{alias} complained of old" == by_name["old~c1"]["event"]["corrects"]["reason"]


async def test_what_could_still_be_billed_is_refused_by_number_and_given_up_on_demand(
    house: House, tmp_path: Path
) -> None:
    async with house() as asking:
        await asking.one(event("e1", quantity="2.5"))
        await asking.one(event("e2", meter="nobody_knows"))
        answer = await erase(asking)
        assert 409 == answer.status_code
        detail = answer.json()["detail"]
        assert "2 rejected, 1 unrouted" in detail
        assert "abandon" in detail
        assert "acme" not in detail
        assert "acme" == (await asking.get("/v1/events/e1"))["event"]["customer"]

        told = (await erase(asking, unsettled="abandon")).json()
        assert (2, {"rejected": 2, "unrouted": 1}) == (told["events"], told["abandoned"])
        assert "partial" == (await asking.get("/v1/events/e1"))["status"]
        body = {"filter": {"status": "rejected"}, "reason": "again", "remap": True}
        retried = (await asking.client.post("/v1/deliveries/retry", json=body)).json()
        assert ([], []) == (retried["retried"], retried["skipped"])
    adds_up(tmp_path)


async def test_what_may_have_been_stored_of_what_is_given_up_is_counted(house: House) -> None:
    """It ends as dead, and nothing else tells that a vendor may bill it."""
    async with house() as asking:
        asking.vendors["wingback"].fail("lost_answer")
        await asking.one(event("e1"))
        await asking.one(event("e2", quantity="2.5"))
        told = (await erase(asking, unsettled="abandon")).json()
        assert ({"unknown": 1, "rejected": 2}, 1) == (told["abandoned"], told["in_doubt"])
        (row,) = [row for row in (await asking.get("/v1/audit"))["data"] if row["action"] == "erase"]
        assert '"in_doubt":1' in row["after"]


async def test_who_may_not_or_gives_no_reason_erases_nothing(house: House) -> None:
    async with house() as asking:
        await asking.one(event())
        assert 400 == (await asking.client.post("/v1/customers/acme/erase", json={})).status_code
        assert 400 == (await erase(asking, unsettled="both")).status_code
        assert "acme" == (await asking.get("/v1/events/e1"))["event"]["customer"]


async def test_a_customer_is_erased_from_the_command_line(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command asks what its options say, and tells what came of it."""
    asked: list[tuple[str, str, Any]] = []

    def ask(url: str, key: str | None, method: str, path: str, body: Any) -> httpx.Response:
        asked.append((method, path, body))
        told = {"pseudonym": "erased_1", "events": 2, "archived": 1, "abandoned": {"dead": 3}, "configured": True}
        told["in_doubt"] = 2
        return httpx.Response(200, json=told)

    monkeypatch.setattr("gateway.cli.ledger.ask", ask)
    assert 0 == main(["ledger", "erase", "a/b c", "--reason", "law", "--abandon"])
    assert 2 == main(["ledger", "erase", "acme"])
    assert [("POST", "/v1/customers/a%2Fb%20c/erase", {"reason": "law", "unsettled": "abandon"})] == asked
    async with house() as asking:
        await asking.one(event("e1", customer="a/b c", meter="jobs"))
        answer = await erase(asking, "a%2Fb%20c")
        assert 1 == answer.json()["events"]


async def test_an_erased_customer_lacks_no_link(house: House) -> None:
    """Nobody can give it one; a backfill leaves its events out, and says so."""
    async with house() as asking:
        await asking.send([event("e1"), event("e2")], query="?ack=all")
        await erase(asking)
        await asking.send(event("e3"), query="?ack=all")
        lines = (await asking.client.get("/v1/links/coverage")).text.splitlines()
        assert [("coverage", 1)] == [(one["object"], one.get("customers")) for one in map(json.loads, lines)]
        report = (await asking.client.post("/v1/preflights", json={"to": "flowglad"})).json()
        assert (1, []) == (report["events"], report["refused"])
