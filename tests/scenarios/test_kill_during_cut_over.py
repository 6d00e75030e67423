"""kill -9 while the routes are changed under live traffic: each event is billed by the vendor of its own time, once."""

import contextlib
import os
import random
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from gateway.ledger.check import add_up
from gateway.simulator import SimulatedProvider
from tests.scenarios.conftest import Service, event, reached

ROUNDS = 6
FIRST = datetime.now(UTC).replace(microsecond=0) - timedelta(days=ROUNDS + 2)
FAR = FIRST + timedelta(days=1000)
BATCH = 20
NAMES = ("flowglad", "flexprice")


def boundary(turn: int) -> datetime:
    """Return the instant at which the billing changes hands for the n-th time."""
    return FIRST + timedelta(days=turn)


def routes(turns: int) -> list[dict[str, str]]:
    """Return routes by which it has changed hands so many times: there, back, there again."""
    ends = [boundary(turn) for turn in range(turns)] or [FAR]
    made = [{"destination": NAMES[0], "until": ends[0].isoformat()}]
    for place, start in enumerate(ends):
        made.append({"destination": NAMES[(place + 1) % 2], "from": start.isoformat()})
        if place + 1 < len(ends):
            made[-1]["until"] = ends[place + 1].isoformat()
    return made


class Reloadable(Service):
    """A service that is told to read its configuration again."""

    process: subprocess.Popen[str]

    def launch(self) -> subprocess.Popen[str]:
        self.process = super().launch()
        return self.process

    def reload(self) -> None:
        """Tell it, and wait for nothing."""
        self.configured()
        os.kill(self.process.pid, signal.SIGHUP)


@pytest.fixture
def moving(tmp_path: Path, vendors: dict[str, SimulatedProvider]) -> Generator[Reloadable]:
    with reached({name: vendors[name] for name in NAMES}) as urls:
        made = Reloadable(tmp_path, urls)
        for one in made.configuration["destinations"].values():
            one["group"] = "billing"
        made.configuration["routes"] = routes(0)
        try:
            yield made
        finally:
            made.kill()


def test_routes_change_under_kills_and_each_event_is_billed_by_whom_its_time_says(
    tmp_path: Path, moving: Reloadable, vendors: dict[str, SimulatedProvider]
) -> None:
    dice = random.Random(11)
    due: dict[str, set[str]] = {name: set() for name in NAMES}
    sent_before_the_kill = 0
    moving.start()
    for turn in range(ROUNDS):
        cut, events = boundary(turn), list[dict[str, object]]()
        for number in range(BATCH):  # the boundary itself, the moment before it, and some of both sides
            after = number % 2 == 0
            away = timedelta(minutes=dice.randint(1, 1000)) if number > 1 else timedelta(milliseconds=0 if after else 1)
            name = f"t{turn}-{number}"
            due[NAMES[(turn + after) % 2]].add(name)
            events.append(event(name, 2, timestamp=(cut + away if after else cut - away).isoformat()))
        moving.configuration["routes"] = routes(turn + 1)
        killer = threading.Timer(dice.uniform(0.0, 0.3), moving.process.kill)
        killer.start()
        moving.reload()
        with contextlib.suppress(httpx.TransportError):  # whoever gets no answer sends the same again
            while not _routed(moving, turn):
                pass
            sent_before_the_kill += 1
            while True:
                moving.send(events, "?ack=stored", 5)
        killer.join()
        moving.kill()
        moving.start()
        summary = moving.send(events).json()["summary"]
        assert BATCH == summary["delivered"], summary
    assert sent_before_the_kill, "every process was killed before it had the routes"
    found = moving.settled()
    moving.stop()
    assert set.union(*due.values()) == {one["id"] for one in found}
    billed = {name: Counter(str(row.key) for row in vendors[name].stored) for name in NAMES}
    assert {name: Counter(ids) for name, ids in due.items()} == billed, "each at the vendor of its time, once"
    assert {("sub_acme", "api_calls"): 2 * len(due["flowglad"])} == vendors["flowglad"].billed()
    assert {("acme", "api_calls"): 2 * len(due["flexprice"])} == vendors["flexprice"].billed()
    assert [] == add_up(tmp_path / "ledger.db")["problems"]


def _routed(moving: Reloadable, turn: int) -> bool:
    """Return whether the process goes by the new routes already."""
    probe = event("probe", timestamp=boundary(turn).isoformat())
    deliveries = moving.client.post("/v1/explain", json=probe).json()["results"][0]["deliveries"]
    return deliveries[NAMES[(turn + 1) % 2]]["route"] == "live"
