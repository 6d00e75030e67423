"""What was being sent when nobody was left to hear the answer."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime

import msgspec
import structlog

from adapters import Outcome, State
from canonical_schema import ErrorCode
from gateway.lanes.lots import moved
from gateway.lanes.settling import Settling
from gateway.lanes.verdict import error_item
from gateway.ledger import AttemptRow, Ledger, Moved, Work, WorkState

__all__ = ["Unheard", "attempted"]

log = structlog.get_logger()

_UNHEARD = Outcome(
    state=State.UNKNOWN,
    code=ErrorCode.PROVIDER_UNAVAILABLE,
    message="the gateway stopped between sending this and hearing the answer",
)


def attempted(work: Work) -> AttemptRow:
    """Return the attempt that nobody heard the answer of: it is one like any other.

    When rows first left, and whether a repeat of them may have been given another id, is known by the attempts alone.
    """
    group = work.group
    return AttemptRow(
        batch=work.batch,
        destination=work.destination,
        members=work.members,
        at=group.since if group.sent is None else group.sent,
        duration_ms=0,
        http_status=None,
        outcome=_UNHEARD.state.value,
        error=error_item(_UNHEARD),
    )


class Unheard:
    """One destination's work that is written down as being sent, and that nobody will tell the answer of."""

    def __init__(
        self,
        destination: str,
        ledger: Ledger,
        settling: Settling,
        *,
        withdraws: Callable[[Work], bool],
        sending: Callable[[], Iterable[Collection[int]]],
    ) -> None:
        """`withdraws` tells which rows take others back, `sending` what this process sends at the moment."""
        self._destination = destination
        self._ledger = ledger
        self._settling = settling
        self._withdraws = withdraws
        self._sending = sending
        self._seen: Collection[int] = ()

    async def judge_all(self, now: datetime) -> None:
        """Judge what this process, where it sends nothing, or one that is gone was sending."""
        await self._judge(await self._ledger.held(self._destination, WorkState.SENDING), now)

    async def judge_abandoned(self, now: datetime) -> None:
        """Judge what processes that are gone were sending."""
        await self._judge(await self._ledger.abandoned(self._destination), now)

    async def judge_lost(self, now: datetime) -> None:
        """Judge what this process is said to send and does not: of a server that lost what was written down last.

        It has to be found twice: an intent may just have been written down, and not be known of here.
        """
        before = [*self._sending()]
        works = await self._ledger.held(self._destination, WorkState.SENDING)
        found = {work.id for work in works}.difference(*before, *self._sending())
        await self._judge([work for work in works if work.id in found.intersection(self._seen)], now)
        self._seen = found

    async def _judge(self, works: Sequence[Work], now: datetime) -> None:
        """Judge pieces of work, of rows that carry usage or take it back: they may have arrived."""
        for work in works:
            work.group = msgspec.structs.replace(work.group, attempts=work.group.attempts + 1)
            judge = self._settling.judge_withdrawal if self._withdraws(work) else self._settling.judge
            following = judge(_UNHEARD, work.group, now)
            with contextlib.suppress(Moved):  # another process took it up, or the one that sent it heard after all
                change = moved(work, range(len(work.members)), following, now)
                await self._settling.write([change], [attempted(work)])
            becomes = following.code.status.value
            log.warning("lane.recovered", destination=work.destination, rows=len(work.members), becomes=becomes)
