"""Who may do what: bearer keys, scopes, tenants; and without keys, loopback alone."""

import pytest

from gateway.configuration.file import loads
from gateway.configuration.keys import sha256
from gateway.errors import ConfigurationError
from tests.gateway.conftest import House, configured, event

WRITE, READ, ADMIN = (f"ugw_{name}_{'x' * 40}" for name in ("write", "read", "admin"))
KEYS = {
    "auth": {
        "keys": [
            {"name": "writer", "sha256": sha256(WRITE), "scopes": ["events:write"]},
            {"name": "reader", "sha256": sha256(READ), "scopes": ["events:read"]},
            {"name": "admin", "sha256": sha256(ADMIN), "scopes": ["admin"]},
        ]
    }
}


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", WRITE, f"Basic {WRITE}", f"Bearer {WRITE}x", f"Bearer {WRITE[:-1]}", "Bearer é"],
)
@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/e1", "/v1/destinations"])
async def test_without_a_known_key_it_is_401(house: House, authorization: str | None, path: str) -> None:
    async with house(KEYS, running=False) as asking:
        headers = {} if authorization is None else {b"authorization": authorization.encode("latin-1")}
        answer = await asking.client.get(path, headers=headers)
        assert (401, "unauthorized") == (answer.status_code, answer.json()["code"])
        assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert WRITE not in answer.text


@pytest.mark.parametrize(
    ("key", "method", "path", "status"),
    [
        (WRITE, "POST", "/v1/events?ack=stored", 202),
        (READ, "POST", "/v1/events?ack=stored", 403),
        (ADMIN, "POST", "/v1/events?ack=stored", 202),
        (WRITE, "GET", "/v1/events", 403),
        (READ, "GET", "/v1/events", 200),
        (WRITE, "GET", "/v1/events/e1", 403),
        (READ, "GET", "/v1/events/e1", 404),
        (WRITE, "POST", "/v1/explain", 403),
        (READ, "POST", "/v1/explain", 200),
        (WRITE, "GET", "/v1/destinations", 403),
        (READ, "GET", "/v1/destinations/wingback", 200),
        (READ, "POST", "/v1/deliveries/retry", 403),
    ],
)
async def test_a_key_may_do_what_its_scopes_say(house: House, key: str, method: str, path: str, status: int) -> None:
    async with house(KEYS, running=False) as asking:
        body = event() if method == "POST" else None
        answer = await asking.client.request(method, path, json=body, headers={"authorization": f"bearer  {key}"})
        assert status == answer.status_code
        if status == 403:
            assert ("forbidden", True) == (answer.json()["code"], "lacks the scope" in answer.json()["detail"])


async def test_a_refused_request_stores_nothing(house: House) -> None:
    async with house(KEYS, running=False) as asking:
        for headers in ({}, {"authorization": f"Bearer {READ}"}):
            await asking.client.post("/v1/events", json=event(), headers=headers)
        assert {"data": []} == await asking.get("/v1/events", authorization=f"Bearer {READ}")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/version"])
async def test_operations_need_no_key(house: House, path: str) -> None:
    async with house(KEYS, running=False) as asking:
        assert 200 == (await asking.client.get(path)).status_code


async def test_one_id_of_two_tenants_is_two_events_under_two_keys_at_the_vendor(house: House) -> None:
    other = {"name": "red", "sha256": sha256("ugw_red"), "tenant": "red", "scopes": ["events:write", "events:read"]}
    async with house({"auth": {"keys": [*KEYS["auth"]["keys"], other]}}) as asking:
        for key in (WRITE, "ugw_red"):
            result = await asking.one(event(meter="jobs"), authorization=f"Bearer {key}")
            assert ("delivered", False) == (result["status"], result["replayed"])
        assert 2 == len({row.key for row in asking.vendors["flexprice"].stored})


async def test_a_destination_of_one_tenant_gets_nothing_of_another(house: House) -> None:
    other = {"name": "red", "sha256": sha256("ugw_red"), "tenant": "red", "scopes": ["admin"]}
    changes = {"auth": {"keys": [other]}, "destinations": {"flexprice": {"tenants": ["default"]}}}
    async with house(changes) as asking:
        result = await asking.one(event(meter="jobs"), authorization="Bearer ugw_red")
        assert ("unrouted", None) == (result["status"], result["deliveries"].get("flexprice"))
        assert 0 == asking.calls["flexprice"]


@pytest.mark.parametrize("path", ["/v1/preflights", "/v1/backfills"])
async def test_nothing_of_another_tenant_is_said_to_fit_a_destination_or_filled_in_there(
    house: House, path: str
) -> None:
    other = {"name": "red", "sha256": sha256("ugw_red"), "tenant": "red", "scopes": ["admin"]}
    changes = {"auth": {"keys": [other]}, "destinations": {"flexprice": {"tenants": ["default"]}}}
    more = {"source": "ledger", "reason": "we move"} if path == "/v1/backfills" else {}
    async with house(changes, running=False) as asking:
        headers = {"authorization": "Bearer ugw_red"}
        await asking.client.post("/v1/events?ack=stored", json=event(), headers=headers)
        answer = await asking.client.post(path, json={"to": "flexprice", **more}, headers=headers)
        assert 400 == answer.status_code, answer.text
        assert "to: 'flexprice' takes no events of tenant red" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_without_a_key_only_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(ConfigurationError, match="no key is configured"):
        loads(configured({"listen": {"host": host}}), {})
    assert host == loads(configured({"listen": {"host": host}, **KEYS}), {}).listen.host
