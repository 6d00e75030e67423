"""The configuration's models: defaults, what follows from what, and what is refused."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from adapters import Link, provider
from gateway.configuration import Configuration, Destination
from gateway.configuration.sections import parse_size

FLEXPRICE = {"provider": "flexprice", "settings": {"api_key": "k"}}
WINGBACK = {"provider": "wingback", "settings": {"api_key": "k"}}
USAGE_V0 = {"provider": "paygentic", "settings": {"api_key": "k", "profile": "usage-v0", "merchant_id": "org_1"}}
CUST = "Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670"


def read(**members: Any) -> Configuration:
    return Configuration.model_validate(members)


def findings(**members: Any) -> list[str]:
    """Return what is wrong, in our words and without values."""
    try:
        read(**members)
    except ValidationError as error:
        details = error.errors()
    else:
        return []
    assert {("configuration", None)} == {(detail["type"], detail["input"]) for detail in details}
    return [detail["msg"] for detail in details]


def destination(**members: Any) -> Destination:
    return read(destinations={"one": FLEXPRICE | members}).destinations["one"]


def test_nothing_written_is_every_default() -> None:
    configuration = Configuration()
    assert ("127.0.0.1", 8080) == (configuration.listen.host, configuration.listen.port)
    assert Path("usage-gateway.db") == configuration.ledger.path
    assert ((), {}, {}, {}) == (
        configuration.auth.keys,
        configuration.destinations,
        configuration.meters,
        configuration.customers,
    )
    intake, delivery, retry = configuration.intake, configuration.delivery, configuration.delivery.retry
    assert ("required", "store", 10_000, 33_554_432) == (
        intake.ack,
        intake.unknown_meter,
        intake.max_events,
        intake.max_bytes,
    )
    assert (8, timedelta(seconds=30)) == (delivery.max_in_flight, delivery.timeout)
    assert (timedelta(seconds=1), timedelta(minutes=15), timedelta(days=7), 10) == (
        retry.first,
        retry.max,
        retry.give_up,
        retry.attempts,
    )
    assert timedelta(days=35) == configuration.retention.events


def test_a_key_with_nothing_under_it_is_no_key() -> None:
    names = Configuration.model_fields
    assert Configuration() == read(**dict.fromkeys(names))
    assert Configuration() == read(**{name: dict.fromkeys(type(getattr(Configuration(), name)).model_fields) for name in
                                      ("listen", "ledger", "auth", "intake", "delivery", "retention")})  # fmt: skip


def test_the_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Configuration().listen.port = 1


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///a.db", "a.db"), ("sqlite:////var/lib/a.db", "/var/lib/a.db"), ("sqlite:///./b/a b.db", "b/a b.db")],
)
def test_three_slashes_are_relative_and_four_are_absolute(url: str, path: str) -> None:
    assert Path(path) == read(ledger={"url": url}).ledger.path


@settings(deadline=None)
@given(st.integers(0, 999_999_999), st.sampled_from([("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30), ("", 1)]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: tuple[str, int]) -> None:
    name, factor = unit
    assert number * factor == parse_size(f"{number}{name}")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_without_a_key_loopback_is_fine(host: str) -> None:
    assert host == read(listen={"host": host}).listen.host


def test_with_a_key_any_host_is_fine() -> None:
    keys = [{"name": "a", "sha256": "a" * 64, "scopes": ["admin"]}]
    assert "0.0.0.0" == read(listen={"host": "0.0.0.0"}, auth={"keys": keys}).listen.host


# Destinations


@pytest.mark.parametrize(
    ("written", "required"),
    [
        ({}, True),
        ({"mode": "live"}, True),
        ({"required": None}, True),
        ({"required": False}, False),
        ({"mode": "shadow"}, False),
        ({"mode": "off"}, False),
        ({"mode": "shadow", "required": False}, False),
    ],
)
def test_only_a_live_destination_is_required_by_itself(written: dict[str, Any], required: bool) -> None:
    assert required is destination(**written).required


def test_settings_have_the_providers_type_and_the_adapter_has_them() -> None:
    found = read(destinations={"old": USAGE_V0}).destinations["old"]
    settings = provider("paygentic").Settings(api_key=SecretStr("k"), profile="usage-v0", merchant_id="org_1")  # pyright: ignore[reportCallIssue]
    assert ("old", settings) == (found.name, found.settings)
    assert found.adapter is found.adapter
    assert "/v0/usage/batch" == found.adapter.door.path


def test_two_destinations_can_be_of_one_provider() -> None:
    found = read(destinations={"eu": FLEXPRICE, "us": FLEXPRICE}).destinations
    assert {"eu": "flexprice", "us": "flexprice"} == {name: each.provider for name, each in found.items()}


def test_no_secret_is_in_a_repr() -> None:
    configuration = read(destinations={"one": {"provider": "flexprice", "settings": {"api_key": "s3cret"}}})
    assert "s3cret" not in repr(configuration) + str(configuration) + repr(configuration.destinations["one"].adapter)


# Meters


def test_a_meter_without_bindings_goes_everywhere_by_its_own_name() -> None:
    meters = read(destinations={"a": FLEXPRICE, "b": WINGBACK}, meters={"calls": None}).meters
    named = {name: [row.bind({}).model_dump(exclude_defaults=True) for row in rows]
             for name, rows in meters["calls"].bindings.items()}  # fmt: skip
    assert {"a": [{"event_name": "calls"}], "b": [{"feature_slug": "calls"}]} == named


def test_a_meter_with_bindings_goes_only_where_they_say() -> None:
    written = {"one": {"bindings": {"b": None}}, "none": {"bindings": {}}}
    meters = read(destinations={"a": FLEXPRICE, "b": WINGBACK}, meters=written).meters
    assert {"one": ["b"], "none": []} == {name: list(meter.bindings) for name, meter in meters.items()}


def test_a_binding_is_one_row_or_a_list_of_rows() -> None:
    row = {"event_name": "e"}
    meters = read(destinations={"a": FLEXPRICE}, meters={
        "one": {"bindings": {"a": row}}, "list": {"bindings": {"a": [row]}}, "two": {"bindings": {"a": [row, row]}},
    }).meters  # fmt: skip
    assert meters["one"] == meters["list"]
    assert 2 == len(meters["two"].bindings["a"])


# Customers


def test_a_link_is_one_row_or_a_list_of_rows_and_may_be_the_customers_own_id() -> None:
    customers = read(destinations={"a": FLEXPRICE, "b": WINGBACK}, customers={
        "acme": {"a": None, "b": {"customer_id": CUST}}, "beta": {"b": [{"customer_id": CUST}]},
    }).customers  # fmt: skip
    model = provider("wingback").spec.doors["bulk"].link
    assert (model.model_validate({"customer_id": CUST}),) == customers["acme"]["b"] == customers["beta"]["b"]
    assert "acme" == getattr(customers["acme"]["a"][0], "external_customer_id", None)


INSTANTS = [None, "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-02-01T01:00:00+01:00", "2026-03-01T00:00:00Z"]
ROW = st.fixed_dictionaries(
    {"customer_id": st.just(CUST), "subscription": st.sampled_from([None, "eu"]),
     "from": st.sampled_from(INSTANTS), "until": st.sampled_from(INSTANTS)}
)  # fmt: skip


def holds(link: Link, subscription: str | None, when: datetime) -> bool:
    return (
        link.subscription == subscription
        and (link.since is None or link.since <= when)
        and (link.until is None or when < link.until)
    )


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=4))
def test_of_a_customers_rows_at_most_one_holds_at_any_time(rows: list[dict[str, Any]]) -> None:
    model = provider("wingback").spec.doors["bulk"].link
    try:
        links = [model.model_validate(row) for row in rows]
    except ValidationError:
        return
    instants = [datetime(2025, 12, 1, tzinfo=UTC), *(datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3))]
    fine = all(sum(holds(link, of, at) for link in links) <= 1 for of in (None, "eu") for at in instants)
    found = findings(destinations={"b": WINGBACK}, customers={"acme": {"b": rows}})
    assert fine is (not found)
    assert all("holds at the same time as row" in says for says in found)


KEYS = [*Configuration.model_fields, "bindings", "one", "settings", "provider", "keys"]
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING))
def test_whatever_is_written_is_a_configuration_or_findings(written: dict[str, Any]) -> None:
    assert all(isinstance(says, str) for says in findings(**written))
