"""What stands at the vendors: read page by page, held against a configuration, and made into one."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

from adapters import AnyAdapter, Fault, FaultKind, Reply, Request, provider
from adapters._inventory import CanListCustomers, CanListMeters
from adapters._readback import Unread
from gateway.cli import main
from gateway.configuration.file import load, loads
from gateway.configuration.inventory import held_against
from gateway.transport import Mounted
from tests.gateway.conftest import configured

FLOWGLAD = "https://app.flowglad.com/api/v1"
METERS = [
    {"id": "um_1", "slug": "api_calls", "name": "Calls", "aggregationType": "sum"},
    {"id": "um_2", "slug": "seats", "name": "Seats", "aggregationType": "count_distinct_properties"},
]
PRICES = [
    {"id": "price_1", "slug": "api_calls", "type": "usage", "usageMeterId": "um_1", "unitPrice": 10, "active": True},
    {
        "id": "price_0",
        "slug": "seats_no_charge",
        "type": "usage",
        "usageMeterId": "um_2",
        "unitPrice": 0,
        "isDefault": True,
    },
    {"id": "price_2", "slug": "seats", "type": "usage", "usageMeterId": "um_2", "unitPrice": 5, "active": True},
    {"id": "price_3", "slug": "base", "type": "subscription", "unitPrice": 900, "active": True},
]
CUSTOMERS = [
    {"id": "cust_1", "externalId": "acme"},
    {"id": "cust_2", "externalId": "duo"},
    {"id": "cust_3", "externalId": "gone", "archived": True},
    {"id": "cust_4", "externalId": "idle"},
]
SUBSCRIPTIONS = [
    {"id": "sub_1", "customerId": "cust_1", "status": "active"},
    {"id": "sub_0", "customerId": "cust_1", "status": "canceled"},
    {"id": "sub_2", "customerId": "cust_2", "status": "active"},
    {"id": "sub_3", "customerId": "cust_2", "status": "trialing"},
]


def flowglad(request: httpx.Request) -> httpx.Response:
    """Answer two rows a page."""
    rows: dict[str, list[dict[str, Any]]] = {
        "prices": PRICES,
        "usage-meters": METERS,
        "customers": CUSTOMERS,
        "subscriptions": SUBSCRIPTIONS,
    }
    found = rows[request.url.path.rsplit("/", 1)[1]]
    start = int(request.url.params.get("cursor", "0"))
    more = start + 2 < len(found)
    page = {"data": found[start : start + 2], "hasMore": more} | ({"nextCursor": str(start + 2)} if more else {})
    return httpx.Response(200, json=page)


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> respx.MockRouter:
    monkeypatch.setenv("FLOWGLAD_API_KEY", "fg_secret")
    router = respx.MockRouter(assert_all_called=False)
    router.get(url__startswith=FLOWGLAD).mock(side_effect=flowglad)
    monkeypatch.setattr(
        "gateway.transport.Network", lambda *_, **__: Mounted(httpx.MockTransport(router.async_handler), 30)
    )
    return router


def test_a_vendor_is_read_into_a_configuration_that_works_and_a_table_of_links(
    tmp_path: Path, vendor: respx.MockRouter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert 4 == main(["init", "flowglad", "--json"]), "one customer needs a choice, and one has nothing"
    text = (tmp_path / "gateway.yaml").read_text()
    assert "fg_secret" not in text
    configuration = load(tmp_path / "gateway.yaml", {"FLOWGLAD_API_KEY": "fg_secret"})
    named = {name: meter.bindings["flowglad"][0].fixed()["price_slug"] for name, meter in configuration.meters.items()}
    assert {"api_calls": "api_calls", "seats": "seats"} == named
    assert "unique" == configuration.meters["seats"].aggregation
    assert "seats_no_charge" in text, "what was left out is told"
    with (tmp_path / "links.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [("acme", "flowglad", "sub_1")] == [(r["customer"], r["destination"], r["subscription_id"]) for r in rows]
    told = json.loads(capsys.readouterr().out)
    assert (3, 2) == (told["customers"], told["meters"]), "a usage meter is reached by its price, and not counted again"
    assert ["duo", "idle"] == [next(name for name in ("duo", "idle") if name in note) for note in told["notes"]]
    assert 2 == main(["init", "flowglad"]), "what is there is not overwritten"


def test_a_configuration_is_held_against_the_vendors_account(
    tmp_path: Path, vendor: respx.MockRouter, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gateway.yaml"

    def check(price: str, aggregation: str = "sum") -> int:
        file.write_text(
            "destinations: {flowglad: {provider: flowglad, settings: {api_key: k}}}\n"
            f"meters: {{calls: {{aggregation: {aggregation}, bindings: {{flowglad: {{price_slug: {price}}}}}}}}}\n"
            f"ledger: {{url: 'sqlite:///{tmp_path}/ledger.db'}}\n"
        )
        return main(["check", "--config", str(file), "--remote", "--json"])

    assert 0 == check("api_calls")
    assert {"flowglad": "5 meters read"} == json.loads(capsys.readouterr().out)["remote"]
    assert 1 == check("renamed")
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert "meters.calls.bindings.flowglad: Flowglad has no price_slug 'renamed'" in error
    assert 1 == check("seats")
    assert "the meter is a sum, and Flowglad adds it up by unique" in json.loads(capsys.readouterr().out)["errors"][0]
    assert 0 == check("seats_no_charge", "unique")
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert ["at Flowglad the price is free of charge"] == [
        one["message"] for one in warnings if one["code"] == "vendor"
    ]
    vendor.get(url__startswith=FLOWGLAD).mock(return_value=httpx.Response(200, json={"data": [], "hasMore": False}))
    assert 1 == check("api_calls"), "an account in which nothing stands yet"
    assert "Flowglad has no price_slug 'api_calls'" in json.loads(capsys.readouterr().out)["errors"][0]
    vendor.get(url__startswith=FLOWGLAD).mock(return_value=httpx.Response(401))
    assert 1 == check("api_calls")
    assert "HTTP 401" in json.loads(capsys.readouterr().out)["errors"][0]


Answers = Callable[[Request], Reply]


def answered(adapter: AnyAdapter, question: Any, answers: Answers) -> Any:
    """Run an ask over made answers."""
    answer: Reply | Fault | None = None
    while True:
        try:
            request = next(question) if answer is None else question.send(answer)
        except StopIteration as ended:
            return ended.value
        answer = answers(request)


def reply(body: object) -> Reply:
    return Reply(status=200, body=json.dumps(body).encode())


def adapter(name: str, **settings: str) -> AnyAdapter:
    made = provider(name)
    return made(made.Settings.model_validate({"api_key": "k", **settings}))


def test_paygentic_metrics_say_by_what_and_from_where(  # both doors read the same list
) -> None:
    metrics = [
        {"id": "bm_1", "name": "Calls", "eventType": "api_call", "aggregation": "SUM", "valueProperty": "$.tokens"},
        {"id": "bm_2", "name": "Peak", "eventType": "peak", "aggregation": "MAX", "valueProperty": "load"},
    ]
    events, older = (
        adapter("paygentic", merchant_id="org_1"),
        adapter("paygentic", profile="usage-v0", merchant_id="org_1"),
    )
    assert isinstance(events, CanListMeters)
    assert isinstance(older, CanListMeters)
    found = answered(events, events.list_meters(), lambda _: reply({"data": metrics}))
    assert [({"event_type": "api_call"}, "sum", {"quantity_field": "tokens"})] == [
        (one.binding, one.aggregation, one.quantity) for one in found[:1]
    ]
    ids = answered(older, older.list_meters(), lambda _: reply({"data": metrics}))
    assert [{"billable_metric_id": "bm_1"}, {"billable_metric_id": "bm_2"}] == [one.binding for one in ids]
    alone = adapter("paygentic")
    assert isinstance(alone, CanListMeters)
    refused = answered(alone, alone.list_meters(), lambda _: reply({}))
    assert isinstance(refused, Unread)
    assert "merchant_id" in refused.why


def test_flexprice_features_name_the_event_and_its_property_over_all_pages() -> None:
    def feature(number: int) -> dict[str, Any]:
        meter = {"event_name": f"event_{number}", "aggregation": {"type": "SUM", "field": "n"}}
        return {"name": f"F{number}", "type": "metered", "meter": meter}

    rows = [feature(number) for number in range(150)]

    def answers(request: Request) -> Reply:
        asked = json.loads(request.body)
        return reply({"items": rows[asked["offset"] : asked["offset"] + asked["limit"]]})

    flexprice = adapter("flexprice")
    assert isinstance(flexprice, CanListMeters)
    found = answered(flexprice, flexprice.list_meters(), answers)
    assert [f"event_{number}" for number in range(150)] == [one.binding["event_name"] for one in found]
    assert {"quantity_property": "n"} == found[0].quantity
    rows[3]["meter"] = None
    assert isinstance(answered(flexprice, flexprice.list_meters(), answers), Unread)


def wingback_customers(count: int, *, shown: int) -> Any:
    """Ask for the customers of a Wingback that shows some at a time; every other page begins with a repeat."""
    known = [
        {"id": f"Cust_{number}", "customer_reference": f"c{number // 2 if number == 7 else number}"}
        for number in range(count)
    ]
    words: list[str | None] = []

    def answers(request: Request) -> Reply:
        query = httpx.URL(request.url).params
        words.append(query.get("offset"))
        if query.get("offset", "p0")[:1] != "p":
            return Reply(status=400, body=b'{"feedback": {"offset": {"type": "error", "value": "invalid offset"}}}')
        first = int(query.get("offset", "p0")[1:])
        hits, last = known[max(0, first - 1) : first + shown], first + shown
        more = {"forward": f"p{last}"} if last < count else {"forward": None}
        return reply({"hits": hits, **more})

    wingback = adapter("wingback")
    assert isinstance(wingback, CanListCustomers)
    return answered(wingback, wingback.list_customers(), answers), words


def test_wingback_s_pages_go_on_by_the_word_of_the_one_before() -> None:
    found, words = wingback_customers(250, shown=100)
    assert [None, "p100", "p200"] == words
    assert {f"c{number}" for number in range(250)} - {"c7"} == {one.customer for one in found}
    assert ["Cust_3", "Cust_7"] == [link["customer_id"] for one in found if one.customer == "c3" for link in one.links]
    assert 250 == sum(len(one.links) for one in found), "what two pages show is one"


@pytest.mark.parametrize("body", [{"hits": [], "total": 3}, {"hits": [{"id": "Cust_1"}], "total": 3}])
def test_wingback_customers_that_are_promised_and_not_shown_are_told(body: dict[str, Any]) -> None:
    wingback = adapter("wingback")
    assert isinstance(wingback, CanListCustomers)
    assert isinstance(answered(wingback, wingback.list_customers(), lambda _: reply(body)), Unread)


@pytest.mark.parametrize(("place", "faults"), [("asked", 0), ("told", 0), ("elsewhere", 1)])
def test_a_meter_is_held_against_that_of_several_that_reads_its_quantity(place: str, faults: int) -> None:
    binding = {"event_name": "tokens", "quantity_property": place}
    meters = {"calls": {"bindings": {"flexprice": binding}}} | dict.fromkeys(
        ("api_calls", "jobs", "logins", "llm_call")
    )
    configuration = loads(configured({"meters": meters}), {})
    aggregations = [{"type": "SUM", "field": field} for field in ("asked", "told")]
    rows = [{"meter": {"event_name": "tokens", "aggregation": one}} for one in aggregations]
    flexprice = configuration.destinations["flexprice"].adapter
    assert isinstance(flexprice, CanListMeters)
    there = answered(flexprice, flexprice.list_meters(), lambda _: reply({"items": rows}))
    assert faults == len(list(held_against(configuration, "flexprice", there)))


def test_a_property_whose_values_are_told_apart_is_no_place_for_a_quantity() -> None:
    kinds = {"SUM": "tokens", "COUNT": None, "COUNT_UNIQUE": "user_id"}
    rows = [{"meter": {"event_name": k.lower(), "aggregation": {"type": k, "field": f}}} for k, f in kinds.items()]
    flexprice = adapter("flexprice")
    assert isinstance(flexprice, CanListMeters)
    found = answered(flexprice, flexprice.list_meters(), lambda _: reply({"items": rows}))
    assert [("sum", {"quantity_property": "tokens"}), ("count", {}), ("unique", {})] == [
        (one.aggregation, one.quantity) for one in found
    ]
    kinds = {"SUM": "$.tokens", "COUNT": "$.tokens", "UNIQUE_COUNT": "$.user_id"}
    metrics = [{"id": k, "eventType": k, "aggregation": k, "valueProperty": f} for k, f in kinds.items()]
    paygentic = adapter("paygentic", merchant_id="org_1")
    assert isinstance(paygentic, CanListMeters)
    found = answered(paygentic, paygentic.list_meters(), lambda _: reply({"data": metrics}))
    assert [{"quantity_field": "tokens"}, {}, {}] == [one.quantity for one in found]


@pytest.mark.parametrize("name", ["flowglad", "flexprice", "wingback"])
def test_customers_that_cannot_be_read_are_not_no_customers(name: str) -> None:
    asking = adapter(name)
    assert isinstance(asking, CanListCustomers)
    fault = Fault(kind=FaultKind.NO_ANSWER, name="ReadTimeout")
    assert isinstance(answered(asking, asking.list_customers(), lambda _: fault), Unread)  # pyright: ignore[reportArgumentType]


def test_a_quantity_that_the_vendor_takes_from_elsewhere_is_an_error() -> None:
    configuration = loads(configured(), {})
    meter = {"event_name": "api_call", "aggregation": {"type": "SUM", "field": "tokens"}}
    names = ("logins", "jobs", "llm_call")
    rows = [{"meter": meter}, *({"meter": {"event_name": name, "aggregation": {"type": "COUNT"}}} for name in names)]
    flexprice = configuration.destinations["flexprice"].adapter
    assert isinstance(flexprice, CanListMeters)
    there = answered(flexprice, flexprice.list_meters(), lambda _: reply({"items": rows}))
    found = {(one.at, one.message) for one in held_against(configuration, "flexprice", there)}
    assert {
        (
            "meters.api_calls.bindings.flexprice",
            "Flexprice takes the quantity from 'tokens', and quantity_property is 'quantity'",
        ),
        ("meters.jobs.bindings.flexprice", "the meter is a sum, and Flexprice adds it up by count"),
        ("meters.llm_call.bindings.flexprice", "the meter is a sum, and Flexprice adds it up by count"),
    } == found
