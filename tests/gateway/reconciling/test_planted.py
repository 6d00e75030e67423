"""Differences that were planted are found, each in its class; what was read is beside what is in the ledger."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest

from adapters import Door, provider
from gateway.simulator import StoredRow
from gateway.simulator.world import Stock
from tests.gateway.conftest import Asking, House, MovableClock, event

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
LISTING = ["flowglad", "paygentic", "flexprice"]


class Day:
    """A window that ends within the hour, with events inside."""

    def __init__(self, clock: MovableClock) -> None:
        now = clock.now()
        self.clock = clock
        self.end = now.replace(minute=0, second=0, microsecond=0) + HOUR
        self.start = self.end - 24 * HOUR
        self.inside = self.end - 3 * HOUR

    def event(self, event_id: str, when: datetime | None = None, **members: Any) -> dict[str, Any]:
        return event(event_id, timestamp=(when or self.inside).isoformat(), **members)

    def later(self) -> None:
        """Let so much time pass that everything that was taken shows."""
        self.clock.ahead += 3 * HOUR

    async def reconcile(self, asking: Asking, **asked: Any) -> dict[str, Any]:
        body = {"from": self.start.isoformat(), "to": self.end.isoformat(), **asked}
        answer = await asking.client.post("/v1/reconciliations", json=body)
        assert 201 == answer.status_code, answer.text
        told = answer.json()
        assert "done" == told["state"], told
        assert told == await asking.get(f"/v1/reconciliations/{told['id']}")
        return told["report"]

    async def usage(self, asking: Asking, **asked: str) -> dict[str, Any]:
        query = {"from": self.start.isoformat(), "to": self.end.isoformat(), "customer": "acme", **asked}
        answer = await asking.client.get("/v1/usage", params=query)
        assert 200 == answer.status_code, answer.text
        return {one["destination"]: one for one in answer.json()["destinations"]}


@pytest.fixture
def day(clock: MovableClock) -> Day:
    return Day(clock)


def reasons(
    report: Mapping[str, Any], right: str, left: str = "ledger"
) -> dict[tuple[str, str], tuple[str, list[str]]]:
    """Return what differs: by customer and class, the quantity and the events."""
    (found,) = [one for one in report["comparisons"] if (one["left"], one["right"]) == (left, right)]
    return {
        (one["customer"], reason["class"]): (reason["quantity"], reason["ids"])
        for one in found["figures"]
        for reason in one["reasons"]
    }


def keyed(key: str) -> Any:
    return lambda row: row.key == key


async def test_what_is_everywhere_matches(asking: Asking, day: Day) -> None:
    await asking.send([day.event("e1"), day.event("e2", quantity="4"), day.event("x", meter="llm_call", quantity=None,
        quantities={"input": 5, "output": 7})])  # fmt: skip
    day.later()
    report: dict[str, Any] = {}
    for name in LISTING:
        report = await day.reconcile(asking, destinations=[name])
        assert {} == reasons(report, name)
        assert (0, True) == (report["unexplained"], report["complete"])
    calls = [one for one in report["comparisons"][0]["figures"] if one["meter"] == "api_calls"]
    assert [("7", "7", "0", 2)] == [(one["left"], one["right"], one["difference"], one["events"]) for one in calls]
    assert {"5", "7"} == {one["right"] for one in report["comparisons"][0]["figures"] if one["meter"] == "llm_call"}


async def test_what_the_vendor_has_no_name_for_hides_nothing_beside_it(asking: Asking, day: Day) -> None:
    tokens: dict[str, Any] = {"meter": "llm_call", "quantity": None}
    await asking.send(
        [day.event("e1", quantities={"input": 5}, **tokens), day.event("e2", quantities={"input": 2}, **tokens)]
    )
    asking.vendors["flowglad"].tamper(lambda stock: stock.forget(lambda row: row.quantity == 2))
    day.later()
    report = await day.reconcile(asking, destinations=["flowglad"], meter="llm_call")
    ((one,), (missing,)) = (report["comparisons"][0]["figures"], report["destinations"][0]["missing"])
    assert ("llm_call", "Flowglad lists no price_slug 'tokens_out'") == (missing["meter"], missing["why"].split(":")[0])
    assert ("input", "7", "5", False) == (one["part"], one["left"], one["right"], one["explained"])


@pytest.mark.parametrize("name", LISTING)
async def test_an_event_that_was_lost_there_is_only_here(asking: Asking, day: Day, name: str) -> None:
    await asking.send([day.event("e1"), day.event("lost", quantity=4)])
    asking.vendors[name].tamper(lambda stock: stock.forget(keyed("lost")))
    soon = await day.reconcile(asking, destinations=[name])
    assert {("acme", "in_flight"): ("-4", ["lost"])} == reasons(soon, name)
    assert 0 == soon["unexplained"]
    day.later()
    report = await day.reconcile(asking, destinations=[name])
    assert {("acme", "only_here"): ("-4", ["lost"])} == reasons(report, name)
    assert (1, True) == (report["unexplained"], report["complete"])
    looked_at = await day.reconcile(asking, destinations=[name], accept=["only_here"])
    assert 0 == looked_at["unexplained"]


@pytest.mark.parametrize("name", LISTING)
async def test_what_was_delivered_late_has_its_time_to_show(house: House, day: Day, name: str) -> None:
    async with house() as asking:
        asking.vendors[name].api_key = "another"
        await asking.send([day.event("e0"), day.event("e1")])
    day.later()
    asking.vendors[name].api_key = None
    async with house() as asking:
        await asking.settled("e1")
        asking.vendors[name].tamper(lambda stock: stock.forget(keyed("e1")))
        found = await day.reconcile(asking, destinations=[name], meter="api_calls")
        assert 0 == found["unexplained"]
        day.later()
        found = await day.reconcile(asking, destinations=[name], meter="api_calls")
        assert {("acme", "only_here"): ("-3", ["e1"])} == reasons(found, name)


async def test_a_window_of_which_something_is_trimmed_is_not_told_in_whole(house: House, day: Day) -> None:
    async with house({"retention": {"events": "1d", "trim": "always"}}) as asking:
        await asking.send(day.event("e1"))
        day.clock.ahead += timedelta(days=3)
        await asking.gateway.keeper.step()
        assert (await asking.get("/v1/events/e1"))["trimmed"]
        report = await day.reconcile(asking, destinations=["flexprice"])
        assert (1, False) == (report["trimmed_batches"], report["complete"])
        day.start, day.end = day.start + timedelta(days=4), day.end + timedelta(days=4)
        report = await day.reconcile(asking, destinations=["flexprice"])
        assert (0, True) == (report["trimmed_batches"], report["complete"])


async def test_a_correction_has_its_time_to_show(asking: Asking, day: Day) -> None:
    await asking.send(day.event("e1"))
    before = [*asking.vendors["flexprice"].stored]
    day.later()
    answer = await asking.client.post("/v1/events/e1/correct", json={"quantity": 5, "reason": "a test"})
    assert 200 == answer.status_code, answer.text
    asking.vendors["flexprice"].tamper(lambda stock: stock.change(lambda _: before[0]))
    found = await day.reconcile(asking, destinations=["flexprice"], meter="api_calls")
    assert {("acme", "in_flight"): ("-2", ["e1"])} == reasons(found, "flexprice")
    day.later()
    found = await day.reconcile(asking, destinations=["flexprice"], meter="api_calls")
    assert {("acme", "unexplained"): ("-2", ["e1"])} == reasons(found, "flexprice")


def doubled(key: str) -> Any:
    def twice(stock: Stock) -> None:
        for row in [row for row in stock if row.key == key]:
            stock.put(row)

    return twice


async def test_an_event_that_is_there_twice_is_a_duplicate(asking: Asking, day: Day) -> None:
    await asking.send([day.event("e1"), day.event("twice", quantity=4)])
    asking.vendors["flowglad"].tamper(doubled("twice"))
    day.later()
    report = await day.reconcile(asking, destinations=["flowglad"])
    assert {("acme", "duplicate"): ("4", ["twice"])} == reasons(report, "flowglad")
    assert 1 == report["unexplained"]


async def test_copies_that_the_vendor_merges_are_no_duplicates(asking: Asking, day: Day) -> None:
    await asking.send(day.event("e1"))
    asking.vendors["flexprice"].tamper(doubled("e1"))
    day.later()
    assert {} == reasons(await day.reconcile(asking, destinations=["flexprice"]), "flexprice")


def changed(key: str, how: Any) -> Any:
    return lambda stock: stock.change(lambda row: how(row) if row.key == key else row)


def moved(by: timedelta) -> Any:
    """Return how a row is moved in time, in what it holds and in what it was sent as."""

    def how(row: StoredRow) -> StoredRow:
        when = row.timestamp + by
        sent = {
            name: when.isoformat() if isinstance(value, str) else int(when.timestamp() * 1000)
            for name, value in row.row.items()
            if name in {"timestamp", "usageDate"}
        }
        return replace(row, timestamp=when, row={**row.row, **sent})

    return how


@pytest.mark.parametrize("name", ["flowglad", "flexprice"])
async def test_an_event_on_the_other_side_of_the_edge_is_boundary(asking: Asking, day: Day, name: str) -> None:
    await asking.send([day.event("e1"), day.event("edge", day.start + timedelta(minutes=1), quantity=4)])
    asking.vendors[name].tamper(changed("edge", moved(timedelta(minutes=-2))))
    day.later()
    report = await day.reconcile(asking, destinations=[name])
    assert {("acme", "boundary"): ("-4", ["edge"])} == reasons(report, name)
    assert 0 == report["unexplained"]


async def test_what_nobody_here_knows_is_only_there(asking: Asking, day: Day) -> None:
    await asking.send(day.event("e1"))
    asking.vendors["flexprice"].tamper(
        lambda stock: [stock.put(replace(row, key="theirs", row={**row.row, "event_id": "theirs"})) for row in [*stock]]
    )
    day.later()
    report = await day.reconcile(asking, destinations=["flexprice"])
    assert {("acme", "only_there"): ("3", ["theirs"])} == reasons(report, "flexprice")
    assert 1 == report["unexplained"]


async def test_a_figure_with_fewer_digits_is_rounding(asking: Asking, day: Day) -> None:
    await asking.send(day.event("e1", meter="jobs", quantity="0.126"))

    def rounded(row: StoredRow) -> StoredRow:
        (charge,) = row.charges
        sent = {**row.row, "properties": {"quantity": "0.13"}}
        return replace(row, charges=(charge._replace(quantity=Decimal("0.13")),), row=sent)

    asking.vendors["flexprice"].tamper(changed("e1", rounded))
    day.later()
    report = await day.reconcile(asking, destinations=["flexprice"])
    assert {("acme", "rounding"): ("0.004", ["e1"])} == reasons(report, "flexprice")
    assert 0 == report["unexplained"]


async def test_what_was_never_sent_says_why(asking: Asking, day: Day) -> None:
    asking.vendors["flowglad"].refuse("refused")
    await asking.send(
        [
            day.event("e1"),
            day.event("refused", quantity=2),
            day.event("unmapped", customer="stranger", quantity=5),
            day.event("fraction", quantity="0.5"),
        ]
    )
    day.later()
    report = await day.reconcile(asking, destinations=["flowglad"])
    assert {
        ("acme", "rejected"): ("-2", ["refused"]),
        ("stranger", "unmapped"): ("-5", ["unmapped"]),
        ("acme", "capability"): ("-0.5", ["fraction"]),
    } == reasons(report, "flowglad")
    assert 0 == report["unexplained"]


@pytest.mark.parametrize(("to", "told"), [(8, "8"), (2, "2"), (0, None)])
async def test_what_is_corrected_before_it_could_be_sent_is_missing_as_a_whole(
    asking: Asking, day: Day, to: int, told: str | None
) -> None:
    """The event is taken back where it waits, and its correction, which waits in its place, brings all of it."""
    await asking.send(day.event("e1", customer="stranger", quantity=5))
    said = {"quantity": to, "reason": "a test"}
    answer = await asking.client.post("/v1/events/e1/correct", json=said, headers={"prefer": "wait=5"})
    assert 200 == answer.status_code, answer.text
    await asking.settled("e1")
    day.later()
    report = await day.reconcile(asking, destinations=["wingback"])
    wanted = {} if told is None else {("stranger", "unmapped"): (f"-{told}", ["e1~c2"])}
    assert wanted == reasons(report, "wingback")
    figures = [(one["left"], one["right"]) for one in report["comparisons"][0]["figures"]]
    assert figures == ([] if told is None else [(told, "0")])
    (open_,) = [
        one for one in (await asking.get(f"/v1/periods/{day.inside:%Y-%m}"))["open"] if one["destination"] == "wingback"
    ]
    assert {"quantity": str(to)} == open_["quantities"]


async def test_what_came_too_late_for_the_vendor_is_late(
    house: House, day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors = cast("dict[str, Door]", provider("flowglad").spec.doors)
    for profile, door in doors.items():
        monkeypatch.setitem(doors, profile, replace(door, time=replace(door.time, past=HOUR)))
    async with house() as asking:
        await asking.send([day.event("e1", day.clock.now()), day.event("e2", quantity=4)])
        day.later()
        report = await day.reconcile(asking, destinations=["flowglad"])
    assert {("acme", "late"): ("-4", ["e2"])} == reasons(report, "flowglad")
    assert 0 == report["unexplained"]


async def test_a_tolerance_is_how_far_a_figure_may_be_off(house: House, day: Day) -> None:
    for tolerance, unexplained in (("3.9", 1), ("4", 0)):
        async with house({"meters": {"api_calls": {"tolerance": tolerance}}}) as asking:
            await asking.send([day.event("e1"), day.event("lost", quantity=4)])
            asking.vendors["flexprice"].tamper(lambda stock: stock.forget(keyed("lost")))
            day.later()
            report = await day.reconcile(asking, destinations=["flexprice"])
            assert unexplained == report["unexplained"]
            day.clock.ahead -= 3 * HOUR


async def test_two_vendors_are_held_against_each_other(house: House, day: Day) -> None:
    early = {"destination": "flexprice", "from": (day.start + 2 * HOUR).isoformat()}
    async with house({"routes": [early]}) as asking:
        await asking.send([day.event("both"), day.event("old", day.start + HOUR, quantity=4)])
        await asking.send([day.event("lost", quantity=5), day.event("gone", quantity=6)])
        asking.vendors["flexprice"].tamper(lambda stock: stock.forget(keyed("lost")))
        asking.vendors["flowglad"].tamper(lambda stock: stock.forget(keyed("gone")))
        day.later()
        report = await day.reconcile(asking, destinations=["flowglad"], against="flexprice", meter="api_calls")
    assert ["ledger", "ledger", "flowglad"] == [one["left"] for one in report["comparisons"]]
    assert {("acme", "only_there"): ("6", ["gone"]), ("acme", "only_here"): ("-9", ["lost", "old"])} == reasons(
        report, "flexprice", "flowglad"
    )
    (figure,) = report["comparisons"][2]["figures"]
    assert ("12", "9", "-3", False) == tuple(figure[name] for name in ("left", "right", "difference", "explained"))


async def test_a_vendor_that_does_not_answer_is_no_zero(asking: Asking, day: Day) -> None:
    await asking.send(day.event("e1"))
    asking.vendors["flowglad"].api_key = "another"
    day.later()
    report = await day.reconcile(asking, destinations=["flowglad"])
    (figure,) = report["comparisons"][0]["figures"]
    assert ("3", False, "trouble") == (figure["left"], "right" in figure, figure["unread"]["kind"])
    assert (0, False) == (report["unexplained"], report["complete"])


async def test_corrections_are_what_each_vendor_should_have_by_now(house: House, day: Day) -> None:
    async with house({"destinations": {"wingback": {"settings": {"allow_negative": True}}}}) as asking:
        await asking.send([day.event("e1"), day.event("e2", quantity=5), day.event("e3", quantity=7)])
        for event_id, what, body in (("e1", "void", {}), ("e2", "correct", {"quantity": 9})):
            answer = await asking.client.post(f"/v1/events/{event_id}/{what}", json={"reason": "a test", **body})
            assert 200 == answer.status_code, answer.text
        day.later()
        for name in ("paygentic", "flexprice"):
            assert {} == reasons(await day.reconcile(asking, destinations=[name]), name), name
        report = await day.reconcile(asking, destinations=["flowglad"])
        assert {("acme", "capability"): ("3", ["e1~c1"])} == reasons(report, "flowglad")


async def test_usage_is_read_back_beside_the_ledgers_in_the_meters_unit(house: House, day: Day) -> None:
    bindings = {"flexprice": {"event_name": "api_call", "scale": "0.001"}}
    async with house({"meters": {"api_calls": {"bindings": bindings}}}) as asking:
        await asking.send([day.event("e1", quantity="1500"), day.event("lost", quantity=7)])
        asking.vendors["flexprice"].tamper(lambda stock: stock.forget(keyed("lost")))
        day.later()
        read = await day.usage(asking, meter="api_calls")
        (figure,) = read["flexprice"]["figures"]
        assert ("1500", "1507", "-7") == (figure["provider"], figure["ledger"]["recorded"], figure["difference"])
        assert [("only_here", ["lost"])] == [(one["class"], one["ids"]) for one in figure["reasons"]]
        assert "amount" in read["flexprice"]["charges"][0], "money stands apart"
        (figure,) = read["wingback"]["figures"]
        assert (False, "window") == ("provider" in figure, figure["unread"]["kind"])
        assert list(await day.usage(asking, meter="api_calls", destination="flowglad")) == ["flowglad"]


@pytest.mark.parametrize("sent", [True, False])
async def test_usage_of_whom_no_link_names_is_no_zero(asking: Asking, day: Day, sent: bool) -> None:
    if sent:
        await asking.send(day.event("e1", customer="stranger"))
    read = await day.usage(asking, customer="stranger", meter="api_calls")
    for name in ("flowglad", "paygentic", "wingback"):
        (figure,) = read[name]["figures"]
        assert (False, "no link names the customer there") == ("provider" in figure, figure["unread"]["why"])
        assert ["unmapped"] * sent == [one["class"] for one in figure["reasons"]]
    (figure,) = read["flexprice"]["figures"]
    assert ("3" if sent else "0") == figure["provider"], "it takes our own names"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("meter=api_calls&from=2026-11-01&to=2026-12-01", "customer"),
        ("customer=a&meter=zz&from=2026-11-01&to=2026-12-01", "meter"),
        ("customer=a&meter=jobs&from=x&to=2026-12-01", "from"),
        ("customer=a&meter=jobs&from=2026-12-01&to=2026-12-01", "from"),
        ("customer=a&meter=jobs&from=2026-11-01&to=2026-12-01&destination=q", "destination"),
        (
            "customer=a&meter=jobs&from=2026-11-01&to=2026-12-01&destination=wingback",
            "destination: wingback has no binding for meter jobs",
        ),
        ("kustomer=a", "kustomer"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(asking: Asking, query: str, named: str) -> None:
    answer = await asking.client.get(f"/v1/usage?{query}")
    assert 400 == answer.status_code
    assert named in answer.json()["detail"]
