"""Where an event goes, and whom it bills: by mode, tenant and binding; by subscription and the event's own time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from canonical_schema import Event
from gateway.catalogue import Catalogue
from gateway.configuration.file import loads
from gateway.ledger import Code, Plan
from tests.gateway.lanes.world import used

FLEXPRICE: dict[str, Any] = {"provider": "flexprice", "settings": {"api_key": "k"}}
MICRO = timedelta(microseconds=1)
SPRING = datetime(2026, 4, 1, tzinfo=UTC)
SUMMER = datetime(2026, 7, 1, tzinfo=UTC)


def catalogue(**members: Any) -> Catalogue:
    whole: dict[str, Any] = {"destinations": {"one": FLEXPRICE}, "meters": {"calls": {}}, **members}
    return Catalogue(loads(yaml.safe_dump(whole), {}))


def plan(found: Catalogue, tenant: str, meter: str) -> Plan:
    (made,) = found.plans(tenant, [used("e", meter=meter)], SPRING)
    return made


def several(**modes: str) -> dict[str, Any]:
    return {name: {**FLEXPRICE, "mode": mode} for name, mode in modes.items()}


def test_an_event_goes_to_every_live_destination_with_a_binding() -> None:
    found = catalogue(destinations=several(a="live", b="live", s="shadow", o="off"))
    assert Plan(live=("a", "b"), shadow=("s",)) == plan(found, "default", "calls")


def test_a_live_destination_without_a_binding_is_filtered_and_a_shadow_is_silent() -> None:
    found = catalogue(
        destinations=several(a="live", b="live", s="shadow"), meters={"calls": {"bindings": {"a": {}}}, "jobs": {}}
    )
    assert Plan(live=("a",), filtered=(("b", Code.NO_BINDING),)) == plan(found, "default", "calls")
    assert ("a", "b") == plan(found, "default", "jobs").live


def test_a_meter_that_is_not_in_the_catalogue_goes_nowhere_and_is_not_remembered() -> None:
    found = catalogue()
    for index in range(100):
        assert Plan() == plan(found, "default", f"invented-{index}")
    assert {"default": ({}, {})} == found._plans
    assert plan(found, "default", "calls") is plan(found, "default", "calls"), "shared by all events of a meter"


def test_a_destination_serves_its_tenants_only() -> None:
    found = catalogue(destinations={"one": {**FLEXPRICE, "tenants": ["blue"]}, "all": FLEXPRICE})
    assert ("all",) == plan(found, "default", "calls").live
    assert ("all", "one") == plan(found, "blue", "calls").live


def linked(rows: object) -> Catalogue:
    return catalogue(customers={"acme": {"one": rows}})


def external(found: Catalogue, event: Event, when: datetime, tenant: str = "default") -> str | None:
    link = found.link("one", tenant, event, when)
    return None if link is None else link.model_dump()["external_customer_id"]


def test_a_link_holds_from_its_first_instant_to_just_before_its_last() -> None:
    found = linked(
        [
            {"external_customer_id": "old", "until": SPRING.isoformat()},
            {"external_customer_id": "new", "from": SPRING.isoformat(), "until": SUMMER.isoformat()},
        ]
    )
    said = [external(found, used("e"), when) for when in (SPRING - MICRO, SPRING, SUMMER - MICRO, SUMMER)]
    assert ["old", "new", "new", None] == said


def test_the_events_own_subscription_comes_before_any() -> None:
    found = linked([{"external_customer_id": "any"}, {"external_customer_id": "eu", "subscription": "eu"}])
    events = [used("e"), used("e", subscription="eu"), used("e", subscription="us")]
    assert ["any", "eu", "any"] == [external(found, event, SPRING) for event in events]


def test_a_row_of_another_subscription_does_not_hold() -> None:
    found = linked([{"external_customer_id": "eu", "subscription": "eu"}])
    assert [None, None] == [external(found, used("e", **some), SPRING) for some in ({}, {"subscription": "us"})]


def test_the_configurations_links_are_the_default_tenants() -> None:
    found = linked({"external_customer_id": "acme-1"})
    assert ("acme-1", None) == (external(found, used("e"), SPRING), external(found, used("e"), SPRING, "blue"))
    assert external(found, used("e", customer="other"), SPRING) is None


times = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  made aware


@settings(deadline=None)
@given(st.lists(times, min_size=1, max_size=4, unique=True), times, st.sampled_from([None, "eu", "us"]))
def test_rows_that_follow_one_another_leave_neither_gap_nor_overlap(
    bounds: list[datetime], when: datetime, subscription: str | None
) -> None:
    bounds = sorted(bounds)
    rows: list[dict[str, Any]] = []
    for index, (since, until) in enumerate(zip([None, *bounds], [*bounds, None], strict=True)):
        row: dict[str, Any] = {"external_customer_id": f"c{index}"}
        if since is not None:
            row["from"] = since.isoformat()
        if until is not None:
            row["until"] = until.isoformat()
        rows += [row, {**row, "external_customer_id": f"eu{index}", "subscription": "eu"}]
    wanted = sum(bound <= when for bound in bounds)
    prefix = "eu" if subscription == "eu" else "c"
    assert f"{prefix}{wanted}" == external(linked(rows), used("e", subscription=subscription), when)


@pytest.mark.parametrize("meter", ["calls", "other"])
def test_bindings_are_found_by_destination_and_meter(meter: str) -> None:
    found = catalogue(meters={"calls": {"bindings": {"one": [{"event_name": "x"}, {"event_name": "y"}]}}})
    assert (2 if meter == "calls" else 0) == len(found.rows("one", meter))
    assert () == tuple(found.rows("two", meter))
