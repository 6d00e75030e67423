"""What an answer makes of deliveries: judged by the money rules, written down, and told to whoever waits for it."""

import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime

from adapters import Dedupe, Door, Outcome
from canonical_schema import ErrorCode
from gateway.catalogue import Catalogue
from gateway.configuration.sections import Retry
from gateway.errors import LedgerUnavailable
from gateway.lanes.absolutes import Absolutes
from gateway.lanes.board import Board
from gateway.lanes.doubts import Doubts
from gateway.lanes.verdict import Next, next_step
from gateway.ledger import AttemptRow, Change, Code, Group, Ledger, ref_of

__all__ = ["Settling"]

_UNSETTLED = frozenset({Code.PENDING, Code.RETRYING, Code.BLOCKED, Code.UNKNOWN})
_MISTAKEN = frozenset({ErrorCode.UNKNOWN_CUSTOMER, ErrorCode.UNKNOWN_SUBSCRIPTION})


class Settling:
    """The last step of a delivery's way through one lane."""

    def __init__(
        self,
        name: str,
        *,
        catalogue: Catalogue,
        ledger: Ledger,
        board: Board,
        doubts: Doubts | None,
        absolutes: Absolutes,
        retry: Retry,
        jitter: Callable[[float], float],
    ) -> None:
        """`doubts` are told what is parked; absent: nobody is."""
        self._name = name
        self._adapter = catalogue.destinations[name].adapter
        self._catalogue = catalogue
        self._ledger = ledger
        self._board = board
        self._doubts = doubts
        self._absolutes = absolutes
        self._retry = retry
        self._jitter = jitter

    def judge(self, outcome: Outcome, group: Group, now: datetime) -> Next:
        """Judge a request that carries usage."""
        return self._judged(outcome, group, now, self._adapter.dedupe, self._adapter.door)

    def judge_withdrawal(self, outcome: Outcome, group: Group, now: datetime) -> Next:
        """Judge a request that takes a whole row back: nobody vouches for a second one."""
        return self._judged(outcome, group, now, None, None)

    def _judged(self, outcome: Outcome, group: Group, now: datetime, dedupe: Dedupe | None, door: Door | None) -> Next:
        return next_step(
            outcome,
            group,
            dedupe=dedupe,
            queued=door is not None and door.receipt == "queued",
            retry=self._retry,
            now=now,
            jitter=self._jitter,
        )

    async def write(self, changes: Sequence[Change], attempts: Sequence[AttemptRow]) -> None:
        """Write down what became of deliveries; then let go, or look up again, what depends on it."""
        await self._ledger.settle(changes, attempts)
        for change in changes:
            if change.code not in {Code.PENDING, Code.RETRYING}:
                self._board.post(change.batch, self._name, change.members)
            if change.code is Code.UNKNOWN and self._doubts is not None:
                self._doubts.put(self._name, change.batch, change.members)
        if self._adapter.allows_absolute:
            ended = (change for change in changes if change.code not in _UNSETTLED)
            await self._absolutes.ended(ref_of(change.batch, index) for change in ended for index in change.members)
        with contextlib.suppress(LedgerUnavailable):  # what the answer said is written down: it is in no doubt
            for change in changes:
                await self._check_links(change)

    async def _check_links(self, change: Change) -> None:
        """Look customers up again whom the provider does not know any more: nothing of these was stored."""
        error = None if change.group is None else change.group.error
        if change.code is not Code.REJECTED or error is None or error["code"] not in _MISTAKEN:
            return
        if self._catalogue.destinations[self._name].lookup is None:
            return
        snapshot = (await self._ledger.snapshots([change.batch]))[change.batch]
        for index in change.members:
            self._catalogue.mistaken(self._name, snapshot.tenant, snapshot.events[index].customer)
