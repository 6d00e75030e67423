"""Routes through the whole house: who is sent what, what the caller hears, and what stays as it was recorded."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.gateway.conftest import Asking, House, event

NOW = datetime.now(UTC)
CUT = NOW - timedelta(hours=1)
BEFORE, AFTER = CUT - timedelta(minutes=1), CUT
METER: dict[str, Any] = {
    "api_calls": None,
    "jobs": None,
    "logins": None,
    "llm_call": None,
    "calls": {"bindings": {"flexprice": {}, "paygentic": {"billable_metric_id": "bm_calls"}}},
}
GROUP: dict[str, Any] = {
    "destinations": {"flexprice": {"group": "g"}, "paygentic": {"group": "g"}, "flowglad": None, "wingback": None},
    "meters": METER,
    "customers": {"acme": {"flowglad": None, "wingback": None}},
}
OLD, NEW = {"destination": "flexprice"}, {"destination": "paygentic"}
HANDOVER = [{**OLD, "until": CUT.isoformat()}, {**NEW, "from": CUT.isoformat()}]


def used(event_id: str, when: datetime, **members: object) -> dict[str, Any]:
    return event(event_id, meter="calls", timestamp=when.isoformat(), **members)


def sent(asking: Asking) -> dict[str, list[str]]:
    keys = {"flexprice": "event_id", "paygentic": "idempotencyKey"}
    return {
        name: sorted(str(row[key]) for call in asking.vendors[name].calls for row in call.rows)
        for name, key in keys.items()
    }


async def test_each_event_is_billed_by_the_one_of_its_own_time(house: House) -> None:
    async with house({**GROUP, "routes": HANDOVER}) as asking:
        result = await asking.send([used("new", AFTER), used("late", BEFORE), used("now", NOW)])
        assert 3 == result["summary"]["delivered"]
        assert {"flexprice": ["late"], "paygentic": ["new", "now"]} == sent(asking)
        told = await asking.get("/v1/events/late")
        assert {"flexprice": ("accepted", None), "paygentic": ("filtered", "route")} == {
            name: (one["status"], one.get("reason")) for name, one in told["deliveries"].items()
        }


async def test_shadow_before_and_live_after_in_one_request(house: House) -> None:
    shadow = [{**NEW, "until": CUT.isoformat(), "mode": "shadow"}, {**OLD, "from": CUT.isoformat(), "mode": "shadow"}]
    async with house({**GROUP, "routes": [*HANDOVER, *shadow]}) as asking:
        result = await asking.send([used("a1", AFTER), used("b1", BEFORE), used("a2", AFTER), used("b2", BEFORE)])
        assert ["a1", "b1", "a2", "b2"] == [one.get("id") for one in result["results"]]
        assert 4 == result["summary"]["delivered"]
        for event_id, shadowed in (("a1", "flexprice"), ("b1", "paygentic")):
            await asking.settled(event_id)
            found = (await asking.get(f"/v1/events/{event_id}"))["deliveries"]
            assert {shadowed} == {name for name, one in found.items() if one.get("shadow")}
        again = await asking.send([used("a1", AFTER), used("b1", BEFORE)])
        assert [True, True] == [one["replayed"] for one in again["results"]]


async def test_other_routes_do_not_reroute_what_is_recorded(house: House) -> None:
    async with house({**GROUP, "routes": HANDOVER}) as asking:
        await asking.send([used("e1", BEFORE)])
    back = [{**OLD, "mode": "off"}, {**NEW}]
    async with house({**GROUP, "routes": back}) as asking:
        told = await asking.one(used("e1", BEFORE))
        assert (True, "accepted", "filtered") == (
            told["replayed"],
            told["deliveries"]["flexprice"]["status"],
            told["deliveries"]["paygentic"]["status"],
        )
        await asking.send([used("e2", BEFORE)])
        assert {"flexprice": ["e1"], "paygentic": ["e2"]} == sent(asking)


async def test_an_event_without_a_way_goes_on_when_a_route_gives_it_one(house: House) -> None:
    ungrouped = {**GROUP, "destinations": {"paygentic": None, "flowglad": None, "wingback": None}}
    ungrouped["meters"] = {**METER, "calls": {"bindings": {"flexprice": {}}}}
    ungrouped["customers"] = None
    async with house({**ungrouped, "routes": [{**OLD, "from": CUT.isoformat()}]}) as asking:
        assert "unrouted" == (await asking.one(used("e1", BEFORE)))["status"]
        assert "delivered" == (await asking.one(used("e2", AFTER)))["status"]
    async with house({**ungrouped, "routes": [OLD]}) as asking:
        await asking.routed("e1")
        assert "delivered" == (await asking.get("/v1/events/e1"))["status"]
