"""Listing: what is asked for, every event once over all pages, whatever arrives meanwhile."""

from datetime import timedelta
from typing import Any

import pytest

from gateway import listing
from gateway.configuration.keys import sha256
from tests.gateway.conftest import Asking, House, MovableClock, event

QUIET = {"delivery": {"retry": {"first": "1h", "max": "1h"}}}


async def pages(asking: Asking, query: str = "", **headers: str) -> list[list[str]]:
    """Return the ids of every page, until no cursor is given."""
    found: list[list[str]] = []
    cursor = ""
    for _ in range(50):
        page: dict[str, Any] = await asking.get(f"/v1/events?{query}{cursor}", **headers)
        found.append([one["id"] for one in page["data"]])
        if "next_cursor" not in page:
            return found
        cursor = f"&cursor={page['next_cursor']}"
    raise AssertionError("the pages do not end")


def flat(found: list[list[str]]) -> list[str]:
    return [one for page in found for one in page]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 12, 13, 1000])
async def test_every_event_is_on_one_page_newest_first(house: House, limit: int) -> None:
    async with house(running=False) as asking:
        for batch in range(4):
            await asking.send([event(f"e{batch}{index}") for index in range(3)], query="?ack=stored")
        found = await pages(asking, f"limit={limit}")
        assert [f"e{batch}{index}" for batch in (3, 2, 1, 0) for index in (2, 1, 0)] == flat(found)
        assert all(len(page) <= limit for page in found)


async def test_an_empty_ledger_is_one_empty_page(asking: Asking) -> None:
    assert {"data": []} == await asking.get("/v1/events")


async def test_a_cursor_means_the_same_after_more_has_come(house: House) -> None:
    async with house(running=False) as asking:
        await asking.send([event(f"e{index}") for index in range(4)], query="?ack=stored")
        first = await asking.get("/v1/events?limit=2")
        await asking.send([event("later")], query="?ack=stored")
        second = await asking.get(f"/v1/events?limit=2&cursor={first['next_cursor']}")
        assert [["e3", "e2"], ["e1", "e0"]] == [[one["id"] for one in page["data"]] for page in (first, second)]
        again = await asking.get(f"/v1/events?limit=2&cursor={first['next_cursor']}")
        assert second == again


async def test_a_page_that_looks_at_much_comes_back_short_and_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SCANNED", 3)
    async with house(running=False) as asking:
        await asking.send(event("wanted", customer="rare"), query="?ack=stored")
        for batch in range(7):
            await asking.send(event(f"e{batch}"), query="?ack=stored")
        assert [[], [], ["wanted"]] == await pages(asking, "customer=rare")
        monkeypatch.setattr(listing, "SCANNED", 400)
        monkeypatch.setattr(listing, "SCANNED_EVENTS", 2)
        assert [[], [], [], ["wanted"], []] == await pages(asking, "customer=rare")


async def test_a_listed_event_says_what_it_is_and_what_became_of_it(asking: Asking) -> None:
    result = await asking.one(event(quantity=7))
    ((shown,),) = [(await asking.get("/v1/events"))["data"]]
    assert ["id", "status", "received_at", "customer", "meter", "timestamp", "deliveries"] == list(shown)
    assert (result["id"], result["status"], result["deliveries"]) == (shown["id"], shown["status"], shown["deliveries"])


async def test_filters_pick_by_event_and_by_delivery(house: House, clock: MovableClock) -> None:
    async with house(QUIET) as asking:
        asking.vendors["flowglad"].refuse("refused")
        old = (clock.now() - timedelta(days=2)).isoformat()
        sent = [
            event("plain"),
            event("refused"),
            event("blocked", customer="nobody"),
            event("unrouted", meter="unheard"),
            event("job", meter="jobs", timestamp=old),
        ]
        await asking.send(sent)
        day = (clock.now() - timedelta(days=1)).isoformat().replace("+", "%2B")
        blank = (clock.now() - timedelta(days=1)).isoformat(sep=" ").replace("+00:00", "Z").replace(" ", "%20")
        for query, wanted in {
            "": {"plain", "refused", "blocked", "unrouted", "job"},
            "status=delivered": {"plain", "job"},
            "status=partial": {"refused"},
            "status=unrouted": {"unrouted"},
            "status=pending": {"blocked"},
            "status=rejected": {"refused"},
            "status=blocked": {"blocked"},
            "status=filtered": {"job"},
            "status=rejected&destination=flowglad": {"refused"},
            "status=rejected&destination=wingback": set[str](),
            "status=delivered&destination=flowglad": {"plain", "job"},
            "status=partial&destination=wingback": {"refused"},
            "status=accepted&destination=flexprice": {"plain", "refused", "blocked", "job"},
            "destination=wingback": {"plain", "refused", "blocked", "job"},
            "destination=nobody": set[str](),
            "customer=nobody": {"blocked"},
            "customer=acme&meter=jobs": {"job"},
            f"from={day}": {"plain", "refused", "blocked", "unrouted"},
            f"to={day}": {"job"},
            f"to={day.replace('%2B', '+')}": {"job"},
            f"to={blank}": {"job"},
        }.items():
            assert wanted == set(flat(await pages(asking, query))), query


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("colour=red", "unknown filter 'colour': there are cursor, customer, destination, from, limit, meter,"),
        ("status=fine", "status: there is no 'fine'; one of accepted, blocked, dead, delivered"),
        ("status=invalid", "status: there is no 'invalid'"),
        ("from=yesterday", "from: must be an RFC 3339 time"),
        ("to=2026-11-23", "to: must be an RFC 3339 time"),
        ("limit=0", "limit: must be a whole number from 1 to 1000"),
        ("limit=1001", "limit: must be a whole number from 1 to 1000"),
        ("limit=ten", "limit: must be a whole number"),
        ("from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", "from: must be before to"),
        ("from=2026-11-02T00:00:00Z&to=2026-11-02T00:00:00Z", "from: must be before to"),
        ("cursor=-1", "cursor: must be a whole number"),
        ("cursor=%C2%B2", "cursor: must be a whole number"),
        ("cursor=99999999999999999999999", "cursor: must be a whole number"),
        (f"cursor={'0' * 20}{'9' * 20}", "cursor: must be a whole number"),
        (f"cursor={'0' * 5000}", "cursor: must be a whole number"),
        (f"limit={'0' * 19}11001", "limit: must be a whole number from 1 to 1000"),
    ],
)
async def test_a_filter_that_means_nothing_is_refused_by_name(asking: Asking, query: str, says: str) -> None:
    answer = await asking.client.get(f"/v1/events?{query}")
    assert (400, "invalid_request") == (answer.status_code, answer.json()["code"])
    assert says in answer.json()["detail"]


async def test_a_tenant_sees_its_own_events_alone(house: House) -> None:
    keys = [
        {"name": name, "sha256": sha256(f"ugw_{name}"), "tenant": name, "scopes": ["events:write", "events:read"]}
        for name in ("red", "blue")
    ]
    async with house({"auth": {"keys": keys}}, running=False) as asking:
        for name in ("red", "blue", "red"):
            sent = [event(f"e{index}", quantity=len(name)) for index in range(3)]
            result = await asking.send(sent, query="?ack=stored", authorization=f"Bearer ugw_{name}")
            assert 3 == result["summary"]["pending"]
        for name in ("red", "blue"):
            bearer = f"Bearer ugw_{name}"
            assert ["e2", "e1", "e0"] == flat(await pages(asking, "limit=2", authorization=bearer))
            found = await asking.get("/v1/events/e0", authorization=bearer)
            assert str(len(name)) == found["event"]["quantity"]
