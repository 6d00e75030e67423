"""Closing a month: complete or not and why, an immutable report, late usage, and nobody billed twice."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canonical_schema import ErrorCode
from gateway.cli import main
from gateway.configuration.keys import sha256
from gateway.ledger import Plan
from gateway.periods import period_of
from tests.gateway.conftest import Asking, House, MovableClock, event
from tests.gateway.ledger.conftest import event as stored_event
from tests.gateway.moving.test_backfill import begin, fed

ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia"])
REASON = {"reason": "month end"}


@given(ZONES, st.integers(0, 3 * 365 * 24 * 60))
def test_every_instant_is_in_one_month_of_a_zone(zone: str, minutes: int) -> None:
    when = datetime(2024, 1, 2, tzinfo=UTC) + timedelta(minutes=minutes)
    around = [when + timedelta(days=days) for days in (-20, 0, 20)]
    months = {f"{one:%Y-%m}" for one in around}
    assert 1 == sum(period_of(month, zone).holds(when) for month in months)


@pytest.mark.parametrize(
    ("month", "zone"),
    [("2026-13", "UTC"), ("2026", "UTC"), ("26-11", "UTC"), ("2026-11", "Berlin"), ("2026-11", "../etc/passwd")],
)
async def test_what_is_no_month_or_no_zone_is_refused(asking: Asking, month: str, zone: str) -> None:
    answer = await asking.client.get(f"/v1/periods/{month}?timezone={zone}")
    assert (400, "invalid_request") == (answer.status_code, answer.json()["code"])


async def test_a_zone_under_another_name_is_refused_and_not_taken_for_utc(asking: Asking) -> None:
    answer = await asking.client.get("/v1/periods/2026-11?time_zone=Europe/Berlin")
    assert (400, "unknown parameter 'time_zone': there is timezone") == (answer.status_code, answer.json()["detail"])


class Month:
    """The month before the clock's, which is over; events of it are sent while it is recent enough."""

    def __init__(self, clock: MovableClock) -> None:
        now = clock.now()
        clock.ahead = datetime(now.year + 1, 3, 2, 12, tzinfo=UTC) - now
        self.clock = clock
        self.name = f"{now.year + 1}-02"
        self.last = datetime(now.year + 1, 2, 28, 23, tzinfo=UTC)
        self.next = datetime(now.year + 1, 3, 1, tzinfo=UTC)

    def event(self, event_id: str, when: datetime | None = None, **members: Any) -> dict[str, Any]:
        return event(event_id, timestamp=(when or self.last).isoformat(), **members)


@pytest.fixture
def month(clock: MovableClock) -> Month:
    return Month(clock)


async def close(asking: Asking, month: Month, **asked: Any) -> dict[str, Any]:
    answer = await asking.client.post(f"/v1/periods/{month.name}/close", json={**REASON, **asked})
    assert 200 == answer.status_code, answer.text
    return answer.json()


async def test_what_is_trimmed_of_a_month_is_told_with_its_figures(house: House, month: Month) -> None:
    async with house({"retention": {"events": "5d", "trim": "always"}}) as asking:
        await asking.send(month.event("e1"))
        assert 0 == (await asking.get(f"/v1/periods/{month.name}"))["trimmed_batches"]
        month.clock.ahead += timedelta(days=6)
        await asking.send(event("e2"))
        await asking.gateway.keeper.step()
        report = await asking.get(f"/v1/periods/{month.name}")
        assert ([], 1) == (report["settled"], report["trimmed_batches"])
        assert 1 == (await close(asking, month))["trimmed_batches"]


async def test_a_month_that_is_settled_is_closed_and_its_report_never_changes(asking: Asking, month: Month) -> None:
    await asking.send([month.event("e1", quantity=3), month.event("e2", quantity=4), month.event("e3", month.next)])
    report = await close(asking, month)
    assert (True, True) == (report["complete"], report["closed"])
    counted = {(one["destination"], one["status"]): (one["events"], one["quantities"]) for one in report["settled"]}
    assert (2, {"quantity": "7"}) == counted["flexprice", "accepted"]
    assert 8 == sum(events for events, _ in counted.values()), "what counts in March is not February's"
    await asking.send(month.event("late", quantity=1))
    assert report == await close(asking, month)
    assert report == await asking.get(f"/v1/periods/{month.name}")
    (row,) = [row for row in (await asking.get("/v1/audit"))["data"] if row["action"] == "close"]
    assert ("month end", "complete") == (row["reason"], row["after"])
    other = await asking.get(f"/v1/periods/{month.name}?timezone=Asia/Kathmandu")
    assert other["closed"] is False, "another zone's February is another period"


async def test_what_is_open_is_told_by_customer_and_meter_and_keeps_the_month_open(
    asking: Asking, month: Month
) -> None:
    asking.vendors["wingback"].fail("lost_answer")
    await asking.send(month.event("e1", quantity=2))
    await asking.send(month.event("e2", customer="stranger", meter="jobs", quantity="0.5"))
    await asking.send(month.event("e3", meter="unheard", quantity=9))
    await asking.send(month.event("e4", customer="stranger", quantity=1))
    report = await close(asking, month)
    assert (False, False) == (report["complete"], report["closed"])
    found = {(one["destination"], one["customer"], one["status"]): one["events"] for one in report["open"]}
    assert {
        ("wingback", "acme", "unknown"): 1,
        ("wingback", "stranger", "blocked"): 1,
        ("flowglad", "stranger", "blocked"): 1,
        ("paygentic", "stranger", "blocked"): 1,
    } == found
    assert [("unheard", 1)] == [(one["meter"], one["events"]) for one in report["unrouted"]]
    closed = await close(asking, month, accept_open=True)
    assert (False, True) == (closed["complete"], closed["closed"])


async def test_history_that_only_a_shadow_is_to_have_keeps_no_month_open(house: House, month: Month) -> None:
    async with house({"destinations": {"flexprice": {"mode": "shadow"}}}) as asking:
        await asking.send([month.event("e1"), month.event("e2", meter="jobs")])
        job = await begin(asking, source="file", digest="d1")
        await fed(asking, job, 0, month.event("h1"), last=True)
        await asking.settled("h1")
        report = await close(asking, month)
        assert (False, [("jobs", 1)]) == (
            report["complete"],
            [(one["meter"], one["events"]) for one in report["unrouted"]],
        )


async def test_a_month_that_is_not_over_is_not_closed(asking: Asking, clock: MovableClock) -> None:
    answer = await asking.client.post(f"/v1/periods/{clock.now():%Y-%m}/close", json=REASON)
    assert (409, "conflict") == (answer.status_code, answer.json()["code"])


async def test_late_usage_of_a_closed_month_is_held_where_an_operator_wants_it(house: House, month: Month) -> None:
    async with house({"destinations": {"flexprice": {"late": "hold"}}}) as asking:
        await close(asking, month)
        sent = await asking.one(month.event("late"))
        assert "blocked" == sent["deliveries"]["flexprice"]["status"]
        assert ErrorCode.OUTSIDE_TIME_WINDOW == sent["deliveries"]["flexprice"]["error"]["code"]
        assert "accepted" == sent["deliveries"]["flowglad"]["status"]
        assert "delivered" == (await asking.one(month.event("march", month.next)))["status"]
    async with house({"destinations": {"flexprice": {"late": "hold"}}}) as asking:  # a restart remembers
        assert "blocked" == (await asking.one(month.event("later")))["deliveries"]["flexprice"]["status"]
    async with house() as asking:
        for event_id in ("late", "later"):
            await asking.settled(event_id)
        assert {"march", "late", "later"} == {row.key for row in asking.vendors["flexprice"].stored}


async def test_late_usage_is_held_whether_or_not_its_tenant_has_a_key_by_now(house: House, month: Month) -> None:
    key = {"name": "red", "sha256": sha256("ugw_red"), "tenant": "red", "scopes": ["admin"]}
    hold = {"destinations": {"flexprice": {"late": "hold"}}}
    async with house({**hold, "auth": {"keys": [key]}}) as asking:
        asking.client.headers["authorization"] = "Bearer ugw_red"
        await close(asking, month)
        sent = await asking.one(month.event("late", meter="jobs"))
        assert "blocked" == sent["deliveries"]["flexprice"]["status"]
    async with house({**hold, "auth": {"keys": [{**key, "name": "blue", "tenant": "blue"}]}}) as asking:
        for _ in range(3):
            await asking.gateway.lanes["flexprice"].step()
        assert [] == asking.vendors["flexprice"].stored
    async with house({**hold, "auth": {"keys": [key]}}) as asking:
        asking.client.headers["authorization"] = "Bearer ugw_red"
        await asking.settled("late")
        assert "blocked" == (await asking.get("/v1/events/late"))["deliveries"]["flexprice"]["status"]


async def test_late_usage_stands_in_the_report(asking: Asking, month: Month) -> None:
    await asking.send(month.event("late", quantity=5))
    report = await asking.get(f"/v1/periods/{month.name}")
    assert {"flowglad", "paygentic", "flexprice", "wingback"} == {one["destination"] for one in report["late"]}
    assert {"5"} == {one["quantities"]["quantity"] for one in report["late"]}


async def test_an_event_that_two_of_a_group_bill_is_found(house: House, month: Month) -> None:
    group = {"group": "billing"}
    routes = [
        {"destination": "flowglad", "until": month.next.isoformat()},
        {"destination": "flexprice", "from": month.next.isoformat()},
    ]
    changes = {"destinations": {"flowglad": group, "flexprice": group}, "routes": routes, "meters": {"jobs": None}}
    async with house(changes) as asking:
        await asking.send([month.event("e1"), month.event("e2", month.next)])
        report = await asking.get(f"/v1/periods/{month.name}")
        assert (0, True) == (report["billed_twice_count"], report["complete"])
        # By construction it does not happen, so it is planted.
        now = asking.gateway.clock.now()
        planted = stored_event("twice", timestamp=month.last)
        plan = Plan(live=("flowglad", "flexprice"))
        await asking.gateway.ledger.record("default", int(now.timestamp() * 1e6), [planted], [plan])
        report = await close(asking, month, accept_open=True)
        assert [("twice", ["flexprice", "flowglad"])] == [
            (one["id"], one["destinations"]) for one in report["billed_twice"]
        ]
        assert report["closed"] is False, "that is not to be accepted"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the gateway says to the command."""
    said: dict[str, Any] = {
        "period": "2026-11",
        "timezone": "UTC",
        "to": "2026-12-01T00:00:00Z",
        "ended": True,
        "complete": True,
        "closed": False,
        **{name: [] for name in ("settled", "open", "unrouted", "billed_twice", "late")},
    }

    def request(method: str, url: str, **given: Any) -> httpx.Response:
        said.setdefault("asked", []).append((method, url.partition("/v1/")[2], given.get("json")))
        return httpx.Response(200, json={name: value for name, value in said.items() if name != "asked"})

    monkeypatch.setattr(httpx, "request", request)
    return said


def test_the_command_gates_on_what_is_open(answers: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["close", "--period", "2026-11", "--json"])
    assert json.loads(capsys.readouterr().out)["complete"] is True
    open_one = {"destination": "wingback", "customer": "acme", "meter": "api_calls", "status": "unknown", "events": 2}
    answers |= {"complete": False, "open": [open_one | {"quantities": {"quantity": "7"}}]}
    assert 3 == main(["close", "--period", "2026-11", "--reason", "month end"])
    assert "wingback api_calls: 2 unknown of acme, quantity 7" in capsys.readouterr().err
    looked, closed = answers["asked"]
    assert ("GET", "periods/2026-11?timezone=UTC", None) == looked
    assert ("POST", "periods/2026-11/close") == closed[:2]
