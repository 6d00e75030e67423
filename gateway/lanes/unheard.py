"""What was being sent when nobody was left to hear the answer."""

import contextlib
from datetime import datetime

import msgspec
import structlog

from adapters import Outcome, State
from canonical_schema import ErrorCode
from gateway.lanes.lots import moved
from gateway.lanes.settling import Settling
from gateway.ledger import Moved, Work

__all__ = ["judge_unheard"]

log = structlog.get_logger("gateway.lanes.lane")

_UNHEARD = Outcome(
    state=State.UNKNOWN,
    code=ErrorCode.PROVIDER_UNAVAILABLE,
    message="the gateway stopped between sending this and hearing the answer",
)


async def judge_unheard(settling: Settling, work: Work, now: datetime, *, withdrawn: bool) -> None:
    """Judge one piece of work, of rows that carry usage or take it back: it may have arrived."""
    work.group = msgspec.structs.replace(work.group, attempts=work.group.attempts + 1)
    judge = settling.judge_withdrawal if withdrawn else settling.judge
    following = judge(_UNHEARD, work.group, now)
    with contextlib.suppress(Moved):  # another process took it up, or the one that sent it heard after all
        await settling.write([moved(work, range(len(work.members)), following, now)], [])
    becomes = following.code.status.value
    log.warning("lane.recovered", destination=work.destination, rows=len(work.members), becomes=becomes)
