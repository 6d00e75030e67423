"""What to do about an outcome: done, again, parked, blocked or given up. Pure; the money rules live here."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from adapters import Dedupe, Outcome, State
from canonical_schema import DeliveryStatus, ErrorCode, ErrorItem, worst
from gateway.configuration.sections import Retry
from gateway.ledger import LOST_ANSWER, NO_DOUBT, REFUSED_BATCH, Code, Group, Part
from gateway.times import from_micros

__all__ = ["Next", "backoff", "combined", "doubtful", "error_item", "may_resend", "next_step"]

SET_BACK = timedelta(minutes=1)
"""By how much a clock may be behind what was seen before it counts as set back: several are not quite alike."""
TRAVEL = timedelta(minutes=5)
"""A dedupe window counts as closed so long before it closes, or a tenth of it: a repeat has to arrive in time."""


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a row, or of a delivery."""

    code: Code
    doubt: int
    wait: timedelta | None = None
    """Set where it is sent again: how long from now."""
    error: ErrorItem | None = None
    provider_event_id: str | None = None


def next_step(
    outcome: Outcome,
    group: Group,
    *,
    dedupe: Dedupe | None,
    queued: bool,
    retry: Retry,
    now: datetime,
    jitter: Callable[[float], float],
) -> Next:
    """Decide about one row.

    `group` is what held before this attempt, with the attempt counted and its beginning in `sent`. Doubt is
    sticky: a rejection that follows a lost answer is not a rejection. `jitter` draws from 0 to its argument.
    """
    doubt = group.doubt
    error = error_item(outcome)
    match outcome.state:
        case State.ACCEPTED:
            code = Code.ACCEPTED_QUEUED if queued else Code.ACCEPTED
            return Next(code=code, doubt=doubt, provider_event_id=outcome.provider_event_id)
        case State.DUPLICATE:
            code = Code.DUPLICATE if doubt else Code.DUPLICATE_UNEXPECTED
            return Next(code=code, doubt=doubt, provider_event_id=outcome.provider_event_id)
        case State.REJECTED:
            if doubt == LOST_ANSWER or (doubt and (outcome.reduce or outcome.code in _BY_NOW)):
                return Next(code=Code.UNKNOWN, doubt=doubt, error=doubtful(error))
            return Next(code=Code.REJECTED, doubt=NO_DOUBT, error=error)
        case State.BLOCKED:
            return Next(code=Code.BLOCKED, doubt=doubt, error=error)
        case State.UNKNOWN:
            doubt = LOST_ANSWER
        case State.NOT_STORED | State.REFUSED:
            doubt = max(doubt, REFUSED_BATCH if outcome.may_be_stored else NO_DOUBT)
    if doubt and not may_resend(dedupe, group, now):
        return Next(code=Code.UNKNOWN, doubt=doubt, error=error)
    if group.attempts >= retry.attempts and now - from_micros(group.since) >= retry.give_up:
        return Next(code=Code.UNKNOWN if doubt else Code.DEAD, doubt=doubt, error=error)
    wait = max(backoff(retry, group.attempts, jitter), outcome.retry_after or timedelta(0))
    return Next(code=Code.RETRYING, doubt=doubt, wait=wait, error=error)


def may_resend(dedupe: Dedupe | None, group: Group, now: datetime) -> bool:
    """Return whether a row that may be stored can be sent again without being billed twice."""
    if dedupe is None:
        return False
    if dedupe.window is None or group.sent is None:
        return True
    age = now - from_micros(group.sent)  # below zero: the clock was set back, and nobody knows how long ago it was
    return -SET_BACK <= age < dedupe.window - min(TRAVEL, dedupe.window / 10)


def backoff(retry: Retry, attempts: int, jitter: Callable[[float], float]) -> timedelta:
    """Return the wait after the `attempts`-th attempt: full jitter below a doubling ceiling."""
    ceiling = min(retry.max.total_seconds(), retry.first.total_seconds() * 2.0 ** min(attempts - 1, 60))
    return timedelta(seconds=jitter(ceiling))


def error_item(outcome: Outcome) -> ErrorItem | None:
    """Return an outcome as the error that clients see; `None` for a success."""
    if outcome.code is None:
        return None
    item = ErrorItem(
        code=outcome.code,
        message=outcome.message or outcome.code.replace("_", " "),
        retryable=outcome.state in {State.NOT_STORED, State.UNKNOWN, State.BLOCKED},
    )
    if outcome.status is not None:
        item["provider_status"] = outcome.status
    if outcome.provider_code is not None:
        item["provider_code"] = outcome.provider_code
    return item


def combined(parts: Sequence[Part], verdicts: Mapping[str, Next]) -> Next:
    """Write the rows' verdicts into the parts of a delivery, and return what becomes of the whole.

    A delivery with a row still to be sent goes on, in those rows' doubt; one whose rows all ended is what its
    worst row is.
    """
    for part in parts:
        verdict = verdicts.get(part.key)
        if verdict is not None:
            part.provider_event_id, part.error = verdict.provider_event_id, verdict.error
            part.code = Code.PENDING if verdict.code in _GOES_ON else verdict.code
    going = [verdict for verdict in verdicts.values() if verdict.code in _GOES_ON]
    if going:
        last = max(going, key=lambda verdict: (verdict.code is Code.BLOCKED, verdict.wait or timedelta(0)))
        return msgspec.structs.replace(last, doubt=max(verdict.doubt for verdict in going))
    if len(parts) == 1:
        return next(iter(verdicts.values()))
    status = worst(part.code.status for part in parts)
    decisive = next(part for part in parts if part.code.status is status)
    # A row counts as refused only where no request before it may have stored it, whatever another's answers said.
    doubt = LOST_ANSWER if status is DeliveryStatus.UNKNOWN else NO_DOUBT
    return Next(code=decisive.code, doubt=doubt, error=decisive.error)


_GOES_ON = frozenset({Code.PENDING, Code.RETRYING, Code.BLOCKED})
_BY_NOW = frozenset({ErrorCode.OUTSIDE_TIME_WINDOW, ErrorCode.EXPIRED})
"""Reasons that come with time: what was good when it was first sent may meet them later."""


def doubtful(error: ErrorItem | None) -> ErrorItem:
    """Return why nothing was stored, of what an earlier request may have stored."""
    if error is None:
        return ErrorItem(code=ErrorCode.PROTOCOL_ERROR, message="an earlier request may have stored it")
    return {**error, "message": f"{error['message']}; an earlier request without an answer may have stored it"}
