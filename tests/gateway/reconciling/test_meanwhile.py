"""What is recorded and delivered while a comparison is being made, which reads the ledger before it reads a vendor."""

import asyncio
import pkgutil
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from gateway.reconciling.readback import Reader
from tests.gateway.conftest import VENDORS, Asking, MovableClock, event

pytestmark = pytest.mark.anyio

Sent = list[dict[str, Any]]


@pytest.fixture
def meanwhile(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sent, str], None]:
    """Have events sent and delivered just before a vendor is read the next time, or just after."""

    def planted(sent: Sent, when: str) -> None:
        plain = Reader.usage

        async def usage(reader: Reader, *asked: Any, **named: Any) -> Any:
            monkeypatch.setattr(Reader, "usage", plain)
            told = None if when == "before" else await plain(reader, *asked, **named)
            await asking.send(sent, query="?ack=all")
            return await plain(reader, *asked, **named) if told is None else told

        monkeypatch.setattr(Reader, "usage", usage)

    return planted


async def month(asking: Asking, clock: MovableClock, **asked: Any) -> dict[str, Any]:
    """Reconcile the month in which things were sent, however far the clock was moved since."""
    start = (clock.now() - clock.ahead).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (start + timedelta(days=32)).replace(day=1)
    body = {"from": start.isoformat(), "to": end.isoformat(), "meter": "api_calls", **asked}
    answer = await asking.client.post("/v1/reconciliations", json=body)
    assert 201 == answer.status_code, answer.text
    return answer.json()["report"]


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_comes_while_a_vendor_is_read_is_no_strangers(
    asking: Asking, clock: MovableClock, meanwhile: Callable[[Sent, str], None], name: str, when: str
) -> None:
    await asking.send(event("e1"), query="?ack=all")
    meanwhile([event("during", quantity=4)], when)
    report = await month(asking, clock, destinations=[name])
    (figure,) = report["comparisons"][0]["figures"]
    assert ("7", "7" if when == "before" else "3", True) == (figure["left"], figure["right"], figure["explained"])
    assert ([] if when == "before" else [("in_flight", "-4")]) == [
        (one["class"], one["quantity"]) for one in figure["reasons"]
    ]


async def test_two_vendors_are_read_before_either_is_held_against_the_ledger(
    asking: Asking, clock: MovableClock, meanwhile: Callable[[Sent, str], None]
) -> None:
    await asking.send(event("e1"), query="?ack=all")
    meanwhile([event("during", quantity=4)], "after")
    report = await month(asking, clock, destinations=["flowglad"], against="flexprice")
    assert (0, ["7", "7", "3"]) == (report["unexplained"], [one["figures"][0]["left"] for one in report["comparisons"]])


async def test_a_customer_who_comes_while_counters_are_read_is_asked_for_the_next_time(
    asking: Asking, clock: MovableClock, meanwhile: Callable[[Sent, str], None]
) -> None:
    link = {"links": {"wingback": {"customer_id": "Cust_0b8f3a44-3d0e-4f0e-9a53-5b1f4f7a2c11"}}, "reason": "new"}
    assert (await asking.client.put("/v1/customers/beta", json=link)).is_success
    await asking.send(event("e1"), query="?ack=all")
    meanwhile([event("during", customer="beta", quantity=4)], "before")
    report = await month(asking, clock, destinations=["wingback"])
    assert (["acme"], True) == ([one["customer"] for one in report["comparisons"][0]["figures"]], report["complete"])
    report = await month(asking, clock, destinations=["wingback"])
    assert [("acme", "3"), ("beta", "4")] == [
        (one["customer"], one["right"]) for one in report["comparisons"][0]["figures"]
    ]


@pytest.mark.parametrize(
    "step",
    [
        "gateway.reconciling.reconciliations.report",
        "gateway.reconciling.comparing.Joiner.join",
        "gateway.reconciling.comparing.Counters.take",
        "gateway.reconciling.comparing.Counters.end",
        "gateway.reconciling.comparing.paired",
    ],
)
async def test_what_takes_long_of_a_million_is_done_beside_the_event_loop(
    asking: Asking, clock: MovableClock, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Requests go on in the meantime."""
    real, done = pkgutil.resolve_name(step), list[None]()

    def aside(*given: Any) -> Any:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        done.append(None)
        return real(*given)

    monkeypatch.setattr(step, aside)
    assert 0 == (await month(asking, clock, destinations=["flexprice"], against="wingback"))["unexplained"]
    assert done
