"""How the simulated vendors take what other clients send than ours: as their own servers do."""

import json
from typing import Any

import pytest

from gateway.simulator import SimulatedProvider

EVENT = {
    "subscriptionId": "sub_1",
    "priceSlug": "calls",
    "amount": 5,
    "transactionId": "e1",
    "usageDate": 1_795_431_600_000,
}


def told(vendor: SimulatedProvider, path: str, body: object, **headers: str) -> tuple[int, Any]:
    given = {name.lower(): value for name, value in vendor.spec.auth.headers("k").items()}
    sent = {**given, "content-type": "application/json", **headers}
    answer = vendor.handle("POST", path, sent, json.dumps(body).encode())
    assert answer.reply is not None
    return answer.reply.status, json.loads(answer.reply.body) if answer.reply.body.startswith(b"{") else None


def flowglad(vendor: SimulatedProvider, *events: object, **headers: str) -> tuple[int, Any]:
    return told(vendor, "/usage-events/bulk", {"usageEvents": events}, **headers)


@pytest.mark.parametrize(("key", "status"), [("k", 200), ("Bearer k", 200), ("wrong", 401), ("Bearer", 401), ("", 401)])
def test_flowglad_takes_its_key_without_the_word_before_it_as_its_own_client_sends_it(key: str, status: int) -> None:
    assert status == flowglad(SimulatedProvider("flowglad", api_key="k"), EVENT, authorization=key)[0]


def test_others_want_the_word_before_the_key() -> None:
    vendor = SimulatedProvider("paygentic", api_key="k")
    assert 401 == told(vendor, "/v0/events", {}, authorization="k")[0]
