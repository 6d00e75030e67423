"""The command against processes: a vendor on a socket, a gateway on another, and usage of a month between them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from gateway.cli import main
from tests.gateway.cli.test_serve import Start, configure, start

__all__ = ["start"]


def test_a_month_is_reconciled_over_sockets_and_written_down(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vendors = start("simulate", "flexprice", "--port", "0")
    gateway = start("serve", "--config", configure(tmp_path, vendors.said["base_urls"]["flexprice"]))
    now, url = datetime.now(UTC), gateway.said["url"]
    events = [
        {"id": f"e{number}", "customer": f"c{number % 3}", "meter": "api_calls", "quantity": "0.1",
         "timestamp": (now - timedelta(seconds=number)).isoformat()}
        for number in range(30)
    ]  # fmt: skip
    assert 200 == httpx.post(f"{url}/v1/events", json=events, trust_env=False).status_code
    window = ["--from", f"{now - timedelta(days=1):%Y-%m-%d}", "--to", f"{now + timedelta(days=2):%Y-%m-%d}"]
    page, table = tmp_path / "report.html", tmp_path / "figures.csv"
    assert 0 == main(["reconcile", *window, "--url", url, "--json", "--html", str(page), "--csv", str(table)])
    report = json.loads(capsys.readouterr().out)["report"]
    figures = [(one["customer"], one["left"], one["right"]) for one in report["comparisons"][0]["figures"]]
    assert [(f"c{number}", "1.0", "1.0") for number in range(3)] == figures
    assert "No unexplained difference" in page.read_text("utf-8")
    assert 4 == len(table.read_text("utf-8").splitlines())
    sent = {"id": "theirs", "external_customer_id": "c1", "event_name": "api_calls", "properties": {"quantity": "7"}}
    added = httpx.post(
        f"{vendors.said['base_urls']['flexprice']}/events/bulk",
        json={"events": [{**sent, "event_id": "theirs", "timestamp": now.isoformat(), "source": "x"}]},
        headers={"x-api-key": "secret-key"},
        trust_env=False,
    )
    assert 202 == added.status_code, added.text
    assert 3 == main(["reconcile", *window, "--url", url])
    assert "only_there: 7 in 1 events: theirs" in capsys.readouterr().err
