"""The gateway's process is killed again and again, at instants that nobody chose, while events are sent and voided."""

import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from gateway.ledger.check import add_up
from gateway.simulator import SimulatedProvider
from tests.scenarios.conftest import Forked, Service, event, reached

ROUNDS = 15


def test_what_is_void_is_not_billed_wherever_the_process_ended(
    tmp_path: Path, vendors: dict[str, SimulatedProvider]
) -> None:
    del vendors["wingback"]  # what was on its way there when the process died has to be resolved first
    dice, made = random.Random(), list[str]()
    for vendor in vendors.values():
        vendor.fail("latency", times=None, seconds=0.01)
    with reached(vendors) as urls:
        service = Forked(tmp_path, urls)
        try:
            for _ in range(ROUNDS):
                service.start()
                stop = threading.Event()
                correcting = threading.Thread(target=_run, args=(service, made, stop))
                correcting.start()
                time.sleep(dice.uniform(0.02, 0.3))
                service.kill()
                stop.set()
                correcting.join()
            service.start()
            for event_id in made:  # as everyone does who got no answer: the same again
                service.send([event(event_id)], "?ack=stored")
                _void(service, event_id)
            found = service.settled(60)
            unheard = {event_id for event_id in made if "unknown" in _outcomes(service, event_id)}
            service.stop()
        finally:
            service.close()

    assert [] == add_up(tmp_path / "ledger.db")["problems"]
    originals = {one["id"]: one for one in found if "corrects" not in one}
    voids = {one["corrects"]: one for one in found if "corrects" in one}
    assert len(made) > ROUNDS
    assert set(made) == set(originals) == set(voids)
    assert len(found) == 2 * len(made), "every event was voided once"
    for name in ("flexprice", "paygentic_events"):
        assert 0 == sum(vendors[name].billed().values()), name
    there = Counter(one.key for one in vendors["flowglad"].stored)
    for event_id, void in voids.items():
        stored = originals[event_id]["deliveries"]["flowglad"]["status"] != "filtered"
        assert int(stored) == there[event_id]
        assert ("rejected" if stored else "filtered") == void["deliveries"]["flowglad"]["status"]
    refunded = {row.key: row.withdrawn for row in vendors["paygentic"].stored}
    for event_id, void in voids.items():
        match void["deliveries"]["paygentic"]["status"]:
            case "accepted":
                assert refunded[event_id]
            case "filtered":
                assert event_id not in refunded
            case "rejected":  # nobody was left to hear the first answer, and a repeat may have another id there
                assert event_id in unheard
                assert not refunded[event_id]
                assert "refund it by hand" in void["deliveries"]["paygentic"]["error"]["message"]
            case status:
                assert "unknown" == status


def _outcomes(service: Service, event_id: str) -> list[str]:
    detail = service.client.get(f"/v1/events/{event_id}").json()
    return [one["outcome"] for one in detail["deliveries"].get("paygentic", {}).get("history", ())]


def _run(service: Service, made: list[str], stop: threading.Event) -> None:
    while not stop.is_set():
        event_id = f"e{len(made):05}"
        made.append(event_id)
        try:
            service.send([event(event_id)], "?ack=stored")
            _void(service, event_id)
        except (httpx.HTTPError, RuntimeError):
            return


def _void(service: Service, event_id: str) -> dict[str, Any]:
    body, headers = {"reason": "a test ran against production"}, {"prefer": "respond-async"}
    answer = service.client.post(f"/v1/events/{event_id}/void", json=body, headers=headers)
    assert 200 == answer.status_code, answer.text
    return answer.json()
