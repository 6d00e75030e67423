"""What a clock that was set back leaves behind: times that lie ahead, and ages that nobody can tell any more."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import msgspec
import structlog

from adapters import Dedupe
from canonical_schema import ErrorCode, ErrorItem
from gateway.lanes.lots import moved
from gateway.lanes.verdict import SET_BACK, Next
from gateway.ledger import AttemptRow, Change, Code, Ledger, Moved, Work, WorkState
from gateway.times import from_micros, to_micros

__all__ = ["SetBack"]

log = structlog.get_logger()

PAGE = 200
_STATES = (WorkState.READY, WorkState.WAITING, WorkState.BLOCKED, WorkState.HELD)
_MESSAGE = "an earlier request may have stored it, and the clock was set back: how long ago that was cannot be told"


class SetBack:
    """One destination's deliveries, after the clock that their times were taken from was set back."""

    def __init__(
        self,
        destination: str,
        ledger: Ledger,
        dedupe: Dedupe | None,
        *,
        write: Callable[[Sequence[Change], Sequence[AttemptRow]], Awaitable[None]],
    ) -> None:
        """`dedupe`: for how long the provider tells repeats; `write` settles."""
        self._destination = destination
        self._ledger = ledger
        self._forgets = dedupe is not None and dedupe.window is not None
        self._write = write
        self._noticed = False

    async def begin(self, now: datetime) -> None:
        """Notice at a start whether the clock is behind the last batch that was recorded."""
        for batch in await self._ledger.batches_before(None, 1):
            for snapshot in (await self._ledger.snapshots([batch])).values():
                self._noticed = from_micros(snapshot.received) > now + SET_BACK

    async def step(self, now: datetime, *, noticed: bool) -> None:
        """Make due what would wait until the old time is reached; park what is in doubt where an age matters."""
        self._noticed = self._noticed or noticed
        if not self._noticed:
            return
        log.warning("lane.clock_set_back", destination=self._destination)
        for state in _STATES:
            after = 0
            while works := await self._ledger.walk(self._destination, state, after, PAGE):
                after = works[-1].id
                if changes := [*filter(None, (self._change(work, now) for work in works))]:
                    await self._written(changes)
        self._noticed = False  # only now: where the ledger fails meanwhile, the next step begins anew

    async def _written(self, changes: Sequence[Change]) -> None:
        """Write changes together; one by one where a person or another process decided about some meanwhile."""
        try:
            await self._write(changes, [])
        except Moved:
            for change in changes:
                with contextlib.suppress(Moved):
                    await self._write([change], [])

    def _change(self, work: Work, now: datetime) -> Change | None:
        group = work.group
        if group.doubt and self._forgets:
            code = ErrorCode.PROVIDER_UNAVAILABLE if group.error is None else group.error["code"]
            error = ErrorItem(code=code, message=_MESSAGE, retryable=False)
            following = Next(code=Code.UNKNOWN, doubt=group.doubt, error=error)
            return moved(work, range(len(work.members)), following, now)
        if group.state is not WorkState.READY or group.due <= to_micros(now):
            return None
        return Change(
            work=work.id,
            batch=work.batch,
            destination=work.destination,
            members=work.members,
            code=Code.RETRYING if group.attempts else Code.PENDING,
            group=msgspec.structs.replace(group, due=to_micros(now)),
            parts=work.parts,
            waiting=True,
        )
