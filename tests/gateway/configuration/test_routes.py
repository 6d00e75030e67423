"""Routes and groups: every event of a group has exactly one destination that bills it, whoever comes and whenever."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gateway.catalogue import Catalogue
from gateway.cli._surprises import surprises
from gateway.configuration.file import loads
from gateway.configuration.routes import PLACES, bucket
from gateway.errors import ConfigurationError
from gateway.explaining import explain
from gateway.ledger import Code, Plan
from gateway.routing import apart
from tests.gateway.lanes.world import used

MICRO = timedelta(microseconds=1)
NAMES = ("old", "new", "third")
METERS = ("calls", "jobs")
CUSTOMERS = ("acme", "globex", "initech", "umbrella")
CUT = datetime(2026, 12, 1, tzinfo=UTC)
CUTS = [CUT + timedelta(days=30 * index) for index in range(-2, 3)]
FLEXPRICE: dict[str, Any] = {"provider": "flexprice", "settings": {"api_key": "k"}}
Route = dict[str, Any]
unhurried = settings(deadline=None, max_examples=60)
"""Each example reads a configuration or two."""


def catalogue(routes: list[Route], *, group: str | None = "g", **members: Any) -> Catalogue:
    grouped = FLEXPRICE if group is None else {**FLEXPRICE, "group": group}
    whole: dict[str, Any] = {
        "destinations": dict.fromkeys(NAMES, grouped),
        "meters": {meter: {} for meter in METERS},
        "routes": routes,
        **members,
    }
    return Catalogue(loads(json.dumps(whole), {}))  # JSON is YAML


def plan(
    found: Catalogue, when: datetime, customer: str = "acme", meter: str = "calls", tenant: str = "default"
) -> Plan:
    (made,) = found.plans(tenant, [used("e", customer=customer, meter=meter, timestamp=when)], CUT)
    return made


def route(destination: str, **members: Any) -> Route:
    return {"destination": destination, **members}


def refusal(routes: list[Route], **members: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        catalogue(routes, **members)
    return str(caught.value)


HANDOVER = [route("old", until=CUT.isoformat()), route("new", **{"from": CUT.isoformat()})]
TWO: dict[str, Any] = {"destinations": {name: {**FLEXPRICE, "group": "g"} for name in ("old", "new")}}


# Laws. A valid set of routes is made by cutting everything again and again, each piece for one destination.


@st.composite
def valid(draw: st.DrawFn) -> list[Route]:
    def cut(
        piece: Route, low: datetime | None, high: datetime | None, span: tuple[int, int], depth: int
    ) -> Iterator[Route]:
        axis = draw(st.sampled_from(["time", "percent", "customers", "meters", "none"])) if depth else "none"
        inner = [when for when in CUTS if (low is None or low < when) and (high is None or when < high)]
        named = "customers" in piece
        if axis == "time" and inner:
            when = draw(st.sampled_from(inner))
            yield from cut({**piece, "until": when.isoformat()}, low, when, span, depth - 1)
            yield from cut({**piece, "from": when.isoformat()}, when, high, span, depth - 1)
        elif axis == "percent" and not named and span[1] - span[0] > 1:
            middle = draw(st.integers(span[0] + 1, span[1] - 1))
            yield from cut({**piece, "percent": f"{span[0]}-{middle}"}, low, high, (span[0], middle), depth - 1)
            yield from cut({**piece, "percent": f"{middle}-{span[1]}"}, low, high, (middle, span[1]), depth - 1)
        elif axis == "customers" and not named and "except" not in piece and "percent" not in piece:
            some = draw(st.lists(st.sampled_from(CUSTOMERS), min_size=1, unique=True))
            yield from cut({**piece, "customers": some}, low, high, span, depth - 1)
            yield from cut({**piece, "except": some}, low, high, span, depth - 1)
        elif axis == "meters" and "meters" not in piece:
            yield from cut({**piece, "meters": [METERS[0]]}, low, high, span, depth - 1)
            yield from cut({**piece, "meters": [METERS[1]]}, low, high, span, depth - 1)
        else:
            yield {"destination": draw(st.sampled_from(NAMES)), **piece}

    made = list(cut({}, None, None, (0, 100), draw(st.integers(0, 5))))
    idle = set(NAMES) - {one["destination"] for one in made}  # one without any route would take everything
    return draw(st.permutations(made + [route(name, mode="off") for name in sorted(idle)]))


instants = st.sampled_from(CUTS).flatmap(lambda when: st.sampled_from([when - MICRO, when, when + timedelta(days=9)]))
customers = st.sampled_from(CUSTOMERS) | st.text(min_size=1, max_size=8)


@unhurried
@given(valid(), st.lists(st.tuples(instants, customers, st.sampled_from(METERS)), min_size=1, max_size=30))
def test_every_event_of_a_group_has_exactly_one_live_destination(
    routes: list[Route], events: list[tuple[datetime, str, str]]
) -> None:
    found = catalogue(routes)
    for when, customer, meter in events:
        made = plan(found, when, customer, meter)
        assert 1 == len(made.live)
        assert {Code.NO_ROUTE} >= {code for _, code in made.filtered}
        assert set(NAMES) == {*made.live, *(name for name, _ in made.filtered)}


@unhurried
@given(valid(), st.data())
def test_a_piece_that_nobody_takes_is_refused(routes: list[Route], data: st.DataObject) -> None:
    taking = [index for index, one in enumerate(routes) if one.get("mode") != "off"]
    gone = data.draw(st.sampled_from(taking))
    routes[gone] = {**routes[gone], "mode": "off"}
    assert "gap in group g" in refusal(routes)


@unhurried
@given(valid(), st.data())
def test_a_piece_that_two_take_is_refused(routes: list[Route], data: st.DataObject) -> None:
    taken = data.draw(st.sampled_from([one for one in routes if one.get("mode") != "off"]))
    other = data.draw(st.sampled_from([name for name in NAMES if name != taken["destination"]]))
    twice = {**taken, "destination": other}
    if "from" in twice and data.draw(st.booleans()):  # a last microsecond is enough
        twice.setdefault("until", (datetime.fromisoformat(twice["from"]) + MICRO).isoformat())
    said = refusal([*routes, twice])
    assert f"routes[{len(routes)}]: overlaps routes[" in said
    assert "in group g" in said


@unhurried
@given(st.text(max_size=20), st.text(max_size=20))
@example("default", "acme")
def test_a_customer_has_one_place_for_ever(tenant: str, customer: str) -> None:
    assert 0 <= bucket(tenant, customer) < PLACES
    assert bucket(tenant, customer) == bucket.__wrapped__(tenant, customer)


def test_the_places_of_some_customers_are_written_down_for_ever() -> None:
    assert [PLACE_OF_ACME, PLACE_OF_BLUE] == [bucket("default", "acme"), bucket("blue", "acme")]


PLACE_OF_ACME, PLACE_OF_BLUE = 653588, 398765


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_a_share_of_many_customers_is_that_share(percent: int) -> None:
    rest = [route("old", percent=100 - percent), route("third", mode="off")]
    found = catalogue([route("new", percent=percent), *rest])
    seen = Counter(plan(found, CUT, f"customer-{index}").live for index in range(4_000))
    sigma = (4_000 * percent / 100 * (1 - percent / 100)) ** 0.5
    assert abs(seen["new",] - 40 * percent) < 4 * sigma


@unhurried
@given(st.integers(1, 98), st.integers(1, 98), st.text(min_size=1))
def test_a_share_that_grows_keeps_whom_it_had(one: int, other: int, customer: str) -> None:
    assume(one < other)

    def live(percent: int) -> tuple[str, ...]:
        rest = [route("old", percent=100 - percent), route("third", mode="off")]
        return plan(catalogue([route("new", percent=percent), *rest]), CUT, customer).live

    assert live(other) == ("new",) or live(one) == ("old",)


# What routes mean.


def test_the_events_own_time_decides_and_not_when_it_came() -> None:
    found = catalogue(HANDOVER, **TWO)
    said = [plan(found, when).live for when in (CUT - MICRO, CUT, CUT + MICRO)]
    assert [("old",), ("new",), ("new",)] == said
    assert (("new", Code.NO_ROUTE),) == plan(found, CUT - MICRO).filtered


def test_an_event_without_a_time_is_of_the_time_of_its_receipt() -> None:
    found = catalogue(HANDOVER, **TWO)
    for received, name in ((CUT - MICRO, "old"), (CUT, "new")):
        (made,) = found.plans("default", [used("e", timestamp=None)], received)
        assert (name,) == made.live


def test_a_destination_without_a_route_takes_everything_and_one_with_routes_what_they_say() -> None:
    found = catalogue([route("new", customers=["acme"])], group=None)
    assert ("old", "new", "third") == plan(found, CUT).live
    assert Plan(live=("old", "third"), filtered=(("new", Code.NO_ROUTE),)) == plan(found, CUT, "globex")


def test_a_shadow_destination_gets_everything_whatever_its_routes_say() -> None:
    members: dict[str, Any] = {"destinations": {"old": FLEXPRICE, "new": {**FLEXPRICE, "mode": "shadow"}}}
    found = catalogue([route("new", customers=["globex"])], destinations=members["destinations"])
    assert Plan(live=("old",), shadow=("new",)) == plan(found, CUT)


def test_a_route_may_be_shadow_until_it_is_live() -> None:
    shadow = [
        route("new", until=CUT.isoformat(), mode="shadow"),
        route("old", **{"from": CUT.isoformat()}, mode="shadow"),
    ]
    found = catalogue([*HANDOVER, *shadow], **TWO)
    assert Plan(live=("old",), shadow=("new",)) == plan(found, CUT - MICRO)
    assert Plan(live=("new",), shadow=("old",)) == plan(found, CUT)


def test_a_destination_whose_routes_are_all_shadow_is_silent_where_none_holds() -> None:
    found = catalogue([route("new", customers=["acme"], mode="shadow")], group=None)
    assert Plan(live=("old", "third"), shadow=("new",)) == plan(found, CUT)
    assert Plan(live=("old", "third")) == plan(found, CUT, "globex")


def test_live_wins_where_a_live_and_a_shadow_route_hold() -> None:
    found = catalogue([route("new", mode="shadow"), route("new", customers=["acme"])], group=None)
    assert ("old", "new", "third") == plan(found, CUT).live
    assert ("new",) == plan(found, CUT, "globex").shadow


def test_a_destination_without_a_binding_is_filtered_for_that_whatever_the_routes_say() -> None:
    meters = {"calls": {"bindings": {"old": {}, "third": {}}}, "jobs": {}}
    found = catalogue([route("new", customers=["acme"])], group=None, meters=meters)
    assert (("new", Code.NO_BINDING),) == plan(found, CUT, "globex").filtered


def test_a_group_is_judged_for_each_tenant() -> None:
    members: dict[str, Any] = {
        "destinations": {
            "old": {**FLEXPRICE, "group": "g", "tenants": ["blue"]},
            "new": {**FLEXPRICE, "group": "g", "tenants": ["default"]},
        }
    }
    found = catalogue([], destinations=members["destinations"])
    assert (("new",), ("old",)) == (plan(found, CUT).live, plan(found, CUT, tenant="blue").live)
    members["destinations"]["new"]["tenants"].append("blue")
    assert "of tenant blue" in refusal([], destinations=members["destinations"])


def test_events_that_are_shadow_and_events_that_count_at_one_destination_are_stored_apart() -> None:
    shadow = route("new", until=CUT.isoformat(), mode="shadow")
    found = catalogue([*HANDOVER, shadow], **TWO)
    plans = [plan(found, CUT + timedelta(days=day)) for day in (-2, 1, -1, 2)]
    assert [[0, 2], [1, 3]] == apart(plans)
    assert [[0, 1]] == apart(plans[1::2])
    assert [] == apart([])


def test_the_same_decisions_share_one_plan() -> None:
    found = catalogue([route("new", percent=50), route("old", percent=50), route("third", mode="off")])
    made = {id(plan(found, CUT, f"c{index}")) for index in range(200)}
    assert 2 == len(made)


def test_a_meter_whose_routes_never_differ_costs_one_look() -> None:
    found = catalogue([route("new", meters=["jobs"])], group=None)
    plan(found, CUT)
    plan(found, CUT, meter="jobs")
    assert {"calls", "jobs"} == set(found._plans["default"][0])


def test_explaining_says_which_route_holds_and_why() -> None:
    found = catalogue(HANDOVER, **TWO)
    ((told),) = explain(found, "default", [used("e", timestamp=CUT)], CUT)["results"]
    deliveries = told["deliveries"]
    assert ("live", "routes[1]: from 2026-12-01T00:00:00Z") == (
        deliveries["new"]["route"],
        deliveries["new"]["because"],
    )
    assert ("filtered", "route", "none of its routes holds: routes[0]: until 2026-12-01T00:00:00Z") == (
        deliveries["old"]["route"],
        deliveries["old"]["reason"],
        deliveries["old"]["because"],
    )


def test_a_group_ends_the_warning_of_two_that_bill_alike() -> None:
    def codes(found: Catalogue) -> set[str]:
        return {one.code for one in surprises(found._configuration)}

    assert "billed_by_several" in codes(catalogue(HANDOVER, destinations={"old": FLEXPRICE, "new": FLEXPRICE}))
    assert "billed_by_several" not in codes(catalogue(HANDOVER, **TWO))


# What is refused, in words.


@pytest.mark.parametrize(
    ("routes", "says"),
    [
        (
            [],
            (
                "routes: overlaps destinations.new, which has no route in group g: for every customer and meter calls,"
                " both new and old are live at all times; end one where the other begins,"
                " or take its customers out by `except`"
            ),
        ),
        (
            [HANDOVER[0], route("new", **{"from": (CUT - timedelta(days=1)).isoformat()})],
            (
                "routes[1]: overlaps routes[0] in group g: for every customer and meter calls, both old and new"
                " are live from 2026-11-30T00:00:00Z until 2026-12-01T00:00:00Z"
            ),
        ),
        (
            [HANDOVER[0], route("new", **{"from": (CUT + timedelta(days=1)).isoformat()})],
            (
                "routes: leave a gap in group g: for every customer and meter calls, no destination is live"
                " from 2026-12-01T00:00:00Z until 2026-12-02T00:00:00Z; add a route, or widen one"
            ),
        ),
        (
            [route("old"), route("new", customers=["globex", "acme"])],
            "routes[1]: overlaps routes[0] in group g: for the customer routes[1].customers[0] and meter calls",
        ),
        (
            [route("old", **{"except": ["acme"]}), route("new", customers=["globex"])],
            "routes[1]: overlaps routes[0] in group g: for the customer routes[1].customers[0]",
        ),
        (
            [route("old", **{"except": ["acme"]}), route("new", customers=["globex"])],
            "routes: leave a gap in group g: for the customer routes[0].except[0] and meter calls",
        ),
        (
            [route("old", percent="0-60"), route("new", percent="50-100")],
            "routes[1]: overlaps routes[0] in group g: for customers of 50 to 60 percent and meter calls",
        ),
        (
            [route("old", percent="0-40"), route("new", percent="50-100")],
            "routes: leave a gap in group g: for customers of 40 to 50 percent and meter calls",
        ),
        ([route("old", percent=90), route("new", percent=5)], "for customers of 95 to 100 percent"),
        (
            [route("old", percent=90), route("new", percent=20)],
            (
                "routes[1].percent: comes to 110 percent of the customers: it begins at 90,"
                " after the routes before it that say the same"
            ),
        ),
        ([route("odl"), route("new")], "routes[0].destination: unknown destination; did you mean old?"),
        ([route("old", meters=["cals"])], "routes[0].meters[0]: unknown meter; did you mean calls?"),
        ([route("old", until="soon")], "routes[0].until: should be a time with a zone: 2026-12-01T00:00:00Z"),
        ([route("old", percent=0)], "routes[0].percent: should be more than 0"),
        ([route("old", percent=101)], "routes[0].percent: should be between 0 and 100"),
        ([route("old", percent="0.00001")], "routes[0].percent: has more than four decimal places"),
        ([route("old", percent="50-10")], "routes[0].percent: should go from a smaller to a larger number: 10-100"),
        ([route("old", percent="half")], "routes[0].percent: should be a number of percent, or from where to where"),
        ([route("old", customers=["a", "a"])], "routes[0].customers[1]: is there twice"),
        ([route("old", customers=[])], "routes[0].customers: should not be empty"),
        (
            [route("old", customers=["a"], percent=10)],
            "routes[0].percent: says nothing beside customers: leave one of the two out",
        ),
        ([route("old", until=CUT.isoformat(), **{"from": CUT.isoformat()})], "routes[0].until: should be after `from`"),
        ([{"meters": ["calls"]}], "routes[0].destination: is missing"),
        ([route("old", pct=10)], "routes[0].pct: unknown key; did you mean percent?"),
    ],
)
def test_what_is_wrong_is_said_with_the_routes_and_the_instant(routes: list[Route], says: str) -> None:
    assert says in refusal(routes, **TWO)


def test_a_group_of_which_none_is_live_is_a_gap() -> None:
    off = {"old": {**FLEXPRICE, "group": "g", "mode": "off"}, "new": {**FLEXPRICE, "group": "g", "mode": "shadow"}}
    assert "no destination is live at all times" in refusal([], destinations=off)


def test_a_route_to_a_destination_without_the_binding_leaves_a_gap_that_says_so() -> None:
    meters = {"calls": {"bindings": {"old": {}}}}
    said = refusal(HANDOVER, **TWO, meters=meters)
    assert "no destination is live from 2026-12-01T00:00:00Z (new has no binding for it)" in said


def test_a_meter_that_a_route_names_needs_the_binding() -> None:
    meters = {"calls": {"bindings": {"old": {}}}, "jobs": {}}
    said = refusal([route("new", meters=["calls"])], group=None, meters=meters)
    assert "routes[0].meters[0]: has no binding for new: add one, or leave the meter out" in said
