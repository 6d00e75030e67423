"""A whole gateway on disk, four simulated vendors and a clock that stands still, with everything that befalls them.

Nothing runs by itself, so every interleaving is one that a failing example can show again.
"""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from canonical_schema import Event, Quantities
from gateway.accepting import Accepting
from gateway.chain import correction_id
from gateway.corrections.one import correct
from gateway.errors import RequestRefused
from gateway.ledger import Code, SqliteLedger
from gateway.ledger.redis import RedisLedger
from gateway.listing import Filter
from gateway.repair import Actor, resolve, retry
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from gateway.times import to_micros
from tests.gateway.clocks import ManualClock
from tests.gateway.lanes.world import worked_off
from tests.gateway.ledger.conftest import RedisStore, SqliteStore
from tests.scenarios.books import HALVES, Books, Stand, keys_of
from tests.scenarios.setups import CUSTOMERS, SETUPS, VENDORS, Setup, configured, customer_of

__all__ = ["ACTOR", "FAULTS", "Whole"]

METERS = ("calls", "halves")
"""The second in two rows, where the vendor has no row for both."""
FAULTS = (
    "lost_answer",
    "reset_before",
    "reset_after",
    "crash_after",
    "half_answer",
    "malformed",
    "timeout",
    "refused",
    "throttled",
    "unavailable",
    "proxy_error",
    "unauthorized",
    "partial",
)
ACTOR = Actor("default", "ada", "as it was seen at the vendor")


def _said(quantity: int, meter: str) -> Quantities:
    """Return what an event of a meter says of a quantity; of nothing it is void."""
    if not quantity:
        return {}
    if meter == "calls":
        return {"": Decimal(quantity)}
    return {"in": Decimal(quantity), "out": Decimal(10 - quantity)}


def _named(event_id: str, number: int) -> str:
    return correction_id(event_id, number) if number else event_id


class Still(Gateway):
    """A gateway whose lanes and chores go on only as they are told."""

    def _run(self) -> None:
        pass


class Alone(RedisLedger):
    """One that leaves limits and breakers to its gateway's clock: those that are shared go by the server's."""

    limits = None  # type: ignore[assignment]


class Whole(RuleBasedStateMachine):
    """Does anything that senders, vendors, operators and power cuts do."""

    backend: ClassVar[type[SqliteStore | RedisStore]] = SqliteStore

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._store: SqliteStore | RedisStore = self.backend(Path(self._folder.name))
        self._runner = asyncio.Runner()
        self.clock = ManualClock()
        self.vendors = {name: SimulatedProvider(name, clock=self.clock.now) for name in VENDORS}
        self.books = Books(self.vendors, customer_of)
        self.setup = Setup()
        self.told_before = 0
        """How many events were sent before the configuration was as it is."""

    @initialize(profile=st.sampled_from(["events", "usage-v0"]))
    def begin(self, profile: str = "events") -> None:
        """Start, with one of Paygentic's two doors."""
        self.profile = profile
        self._runner.run(self._open())

    def ledger(self) -> SqliteLedger | RedisLedger:
        """Return the ledger that the next gateway opens."""
        return self._store.ledger() if isinstance(self._store, SqliteStore) else self._store.ledger(Alone)

    async def _open(self) -> None:
        mounts = {name: vendor.transport() for name, vendor in self.vendors.items()}
        configuration = configured(self.setup, self.profile)
        self._used = self.ledger()
        self.gateway = Still(configuration, self._used, clock=self.clock, mounts=mounts, rng=Random(7))
        await self.gateway.open()

    # What senders do.

    @rule(
        quantities=st.lists(st.integers(1, 9), min_size=1, max_size=4),
        trouble=st.none() | st.tuples(st.sampled_from(VENDORS), st.sampled_from(FAULTS)),
        then=st.sampled_from(["begin", "work", "wait"]),
        customer=st.sampled_from(CUSTOMERS),
        meter=st.sampled_from(METERS),
    )
    def send(
        self,
        quantities: Sequence[int],
        trouble: tuple[str, str] | None = None,
        then: str = "wait",
        customer: str = "acme",
        meter: str = "calls",
    ) -> None:
        """New events are acknowledged; what they meet on their way comes soon enough to be met."""
        if trouble is not None:
            self.fail(*trouble, times=1)
        first = len(self.books.sent)
        events = [
            self._event(f"e{first + place}", quantity, customer, meter) for place, quantity in enumerate(quantities)
        ]
        self.books.acknowledge(events, self._accept(events))
        if then == "work":
            self.work()
        elif then == "begin":
            for name in VENDORS:
                self.begin_to_send(name)

    @rule(
        vendor=st.sampled_from(VENDORS),
        fault=st.sampled_from(FAULTS),
        quantity=st.integers(1, 9),
        meter=st.sampled_from(METERS),
    )
    def meet_trouble(self, vendor: str, fault: str, quantity: int, meter: str = "calls") -> None:
        """One event, and one fault on its way."""
        self.send([quantity], (vendor, fault), "work", meter=meter)

    @rule(fault=st.sampled_from(FAULTS), quantity=st.integers(1, 9))
    def meet_trouble_where_repeats_are_not_told(self, fault: str, quantity: int) -> None:
        """The vendor that bills every repeat deserves the most of it."""
        self.send([quantity], ("wingback", fault), "work")

    @precondition(lambda self: self.books.sent)
    @rule(dice=st.randoms(use_true_random=False))
    def repeat(self, dice: Random) -> None:
        """What was sent before is known."""
        some = dice.sample(sorted(self.books.sent), min(3, len(self.books.sent)))
        result = self._accept([self.books.original(event_id) for event_id in some])
        assert [(True, True)] * len(some) == [(one["stored"], one["replayed"]) for one in result]

    @precondition(lambda self: self.books.sent)
    @rule(dice=st.randoms(use_true_random=False))
    def contradict(self, dice: Random) -> None:
        """Other content under a known id is a conflict."""
        event_id = dice.choice(sorted(self.books.sent))
        (result,) = self._accept([self._event(event_id, 100)])
        assert ("conflict", False) == (result["status"], result["stored"])

    def _event(self, event_id: str, quantity: int, customer: str = "acme", meter: str = "calls") -> Event:
        said = _said(quantity, meter)
        return Event(
            id=event_id,
            customer=customer,
            meter=meter,
            quantity=said.get(""),
            quantities=None if "" in said else said,
            timestamp=self.clock.now(),
        )

    def _accept(self, events: Sequence[Event]) -> Any:
        return self._runner.run(self._accepted(events))

    async def _accepted(self, events: Sequence[Event]) -> Any:
        answer = await Accepting(self.gateway).accept("default", events, "stored", 0)
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
            await worked_off(lane, self.clock, most)

    @rule()
    def look_around(self) -> None:
        """Give a way to what had none, and let go what waited for a link."""
        self._runner.run(self._go_on())

    async def _go_on(self) -> None:
        for name in ("strays", "unblock"):
            while await self.gateway._chores[name]._step() is not None:
                pass

    @rule(minutes=st.sampled_from([1, 30, 600]))
    def pass_time(self, minutes: int) -> None:
        self.clock.advance(timedelta(minutes=minutes))

    @rule(minutes=st.sampled_from([1, 30, 600]))
    def set_the_clock_back(self, minutes: int) -> None:
        self.clock.advance(-timedelta(minutes=minutes))

    # What operators do.

    @rule(setup=SETUPS)
    def restart(self, setup: Setup) -> None:
        """Stop in good order, and go on with another configuration."""
        self._runner.run(self._restart(setup))

    async def _restart(self, setup: Setup) -> None:
        await self.gateway.stop()
        self._take(setup)
        await self._open()

    @rule(setup=SETUPS)
    def reload(self, setup: Setup) -> None:
        """Go on with another configuration without stopping; what is in flight is heard first."""
        self._runner.run(self.gateway.reload(configured(setup, self.profile)))
        self._take(setup)

    def _take(self, setup: Setup) -> None:
        self.setup, self.told_before = setup, len(self.books.sent)

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
        for event_id, at in (await self.books.hold(self._used)).items():
            for name, stand in at.items():
                if stand.code is Code.UNKNOWN and (there := self._is_there(name, stand)) is not None:
                    how = "accepted" if there else "resend"
                    await resolve(self.gateway.ledger, ACTOR, event_id, name, how, now)

    def _is_there(self, name: str, stand: Stand) -> bool | None:
        """Return whether a person who looks at the vendor finds what was in doubt; `None`: some of it."""
        said = stand.event.corrects
        doubtful = [half for half, code in stand.parts.items() if code in {Code.UNKNOWN, Code.PENDING}] or [""]
        held = self.vendors[name].stored
        if said is not None and name == "paygentic" and self.profile == "usage-v0" and said.action != "replace":
            of_it = [row for row in held if row.key == said.of or row.key.startswith(f"{said.of}~")]
            found = {all(row.withdrawn for row in of_it)}
        elif said is not None and name == "flexprice":  # it amends a row, unless nothing was there before
            keys = [key for number in range(said.number + 1) for key in keys_of(_named(said.of, number))]
            rows = [row for row in held if row.key in keys]
            wanted = stand.value or dict.fromkeys(said.before, Decimal(0))
            found = {
                any(row.quantity == wanted[half] and (not half or row.meter.endswith(half)) for row in rows)
                for half in (doubtful if doubtful != [""] or "" in wanted else HALVES)
            }
        else:
            known_by: dict[str, str] = dict(zip(("", *HALVES), keys_of(stand.event.id), strict=True))
            known = [(row.key, row.meter) for row in held]
            found = {
                any(key in {known_by[half], stand.event.id} and meter.endswith(half) for key, meter in known)
                for half in doubtful
            }
        return found.pop() if len(found) == 1 else None

    @rule(status=st.sampled_from(["dead", "rejected"]), remap=st.booleans())
    def try_again(self, status: str, remap: bool) -> None:
        """Put letters back, as they were or by today's names."""
        now = to_micros(self.clock.now())
        self._runner.run(retry(self.gateway.ledger, ACTOR, Filter(status=status), remap=remap, now=now))

    @precondition(lambda self: self.books.sent)
    @rule(dice=st.randoms(use_true_random=False), quantities=st.lists(st.integers(0, 9), min_size=1, max_size=3))
    def correct(self, dice: Random, quantities: Sequence[int]) -> None:
        """Void an event, or give it another quantity, where that can be; and change one's mind at once."""
        event_id = dice.choice(sorted(self.books.sent))
        for quantity in quantities:
            self._runner.run(self._correct(event_id, quantity))

    async def _correct(self, event_id: str, quantity: int) -> None:
        wanted = _said(quantity, self.books.sent[event_id].meter)
        with contextlib.suppress(RequestRefused):
            answer = await correct(self.gateway, ACTOR, event_id, wanted, dry_run=False, wait=0)
            self.books.acknowledge_correction(answer)

    # What must hold.

    @invariant()
    def everything_fits(self) -> None:
        if hasattr(self, "gateway"):
            self._runner.run(self.books.hold(self._used))

    def teardown(self) -> None:
        try:
            if hasattr(self, "gateway"):
                self._runner.run(self._end())
        finally:
            self.close()

    def close(self) -> None:
        """Stop, whatever holds by then."""
        if hasattr(self, "gateway"):
            self._runner.run(self.gateway.stop(timedelta(0)))
        self._runner.close()
        self._folder.cleanup()

    async def _end(self) -> None:
        """With everybody well again, all that was acknowledged ends."""
        for vendor in self.vendors.values():
            vendor.clear()
        await self._restart(Setup())
        for _ in range(4):
            await self._go_on()
            await self._settle(200)
            await self._decide()
        await self._settle(200)
        for event_id, at in (await self.books.hold(self._used)).items():
            for name, stand in at.items():
                assert stand.code.status.final, (event_id, name, stand)
