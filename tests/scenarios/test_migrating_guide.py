"""The guide to moving is true: each configuration in it can be used, each command can be given, and most are."""

import json
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import app
from gateway.configuration.file import loads
from gateway.simulator import SimulatedProvider
from tests.scenarios.conftest import ROOT, Service, event

GUIDE = (ROOT / "docs" / "migrating.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


class Keys(dict[str, str]):
    """An environment in which every key is set."""

    def __missing__(self, name: str) -> str:
        return f"value of {name}"

    def __contains__(self, name: object) -> bool:
        return True


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_configuration_of_the_guide_can_be_used(text: str) -> None:
    assert loads(text, Keys()).destinations


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_guide_can_be_given(command: str, tmp_path: Path) -> None:
    tokens = shlex.split(command)[1:]
    (tmp_path / "gateway.yaml").write_text("")
    tokens = [str(tmp_path / token) if token == "gateway.yaml" else token for token in tokens]
    _, _, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    assert not ignored


@pytest.mark.parametrize("command", [one for one in COMMANDS if {"preflight", "backfill"} & {*one.split()}])
def test_history_goes_where_the_routes_leave_it(command: str) -> None:
    named = shlex.split(command)[shlex.split(command).index("--to") + 1]
    modes = [
        one.mode for text in blocks("yaml") for name, one in loads(text, Keys()).destinations.items() if name == named
    ]
    assert {"shadow"} == {*modes}


def ran(service: Service, command: str, *more: str) -> tuple[int, Any]:
    """Run a command of the guide against the gateway; return its exit code and what it says to machines."""
    words = [sys.executable, "-m", "gateway", *shlex.split(command)[1:], "--url", str(service.client.base_url), *more]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in {0, 3, 4}, done.stderr
    return done.returncode, json.loads(done.stdout) if "--json" in more else done.stderr


def named(words: str) -> str:
    """Return the command of the guide that begins with these words."""
    return next(line for line in COMMANDS if line.startswith(f"usage-gateway {words}"))


def test_the_commands_do_what_the_guide_says(service: Service, vendors: dict[str, SimulatedProvider]) -> None:
    whole = service.configuration
    now = datetime.now(UTC)
    whole["destinations"] = {name: whole["destinations"][name] for name in ("flowglad", "flexprice")}
    whole["destinations"]["trial"] = {**whole["destinations"].pop("flexprice"), "mode": "off"}
    bindings = whole["meters"]["api_calls"]["bindings"]
    whole["meters"]["api_calls"]["bindings"] = {"flowglad": bindings["flowglad"], "trial": bindings["flexprice"]}
    whole["customers"] = {name: {"flowglad": links["flowglad"]} for name, links in whole["customers"].items()}
    service.start()
    sent = [event(f"e{n}", 2, timestamp=(now - timedelta(minutes=n + 1)).isoformat()) for n in range(40)]
    assert 40 == service.send(sent, "?ack=required").json()["summary"]["delivered"]
    service.stop()

    whole["destinations"]["trial"]["mode"] = "shadow"
    service.start()
    code, report = ran(service, named("preflight"), "--json")
    assert (0, 40) == (code, report["ready"]["events"])
    assert set() == {row.key for row in vendors["flexprice"].stored}
    code, job = ran(service, named("backfill"), "--json")
    assert (0, "done", 40) == (code, job["state"], job["counts"]["fed"])
    service.settled()
    assert {f"e{n}" for n in range(40)} == {row.key for row in vendors["flexprice"].stored}
    code, job = ran(service, named("backfill"), "--json")
    assert (0, 40) == (code, job["counts"]["there_already"])
    code, compared = ran(
        service,
        named("reconcile")
        .replace("2026-11-01", f"{now - timedelta(days=1):%Y-%m-%d}")
        .replace("2026-12-01", f"{now + timedelta(days=1):%Y-%m-%d}"),
        "--json",
    )
    assert 0 == code, compared
    code, told = ran(service, named("backfill"), "--meter", "api_call")
    assert (0, True) == (code, "the ledger has no event that was asked for" in told), "a name that was mistyped"
    code, _ = ran(service, named("links coverage"))
    assert 0 == code
    month = f"{now:%Y-%m}"
    code, report = ran(service, named("close").replace("2026-11", month), "--json")
    assert (3, False, 0) == (code, report["ended"], report["billed_twice_count"])
    service.stop()


def test_a_row_of_a_history_that_is_no_event_is_something_left_out(
    service: Service, vendors: dict[str, SimulatedProvider], tmp_path: Path
) -> None:
    when = (datetime.now(UTC) - timedelta(days=60)).isoformat()
    history = tmp_path / "history.csv"
    rows = [f"h1,acme,api_calls,3,{when}", f"h2,acme,api_calls,three,{when}"]
    history.write_text("\n".join(["id,customer,meter,quantity,timestamp", *rows]))
    service.start()
    code, job = ran(service, f'usage-gateway backfill --to flexprice --from {history} --reason "we move"', "--json")
    assert (4, {"fed": 1}, {"count": 1}) == (code, job["counts"], job["invalid"])
    service.settled()
    assert ["h1"] == [row.key for row in vendors["flexprice"].stored]
    service.stop()


def test_a_history_goes_in_the_pieces_that_the_gateway_takes(
    service: Service, vendors: dict[str, SimulatedProvider], tmp_path: Path
) -> None:
    service.configuration["intake"] = {"max_events": 3}
    when = (datetime.now(UTC) - timedelta(days=60)).isoformat()
    history = tmp_path / "history.csv"
    rows = [f"h{number},acme,api_calls,3,{when}" for number in range(8)]
    history.write_text("\n".join(["id,customer,meter,quantity,timestamp", *rows]))
    service.start()
    code, job = ran(service, f'usage-gateway backfill --to flexprice --from {history} --reason "we move"', "--json")
    assert (0, "done", {"fed": 8}) == (code, job["state"], job["counts"])
    service.settled()
    assert 8 == len({row.key for row in vendors["flexprice"].stored})
    service.stop()
