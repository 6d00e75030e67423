"""What holds for every door, whatever happens on the way: the vendor bills what the corrected event says."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from canonical_schema import DeliveryStatus
from gateway.chain import LedgerReader
from gateway.configuration.file import loads
from gateway.corrections.one import correct
from gateway.errors import RequestRefused
from gateway.ledger.check import add_up
from gateway.repair import Actor
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from gateway.times import to_micros
from tests.gateway.clocks import ManualClock
from tests.gateway.lanes.world import BINDINGS, LINKS, used, worked_off
from tests.gateway.ledger.conftest import SqliteStore

DOORS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "flowglad": ("flowglad", {}),
    "events": ("paygentic", {}),
    "usage-v0": ("paygentic", {"profile": "usage-v0", "merchant_id": "org_1"}),
    "flexprice": ("flexprice", {"allow_amend": True}),
    "wingback": ("wingback", {"allow_negative": True}),
    "wingback without negatives": ("wingback", {}),
}
FAULTS = ("lost_answer", "reset_before", "reset_after", "crash_after", "refused", "throttled", "unavailable")
ACTOR = Actor("default", "ada", "a meter ran twice")
AMOUNTS = st.integers(1, 9)
EXAMPLES = int(os.environ.get("USAGE_GATEWAY_EXAMPLES", "25"))


class Living:
    """A gateway with one destination, stepped by hand, that can lose its power at any moment."""

    def __init__(self, folder: Path, door: str) -> None:
        provider, more = DOORS[door]
        self.clock = ManualClock()
        self.vendor = SimulatedProvider(provider, clock=self.clock.now)
        self._store = SqliteStore(folder)
        binding = BINDINGS[more.get("profile", provider)]
        configured: dict[str, Any] = {
            "destinations": {"it": {"provider": provider, "rate": "none", "settings": {"api_key": "k", **more}}},
            "meters": {"calls": {"bindings": {"it": binding}}},
            "customers": {"acme": {"it": LINKS[provider]}} if LINKS[provider] else {},
        }
        self._configuration = loads(yaml.safe_dump(configured), {})

    async def open(self) -> None:
        mounts = {"it": self.vendor.transport()}
        ledger = self._store.ledger()
        self.gateway = Gateway(self._configuration, ledger, clock=self.clock, mounts=mounts, rng=Random(7))
        await self.gateway.open()

    async def crash(self) -> None:
        """Go on with what a loss of power would leave now."""
        self._store, old = self._store.cut(), self.gateway
        await self.open()
        await old.stop(timedelta(0))

    async def send(self, quantity: int) -> None:
        event = used("e1", quantity=Decimal(quantity))
        plans = self.gateway.catalogue.plans("default", [event], self.clock.now())
        await self.gateway.ledger.record("default", to_micros(self.clock.now()), [event], plans)

    async def correct(self, quantity: int) -> None:
        wanted = {"": Decimal(quantity)} if quantity else {}
        with contextlib.suppress(RequestRefused):  # nothing to correct, or something to resolve first
            await correct(self.gateway, ACTOR, "e1", wanted, dry_run=False, wait=0)

    async def step(self) -> None:
        """Send what is due, without waiting for the answers."""
        await self.gateway.lanes["it"].step()

    async def settle(self, most: int = 60) -> None:
        """Move time from due to due until nothing is, or all that is waits for a person."""
        await worked_off(self.gateway.lanes["it"], self.clock, most)

    async def holds(self) -> None:
        """Hold the bill against what the ledger says of it."""
        reader = LedgerReader(self.gateway.ledger)
        chain = await reader.chain("default", "e1")
        assert chain is not None
        billed = sum(self.vendor.billed().values(), Decimal(0))
        stands = await reader.stands(chain, "it")
        has = Decimal(0)
        may = {has}
        refused = False
        for stand in stands:
            said = stand.event.corrects
            value = stand.event.quantity if said is None else sum(said.after.values(), Decimal(0))
            assert value is not None
            if stand.code.status.success:
                has, may = value, {value}
            elif stand.code.status is DeliveryStatus.UNKNOWN:
                may = {*may, value}
            refused = refused or stand.code.status in {DeliveryStatus.REJECTED, DeliveryStatus.UNKNOWN}
        assert billed in may
        over = all(stand.code.status.final for stand in stands)
        assert over or refused, "it goes on for ever"
        if over and not refused:
            assert billed == sum(chain.value.values(), Decimal(0))

    def sound(self) -> None:
        ledger: Any = self.gateway.ledger
        assert [] == add_up(ledger.path)["problems"]


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("correct"), st.integers(0, 9)),
        st.tuples(st.just("correct twice"), st.tuples(st.integers(0, 9), st.integers(0, 9))),
        st.tuples(st.just("fail"), st.sampled_from(FAULTS)),
        st.just(("settle", None)),
        st.just(("step", None)),
        st.just(("hear", None)),
        st.just(("crash", None)),
    ),
    max_size=9,
)


@pytest.mark.parametrize("door", DOORS)
@given(first=AMOUNTS, moves=MOVES)
@example(first=3, moves=[("settle", None), ("correct", 5), ("settle", None), ("correct", 0)])
@example(first=3, moves=[("settle", None), ("fail", "lost_answer"), ("correct", 0), ("step", None), ("crash", None)])
@example(first=3, moves=[("step", None), ("correct", 0), ("correct", 4), ("crash", None), ("correct", 2)])
@example(
    first=5,
    moves=[("fail", "lost_answer"), ("step", None), ("step", None), ("correct", 3), ("correct", 8), ("settle", None)],
)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_vendor_bills_what_the_corrected_event_says(door: str, first: int, moves: list[tuple[str, Any]]) -> None:
    asyncio.run(asyncio.wait_for(_live(door, first, moves), 120))  # far more than it takes: a lane that spins is red


async def _live(door: str, first: int, moves: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        living = Living(Path(folder), door)
        await living.open()
        try:
            await living.send(first)
            for move, what in moves:
                match move:
                    case "correct":
                        await living.correct(what)
                    case "correct twice":
                        for quantity in what:
                            await living.correct(quantity)
                    case "hear":
                        await living.step()
                        await living.gateway.lanes["it"].idle()
                    case "fail":
                        living.vendor.fail(what)
                    case "settle":
                        await living.settle()
                    case "step":
                        await living.step()
                    case _:
                        await living.crash()
            living.vendor.clear()
            await living.settle()
            await living.holds()
            living.sound()
        finally:
            await living.gateway.stop(timedelta(0))
