"""Preflight: every refusal that a history would meet, by count and exact quantity, with nothing sent."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from tests.gateway.conftest import Asking, House, configured, event

EARLY = "2026-11-20T10:00:00Z"


async def preflight(asking: Asking, destination: str, **filters: str) -> dict[str, Any]:
    answer = await asking.client.post("/v1/preflights", json={"to": destination, "filter": filters})
    assert 200 == answer.status_code, answer.text
    return answer.json()


async def test_what_is_stored_is_held_against_a_destination_and_nothing_is_sent(house: House) -> None:
    async with house({"destinations": {"paygentic": {"mode": "off"}}}) as asking:
        await asking.send([event("e1", quantity=3), event("e2", quantity="0.5"), event("e3", quantity="1.25")])
        await asking.send([event("e4", quantity=0), event("e5", customer="stranger"), event("e6", meter="jobs")])
        report = await preflight(asking, "paygentic")
        assert 6 == report["events"]
        assert {"events": 1, "quantity": "3", "rows": 1, "requests": 1} == report["ready"]
        assert 1 == report["zero"]
        refused = {(one["code"], one["meter"]): (one["events"], one["quantity"]) for one in report["refused"]}
        assert {
            ("quantity_not_representable", "api_calls"): (2, "1.75"),
            ("unmapped_customer", "api_calls"): (1, "3"),
            ("unknown_meter", "jobs"): (1, "3"),
        } == refused
        assert {"count": 1, "named": ["stranger"]} == report["unmapped_customers"]
        assert {"jobs": 1} == report["unmapped_meters"]
        assert 0 == asking.calls["paygentic"]
        assert 1 == (await preflight(asking, "paygentic", meter="jobs"))["events"]
        assert 0 == (await preflight(asking, "paygentic", to=EARLY))["events"]


async def test_what_the_routes_give_to_others_is_told(house: House) -> None:
    routes = [{"destination": "paygentic", "from": EARLY}]
    async with house({"routes": routes, "destinations": {"paygentic": {"mode": "live"}}}) as asking:
        before, after = "2026-11-20T09:59:59Z", EARLY
        await asking.send([event("e1", timestamp=before), event("e2", timestamp=after)])
        report = await preflight(asking, "paygentic")
        assert (2, 1) == (report["ready"]["events"], report["routed_elsewhere"])


async def test_members_that_nobody_knows_are_told_beside_those_that_there_are_as_they_are_written(house: House) -> None:
    async with house(running=False) as asking:
        answer = await asking.client.post("/v1/preflights", json={"to": "paygentic", "filter": {"since": EARLY}})
        assert (400, "filter.since: unknown member") == (answer.status_code, answer.json()["detail"])
        asked = {"from": EARLY, "to": "2026-12-01T00:00:00Z", "unti": EARLY}
        answer = await asking.client.post("/v1/reconciliations", json=asked)
        known = "from, to, destinations, against, customer, meter, accept"
        assert (400, f"unti: unknown member; known are {known}") == (answer.status_code, answer.json()["detail"])


async def test_a_bare_number_is_no_time(house: House) -> None:
    async with house(running=False) as asking:
        for given in (1_764_200_000, "1764200000", "2026-11-20T10:00:00"):
            for path, asked, place in (
                ("preflights", {"to": "paygentic", "filter": {"from": given}}, "filter.from"),
                ("reconciliations", {"from": given, "to": EARLY}, "from"),
            ):
                answer = await asking.client.post(f"/v1/{path}", json=asked)
                assert 400 == answer.status_code
                assert answer.json()["detail"].startswith(f"{place}: ")
                assert answer.json()["detail"].endswith("a zone: 2026-12-01T00:00:00Z")


async def test_the_narrowest_limit_says_how_long_it_takes(house: House) -> None:
    async with house({"destinations": {"flexprice": {"rate": "vendor"}}}, running=False) as asking:
        await asking.send([event(f"e{number}") for number in range(30)], query="?ack=stored")
        slow = (await asking.client.post("/v1/preflights", json={"to": "flexprice", "rate": 0.5})).json()
        assert {"seconds": 60.0, "limited_by": "0.5 rows a second, as asked for"} == slow["duration"]
        stated = (await preflight(asking, "flexprice"))["duration"]
        assert {"seconds": 0.6, "limited_by": "100 requests in 1m"} == stated
        assert (await preflight(asking, "flowglad"))["duration"]["seconds"] is None


async def test_a_meter_that_the_vendor_cannot_add_up_is_told(house: House) -> None:
    async with house(
        {"meters": {"peak": {"aggregation": "max", "bindings": {"flexprice": {}, "wingback": {}}}}}, running=False
    ) as asking:
        await asking.send([event("e1", meter="peak")], query="?ack=stored")
        report = await preflight(asking, "wingback")
        assert {"peak": {"aggregation": "max", "takes": ["count", "sum"]}} == report["aggregations"]
        assert ["unsupported"] == [one["code"] for one in report["refused"]]


@pytest.mark.parametrize(
    "asked",
    [{"to": "nobody"}, {"to": "wingback", "filter": {"from": "2026-12-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}}],
)
async def test_a_destination_that_is_not_there_and_a_window_that_holds_nothing_are_refused(
    asking: Asking, asked: dict[str, Any]
) -> None:
    answer = await asking.client.post("/v1/preflights", json=asked)
    assert (400, "invalid_request") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize(
    ("quantity", "code"), [("3", 0), ("0.5", 3)], ids=["nothing would be refused", "something would be"]
)
def test_a_file_is_held_against_a_configuration_without_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quantity: str, code: int
) -> None:
    config, history = tmp_path / "gateway.yaml", tmp_path / "history.csv"
    config.write_text(configured())
    history.write_text(f"id,customer,meter,quantity,timestamp\ne1,acme,api_calls,{quantity},{EARLY}\n")
    command = ["preflight", "--to", "paygentic", "--from", str(history), "--config", str(config), "--json"]
    assert code == main(command)
    report = json.loads(capsys.readouterr().out)
    assert (1, EARLY, EARLY) == (report["events"], report["first"], report["last"])
    assert bool(code) is bool(report["refused"])


def test_what_the_door_takes_from_nobody_is_refused_of_a_file_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, history = tmp_path / "gateway.yaml", tmp_path / "history.csv"
    config.write_text(configured())
    rows = ["id,customer,meter,quantity,timestamp", f"e1,acme,api_calls,,{EARLY}", f"e2,acme,logins,,{EARLY}"]
    history.write_text("\n".join([*rows, "e3,acme,api_calls,1,9000-01-01T00:00:00Z"]))
    assert 3 == main(["preflight", "--to", "flexprice", "--from", str(history), "--config", str(config), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (3, 1, {"invalid_event"}) == (
        report["events"],
        report["ready"]["events"],
        {one["code"] for one in report["refused"]},
    )


def test_rows_that_are_no_events_are_told_with_their_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, history = tmp_path / "gateway.yaml", tmp_path / "history.ndjson"
    config.write_text(configured())
    good = {"id": "e1", "customer": "acme", "meter": "api_calls", "quantity": 1, "timestamp": EARLY}
    without_time = {name: value for name, value in good.items() if name != "timestamp"}
    history.write_text("\n".join([json.dumps(good), "{}", json.dumps(without_time)]))
    assert 3 == main(["preflight", "--to", "flexprice", "--from", str(history), "--config", str(config)])
    told = capsys.readouterr().err
    assert "row 2: " in told
    assert "row 3: timestamp: is required here" in told
    assert "1 can be sent" in told
