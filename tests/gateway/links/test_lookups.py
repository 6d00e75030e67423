"""Customers looked up at their vendor: deliveries go on by themselves, answers hold for a while, nothing is guessed."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.accepting import Accepting
from gateway.configuration.file import loads
from gateway.corrections.one import correct
from gateway.erasing import erase
from gateway.errors import ConfigurationError, LedgerUnavailable
from gateway.ledger import SqliteLedger
from gateway.links.naming import LOOKED_UP
from gateway.repair import Actor
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from tests.gateway.clocks import ManualClock
from tests.gateway.lanes.world import used

CONFIGURATION = (
    "{destinations: {it: {provider: flowglad, rate: none, lookup: 1h, settings: {api_key: secret}}},"
    " meters: {calls: {}}, customers: {seeded: {it: {subscription_id: seed}}}}"
)
PATH = "/api/v1/customers/"


class Vendor(httpx.AsyncBaseTransport):
    """A simulated Flowglad that also knows customers."""

    def __init__(self) -> None:
        self.provider = SimulatedProvider("flowglad")
        self._inner = self.provider.transport()
        self.subscriptions: dict[str, list[str]] = {}
        self.looked_up: list[str] = []
        self.down = False
        self.asked: Callable[[], Awaitable[object]] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.startswith(PATH):
            return await self._inner.handle_async_request(request)
        customer = request.url.path.removeprefix(PATH).removesuffix("/billing")
        self.looked_up.append(customer)
        if self.asked is not None:
            await self.asked()
        if self.down:
            return httpx.Response(503)
        if customer not in self.subscriptions:
            return httpx.Response(404, json={"code": "NOT_FOUND"})
        rows = [{"id": one, "status": "active"} for one in self.subscriptions[customer]]
        return httpx.Response(200, json={"currentSubscriptions": rows})

    @property
    def billed(self) -> list[str]:
        return [str(row["subscriptionId"]) for call in self.provider.calls for row in call.rows]


def opened(path: Path, clock: ManualClock, vendor: Vendor) -> Gateway:
    return Gateway(loads(CONFIGURATION, {}), SqliteLedger(path / "ledger.db"), clock=clock, mounts={"it": vendor})


async def unavailable(*_: object, **__: object) -> None:
    raise LedgerUnavailable("planted")


class House:
    """A gateway that is moved by hand: nothing goes on by itself."""

    def __init__(self, path: Path) -> None:
        self.clock, self.vendor = ManualClock(), Vendor()
        self.gateway = opened(path, self.clock, self.vendor)

    async def send(self, event_id: str, customer: str) -> None:
        await Accepting(self.gateway).accept("default", [used(event_id, customer=customer)], "stored", 0)
        await self.deliver()

    async def deliver(self) -> None:
        lane = self.gateway.lanes["it"]
        for _ in range(5):
            await lane.step()
            await lane.idle()

    async def look_up(self) -> None:
        """Ask what is to be asked at this instant, and deliver what goes on for it."""
        while (until := await self.gateway.linking.look_up()) is not None and until <= self.clock.now():
            pass
        while (until := await self.gateway.linking.unblocking.step()) is not None and until <= self.clock.now():
            pass
        await self.deliver()

    async def corrected(self, event_id: str) -> str:
        """Give an event one more than it has, and return what became of that."""
        actor = Actor("default", "a test", "we look")
        await correct(self.gateway, actor, event_id, {"": Decimal(8)}, dry_run=False, wait=0)
        await self.deliver()
        return (await self.told(f"{event_id}~c1"))[0]

    async def told(self, event_id: str) -> tuple[str, str]:
        found = await self.gateway.event("default", event_id)
        assert found is not None
        delivery: Mapping[str, Any] = found["deliveries"]["it"]
        return delivery["status"], delivery.get("error", {}).get("message", "")


@pytest.fixture
async def house(tmp_path: Path) -> Any:
    made = House(tmp_path)
    await made.gateway.open()
    yield made
    await made.gateway.stop()


async def test_a_customer_without_a_link_is_looked_up_and_the_deliveries_go_on(house: House) -> None:
    house.vendor.subscriptions["acme"] = ["sub_acme"]
    await house.send("e1", "acme")
    assert "blocked" == (await house.told("e1"))[0]
    await house.look_up()
    assert ("accepted", "") == await house.told("e1")
    await house.send("e2", "acme")
    assert (["acme"], ["sub_acme"] * 2) == (house.vendor.looked_up, house.vendor.billed)


async def test_a_link_of_ours_is_never_looked_up(house: House) -> None:
    await house.send("e1", "seeded")
    await house.look_up()
    assert ([], ["seed"]) == (house.vendor.looked_up, house.vendor.billed)


async def test_of_several_subscriptions_none_is_taken_and_the_delivery_says_which_there_are(house: House) -> None:
    house.vendor.subscriptions["acme"] = ["sub_2", "sub_1"]
    await house.send("e1", "acme")
    await house.look_up()
    status, message = await house.told("e1")
    assert "blocked" == status
    assert "several (sub_1, sub_2): put a link with the subscription_id to bill" in message
    assert [] == house.vendor.billed


async def test_an_unknown_customer_is_asked_for_again_when_the_answer_is_old(house: House) -> None:
    await house.send("e1", "acme")
    await house.look_up()
    assert "knows no customer of this id" in (await house.told("e1"))[1]
    house.vendor.subscriptions["acme"] = ["sub_acme"]
    house.clock.advance(timedelta(minutes=59))
    await house.send("e2", "acme")
    await house.look_up()
    assert (["acme"], []) == (house.vendor.looked_up, house.vendor.billed)
    house.clock.advance(timedelta(minutes=1))
    await house.look_up()
    assert ["accepted"] * 2 == [(await house.told(one))[0] for one in ("e1", "e2")]


async def test_a_vendor_that_is_down_is_asked_again_and_nothing_is_concluded(house: House) -> None:
    house.vendor.subscriptions["acme"] = ["sub_acme"]
    house.vendor.down = True
    await house.send("e1", "acme")
    await house.look_up()
    assert "add one with subscription_id" in (await house.told("e1"))[1]
    await house.send("e2", "acme")
    await house.look_up()
    assert ["acme"] == house.vendor.looked_up, "not before half a minute has passed"
    house.vendor.down = False
    house.clock.advance(timedelta(seconds=30))
    await house.look_up()
    assert "accepted" == (await house.told("e1"))[0]


async def test_what_is_used_is_asked_for_anew_before_it_is_old(house: House) -> None:
    house.vendor.subscriptions["acme"] = ["sub_old"]
    await house.send("e1", "acme")
    await house.look_up()
    house.vendor.subscriptions["acme"] = ["sub_new"]
    house.clock.advance(timedelta(minutes=31))
    await house.send("e2", "acme")
    await house.look_up()
    await house.send("e3", "acme")
    assert ["sub_old", "sub_old", "sub_new"] == house.vendor.billed


async def test_a_subscription_that_the_vendor_does_not_know_any_more_is_looked_up_again(house: House) -> None:
    house.vendor.subscriptions["acme"] = ["sub_gone"]
    house.vendor.provider.known_customers = {"sub_new"}
    await house.send("e1", "acme")
    await house.look_up()
    assert "rejected" == (await house.told("e1"))[0]
    house.vendor.subscriptions["acme"] = ["sub_new"]
    await house.look_up()
    await house.send("e2", "acme")
    assert ("accepted", ["acme", "acme"]) == ((await house.told("e2"))[0], house.vendor.looked_up)


async def test_a_ledger_that_does_not_say_whose_they_were_leaves_nothing_in_doubt(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the answer said is written down by then, and the peers of what was refused go on."""
    house.vendor.subscriptions |= {"acme": ["sub_gone"], "other": ["sub_new"]}
    house.vendor.provider.known_customers = {"sub_new"}
    await house.send("e1", "acme")
    await house.send("e2", "other")
    with monkeypatch.context() as patch:
        deliver = house.deliver

        async def without_snapshots() -> None:
            patch.setattr(house.gateway.ledger, "snapshots", unavailable)
            await deliver()

        patch.setattr(house, "deliver", without_snapshots)
        await house.look_up()
    assert ["rejected", "accepted"] == [(await house.told(one))[0] for one in ("e1", "e2")]


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_was_sent_by_another_answer_is_not_corrected_by_the_last_one(
    house: House, tmp_path: Path, *, restarted: bool
) -> None:
    house.vendor.subscriptions["acme"] = ["sub_old"]
    await house.send("e1", "acme")
    await house.look_up()
    house.clock.advance(timedelta(hours=2))
    await house.send("e2", "acme")
    await house.look_up()
    assert "accepted" == await house.corrected("e1"), "the vendor says the same again"
    assert ["sub_old"] * 3 == house.vendor.billed
    house.vendor.subscriptions["acme"] = ["sub_new"]
    if restarted:
        await house.gateway.stop()
        house.gateway = opened(tmp_path, house.clock, house.vendor)
        await house.gateway.open()
        house.clock.advance(timedelta(seconds=1))
    else:
        house.clock.advance(timedelta(minutes=31))
        await house.send("e3", "acme")
        house.clock.advance(timedelta(minutes=31))
    await house.send("e4", "acme")
    await house.look_up()
    before = house.vendor.billed
    assert "rejected" == await house.corrected("e2")
    assert "sent under other names of its meter or customer" in (await house.told("e2~c1"))[1]
    assert before == house.vendor.billed
    house.clock.advance(timedelta(seconds=1))
    await house.send("e5", "acme")
    assert "accepted" == await house.corrected("e5")
    assert [*before, "sub_new", "sub_new"] == house.vendor.billed


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_what_was_found_of_a_customer_is_erased_with_it(house: House, *, meanwhile: bool) -> None:
    actor, ledger = Actor("default", "a test", "we look"), house.gateway.ledger
    house.vendor.subscriptions["acme"] = ["sub_acme"]
    await house.send("e1", "acme")
    if meanwhile:
        house.vendor.asked = lambda: erase(house.gateway, actor, "acme", abandon=True)
    await house.look_up()
    assert len(await ledger.documents(LOOKED_UP, "default", None, 10)) == (not meanwhile)
    await erase(house.gateway, actor, "acme")
    assert [] == await ledger.documents(LOOKED_UP, "default", None, 10)
    assert () == house.gateway.lookups.rows("it", "default", "acme")


async def test_an_answer_that_cannot_be_written_down_is_not_gone_by(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.vendor.subscriptions |= {"acme": ["sub_acme"], "globex": ["sub_globex"]}
    await house.send("e1", "acme")
    await house.send("e2", "globex")
    with monkeypatch.context() as patch:
        patch.setattr(house.gateway.book.naming, "answered", unavailable)
        with pytest.raises(LedgerUnavailable):
            await house.look_up()
    await house.send("e3", "acme")
    assert [] == house.vendor.billed
    await house.look_up()
    assert {"sub_acme", "sub_globex"} == set(house.vendor.billed)


async def test_explaining_asks_no_vendor(house: House) -> None:
    house.gateway.explain("default", [used("e1", customer="acme")])
    await house.look_up()
    assert [] == house.vendor.looked_up


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "destinations: {it: {provider: flexprice, lookup: 1h, settings: {api_key: k}}}",
            "destinations.it.lookup: Flexprice has no look-up of customers, or needs none here: leave the key out",
        ),
        (
            (
                "destinations: {it: {provider: flowglad, lookup: 1h, settings: {api_key: k}},"
                " b: {provider: flexprice, tenants: [blue], settings: {api_key: k}}}"
            ),
            "destinations.it.lookup: cannot tell customers of several tenants apart at the vendor",
        ),
        ("destinations: {it: {provider: flowglad, lookup: 0s, settings: {api_key: k}}}", "destinations.it.lookup: "),
    ],
)
def test_a_look_up_that_could_mistake_somebody_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loads(text, {})
    assert says in str(caught.value)
