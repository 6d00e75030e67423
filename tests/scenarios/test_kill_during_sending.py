"""The gateway's process is killed again and again, at instants that nobody chose, while it takes and sends events."""

import os
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.ledger.check import add_up
from gateway.simulator import SimulatedProvider
from tests.scenarios.conftest import Forked, Service, event, reached

ROUNDS = int(os.environ.get("USAGE_GATEWAY_KILLS", "50"))
BATCH = 3


class Sender:
    """A client that keeps what was not acknowledged and sends it again: what every sender is asked to do."""

    def __init__(self, name: str = "", batch: int = BATCH, customer: str = "acme") -> None:
        self.acknowledged: set[str] = set()
        self._name, self._batch, self._customer = name, batch, customer
        self._unsure: list[dict[str, object]] = []
        self._made = 0

    def run(self, service: Service, stop: threading.Event) -> None:
        """Send batch after batch until told to stop, or until the gateway is gone."""
        while not stop.is_set():
            if not self._unsure:
                numbers = range(self._made, self._made + self._batch)
                self._unsure = [event(f"e{self._name}{number:05}", customer=self._customer) for number in numbers]
                self._made += self._batch
            try:
                answer = service.send(self._unsure, "?ack=stored")
            except (httpx.HTTPError, RuntimeError):
                return
            assert {"pending", "delivered", "unknown"} >= {one["status"] for one in answer.json()["results"]}
            self.acknowledged.update(str(one["id"]) for one in self._unsure)
            self._unsure = []


def killed(
    folder: Path,
    vendors: dict[str, SimulatedProvider],
    rounds: int,
    *,
    hasty: bool = False,
    senders: Sequence[Sender] = (),
    more: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Kill the gateway so many times, then hold what was promised against what every vendor has."""
    dice, senders = random.Random(), senders or [Sender()]
    for vendor in vendors.values():
        vendor.fail("latency", times=None, seconds=0.02)
    with reached(vendors) as urls:
        service = Forked(folder, urls, hasty=hasty)
        service.configuration["delivery"]["max_in_flight"] = 16
        service.configuration |= more or {}
        try:
            for _ in range(rounds):
                service.start()
                stop = threading.Event()
                sending = [threading.Thread(target=one.run, args=(service, stop)) for one in senders]
                for one in sending:
                    one.start()
                time.sleep(dice.uniform(0.01, 0.3))
                service.kill()
                stop.set()
                for one in sending:
                    one.join()
            service.start()
            done = threading.Event()
            last = threading.Timer(0.1, done.set)
            last.start()
            for sender in senders:
                sender.run(service, done)
            service.stop()
            service.start()
            found = service.settled(60)
            service.stop()
        finally:
            service.close()

    assert [] == add_up(folder / "ledger.db")["problems"]
    acknowledged = set[str]().union(*(sender.acknowledged for sender in senders))
    assert len(acknowledged) > rounds * BATCH, "the rounds were too short to say anything"
    known = [one["id"] for one in found]
    assert len(known) == len(set(known))
    lost = acknowledged - set(known)
    assert not lost, f"acknowledged and lost: {len(lost)} of {len(acknowledged)}"
    for name, vendor in vendors.items():
        _check(name, vendor, found)
    return found


def test_nothing_acknowledged_is_lost_and_nothing_is_billed_twice(
    tmp_path: Path, vendors: dict[str, SimulatedProvider]
) -> None:
    killed(tmp_path, vendors, ROUNDS)


def test_requests_that_share_batches_are_taken_whole_each_and_shadow_stays_what_it_is(
    tmp_path: Path, vendors: dict[str, SimulatedProvider]
) -> None:
    """Many senders of one event each, so that a flush has several requests; half of them look on at one vendor."""
    senders = [Sender(f"{number:02}-", 1, ("acme", "ghost")[number % 2]) for number in range(12)]
    split = {
        "routes": [
            {"destination": "flexprice", "customers": ["acme"]},
            {"destination": "flexprice", "customers": ["ghost"], "mode": "shadow"},
        ]
    }
    found = killed(tmp_path, vendors, max(4, ROUNDS // 10), senders=senders, more=split)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        (shared,) = connection.execute("SELECT count(*) FROM batches WHERE size > 1").fetchone()
    assert shared, "no two requests ever shared a batch"
    seen = {(int(one["id"][1:3]) % 2, one["deliveries"]["flexprice"].get("shadow", False)) for one in found}
    assert {(0, False), (1, True)} == seen


def test_a_gateway_that_acknowledges_before_it_stores_is_found_out(
    tmp_path: Path, vendors: dict[str, SimulatedProvider]
) -> None:
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        killed(tmp_path, vendors, 6, hasty=True)


def _check(name: str, vendor: SimulatedProvider, found: list[dict[str, Any]]) -> None:
    """Hold what the gateway says of one destination against what the vendor has."""
    said = {one["id"]: one["deliveries"][name]["status"] for one in found}
    has = Counter(str(row.key) for row in vendor.stored)
    assert set(has.values()) == {1}, f"{name} has something twice"
    assert set(has) <= set(said), f"{name} has something that the ledger does not know"
    if name == "wingback":  # no idempotency: what was on its way when the process died is parked
        assert {"accepted", "unknown"} >= set(said.values())
        assert not [event_id for event_id, status in said.items() if status == "accepted" and event_id not in has]
    else:
        assert {"accepted", "duplicate"} >= set(said.values()), name
        assert set(has) == set(said)
        assert len(said) == sum(vendor.billed().values())
