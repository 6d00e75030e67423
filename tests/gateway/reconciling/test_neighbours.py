"""What others report to the same place at a provider: it is nobody's difference, and none of it is shown."""

from datetime import timedelta
from typing import Any

import pytest

from gateway.configuration.keys import sha256
from tests.gateway.conftest import Asking, House, MovableClock
from tests.gateway.reconciling.test_planted import Day, reasons

pytestmark = pytest.mark.anyio

KEYS = {name: f"ugw_{name}_{'x' * 40}" for name in ("default", "eu")}
TENANTS: dict[str, Any] = {
    "auth": {"keys": [{"name": name, "sha256": sha256(key), "tenant": name, "scopes": ["admin", "events:write",
        "events:read"]} for name, key in KEYS.items()]}
}  # fmt: skip


@pytest.fixture
def day(clock: MovableClock) -> Day:
    return Day(clock)


def be(asking: Asking, tenant: str) -> None:
    asking.client.headers["authorization"] = f"Bearer {KEYS[tenant]}"


@pytest.mark.parametrize("name", ["flowglad", "paygentic", "flexprice"])
async def test_the_usage_of_another_tenant_is_no_difference(house: House, day: Day, name: str) -> None:
    links = {"flowglad": {"subscription_id": "sub_theirs"}, "paygentic": {"customer_id": "cus_theirs"}}
    async with house(TENANTS) as asking:
        be(asking, "eu")
        answer = await asking.client.put("/v1/customers/theirs", json={"links": links, "reason": "a tenant's own"})
        assert 200 == answer.status_code, answer.text
        await asking.send([day.event("e1", customer="theirs"), day.event("e2", customer="theirs", quantity=5)])
        answer = await asking.client.post("/v1/events/e2/correct", json={"quantity": 6, "reason": "we look"})
        be(asking, "default")
        await asking.send(day.event("e1"))
        day.later()
        for tenant, used in (("default", "3"), ("eu", "9")):
            be(asking, tenant)
            report = await day.reconcile(asking, destinations=[name], meter="api_calls")
            assert {} == reasons(report, name)
            (figure,) = report["comparisons"][0]["figures"]
            assert (used, used) == (figure["left"], figure["right"])
            assert ("theirs" in str(report)) == (tenant == "eu")


async def test_a_destination_of_one_tenant_is_read_for_no_other(house: House, day: Day) -> None:
    async with house({**TENANTS, "destinations": {"flexprice": {"tenants": ["default"]}}}) as asking:
        be(asking, "default")
        await asking.send(day.event("e1", customer="ours"))
        day.later()
        be(asking, "eu")
        window = {"from": day.start.isoformat(), "to": day.end.isoformat()}
        query = {**window, "customer": "ours", "meter": "api_calls", "destination": "flexprice"}
        for answer in (
            await asking.client.post("/v1/reconciliations", json={**window, "destinations": ["flexprice"]}),
            await asking.client.post(
                "/v1/reconciliations", json={**window, "destinations": ["flowglad"], "against": "flexprice"}
            ),
            await asking.client.get("/v1/usage", params=query),
        ):
            assert (400, "destination: 'flexprice' takes no events of tenant eu") == (
                answer.status_code,
                answer.json().get("detail"),
            )


def tokens(place: str, **others: Any) -> dict[str, Any]:
    return {"bindings": {"flexprice": {"event_name": "tokens", "quantity_property": place}, **others}}


FEATURE = {"feature_slug": "TOKENS"}
SHARING = {
    "meters": {
        "asked": tokens("asked", wingback=FEATURE),
        "told": tokens("told", wingback=FEATURE),
        "again": tokens("told"),
    }
}


async def test_meters_that_are_one_event_there_are_told_apart_one_by_one(house: House, day: Day) -> None:
    async with house(SHARING) as asking:
        sent = {"asked": 3, "told": 4, "again": 5}
        await asking.send([day.event(f"e-{meter}", meter=meter, quantity=many) for meter, many in sent.items()])
        day.later()
        for meter, many in sent.items():
            report = await day.reconcile(asking, destinations=["flexprice"], meter=meter)
            assert {} == reasons(report, "flexprice"), meter
            (figure,) = report["comparisons"][0]["figures"]
            assert (str(many), str(many)) == (figure["left"], figure["right"])


@pytest.mark.parametrize("name", ["flowglad", "paygentic"])
async def test_a_customer_that_shares_a_name_there_is_told_from_the_other(house: House, day: Day, name: str) -> None:
    links = {"flowglad": {"subscription_id": "sub_acme"}, "paygentic": {"customer_id": "cus_acme"}}
    async with house({"customers": {"beta": links}}) as asking:
        await asking.send([day.event("e1"), day.event("e2", customer="beta", quantity=5)])
        day.later()
        for customer, used in (("acme", "3"), ("beta", "5")):
            read = await day.usage(asking, customer=customer, meter="api_calls", destination=name)
            (figure,) = read[name]["figures"]
            assert (used, []) == (figure["provider"], figure["reasons"])


async def test_a_counter_that_meters_share_tells_of_none_of_them(house: House, clock: MovableClock, day: Day) -> None:
    async with house(SHARING) as asking:
        await asking.send([day.event("e1", clock.now(), meter="asked"), day.event("e2", clock.now(), meter="told")])
        start = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        window = {"from": start.isoformat(), "to": (start + timedelta(days=32)).replace(day=1).isoformat()}
        report = await day.reconcile(asking, destinations=["wingback"], meter="asked", **window)
        (figure,) = report["comparisons"][0]["figures"]
        assert (0, False, "unsupported") == (report["unexplained"], report["complete"], figure["unread"]["kind"])


@pytest.mark.parametrize("key", ["secret-flexprice", "another"])
async def test_what_another_destination_put_into_the_same_account_is_no_strangers(
    house: House, day: Day, key: str
) -> None:
    then = (day.inside - timedelta(hours=1)).isoformat()
    changes: dict[str, Any] = {
        "destinations": {"after": {"provider": "flexprice", "rate": "none", "settings": {"api_key": key}}},
        "meters": {"api_calls": {"bindings": {"after": {"event_name": "api_call"}}}},
        "routes": [{"destination": "flexprice", "until": then}, {"destination": "after", "from": then}],
    }
    async with house(changes) as asking:
        before = day.event("before", day.inside - timedelta(hours=2), quantity=4)
        await asking.send([before, day.event("e2")], query="?ack=all")
        day.later()
        for name, left, other in (("flexprice", "4", ("3", ["e2"])), ("after", "3", ("4", ["before"]))):
            report = await day.reconcile(asking, destinations=[name], meter="api_calls")
            assert left == report["comparisons"][0]["figures"][0]["left"]
            assert ({("acme", "only_there"): other} if key == "another" else {}) == reasons(report, name)
