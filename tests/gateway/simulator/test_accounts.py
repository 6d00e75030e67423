"""What the simulated vendors have in their accounts, as adapters list it and as `init` writes it down."""

import csv
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from adapters import AnyAdapter, Ask, provider
from adapters._customers import Match
from gateway.asking import ask
from gateway.cli import main
from gateway.simulator import SimulatedProvider, serve_in_thread
from gateway.transport import Transport

MANY = [f"c{number:03}" for number in range(201)]
"""Three pages of a hundred."""


async def listed(vendor: SimulatedProvider, what: Callable[[Any], Ask[Any]], **settings: str) -> Any:
    """Run what an adapter asks, over a transport that leads to the vendor."""
    made = provider(vendor.name)
    adapter: AnyAdapter = made(made.Settings.model_validate({"api_key": "k", **settings}))
    transport = Transport(adapter, timeout=timedelta(seconds=5), connections=1, mount=vendor.transport())
    try:
        return await ask(transport, what(adapter))
    finally:
        await transport.close()


def written(
    vendor: SimulatedProvider, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> tuple[int, dict[str, Any], dict[str, dict[str, str]]]:
    """Run `init` against the vendor on a port, hold what it wrote against it, and return exit code, meters, links."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv(f"{vendor.name.upper()}_API_KEY", "k")
    with serve_in_thread([vendor]) as url:
        settings = [f"base_url={url}/{vendor.name}", *more]
        code = main(["init", vendor.name, *(word for one in settings for word in ("--setting", one))])
        assert main(["check", "--config", "gateway.yaml", "--remote"]) == 0
    meters = yaml.safe_load((folder / "gateway.yaml").read_text())["meters"]
    with (folder / "links.csv").open() as table:
        rows = {row.pop("customer"): row for row in csv.DictReader(table)}
    return code, meters, rows


def posted(vendor: SimulatedProvider, path: str, body: object) -> None:
    with httpx.Client(transport=vendor.transport(), headers=vendor.spec.auth.headers("k")) as client:
        client.post(vendor.spec.base_url + path, json=body).raise_for_status()


async def test_flexprices_features_come_with_their_meters_page_by_page() -> None:
    properties = {"c000": "tokens", "c001": None, "c002": ("in", "out")}
    vendor = SimulatedProvider("flexprice", known_meters=MANY, quantity_properties=properties)
    found = await listed(vendor, lambda adapter: adapter.list_meters())
    told = [(one.binding["event_name"], one.aggregation, one.quantity.get("quantity_property")) for one in found]
    first = [("c000", "sum", "tokens"), ("c001", "count", None), ("c002", "sum", "in"), ("c002", "sum", "out")]
    assert first + [(name, "sum", "quantity") for name in MANY[3:]] == told
    assert 3 == vendor.requests


def test_flexprices_features_come_without_meters_where_nobody_asks_for_them() -> None:
    vendor = SimulatedProvider("flexprice", known_meters=["calls"])
    with httpx.Client(transport=vendor.transport(), headers=vendor.spec.auth.headers("k")) as client:
        (feature,) = client.post(f"{vendor.spec.base_url}/features/search", json={"limit": 1}).json()["items"]
        gone = client.post(f"{vendor.spec.base_url}/features/search", json={"status": "archived"}).json()
        refused = client.post(f"{vendor.spec.base_url}/features/search", json={}, headers={"x-api-key": ""})
    assert ("metered", "meter_calls", False) == (feature["type"], feature["meter_id"], "meter" in feature)
    assert {"items": [], "pagination": {"limit": 50, "offset": 0, "total": 0}} == gone
    assert 401 == refused.status_code


async def test_flexprice_lists_what_it_knows_and_not_what_it_only_took() -> None:
    vendor = SimulatedProvider("flexprice", known_customers=MANY, known_meters=["calls"])
    event = {"event_id": "e1", "event_name": "cals", "external_customer_id": "stranger", "properties": {}}
    posted(vendor, "/events/bulk", {"events": [event]})
    assert MANY == [one.customer for one in await listed(vendor, lambda adapter: adapter.list_customers())]
    (meter,) = await listed(vendor, lambda adapter: adapter.list_meters())
    assert "calls" == meter.title


def test_init_writes_down_what_stands_at_flexprice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = SimulatedProvider("flexprice", known_customers=["acme"], known_meters=["calls"])
    code, meters, links = written(vendor, tmp_path, monkeypatch)
    assert 0 == code
    assert {"calls": {"bindings": {"flexprice": {"event_name": "calls", "quantity_property": "quantity"}}}} == meters
    assert "acme" == links["acme"]["external_customer_id"]


async def test_flowglads_prices_and_meters_are_listed_page_by_page() -> None:
    vendor = SimulatedProvider("flowglad", known_meters=MANY)
    found = await listed(vendor, lambda adapter: adapter.list_meters())
    prices = [(one.binding["price_slug"], one.aggregation, one.caution) for one in found if "price_id" in one.binding]
    assert [(name, "sum", "") for name in MANY] == prices
    assert MANY == [one.binding["usage_meter_slug"] for one in found if "usage_meter_id" in one.binding]
    assert 6 == vendor.requests


async def test_flowglads_prices_have_the_ids_that_usage_named_them_by() -> None:
    vendor = SimulatedProvider("flowglad", known_meters=["price_1", "usage_meter_2"])
    found = await listed(vendor, lambda adapter: adapter.list_meters())
    assert {"price_1", "usage_meter_2"} < {value for one in found for value in one.binding.values()}
    assert {"price_1", "price_usage_meter_2"} == {one.binding.get("price_id") for one in found} - {None}


async def test_flowglads_customers_come_with_their_subscriptions_page_by_page() -> None:
    vendor = SimulatedProvider("flowglad", known_customers=[f"sub_{name}" for name in MANY])
    found = await listed(vendor, lambda adapter: adapter.list_customers())
    assert [(name, ({"subscription_id": f"sub_{name}"},)) for name in MANY] == [
        (one.customer, one.links) for one in found
    ]
    assert 6 == vendor.requests


async def test_flowglad_finds_a_customers_subscription_and_says_of_whom_it_knows_none() -> None:
    vendor = SimulatedProvider("flowglad", known_customers=["sub_a/b", "sub_c"])
    found = await listed(vendor, lambda adapter: adapter.look_up("a/b"))
    assert (Match.FOUND, {"subscription_id": "sub_a/b"}) == (found.match, found.link)
    assert Match.ABSENT is (await listed(vendor, lambda adapter: adapter.look_up("b"))).match


def test_init_writes_down_what_stands_at_flowglad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor = SimulatedProvider("flowglad", known_customers=["sub_acme"], known_meters=["calls"])
    code, meters, links = written(vendor, tmp_path, monkeypatch)
    assert 0 == code
    assert {"calls": {"bindings": {"flowglad": {"price_slug": "calls"}}}} == meters
    assert "gateway.yaml: 1 meters of Flowglad" in capsys.readouterr().err
    assert "sub_acme" == links["acme"]["subscription_id"]


async def test_paygentics_metrics_say_what_they_read_page_by_page() -> None:
    properties = {"c000": "tokens", "c001": None, "c002": ("in", "out")}
    vendor = SimulatedProvider("paygentic", known_meters=MANY, quantity_properties=properties)
    found = await listed(vendor, lambda adapter: adapter.list_meters(), merchant_id="org_1")
    told = [(one.binding["event_type"], one.aggregation, one.quantity.get("quantity_field")) for one in found]
    first = [("c000", "sum", "tokens"), ("c001", "count", None), ("c002", "sum", "in"), ("c002", "sum", "out")]
    assert first + [(name, "sum", "quantity") for name in MANY[3:]] == told
    assert 3 == vendor.requests


async def test_paygentics_metrics_have_the_ids_that_usage_named_them_by() -> None:
    vendor = SimulatedProvider("paygentic", known_meters=["bm_calls"])
    (meter,) = await listed(vendor, lambda adapter: adapter.list_meters(), merchant_id="org_1", profile="usage-v0")
    assert {"billable_metric_id": "bm_calls"} == meter.binding


async def test_paygentics_customers_are_listed_page_by_page() -> None:
    vendor = SimulatedProvider("paygentic", known_customers=[*MANY, "cus_nobody"])
    found = await listed(vendor, lambda adapter: adapter.list_customers(), merchant_id="org_1")
    assert [(name, ({"customer_id": f"cus_{name}"},)) for name in MANY] == [(one.customer, one.links) for one in found]
    assert 3 == vendor.requests


async def test_paygentic_finds_the_customer_that_is_asked_for() -> None:
    vendor = SimulatedProvider("paygentic", known_customers=MANY)
    found = await listed(vendor, lambda adapter: adapter.look_up("c007"), merchant_id="org_1")
    assert (Match.FOUND, {"customer_id": "cus_c007"}) == (found.match, found.link)
    missing = await listed(vendor, lambda adapter: adapter.look_up("c7"), merchant_id="org_1")
    assert Match.ABSENT is missing.match


@pytest.mark.parametrize(("path", "member"), [("customers", "organizationId"), ("billableMetrics", "merchantId")])
def test_paygentic_lists_nothing_without_a_merchant(path: str, member: str) -> None:
    vendor = SimulatedProvider("paygentic")
    with httpx.Client(transport=vendor.transport(), headers=vendor.spec.auth.headers("k")) as client:
        refused = client.get(f"{vendor.spec.base_url}/v0/{path}")
    said = {"message": "Validation failed", "error": "validation_error"}
    assert said | {"errors": [{"field": member, "message": "Required"}]} == refused.json()


def test_init_writes_down_what_stands_at_paygentic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = SimulatedProvider("paygentic", known_customers=["acme"], known_meters=["calls"])
    code, meters, links = written(vendor, tmp_path, monkeypatch, "merchant_id=org_1")
    assert 0 == code
    assert {"calls": {"bindings": {"paygentic": {"event_type": "calls", "quantity_field": "quantity"}}}} == meters
    assert "cus_acme" == links["acme"]["customer_id"]


async def test_wingbacks_customers_are_listed_page_by_page_and_have_no_reference_of_ours() -> None:
    vendor = SimulatedProvider("wingback", known_customers=MANY)
    assert () == await listed(vendor, lambda adapter: adapter.list_customers())
    assert 3 == vendor.requests


def test_init_writes_down_what_stands_at_wingback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, meters, links = written(SimulatedProvider("wingback", known_customers=MANY), tmp_path, monkeypatch)
    assert (4, {}, {}) == (code, meters, links), (
        "features are listed nowhere, and customers without a reference left out"
    )
    assert "not read" not in capsys.readouterr().err
