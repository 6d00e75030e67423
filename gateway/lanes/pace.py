"""How much a lane may send, and when: the vendor's rate limits, a window that adapts, a breaker that probes."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from adapters import Rate
from gateway.configuration.sections import Retry
from gateway.lanes.verdict import SET_BACK, backoff
from gateway.ledger import Flow, Limits

__all__ = ["Breaker", "Heard", "Pace"]

BURST = 10
"""A tenth of a limit may be spent at once; the rest flows evenly, so that no window ever holds more than the limit."""
OPENS_AFTER = 5
"""Faults in a row after which the breaker opens. Where one more lost answer leaves one more delivery in doubt: one."""
LOOK = timedelta(seconds=1)
"""How old may be what is known of the other processes' trouble."""
SLOW = 2.0
"""How many times the usual latency counts as rising."""


class Breaker(StrEnum):
    """Whether a lane sends."""

    CLOSED = "closed"
    OPEN = "open"
    """Nothing is sent until the pause is over, and a harmless read was answered where there is one."""
    PROBING = "probing"
    """The provider answers: one delivery is tried."""


class Heard(StrEnum):
    """What a request taught about the provider as a whole."""

    FINE = "fine"
    THROTTLED = "throttled"
    FAULT = "fault"
    """No usable answer: time-out, reset, 5xx, garbage."""
    REFUSED = "refused"
    """Our credentials, permissions or address: an operator must act."""


@dataclass(slots=True)
class _Bucket:
    """Tokens that flow in evenly. Holds at most a tenth of the limit at once."""

    capacity: float
    flow: float
    """Tokens a second."""
    tokens: float
    name: str = ""
    at: datetime | None = None

    @classmethod
    def of(cls, what: str, limit: int, per: timedelta) -> "_Bucket":
        # A window opens on at most `capacity` tokens and less than `limit - capacity + 1` flow in before it closes.
        capacity = float(max(1, limit // BURST))
        seconds = per.total_seconds()
        return cls(capacity, (limit - capacity + 1) / seconds, capacity, f"{what}/{seconds:g}")

    def flow_of(self, amount: float) -> Flow:
        return Flow(self.name, self.capacity, self.flow, amount)

    def wait(self, amount: float, now: datetime) -> timedelta:
        """Return how long until `amount` can be spent; more than fits waits for a full bucket."""
        if self.at is not None:
            self.tokens = min(self.capacity, self.tokens + self.flow * max(0.0, (now - self.at).total_seconds()))
        self.at = now if self.at is None else max(self.at, now)
        lacking = min(amount, self.capacity) - self.tokens
        return timedelta(seconds=lacking / self.flow) if lacking > 1e-9 else timedelta(0)

    def spend(self, amount: float) -> None:
        self.tokens -= amount


class Pace:
    """One lane's pace. Pure but for what it remembers: the clock and the dice are given to it."""

    def __init__(
        self,
        rates: Sequence[Rate],
        max_in_flight: int,
        retry: Retry,
        jitter: Callable[[float], float],
        *,
        destination: str = "",
        limits: Limits | None = None,
        probes: bool = False,
        repeats: bool = True,
    ) -> None:
        """`limits`: where the rate limits are counted for all processes; absent: here, for this one alone.

        `probes`: whether there is a harmless read to ask with. `repeats`: whether what may have arrived can be sent
        again.
        """
        self._requests = [_Bucket.of("requests", rate.requests, rate.per) for rate in rates]
        self._rows = [_Bucket.of("rows", rate.rows, rate.per) for rate in rates if rate.rows is not None]
        self._destination = destination
        self._limits = limits
        self._leave: datetime | None = None
        """Until when the shared limits have no room."""
        self._asking = asyncio.Lock()
        self._max = max_in_flight
        self._retry = retry
        self._jitter = jitter
        self._latest: datetime | None = None
        """The latest time that was seen."""
        self._usual: float | None = None
        self._shrunk: datetime | None = None
        self.window = min(4.0, float(max_in_flight))
        """Requests that may be in flight; grows by one a round trip, halves on trouble."""
        self.faults = 0
        """Requests in a row without a usable answer."""
        self.refused = False
        self._opens_after = OPENS_AFTER if repeats else 1
        self._probes = probes
        self._answers = False
        """Whether a harmless read was answered since the last trouble."""
        self._untold: tuple[int, datetime] | None = None
        """What the other processes have to know: faults, and until when nothing may leave; or 0, and since when."""
        self._in_common = False
        """Whether they know of trouble, as of the last look."""
        self._fresh: datetime | None = None
        """Until when that is known well enough."""
        self.not_before: datetime | None = None
        """When the next request may leave: our own backoff, or the server's word."""

    @property
    def breaker(self) -> Breaker:
        """Where the breaker stands, as of the last answer."""
        if self.faults < self._opens_after and not self.refused:
            return Breaker.CLOSED
        return Breaker.PROBING if self._answers else Breaker.OPEN

    @property
    def shut(self) -> bool:
        """Whether no delivery may be risked before a harmless read is answered."""
        return self._probes and self.breaker is Breaker.OPEN

    @property
    def most(self) -> int:
        """How many requests may be in flight."""
        return 1 if self.faults or self.refused else int(self.window)

    @property
    def unlimited(self) -> bool:
        """Whether the vendor has no rate limits that are kept to."""
        return not self._requests and not self._rows

    def room(self, in_flight: int, now: datetime) -> int:
        """Return how many more requests may be in flight."""
        if self.not_before is not None and now < self.not_before:
            return 0
        return max(0, self.most - in_flight)

    def wait(self, rows: int, now: datetime) -> timedelta:
        """Return how long a request of `rows` has to wait for the vendor's rate limits, as far as is known here."""
        if self._limits is not None:
            return timedelta(0) if self._leave is None else max(self._leave - now, timedelta(0))
        waits = [bucket.wait(1, now) for bucket in self._requests]
        waits += [bucket.wait(rows, now) for bucket in self._rows]
        return max(waits, default=timedelta(0))

    async def take(self, rows: int, now: datetime) -> timedelta:
        """Count a request that leaves now, or return how long it has to wait for the vendor's rate limits."""
        if rows and self._in_common and (wait := await self.alone(now)):
            return wait
        if wait := self.wait(rows, now):
            return wait
        if self._limits is None or not self._requests:
            self._spend(rows)
            return wait
        if self._leave is None:
            return await self._ask(self._limits, rows, now)
        async with self._asking:  # those that waited together ask one by one, until one has to wait again
            return self.wait(rows, now) or await self._ask(self._limits, rows, now)

    async def _ask(self, limits: Limits, rows: int, now: datetime) -> timedelta:
        flows = [bucket.flow_of(1) for bucket in self._requests] + [bucket.flow_of(rows) for bucket in self._rows]
        wait = await limits.spend(self._destination, flows, queues=rows > 0)
        self._leave = now + wait if wait else None
        return wait

    def _spend(self, rows: int) -> None:
        for bucket in self._requests:
            bucket.spend(1)
        for bucket in self._rows:
            bucket.spend(rows)

    def heard(
        self, what: Heard, began: datetime, now: datetime, *, busy: bool, retry_after: timedelta | None = None
    ) -> None:
        """Learn from an answer. `busy`: the window was full when the request left."""
        # A request that left before the trouble says nothing about whether it is over.
        before = self.not_before is not None and began < self.not_before
        if what is Heard.FINE:
            if before:
                return
            self._tell(0, began)
            self.faults, self.refused, self.not_before, self._answers = 0, False, None, False
            self._learn((now - began).total_seconds(), began, now, busy=busy)
            return
        if not before:  # what was in flight together fails together, and counts once
            self.faults += 1
        self.refused, self._answers = what is Heard.REFUSED, False
        self._shrink(0.5, began, now)
        self._pause(now, retry_after)
        if not self.refused:  # one fault among many answers says nothing about the provider
            if what is Heard.THROTTLED or retry_after is not None or self.breaker is not Breaker.CLOSED:
                self._tell(self.faults, self.not_before or now)
        elif not before:  # it answers; what it makes of our credentials every process finds out for itself
            self._tell(0, began)

    def probed(self, what: Heard, now: datetime, retry_after: timedelta | None = None) -> None:
        """Learn from a harmless read. Whether we may write is not known by it, so a refusal is an answer like any."""
        self._answers = what in {Heard.FINE, Heard.REFUSED}
        if not self._answers:
            self.faults += 1
            self._pause(now, retry_after)
            self._tell(self.faults, self.not_before or now)

    def _tell(self, faults: int, when: datetime) -> None:
        if self._limits is not None and (faults or self._in_common):
            self._untold = faults, when

    async def agree(self, now: datetime, *, tries: bool = False) -> None:
        """Tell the other processes what was heard, and hear from them: one that waits has all of them wait.

        By the server's clock, whatever this process's own says.
        """
        limits, untold = self._limits, self._untold
        if limits is None or (untold is None and not tries and self._fresh is not None and now < self._fresh):
            return
        heard = None if untold is None else (untold[0], untold[1] - now if untold[0] else now - untold[1])
        standing = await limits.agree(self._destination, heard, tries=tries)
        if standing is None:  # nobody can say; without the ledger nothing leaves anyway
            return
        self._fresh = now + (standing.wait or LOOK)
        if self._untold is not untold:  # something was heard meanwhile, and has to be told first
            return
        self._untold, known, self._in_common = None, self._in_common, standing.faults > 0
        if standing.wait:
            self.faults, self._answers = max(self.faults, standing.faults), False
            self.not_before = max(now + standing.wait, self.not_before or now)
        elif standing.faults:
            self.faults = max(self.faults, standing.faults)
        elif known and not self.refused:  # another found that it is over
            self.faults, self.not_before, self._answers = 0, None, False

    def see(self, now: datetime) -> bool:
        """Return whether the clock was set back; what is reckoned by the time before would hold until that again."""
        back = (self._latest or now) - now
        if back <= SET_BACK:  # others may have looked at the clock a little later than this
            self._latest = now + max(back, timedelta(0))
            return False
        self._latest, self._shrunk, self._fresh, self._leave = now, None, None, None
        for bucket in (*self._requests, *self._rows):
            bucket.at = now
        if self.not_before is not None:
            self.not_before -= back
        return True

    async def alone(self, now: datetime) -> timedelta:
        """Return how long to wait before something is tried: while there is trouble one process tries at a time."""
        if self._in_common:
            await self.agree(now, tries=True)
        return max((self.not_before or now) - now, timedelta(0)) if self._in_common else timedelta(0)

    def _pause(self, now: datetime, retry_after: timedelta | None) -> None:
        pause = max(backoff(self._retry, self.faults, self._jitter), retry_after or timedelta(0))
        self.not_before = max(now + pause, self.not_before or now)

    def _learn(self, seconds: float, began: datetime, now: datetime, *, busy: bool) -> None:
        if seconds < 0:  # the clock was set back meanwhile
            return
        usual = seconds if self._usual is None else self._usual
        # The usual falls at once and rises slowly: a provider that slows down is noticed, a new normal is accepted.
        self._usual = min(usual, seconds) if seconds < usual else usual + (seconds - usual) * 0.02
        if seconds > usual * SLOW + 0.05:
            self._shrink(0.9, began, now)
        elif busy:
            self.window = min(float(self._max), self.window + 1.0 / self.window)

    def _shrink(self, factor: float, began: datetime, now: datetime) -> None:
        """Make the window smaller, once for all that left before it was."""
        if self._shrunk is None or began >= self._shrunk:
            self.window = max(1.0, self.window * factor)
            self._shrunk = now
