"""A client that sends one batch from everywhere at once: it is sent on once, and everybody hears the same."""

import asyncio
from collections import Counter
from typing import Any

import httpx

from gateway.simulator import SimulatedProvider
from tests.scenarios.conftest import Service, event

AT_ONCE = 96
EVENTS = 20


def test_a_batch_that_comes_96_times_at_once_is_sent_once(
    service: Service, vendors: dict[str, SimulatedProvider]
) -> None:
    for vendor in vendors.values():  # slow enough that all of them come while the first is on its way
        vendor.fail("latency", times=None, seconds=0.2)
    batch = [event(f"e{number}", number + 1) for number in range(EVENTS)]

    async def all_at_once() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=AT_ONCE)
        async with httpx.AsyncClient(base_url=service.client.base_url, timeout=60, limits=limits) as client:
            sending = (client.post("/v1/events?ack=all", json=batch) for _ in range(AT_ONCE))
            return await asyncio.gather(*sending)

    service.start()
    answers = asyncio.run(all_at_once())
    service.stop()

    assert {200} == {answer.status_code for answer in answers}
    said = [answer.json()["results"] for answer in answers]
    assert Counter({False: 1, True: AT_ONCE - 1}) == Counter(results[0]["replayed"] for results in said)
    assert 1 == len({str([_apart(one) for one in results]) for results in said}), "whoever came first, one answer"
    for name, vendor in vendors.items():
        assert EVENTS == vendor.rows_taken == len(vendor.stored), name
        assert {1} == {row.copies for row in vendor.stored}
        assert EVENTS == sum(len(call.rows) for call in vendor.calls), name


def _apart(result: dict[str, Any]) -> dict[str, Any]:
    """Return what must not differ: all but whether it was a repeat."""
    return {name: value for name, value in result.items() if name != "replayed"}
