"""The gateway's process is killed again and again, at instants that nobody chose, while it takes and sends events."""

import random
import threading
import time
from collections import Counter
from typing import Any

import httpx

from gateway.simulator import SimulatedProvider
from tests.scenarios.conftest import Service, event

ROUNDS = 4
BATCH = 7


class Sender:
    """A client that keeps what was not acknowledged and sends it again: what every sender is asked to do."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self._unsure: list[dict[str, object]] = []
        self._made = 0

    def run(self, service: Service, stop: threading.Event) -> None:
        """Send batch after batch until told to stop, or until the gateway is gone."""
        while not stop.is_set():
            if not self._unsure:
                self._unsure = [event(f"e{self._made + index:05}") for index in range(BATCH)]
                self._made += BATCH
            try:
                answer = service.send(self._unsure, "?ack=stored")
            except (httpx.HTTPError, RuntimeError):
                return
            assert {"pending", "delivered", "unknown"} >= {one["status"] for one in answer.json()["results"]}
            self.acknowledged.update(str(one["id"]) for one in self._unsure)
            self._unsure = []


def test_nothing_acknowledged_is_lost_and_nothing_is_billed_twice(
    service: Service, vendors: dict[str, SimulatedProvider]
) -> None:
    dice, sender = random.Random(), Sender()
    for vendor in vendors.values():
        vendor.fail("latency", times=None, seconds=0.03)

    for _ in range(ROUNDS):
        service.start()
        stop = threading.Event()
        sending = threading.Thread(target=sender.run, args=(service, stop))
        sending.start()
        time.sleep(dice.uniform(0.05, 0.5))
        service.kill()
        stop.set()
        sending.join()
    service.start()
    done = threading.Event()
    last = threading.Timer(0.1, done.set)
    last.start()
    sender.run(service, done)
    found = service.settled()
    service.stop()

    assert len(sender.acknowledged) > ROUNDS * BATCH, "the rounds were too short to say anything"
    known = [one["id"] for one in found]
    assert len(known) == len(set(known))
    assert sender.acknowledged <= set(known)
    for name, vendor in vendors.items():
        _check(name, vendor, found)


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
        assert [len(said)] == list(vendor.billed().values())
