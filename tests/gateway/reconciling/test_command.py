"""`usage-gateway reconcile`: what it asks for, the files that it writes, and its exit codes."""

import csv
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli import main

NASTY = '<script>alert("1")</script>&=1+1'
MONTH = ["reconcile", "--from", "2026-11-01", "--to", "2026-12-01"]


def figure(**members: Any) -> dict[str, Any]:
    return {
        "customer": "acme", "meter": "api_calls", "class": "match", "explained": True, "left": "7", "right": "7",
        "difference": "0", "events": 2, "reasons": [], **members,
    }  # fmt: skip


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the gateway says to the command: first that the comparison is being made, then how it ended."""
    report: dict[str, Any] = {
        "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z", "at": "2026-12-02T00:00:00Z", "accepted": [],
        "events": 2, "trimmed_batches": 0, "unexplained": 0, "complete": True, "classes": {},
        "destinations": [
            {"destination": "flexprice", "kind": "events", "exact": True, "requests": 1, "rows": 2, "missing": []}
        ],
        "comparisons": [
            {
                "left": "ledger", "right": "flexprice", "unexplained": 0, "unread": 0, "classes": {},
                "figures_count": 2, "figures": [figure(), figure(customer="zoe")],
            }
        ],
    }  # fmt: skip
    said: dict[str, Any] = {"id": "rec_1", "state": "done", "report": report, "asked": []}

    def request(method: str, url: str, **given: Any) -> httpx.Response:
        said["asked"].append((method, url.partition("/v1/")[2], given.get("json")))
        body = {"id": "rec_1", "state": "running"} if method == "POST" else {**said, "asked": None}
        return httpx.Response(200, json=body)

    monkeypatch.setattr(httpx, "request", request)
    monkeypatch.setattr("gateway.cli.reconcile.PAUSE", 0)
    return said


def test_no_difference_is_success(told: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main([*MONTH, "--json"])
    assert told["report"] == json.loads(capsys.readouterr().out)["report"]
    asked = {"from": "2026-11-01T00:00:00+00:00", "to": "2026-12-01T00:00:00+00:00"}
    assert [("POST", "reconciliations", asked), ("GET", "reconciliations/rec_1", None)] == told["asked"]


def test_what_is_unexplained_is_3_and_what_could_not_be_read_4(told: dict[str, Any]) -> None:
    told["report"] |= {"complete": False}
    assert 4 == main(MONTH)
    told["report"] |= {"unexplained": 1}
    assert 3 == main(MONTH)
    told |= {"state": "failed", "why": "no room"}
    assert 1 == main(MONTH)


def test_one_is_held_against_another_for_one_customer_and_meter(told: dict[str, Any]) -> None:
    chosen = ["--destination", "flowglad", "--against", "flexprice", "--customer", "acme", "--meter", "jobs"]
    assert 0 == main([*MONTH, *chosen, "--accept", "only_there", "--accept", "late"])
    _, _, asked = told["asked"][0]
    assert (["flowglad"], "flexprice", "acme", "jobs", ["only_there", "late"]) == tuple(
        asked[name] for name in ("destinations", "against", "customer", "meter", "accept")
    )
    assert 2 == main([*MONTH, "--against", "flexprice"])


def test_reports_hold_every_figure_and_nothing_in_them_is_code(told: dict[str, Any], tmp_path: Path) -> None:
    reason = {"class": "only_here", "events": 1, "quantity": "-4", "ids": [NASTY]}
    bad = figure(
        customer=NASTY, **{"class": "only_here"}, explained=False, right="3", difference="-4", reasons=[reason]
    )
    formula = figure(customer="=cmd()", meter=NASTY)
    told["report"]["comparisons"][0]["figures"] = [bad, formula]
    told["report"]["unexplained"] = 1
    table, page = tmp_path / "figures.csv", tmp_path / "report.html"
    assert 3 == main([*MONTH, "--csv", str(table), "--html", str(page)])
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    assert [(NASTY, "no", "-4", "only_here", NASTY), ("'=cmd()", "yes", "0", "", "")] == [
        (row["customer"], row["explained"], row["difference"], row["reason"], row["ids"]) for row in rows
    ]
    written = page.read_text("utf-8")
    assert "<script" not in written
    assert "http:" not in written.replace("http-equiv", "")
    assert "class='only_here open'" in written
    assert "&lt;script&gt;" in written


def test_figures_that_no_report_has_are_counted(
    told: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    told["report"]["comparisons"][0]["figures_count"] = 20_002
    assert 0 == main([*MONTH, "--json", "--html", str(page)])
    for said in (capsys.readouterr().err, page.read_text("utf-8")):
        assert "20,000 figures are in no report, those that match first" in said


def test_what_a_vendor_that_counts_leaves_out_is_told(
    told: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told["report"]["destinations"][0] |= {"kind": "counters", "outside": 2}
    told["report"]["complete"] = False
    page = tmp_path / "report.html"
    assert 4 == main([*MONTH, "--html", str(page)])
    for written in (" ".join(capsys.readouterr().err.split()), page.read_text("utf-8")):
        assert "counts its own period: 2 events outside are left out" in written
