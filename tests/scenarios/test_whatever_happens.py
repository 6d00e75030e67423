"""Whatever happens in whatever order, from door to vendor: it adds up, nothing is lost, nobody is billed twice.

A gateway on a ledger on disk, three simulated vendors, a clock that stands still. Nothing runs by itself, so every
interleaving is one that a failing example can show again.
"""

import asyncio
import contextlib
import json
import os
import tempfile
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from canonical_schema import DeliveryStatus, Event
from gateway.configuration import Configuration
from gateway.configuration_file import loads
from gateway.corrections import correct
from gateway.errors import RequestRefused
from gateway.ledger.check import add_up
from gateway.listing import Filter
from gateway.repair import Actor, resolve, retry
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from gateway.times import to_micros
from tests.gateway.clocks import ManualClock
from tests.gateway.lanes import BINDINGS, CONTRACT
from tests.gateway.ledger.conftest import SqliteStore

VENDORS = ("flowglad", "flexprice", "wingback")
FAULTS = (
    "lost_answer",
    "reset_before",
    "reset_after",
    "crash_after",
    "refused",
    "throttled",
    "unavailable",
    "proxy_error",
)
ACTOR = Actor("default", "ada", "as it was seen at the vendor")
EXAMPLES = int(os.environ.get("USAGE_GATEWAY_EXAMPLES", "12"))
DONE = frozenset({DeliveryStatus.ACCEPTED, DeliveryStatus.DUPLICATE})


def configured(*off: str) -> Configuration:
    """Return the configuration, with some destinations switched off."""
    links = {"flowglad": {"subscription_id": "sub_acme"}, "wingback": {"customer_id": CONTRACT}}
    data: dict[str, Any] = {
        "destinations": {
            name: {
                "provider": name,
                "rate": "none",
                "settings": {"api_key": "k"},
                "mode": "off" if name in off else "live",
            }
            for name in VENDORS
        },
        "meters": {"calls": {"bindings": {name: BINDINGS[name] for name in VENDORS}}},
        "customers": {"acme": links},
        "delivery": {"retry": {"first": "1s", "max": "1m", "give_up": "1h", "attempts": 4}},
    }
    return loads(yaml.safe_dump(data), {})


class Whole(RuleBasedStateMachine):
    """Does anything that senders, vendors, operators and power cuts do."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._store = SqliteStore(Path(self._folder.name))
        self._runner = asyncio.Runner()
        self.clock = ManualClock()
        self.vendors = {name: SimulatedProvider(name, clock=self.clock.now) for name in VENDORS}
        self.off: tuple[str, ...] = ()
        self.sent: dict[str, Event] = {}
        """What was acknowledged."""
        self.voided: set[str] = set()

    @initialize()
    def begin(self) -> None:
        self._runner.run(self._open())

    async def _open(self) -> None:
        mounts = {name: vendor.transport() for name, vendor in self.vendors.items()}
        ledger = self._store.ledger()
        self.gateway = Gateway(configured(*self.off), ledger, clock=self.clock, mounts=mounts, rng=Random(7))
        await self.gateway.open()

    # What senders do.

    @rule(
        quantities=st.lists(st.integers(1, 9), min_size=1, max_size=4),
        trouble=st.none() | st.tuples(st.sampled_from(VENDORS), st.sampled_from(FAULTS)),
        then=st.sampled_from(["begin", "work", "wait"]),
    )
    def send(self, quantities: list[int], trouble: tuple[str, str] | None = None, then: str = "wait") -> None:
        """New events are acknowledged; what they meet on their way comes soon enough to be met."""
        if trouble is not None:
            self.fail(*trouble, times=1)
        first = len(self.sent)
        events = [self._event(f"e{first + place}", quantity) for place, quantity in enumerate(quantities)]
        result = self._accept(events)
        assert [(True, False)] * len(events) == [(one["stored"], one["replayed"]) for one in result]
        self.sent |= {event.id: event for event in events}
        if then == "work":
            self.work()
        elif then == "begin":
            for name in VENDORS:
                self.begin_to_send(name)

    @rule(vendor=st.sampled_from(VENDORS), fault=st.sampled_from(FAULTS), quantity=st.integers(1, 9))
    def meet_trouble(self, vendor: str, fault: str, quantity: int) -> None:
        """One event, and one fault on its way."""
        self.send([quantity], (vendor, fault), "work")

    @rule(fault=st.sampled_from(FAULTS), quantity=st.integers(1, 9))
    def meet_trouble_where_repeats_are_not_told(self, fault: str, quantity: int) -> None:
        """The vendor that bills every repeat deserves the most of it."""
        self.send([quantity], ("wingback", fault), "work")

    @precondition(lambda self: self.sent)
    @rule(dice=st.randoms(use_true_random=False))
    def repeat(self, dice: Random) -> None:
        """What was sent before is known."""
        some = dice.sample(sorted(self.sent), min(3, len(self.sent)))
        result = self._accept([self.sent[event_id] for event_id in some])
        assert [(True, True)] * len(some) == [(one["stored"], one["replayed"]) for one in result]

    @precondition(lambda self: self.sent)
    @rule(dice=st.randoms(use_true_random=False))
    def contradict(self, dice: Random) -> None:
        """Other content under a known id is a conflict."""
        event_id = dice.choice(sorted(self.sent))
        (result,) = self._accept([self._event(event_id, 100)])
        assert ("conflict", False) == (result["status"], result["stored"])

    def _event(self, event_id: str, quantity: int) -> Event:
        return Event(
            id=event_id, customer="acme", meter="calls", quantity=Decimal(quantity), timestamp=self.clock.now()
        )

    def _accept(self, events: list[Event]) -> Any:
        answer = self._runner.run(self.gateway.accept("default", events, "stored", 0))
        return json.loads(answer.json())["results"]

    # What vendors do.

    @rule(vendor=st.sampled_from(VENDORS), fault=st.sampled_from(FAULTS), times=st.integers(1, 3))
    def fail(self, vendor: str, fault: str, times: int) -> None:
        self.vendors[vendor].fail(fault, times=times)

    # What the gateway does, a step at a time.

    @rule(vendor=st.sampled_from(VENDORS))
    def begin_to_send(self, vendor: str) -> None:
        """Send what is due; the answers come when somebody waits for them."""
        if vendor in self.gateway.lanes:
            self._runner.run(self._step(vendor))

    async def _step(self, vendor: str) -> None:
        await self.gateway.lanes[vendor].step()

    @rule()
    def work(self) -> None:
        self._runner.run(self._settle())

    async def _settle(self, most: int = 80) -> None:
        for lane in self.gateway.lanes.values():
            for _ in range(most):
                due = await lane.step()
                busy = bool(lane._sending) or lane._wake.is_set()
                await lane.idle()
                if busy:
                    continue
                if due is None:
                    break
                self.clock.advance_to(due)

    @rule(minutes=st.sampled_from([1, 30, 600]))
    def pass_time(self, minutes: int) -> None:
        self.clock.advance(timedelta(minutes=minutes))

    # What operators do.

    @rule(off=st.sampled_from([(), ("flexprice",), ("wingback",)]))
    def restart(self, off: tuple[str, ...]) -> None:
        """Stop in good order, and go on with another configuration."""
        self._runner.run(self._restart(off))

    async def _restart(self, off: tuple[str, ...]) -> None:
        await self.gateway.stop()
        self.off = off
        await self._open()

    @rule()
    def lose_power(self) -> None:
        self._runner.run(self._crash())

    async def _crash(self) -> None:
        self._store, old = self._store.cut(), self.gateway
        await self._open()
        await old.stop(timedelta(0))

    @rule()
    def decide(self) -> None:
        """Resolve what is unknown as it stands at the vendor."""
        self._runner.run(self._decide())

    async def _decide(self) -> None:
        now = to_micros(self.clock.now())
        for event_id in self.sent:
            for name, delivery in (await self._deliveries(event_id)).items():
                if delivery["status"] == "unknown":
                    there = event_id in self._keys(name)
                    with contextlib.suppress(RequestRefused):
                        how = "accepted" if there else "resend"
                        await resolve(self.gateway.ledger, ACTOR, event_id, name, how, now)

    @rule()
    def try_again(self) -> None:
        """Put dead letters back."""
        now = to_micros(self.clock.now())
        self._runner.run(retry(self.gateway.ledger, ACTOR, Filter(status="dead"), remap=False, now=now))

    @precondition(lambda self: self.sent)
    @rule(dice=st.randoms(use_true_random=False))
    def take_back(self, dice: Random) -> None:
        """Void an event, where that can be."""
        event_id = dice.choice(sorted(self.sent))
        self.voided.add(event_id)
        self._runner.run(self._void(event_id))

    async def _void(self, event_id: str) -> None:
        with contextlib.suppress(RequestRefused):
            await correct(self.gateway, ACTOR, event_id, {}, dry_run=False, wait=0)

    # What must hold.

    @invariant()
    def it_adds_up(self) -> None:
        if hasattr(self, "gateway"):
            ledger: Any = self.gateway.ledger
            assert [] == add_up(ledger.path)["problems"]

    @invariant()
    def nobody_is_billed_twice(self) -> None:
        taken = Counter(str(row.key) for row in self.vendors["wingback"].stored)
        assert not {key: count for key, count in taken.items() if count > 1}
        for name in ("flowglad", "flexprice"):  # they tell repeats, and say what they bill
            assert len(self._keys(name)) == len(self.vendors[name].stored)

    def _keys(self, name: str) -> set[str]:
        return {str(row.key) for row in self.vendors[name].stored}

    async def _deliveries(self, event_id: str) -> dict[str, Any]:
        found = await self.gateway.event("default", event_id)
        assert found is not None, "acknowledged, and lost"
        return dict(found["deliveries"])

    def teardown(self) -> None:
        if hasattr(self, "gateway"):
            self._runner.run(self._end())
        self._runner.close()
        self._folder.cleanup()

    async def _end(self) -> None:
        """With everybody well again, all that was acknowledged ends, and the vendors have what the ledger says."""
        try:
            for vendor in self.vendors.values():
                vendor.clear()
            await self._restart(())
            for _ in range(4):
                await self._settle(200)
                await self._decide()
            await self._settle(200)
            for event_id in self.sent:
                for name, delivery in (await self._deliveries(event_id)).items():
                    there = event_id in self._keys(name)
                    said = DeliveryStatus(delivery["status"])
                    if event_id not in self.voided:
                        assert said.final, (event_id, name, said)
                        assert there is (said in DONE), (event_id, name, said)
                    elif said in DONE:
                        assert there, (event_id, name, said)
        finally:
            await self.gateway.stop(timedelta(0))


def test_whatever_happens_it_adds_up_and_nothing_is_lost_or_billed_twice() -> None:
    run_state_machine_as_test(
        Whole,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
