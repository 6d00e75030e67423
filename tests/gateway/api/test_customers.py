"""Links put while the gateway runs: they win over the configuration's, are audited, and let go what waited for them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.gateway.conftest import CONTRACT, Asking, House, event
from tests.waiting import until

ACME = "/v1/customers/acme"
OTHER = "Cust_0b8f3a44-3d0e-4f0e-9a53-5b1f4f7a2c11"
KEYS = {
    "auth": {
        "keys": [
            {
                "name": "ops",
                "sha256": "8c6976e5b5410415bde908bd4dee15dfb167a9c873fc4bb8a81f6f2ab448a918",
                "scopes": ["admin"],
            },
            {
                "name": "blue",
                "tenant": "blue",
                "sha256": "16477688c0e00699c6cfa4497a3612d7e83c532062b64b250fed8908128ed548",
                "scopes": ["admin"],
            },
            {
                "name": "sender",
                "sha256": "0a367b92cf0b037dfd89960ee832d56f7fc151681bb41e53690e776f5786998a",
                "scopes": ["events:write", "events:read"],
            },
        ]
    }
}


async def put(asking: Asking, customer: str, links: Any, status: int = 200, **headers: str) -> dict[str, Any]:
    answer = await asking.client.put(f"/v1/customers/{customer}", json={"links": links}, headers=headers)
    assert status == answer.status_code, answer.text
    return answer.json()


async def test_the_configurations_links_are_shown_until_one_is_put(asking: Asking) -> None:
    seeds = {
        "flowglad": [{"subscription_id": "sub_acme"}],
        "paygentic": [{"customer_id": "cus_acme"}],
        "wingback": [{"customer_id": CONTRACT}],
    }
    configured = dict.fromkeys(seeds, "configuration")
    assert {"id": "acme", "links": seeds, "sources": configured} == await asking.get(ACME)
    made = await put(asking, "acme", {"flowglad": {"subscription_id": "sub_new"}})
    assert {**seeds, "flowglad": [{"subscription_id": "sub_new"}]} == made["links"]
    assert {**configured, "flowglad": "api"} == made["sources"]
    assert made == await asking.get(ACME)


async def test_a_link_that_was_put_wins_and_is_what_is_sent(asking: Asking) -> None:
    await asking.send(event())
    await put(asking, "acme", {"flowglad": {"subscription_id": "sub_new"}})
    await asking.send(event("e2"))
    rows = [dict(row) for call in asking.vendors["flowglad"].calls for row in call.rows]
    assert ["sub_acme", "sub_new"] == [row["subscriptionId"] for row in rows]


async def test_a_removed_link_leaves_the_seed_and_what_was_sent(asking: Asking) -> None:
    await put(asking, "acme", {"flowglad": {"subscription_id": "sub_new"}})
    await asking.send(event())
    answer = await asking.client.delete(ACME)
    assert (200, "sub_acme") == (answer.status_code, answer.json()["links"]["flowglad"][0]["subscription_id"])
    await asking.send(event("e2"))
    rows = [dict(row) for call in asking.vendors["flowglad"].calls for row in call.rows]
    assert ["sub_new", "sub_acme"] == [row["subscriptionId"] for row in rows]
    assert "accepted" == (await asking.get("/v1/events/e1"))["deliveries"]["flowglad"]["status"]
    assert 404 == (await asking.client.delete(ACME)).status_code
    for reason in ("", "x" * 501):
        answer = await asking.client.delete(ACME, params={"reason": reason})
        assert (400, "reason: must be 1 to 500 characters") == (answer.status_code, answer.json()["detail"])


async def test_one_destinations_link_is_removed_alone(asking: Asking) -> None:
    await put(asking, "globex", {"flowglad": {"subscription_id": "s"}, "paygentic": {"customer_id": "cus_c"}})
    assert 404 == (await asking.client.delete("/v1/customers/globex?destination=wingback")).status_code
    answer = await asking.client.delete("/v1/customers/globex?destination=flowglad")
    assert {"paygentic": [{"customer_id": "cus_c"}]} == answer.json()["links"]


async def test_links_outlive_the_process(house: House) -> None:
    async with house() as asking:
        await put(asking, "globex", {"flowglad": {"subscription_id": "sub_globex"}})
    async with house() as asking:
        assert "sub_globex" == (await asking.get("/v1/customers/globex"))["links"]["flowglad"][0]["subscription_id"]
        await asking.send(event(customer="globex"), query="?ack=stored")
        await asking.settled("e1")
        assert "accepted" == (await asking.get("/v1/events/e1"))["deliveries"]["flowglad"]["status"]


@pytest.mark.parametrize("customer", ["a/b", "a%2Fb", "ümlaut", "a b", "x/erase/y", "100%25"])
async def test_a_customer_may_be_any_text(asking: Asking, customer: str) -> None:
    made = await put(asking, customer, {"flowglad": {"subscription_id": "s"}})
    assert made == await asking.get(f"/v1/customers/{customer}")
    assert made["id"] in [one["id"] for one in (await asking.get("/v1/customers"))["data"]]


async def test_what_is_shown_can_be_put_again(asking: Asking) -> None:
    await put(asking, "acme", {"flowglad": {"subscription_id": "sub_new"}})
    shown = await asking.get(ACME)
    answer = await asking.client.put(ACME, json=shown)
    assert (200, shown) == (answer.status_code, answer.json())


async def test_rows_hold_by_subscription_and_by_the_events_own_time(asking: Asking) -> None:
    now = datetime.now(UTC)
    rows = [
        {"customer_id": CONTRACT, "until": now.isoformat()},
        {"customer_id": OTHER, "from": now.isoformat()},
        {"customer_id": CONTRACT, "subscription": "eu"},
    ]
    await put(asking, "globex", {"wingback": rows})
    hour = timedelta(hours=1)
    for name, when, subscription in (("old", now - hour, None), ("new", now, None), ("eu", now, "eu")):
        sent = event(name, customer="globex", timestamp=when.isoformat(), subscription=subscription)
        await asking.one(sent, query="?ack=stored")
        await asking.settled(name)
    named = {row["metadata"]["gateway_event_id"]: row["customer_id"] for row in _sent(asking, "wingback")}
    assert {"old": CONTRACT, "new": OTHER, "eu": CONTRACT} == named


def _sent(asking: Asking, vendor: str) -> list[Any]:
    return [json.loads(json.dumps(dict(row))) for call in asking.vendors[vendor].calls for row in call.rows]


@pytest.mark.parametrize(
    ("links", "says"),
    [
        (
            {"wingback": [{"customer_id": CONTRACT}, {"customer_id": OTHER, "from": "2026-12-01T00:00:00Z"}]},
            "wingback[1]: holds at the same time as row 0, for the same subscription",
        ),
        ({"flowglat": {"subscription_id": "s"}}, "flowglat: unknown destination; did you mean flowglad?"),
        ({"flowglad": {"customer_id": "secret-value"}}, "flowglad.customer_id: unknown key; known are"),
        ({"flowglad": {}}, "flowglad: give subscription_id"),
        ({"flowglad": []}, "flowglad: should not be empty"),
        ({"flowglad": {"subscription_id": "s", "from": "soon"}}, "flowglad.from: should be a time with a zone"),
    ],
)
async def test_what_does_not_fit_is_refused_by_its_place_and_nothing_is_kept(
    asking: Asking, links: dict[str, Any], says: str
) -> None:
    problem = await put(asking, "globex", links, 400)
    assert says in problem["detail"]
    assert "secret-value" not in problem["detail"]
    assert 404 == (await asking.client.get("/v1/customers/globex")).status_code


async def test_other_bodies_and_filters_are_refused_by_name(asking: Asking) -> None:
    for body in ({}, {"links": {}, "x": 1}, {"links": 3}, {"id": "other", "links": {}}):
        assert 400 == (await asking.client.put(ACME, json=body)).status_code
    for query in ("limit=0", "limit=x", "limit=00000010011", "what=1", "missing=nowhere"):
        assert 400 == (await asking.client.get(f"/v1/customers?{query}")).status_code


# Going on.


async def test_a_blocked_delivery_goes_on_by_itself_once_the_link_exists(asking: Asking) -> None:
    sent = await asking.one(event(customer="globex"))
    assert {"blocked"} == {sent["deliveries"][name]["status"] for name in ("flowglad", "paygentic", "wingback")}
    await put(asking, "globex", {"flowglad": {"subscription_id": "sub_globex"}})
    await asking.settled("e1")

    async def accepted() -> Any:
        deliveries = (await asking.get("/v1/events/e1"))["deliveries"]
        return deliveries["flowglad"]["status"] == "accepted" and deliveries

    found = await until(accepted, "it is not let go")
    assert {"flowglad": "accepted", "paygentic": "blocked", "wingback": "blocked", "flexprice": "accepted"} == {
        name: one["status"] for name, one in found.items()
    }


async def test_other_tenants_links_are_their_own(house: House) -> None:
    ops, blue = {"authorization": "Bearer admin"}, {"authorization": "Bearer blue"}
    async with house(KEYS) as asking:
        await put(asking, "acme", {"flowglad": {"subscription_id": "sub_blue"}}, 200, **blue)
        assert "sub_acme" == (await asking.get(ACME, **ops))["links"]["flowglad"][0]["subscription_id"]
        assert {"flowglad": [{"subscription_id": "sub_blue"}]} == (await asking.get(ACME, **blue))["links"]
        assert ["acme"] == [one["id"] for one in (await asking.get("/v1/customers", **blue))["data"]]
        await asking.send(event(), query="?ack=stored", authorization="Bearer blue")
        for _ in range(500):
            if asking.vendors["flowglad"].calls:
                break
            await asking.get("/v1/customers", **blue)
        assert ["sub_blue"] == [row["subscriptionId"] for row in _sent(asking, "flowglad")]


async def test_only_an_admin_changes_links(house: House) -> None:
    sender = {"authorization": "Bearer sender"}
    async with house(KEYS) as asking:
        assert 200 == (await asking.client.get(ACME, headers=sender)).status_code
        assert 403 == (await asking.client.put(ACME, json={"links": {}}, headers=sender)).status_code
        assert 403 == (await asking.client.delete(ACME, headers=sender)).status_code
        assert 401 == (await asking.client.get("/v1/customers")).status_code


async def test_who_changed_what_is_audited_before_and_after(asking: Asking) -> None:
    await put(asking, "globex", {"flowglad": {"subscription_id": "one"}})
    await put(asking, "globex", {"flowglad": {"subscription_id": "two"}})
    await put(asking, "globex", {"flowglad": {"subscription_id": "two"}})
    await asking.client.delete("/v1/customers/globex?reason=left")
    rows = (await asking.get("/v1/audit"))["data"]
    one, two = (
        json.dumps({"flowglad": [{"subscription_id": number}]}, separators=(",", ":")) for number in ("one", "two")
    )
    assert [
        ("unlink", "left", two, None),
        ("link", "put by the API", one, two),
        ("link", "put by the API", None, one),
    ] == [(row["action"], row["reason"], row.get("before"), row.get("after")) for row in rows]
    assert {("anonymous", "globex")} == {(row["actor"], row["target"]) for row in rows}


# Many.


async def test_customers_are_listed_by_id_and_by_what_they_lack(asking: Asking) -> None:
    many = [{"id": f"c{index:03}", "links": {"flowglad": {"subscription_id": f"s{index}"}}} for index in range(250)]
    many[7]["links"] = {"paygentic": {"customer_id": "cus_x"}}
    answer = await asking.client.post("/v1/customers", json={"customers": many})
    assert {"customers": 250, "changed": 250} == answer.json()
    seen: list[str] = []
    query = "?limit=60"
    while query:
        page = await asking.get(f"/v1/customers{query}")
        seen += [one["id"] for one in page["data"]]
        query = f"?limit=60&cursor={page['next_cursor']}" if "next_cursor" in page else ""
    assert ["acme", *(f"c{index:03}" for index in range(250))] == seen
    assert ["c007"] == [one["id"] for one in (await asking.get("/v1/customers?missing=flowglad"))["data"]]
    assert ["acme", "c007"] == [one["id"] for one in (await asking.get("/v1/customers?destination=paygentic"))["data"]]
    assert ["acme"] == [one["id"] for one in (await asking.get("/v1/customers?source=configuration"))["data"]]


async def test_many_are_put_together_or_none_and_leave_other_destinations_alone(asking: Asking) -> None:
    await put(asking, "globex", {"flowglad": {"subscription_id": "s"}})
    good = {"id": "globex", "links": {"paygentic": {"customer_id": "cus_c"}}}
    bad = {"id": "initech", "links": {"wingback": {"customer_id": "not-one"}}}
    answer = await asking.client.post("/v1/customers", json={"customers": [good, bad]})
    assert 400 == answer.status_code
    assert "customers[1].wingback.customer_id: " in answer.json()["detail"]
    assert ["flowglad"] == list((await asking.get("/v1/customers/globex"))["links"])
    assert 200 == (await asking.client.post("/v1/customers", json={"customers": [good]})).status_code
    assert ["flowglad", "paygentic"] == list((await asking.get("/v1/customers/globex"))["links"])


async def test_explaining_shows_a_link_that_was_put(asking: Asking) -> None:
    await put(asking, "globex", {"flowglad": {"subscription_id": "sub_globex"}})
    answer = await asking.client.post("/v1/explain", json=event(customer="globex"))
    assert "sub_globex" in json.dumps(answer.json()["results"][0]["deliveries"]["flowglad"]["request"]["body"])
