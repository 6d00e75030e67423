"""Moving from one vendor to another: trial, history, cut-over at the turn of a month, and back; all is billed once."""

import json
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.app import create_app
from gateway.configuration.file import loads
from gateway.ledger import SqliteLedger
from gateway.ledger.check import add_up
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from gateway.stored import stored
from tests.gateway.conftest import Asking
from tests.gateway.conftest import MovableClock as Clock
from tests.scenarios.conftest import ROOT, Service
from tests.waiting import until

MARCH = datetime(2027, 3, 1, tzinfo=UTC)
CUSTOMERS = ("acme", "beta", "gamma")
REASON = "we move"


class Move:
    """A house between an old vendor and a new one, at whatever day it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.vendors = {
            "flowglad": SimulatedProvider("flowglad"),
            "trial": SimulatedProvider("flexprice"),
            "flexprice": SimulatedProvider("flexprice"),
        }
        self.sent: dict[str, datetime] = {}
        self.configuration: dict[str, Any] = {
            "destinations": {"flowglad": {"provider": "flowglad", "rate": "none", "settings": {"api_key": "old"}}},
            "meters": {"api_calls": {}},
            "customers": {name: {"flowglad": {"subscription_id": f"sub_{name}"}} for name in CUSTOMERS},
            "delivery": {"retry": {"first": "1ms", "max": "5ms"}},
        }

    def day(self, month: int, day: int, hour: int = 12) -> datetime:
        """Make it that day, and return the instant."""
        when = datetime(2027, month, day, hour, tzinfo=UTC)
        self.clock.ahead = when - datetime.now(UTC)
        return when

    def add(self, name: str, **settings: Any) -> None:
        self.configuration["destinations"][name] = {
            "provider": "flexprice",
            "rate": "none",
            "settings": {"api_key": f"new-{name}"},
            **settings,
        }

    def route(self, *routes: Mapping[str, str]) -> None:
        for name in ("flowglad", "flexprice"):
            self.configuration["destinations"][name]["group"] = "billing"
        self.configuration["routes"] = [dict(one) for one in routes]

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Asking]:
        """Run the gateway on the ledger that the last one left."""
        configuration = loads(yaml.safe_dump(self.configuration), {})
        mounts = {name: self.vendors[name].transport() for name in configuration.destinations}
        gateway = Gateway(configuration, SqliteLedger(self.folder / "ledger.db"), clock=self.clock, mounts=mounts)
        await gateway.start()
        transport = httpx.ASGITransport(create_app(gateway), raise_app_exceptions=False)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                yield Asking(gateway, client, self.vendors)
        finally:
            await gateway.stop()
        assert [] == add_up(self.folder / "ledger.db")["problems"]

    async def use(self, asking: Asking, when: datetime, name: str) -> None:
        """Have every customer use something at an instant."""
        events = [
            {
                "id": f"{name}-{customer}",
                "customer": customer,
                "meter": "api_calls",
                "quantity": 3,
                "timestamp": when.isoformat(),
            }
            for customer in CUSTOMERS
        ]
        result = await asking.send(events)
        assert len(CUSTOMERS) == result["summary"]["delivered"], result
        self.sent |= {f"{name}-{customer}": when for customer in CUSTOMERS}

    def keys(self, name: str) -> Counter[str]:
        return Counter(str(row.key) for row in self.vendors[name].stored)


async def backfill(asking: Asking, to: str) -> dict[str, Any]:
    answer = await asking.client.post("/v1/backfills", json={"to": to, "source": "ledger", "reason": REASON})
    assert answer.is_success, answer.text

    async def ended() -> Any:
        job = await asking.get(f"/v1/backfills/{answer.json()['id']}")
        return None if job["state"] == "running" else job

    job = await until(ended, seconds=60)
    for batch in await asking.gateway.ledger.batches_after(0, 1000):
        (snapshot,) = (await asking.gateway.ledger.snapshots([batch])).values()
        for event in snapshot.events:
            await asking.settled(event.id)
    return job


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_every_event_of_a_move_is_billed_once_whatever_its_day_and_whenever_it_comes(tmp_path: Path) -> None:
    move = Move(tmp_path)
    async with move.running() as asking:  # a month at the old vendor alone
        for day in range(1, 21):
            when = move.day(2, day)
            await move.use(asking, when - timedelta(hours=1), f"feb{day:02}")

    move.add("trial", mode="shadow")  # the new vendor's sandbox sees everything, and bills nobody
    move.day(2, 21)
    async with move.running() as asking:
        report = (await asking.client.post("/v1/preflights", json={"to": "trial"})).json()
        assert (60, []) == (report["ready"]["events"], report["refused"])
        job = await backfill(asking, "trial")
        assert ("done", 60) == (job["state"], job["counts"]["fed"])
        for day in range(21, 28):
            when = move.day(2, day)
            await move.use(asking, when - timedelta(hours=1), f"feb{day:02}")
        move.clock.ahead += timedelta(days=1)  # what a vendor has only queued would show by now
        for name in ("trial", "flowglad"):
            asked = {"from": "2027-02-01T00:00:00Z", "to": "2027-02-27T00:00:00Z", "destinations": [name]}
            told = (await asking.client.post("/v1/reconciliations", json=asked)).json()
            assert ("done", 0, True) == (told["state"], told["report"]["unexplained"], told["report"]["complete"]), told
            (compared,) = told["report"]["comparisons"]
            assert [("78", "78")] * len(CUSTOMERS) == [(one["left"], one["right"]) for one in compared["figures"]]
    assert Counter(dict.fromkeys(move.sent, 1)) == move.keys("trial")
    assert move.vendors["flowglad"].billed() == {(f"sub_{name}", "api_calls"): 81 for name in CUSTOMERS}, (
        "the old vendor bills on"
    )
    assert move.vendors["trial"].billed() == {(name, "api_calls"): 81 for name in CUSTOMERS}, "and the trial agrees"

    move.add("flexprice")
    move.route(
        {"destination": "flowglad", "until": MARCH.isoformat()}, {"destination": "flexprice", "from": MARCH.isoformat()}
    )
    move.day(2, 28)
    async with move.running() as asking:  # decided beforehand: nothing happens until March
        await move.use(asking, move.clock.now() - timedelta(hours=1), "feb28")
        assert Counter() == move.keys("flexprice")
        for day in (1, 2, 3):
            when = move.day(3, day)
            await move.use(asking, when - timedelta(hours=1), f"mar{day:02}")
            await move.use(asking, MARCH - timedelta(hours=day), f"late-feb{day}")

    back = datetime(2027, 3, 4, tzinfo=UTC)  # three days were enough
    move.route(
        {"destination": "flowglad", "until": MARCH.isoformat()},
        {"destination": "flexprice", "from": MARCH.isoformat(), "until": back.isoformat()},
        {"destination": "flowglad", "from": back.isoformat()},
    )
    move.day(3, 4)
    async with move.running() as asking:
        for day in (4, 5, 6):
            when = move.day(3, day)
            await move.use(asking, when - timedelta(hours=1), f"mar{day:02}")
            await move.use(asking, back - timedelta(hours=day), f"late-mar{day}")

        february = await asking.client.post("/v1/periods/2027-02/close", json={"reason": REASON})
        assert (True, 0) == (february.json()["complete"], february.json()["billed_twice_count"])
        bills: dict[str, list[str]] = {}
        async for view in stored(asking.gateway.ledger, "default"):
            for index, event in enumerate(view.snapshot.events):
                bills[event.id] = sorted(name for name, code in view.live(index).items() if code.status.success)
        assert {name: [_biller(when, back)] for name, when in move.sent.items()} == bills
    old, new = move.keys("flowglad"), move.keys("flexprice")
    assert Counter(dict.fromkeys(move.sent, 1)) == old + new, "each event at one of the two, once"
    assert {name for name, when in move.sent.items() if _biller(when, back) == "flexprice"} == set(new)


def _biller(when: datetime, back: datetime) -> str:
    return "flexprice" if MARCH <= when < back else "flowglad"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


HISTORY = 6000
KILLS = 5


def test_gateway_and_command_may_be_killed_while_history_is_filled_in(
    tmp_path: Path, service: Service, vendors: dict[str, SimulatedProvider]
) -> None:
    vendor, port = vendors["flexprice"], free_port()
    service.configuration["listen"] = {"port": port}
    start = datetime.now(UTC) - timedelta(days=60)
    file = tmp_path / "history.ndjson"
    with file.open("w") as lines:
        for number in range(HISTORY):
            when = (start + timedelta(minutes=number)).isoformat()
            one = {"id": f"h{number}", "customer": "acme", "meter": "api_calls", "quantity": 2, "timestamp": when}
            lines.write(json.dumps(one) + "\n")
    command = [
        *(sys.executable, "-m", "gateway", "backfill", "--to", "flexprice", "--from", str(file)),
        *("--reason", REASON, "--rate", "500", "--url", f"http://127.0.0.1:{port}", "--json"),
    ]
    dice = random.Random(7)
    service.start()
    for number in range(KILLS):
        running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not service.client.get("/v1/backfills").json()["data"]:  # a busy machine takes its time to begin
            assert running.poll() is None
        threading.Event().wait(dice.uniform(0.4, 1.2))
        for victim in (running.kill, service.kill) if number % 2 else (service.kill, running.kill):
            victim()
        running.wait()
        service.start()
    (job,) = service.client.get("/v1/backfills").json()["data"]
    assert "running" == job["state"], "the rounds ended it before they said anything"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert 0 == done.returncode, done.stderr
    found = service.settled(60)
    service.stop()
    assert HISTORY == len(found)
    assert {"accepted", "duplicate"} >= {one["deliveries"]["flexprice"]["status"] for one in found}
    assert {f"h{number}" for number in range(HISTORY)} == {row.key for row in vendor.stored}
    assert {("acme", "api_calls"): 2 * HISTORY} == vendor.billed()
    assert [] == add_up(tmp_path / "ledger.db")["problems"]
