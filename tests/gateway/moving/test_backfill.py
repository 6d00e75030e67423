"""Backfill: history to one destination, once, behind live traffic, whatever breaks off in between."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli import main
from gateway.moving.backfill import LEAST
from tests.gateway.conftest import CONTRACT, Asking, House, MovableClock, event
from tests.waiting import until

NO_FLEXPRICE = {"destinations": {"flexprice": {"mode": "off"}}}
REASON = {"reason": "we move"}


async def begin(asking: Asking, **asked: Any) -> dict[str, Any]:
    answer = await asking.client.post("/v1/backfills", json={"to": "flexprice", "source": "ledger", **REASON, **asked})
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


async def ended(asking: Asking, job: dict[str, Any]) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found = await asking.get(f"/v1/backfills/{job['id']}")
        return None if found["state"] == "running" else found

    return await until(look, f"{job['id']} does not end")


async def fed(asking: Asking, job: dict[str, Any], first: int, *events: dict[str, Any], last: bool = False) -> Any:
    body = "\n".join(json.dumps(one) for one in events)
    query = f"first={first}&last={str(last).lower()}"
    return await asking.client.post(
        f"/v1/backfills/{job['id']}/events?{query}", content=body, headers={"content-type": "application/x-ndjson"}
    )


def past(clock: MovableClock, event_id: str, days: int = 60, **members: Any) -> dict[str, Any]:
    return event(event_id, timestamp=(clock.now() - timedelta(days=days)).isoformat(), **members)


async def test_what_is_stored_goes_to_a_new_destination_once_with_its_own_id_and_time(
    house: House, clock: MovableClock
) -> None:
    times = {f"e{number}": (clock.now() - timedelta(hours=number)).isoformat() for number in range(3)}
    async with house(NO_FLEXPRICE) as asking:
        await asking.send([event(event_id, timestamp=when) for event_id, when in times.items()])
        assert 0 == asking.calls["flexprice"]
    async with house() as asking:
        await asking.send(event("live"))
        for _ in range(2):  # again: nothing is left to do
            done = await ended(asking, await begin(asking))
            assert "done" == done["state"]
            for event_id in times:
                await asking.settled(event_id)
        rows = asking.vendors["flexprice"].stored
        assert ["live", *sorted(times)] == ["live", *sorted(row.key for row in rows if row.key != "live")]
        assert {4} == {len(rows)}
        assert 3 == (await asking.get("/v1/backfills"))["data"][0]["counts"]["fed"]
        detail = await asking.get("/v1/events/e1")
        assert {"flowglad", "paygentic", "flexprice", "wingback"} == set(detail["deliveries"])
        assert "accepted" == detail["deliveries"]["flexprice"]["status"]
        trail = (await asking.get("/v1/audit"))["data"]
        (begun, _) = reversed([row for row in trail if row["action"] == "backfill"])
        assert ("backfill", "flexprice", "we move") == (begun["action"], begun["destination"], begun["reason"])


async def test_a_filter_takes_some_and_leaves_the_rest(house: House) -> None:
    async with house(NO_FLEXPRICE) as asking:
        await asking.send([event("e1"), event("e2", meter="logins", quantity=None)])
    async with house() as asking:
        await ended(asking, await begin(asking, filter={"meter": "logins"}))
        await asking.settled("e2")
        assert ["e2"] == [row.key for row in asking.vendors["flexprice"].stored]


async def test_it_waits_for_live_traffic_and_goes_on_after_a_restart(house: House, clock: MovableClock) -> None:
    paygentic = {"paygentic": {"settings": {"profile": "events", "merchant_id": None}}}
    meters = {"api_calls": None, "jobs": {"bindings": {"paygentic": {}}}}
    later = {"destinations": paygentic, "meters": meters}
    async with house(later, running=False) as asking:  # a door of one row a request, and nothing leaves
        job = await begin(asking, to="paygentic", source="file", digest="d1")
        path, one = f"/v1/backfills/{job['id']}/events?first=0", past(clock, "h0", meter="jobs")
        assert 400 == (await asking.client.post(f"{path}&last=yes", json=one)).status_code, "or it would never end"
        answer = await fed(asking, job, 0, *(past(clock, f"h{n}", meter="jobs") for n in range(LEAST)))
        assert 200 == answer.status_code, answer.text
        busy = await fed(asking, job, LEAST, past(clock, "h-last", meter="jobs"), last=True)
        assert 429 == busy.status_code
        assert busy.headers["retry-after"].isdigit()
    async with house(later) as asking:
        again = await begin(asking, to="paygentic", source="file", digest="d1")
        assert (job["id"], LEAST) == (again["id"], again["cursor"])
        for number in range(LEAST):
            await asking.settled(f"h{number}")
        answer = await fed(asking, job, LEAST, past(clock, "h-last", meter="jobs"), last=True)
        assert "done" == answer.json()["state"]
        await asking.settled("h-last")
        assert LEAST + 1 == len(asking.vendors["paygentic"].stored)


async def test_a_file_older_than_the_horizon_is_taken_with_its_own_ids_and_only_there(
    house: House, clock: MovableClock
) -> None:
    async with house() as asking:
        job = await begin(asking, source="file", digest="d1")
        old = [past(clock, f"h{number}", days=90 - number) for number in range(3)]
        await fed(asking, job, 0, *old)
        answer = await fed(asking, job, 0, *old)  # as if the first answer was lost: what is sent again counts once
        assert 3 == answer.json()["cursor"]
        done = (await fed(asking, job, 3, last=True)).json()
        assert ("done", {"fed": 3}) == (done["state"], done["counts"])
        await asking.settled("h0")
        assert {"flexprice"} == set((await asking.get("/v1/events/h0"))["deliveries"])
        assert 3 == len(asking.vendors["flexprice"].stored)
        answer = await asking.client.post(
            "/v1/backfills", json={"to": "flexprice", "source": "file", "digest": "d1", **REASON}
        )
        assert 409 == answer.status_code, "the same file again"


TRIAL = {"destinations": {"flexprice": {"mode": "shadow"}}}


async def test_a_history_that_a_trial_got_from_a_file_is_billed_by_nobody_later(
    house: House, clock: MovableClock
) -> None:
    async with house(TRIAL) as asking:
        await fed(asking, await begin(asking, source="file", digest="d1"), 0, past(clock, "h1"), last=True)
        await asking.settled("h1")
    async with house(TRIAL) as asking:  # when a configuration is taken up, what waits for a way is given one
        await asking.settled("h1")
        assert {"flexprice"} == set((await asking.get("/v1/events/h1"))["deliveries"])
        assert {"flexprice": 1} == {name: calls for name, calls in asking.calls.items() if calls}


@pytest.mark.parametrize(("days", "billed"), [(1, ["h1"]), (60, [])])
async def test_what_a_trial_had_from_a_file_first_is_billed_when_its_sender_sends_it(
    house: House, clock: MovableClock, days: int, billed: list[str]
) -> None:
    one = past(clock, "h1", days=days)
    async with house(TRIAL) as asking:
        await fed(asking, await begin(asking, source="file", digest="d1"), 0, one, last=True)
        await asking.settled("h1")
        for _ in range(2):
            result = await asking.one(one)
            assert ("delivered" if billed else "unrouted", True) == (result["status"], result["replayed"])
        for name in ("flowglad", "paygentic", "wingback"):
            assert billed == [row.key for row in asking.vendors[name].stored], name
        assert 1 == len(asking.vendors["flexprice"].stored)


async def test_an_id_that_is_known_with_other_content_is_named_and_not_sent(house: House, clock: MovableClock) -> None:
    async with house(NO_FLEXPRICE) as asking:
        when = (clock.now() - timedelta(hours=1)).isoformat()
        await asking.send([event("same", timestamp=when), event("other", timestamp=when)])
    async with house() as asking:
        job = await begin(asking, source="file", digest="d1")
        answer = await fed(
            asking, job, 0, event("same", timestamp=when), event("other", timestamp=when, quantity=4), last=True
        )
        assert {"fed": 1, "conflict": 1} == answer.json()["counts"]
        assert [("other", "conflict")] == [(one["id"], one["problem"]) for one in answer.json()["problems"]]
        await asking.settled("same")
        assert ["same"] == [row.key for row in asking.vendors["flexprice"].stored]


async def test_what_the_door_takes_from_nobody_is_not_taken_from_a_file(house: House, clock: MovableClock) -> None:
    nothing_said = past(clock, "nothing")
    del nothing_said["quantity"]
    counted = nothing_said | {"id": "counted", "meter": "logins"}
    async with house() as asking:
        job = await begin(asking, source="file", digest="d1")
        answer = await fed(asking, job, 0, nothing_said, past(clock, "to_come", -1), counted, last=True)
        done = answer.json()
        assert {"fed": 1, "invalid": 2} == done["counts"]
        assert [("nothing", "quantity"), ("to_come", "timestamp")] == [
            (one["id"], one["why"].partition(":")[0]) for one in done["problems"]
        ]
        await asking.settled("counted")
        assert ["counted"] == [row.key for row in asking.vendors["flexprice"].stored]


async def test_events_that_do_not_follow_on_are_refused(house: House, clock: MovableClock) -> None:
    async with house() as asking:
        job = await begin(asking, source="file", digest="d1")
        answer = await fed(asking, job, 5, past(clock, "h5"))
        assert (409, "conflict") == (answer.status_code, answer.json()["code"])


async def test_the_end_of_a_file_may_be_told_again(house: House, clock: MovableClock) -> None:
    async with house() as asking:
        job = await begin(asking, source="file", digest="d1")
        done = (await fed(asking, job, 0, past(clock, "h1"), past(clock, "h2"), last=True)).json()
        for again in (await fed(asking, job, 0, past(clock, "h1"), past(clock, "h2"), last=True),
                      await fed(asking, job, 2, last=True)):  # fmt: skip
            assert (200, done) == (again.status_code, again.json())
        assert 409 == (await fed(asking, job, 2, past(clock, "h3"), last=True)).status_code


async def test_a_job_goes_on_as_it_is_asked_for_by_now(house: House, clock: MovableClock) -> None:
    async with house() as asking:
        await begin(asking, source="file", digest="d1", rate=0.001)
        job = await begin(asking, source="file", digest="d1", too_old="skip")
        assert (0.001, "skip") == (job["rate"], job["too_old"])
        await fed(asking, job, 0, past(clock, "h1"))
        assert 429 == (await fed(asking, job, 1, past(clock, "h2"), last=True)).status_code
        faster = await begin(asking, source="file", digest="d1", rate=1000, unproven="send")
        assert (job["id"], 1000, "skip", "send") == tuple(
            faster[name] for name in ("id", "rate", "too_old", "unproven")
        )
        assert "done" == (await fed(asking, job, 1, past(clock, "h2"), last=True)).json()["state"]
        trail = (await asking.get("/v1/audit"))["data"]
        assert 2 == sum(one["after"] == "goes on with other options" for one in trail if one["action"] == "backfill")


@pytest.mark.parametrize("mode", ["off", None])
async def test_a_file_waits_for_a_destination_that_was_switched_off_or_removed_meanwhile(
    house: House, clock: MovableClock, mode: str | None
) -> None:
    none = {"flexprice": None}
    meters = {name: {"bindings": none} for name in ("api_calls", "logins", "llm_call")} | {"jobs": None}
    gone: dict[str, Any] = {"destinations": none, "meters": meters} if mode is None else NO_FLEXPRICE
    async with house() as asking:
        job = await begin(asking, source="file", digest="d1")
        await fed(asking, job, 0, past(clock, "h0"))
    async with house(gone) as asking:
        answer = await fed(asking, job, 1, past(clock, "h1"), last=True)
        assert 409 == answer.status_code, answer.text
        assert "flexprice is switched off or removed" in answer.json()["detail"]
    async with house() as asking:
        done = (await fed(asking, job, 1, past(clock, "h1"), last=True)).json()
        assert ("done", {"fed": 2}) == (done["state"], done["counts"])
        await asking.settled("h1")
        assert ["h0", "h1"] == sorted(row.key for row in asking.vendors["flexprice"].stored)


async def test_a_cancelled_job_takes_no_more(house: House, clock: MovableClock) -> None:
    async with house() as asking:
        job = await begin(asking, source="file", digest="d1")
        cancelled = await asking.client.post(f"/v1/backfills/{job['id']}/cancel", json=REASON)
        assert "cancelled" == cancelled.json()["state"]
        assert 409 == (await fed(asking, job, 0, past(clock, "h1"))).status_code
        assert job["id"] != (await begin(asking, source="file", digest="d1"))["id"]


TURNED = {"from": "2026-12-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}
"""A window that ends before it begins, and holds nothing."""


@pytest.mark.parametrize(
    "asked", [{"to": "nobody"}, {"source": "file"}, {"digest": "d"}, {"rate": 0}, {"filter": TURNED}]
)
async def test_what_cannot_be_done_is_refused_with_a_reason(asking: Asking, asked: dict[str, Any]) -> None:
    answer = await asking.client.post("/v1/backfills", json={"to": "flexprice", "source": "ledger", **REASON, **asked})
    assert (400, "invalid_request") == (answer.status_code, answer.json()["code"])


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["backfill", "--to", "flexprice", "--from", str(tmp_path / "none.csv"), "--reason", "we move"]
    assert 2 == main(command)
    assert "none.csv: cannot be read" in capsys.readouterr().err


async def test_a_file_of_which_nothing_can_be_read_leaves_no_job_behind(
    asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()

    def ask(_url: str, _key: str | None, method: str, path: str, body: Any) -> httpx.Response:
        return asyncio.run_coroutine_threadsafe(asking.client.request(method, path, json=body), loop).result()

    monkeypatch.setattr("gateway.cli.backfill.ask", ask)
    for name, content in (("cut.ndjson.gz", b"\x1f\x8b"), ("empty.ndjson", b"\n"), ("wrong.ndjson", b"\n{}\n")):
        (tmp_path / name).write_bytes(content)
        command = ["backfill", "--to", "flexprice", "--from", str(tmp_path / name), "--reason", "we move"]
        assert 1 == await asyncio.to_thread(main, command)
    jobs = (await asking.get("/v1/backfills"))["data"]
    assert ["cancelled"] * 3 == [job["state"] for job in jobs]


async def test_what_another_of_the_group_has_billed_is_not_billed_again(house: House, clock: MovableClock) -> None:
    group = {"flowglad": {"group": "billing"}, "flexprice": {"group": "billing"}}
    meters = {"jobs": None, "llm_call": None}

    def routes(old: str, new: str, cut: timedelta) -> list[dict[str, str]]:
        when = (clock.now() - cut).isoformat()
        return [{"destination": old, "until": when}, {"destination": new, "from": when}]

    sent = [event(f"e{hours}", timestamp=(clock.now() - timedelta(hours=hours)).isoformat()) for hours in (1, 3)]
    before = {"destinations": group, "routes": routes("flowglad", "flexprice", timedelta(hours=2)), "meters": meters}
    async with house(before) as asking:  # the older one to Flowglad, the newer one to Flexprice
        await asking.send(sent)
        assert (1, 1) == (asking.calls["flowglad"], asking.calls["flexprice"])
    after = {"destinations": group, "routes": routes("flowglad", "flexprice", timedelta(hours=4)), "meters": meters}
    async with house(after) as asking:  # both are Flexprice's by now, and one has been billed
        done = await ended(asking, await begin(asking))
        assert {"billed_elsewhere": 1, "there_already": 1} == done["counts"]
        assert ["e1"] == [row.key for row in asking.vendors["flexprice"].stored]


@pytest.mark.parametrize(("mode", "fed"), [(None, {"billed_elsewhere": 1}), ("off", {"fed": 1})])
async def test_what_a_destination_has_billed_that_is_gone_or_renamed_is_not_billed_again(
    house: House, mode: str | None, fed: dict[str, int]
) -> None:
    async with house() as asking:
        await asking.send(event("e1"))
    renamed = {"provider": "wingback", "rate": "none", "settings": {"api_key": "secret"}}
    changes: dict[str, Any] = {"destinations": {"wingback": {"mode": "off"}, "renamed": renamed}}
    changes |= {"customers": {"acme": {"renamed": {"customer_id": CONTRACT}}}}
    changes |= {"meters": {"api_calls": {"bindings": {"renamed": {"feature_slug": "API_CALLS"}}}}}
    if mode is None:
        changes["destinations"]["wingback"] = None
        changes["customers"]["acme"]["wingback"] = None
        changes["meters"]["api_calls"]["bindings"]["wingback"] = None
    async with house(changes) as asking:
        done = await ended(asking, await begin(asking, to="renamed"))
        assert fed == done["counts"]
        await asking.settled("e1")
        assert (1 if mode is None else 2) == len(asking.vendors["wingback"].stored)
        if mode is None:
            assert "wingback has billed it, or may have" in done["problems"][0]["why"]


@pytest.mark.parametrize(
    ("to", "unproven", "counts", "billed"),
    [
        ("wingback", "skip", {"unproven": 1, "fed": 1}, ["h1", "h2"]),
        ("wingback", "send", {"fed": 2}, ["h1", "h1", "h2"]),
        ("flowglad", "skip", {"fed": 2}, ["h1", "h2"]),
    ],
)
async def test_what_may_have_been_sent_before_its_id_was_forgotten_is_not_sent_again(
    house: House, clock: MovableClock, to: str, unproven: str, counts: dict[str, int], billed: list[str]
) -> None:
    short = {"retention": {"events": "1d", "ids": "2d", "trim": "always"}}
    async with house(short) as asking:
        one = past(clock, "h1")
        await fed(asking, await begin(asking, to=to, source="file", digest="d1"), 0, one, last=True)
        await asking.settled("h1")
        await asking.send(event("newest"))
        clock.ahead += timedelta(days=4)
        while await asking.gateway.ledger.find("default", "h1") is not None:
            await asking.gateway.keeper.step()
        job = await begin(asking, to=to, source="file", digest="d2", unproven=unproven)
        answer = await fed(asking, job, 0, one, past(clock, "h2", days=1), last=True)
        assert counts == answer.json()["counts"]
        await asking.settled("h2")
        assert billed == sorted(row.key for row in asking.vendors[to].stored if row.key != "newest")
        if "unproven" in counts:  # the same file, once somebody has looked
            job = await begin(asking, to=to, source="file", digest="d2", unproven="send")
            answer = await fed(asking, job, 0, one, past(clock, "h2", days=1), last=True)
            assert 1 == answer.json()["counts"]["fed"]


async def test_what_was_corrected_is_filled_in_as_it_is_by_now(house: House, clock: MovableClock) -> None:
    when = (clock.now() - timedelta(hours=1)).isoformat()
    async with house(NO_FLEXPRICE) as asking:
        await asking.send(
            [event(event_id, timestamp=when, quantity=4) for event_id in ("kept", "void", "more", "less")]
        )
        for path, asked in (("void/void", {}), ("more/correct", {"quantity": 9}), ("less/correct", {"quantity": 1})):
            answer = await asking.client.post(f"/v1/events/{path}", json={**asked, **REASON})
            assert answer.is_success, answer.text
    async with house() as asking:
        assert "done" == (await ended(asking, await begin(asking)))["state"]
        for event_id in ("kept", "void", "more", "less"):
            await asking.settled(event_id)
        for correction in [one["id"] for one in (await asking.get("/v1/events"))["data"] if "~c" in one["id"]]:
            await asking.settled(correction)
        assert {("acme", "api_call"): 4 + 0 + 9 + 1} == asking.vendors["flexprice"].billed()
