"""The verdict: one total function from what came back to one outcome for every row sent."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from re import search
from typing import cast

from msgspec.structs import replace

from adapters._facts import Refusal
from adapters._spec import CanTakeAll, Dialect, Door
from adapters._values import Fault, FaultKind, Outcome, Reply, Sent, State
from adapters._words import cleaner, issues, words
from canonical_schema import ErrorCode

__all__ = ["retry_after", "settle", "took_all"]

_NOT_HERE = frozenset({301, 302, 307, 308, 404, 405, 410, 415, 421, 426})
_REFUSALS = frozenset({400, 413, 422})
_TOO_LARGE = 413
_ENDED = frozenset({State.ACCEPTED, State.DUPLICATE, State.REJECTED})


def settle(
    door: Door, reply: Reply | Fault, sent: Sequence[Sent], *, now: datetime, hide: Sequence[str] = ()
) -> Mapping[str, Outcome]:
    """Give every row of one request exactly one outcome.

    The result has the keys of `sent`, in that order, whatever came back. A reply that neither a rule nor the
    dialect can read is judged by its status alone, and is then never `accepted`; `rejected` is then only the
    single row of a request that is too large.
    `hide` are secrets that no message may show; values of the rows are hidden as well.

    Never raises: a dialect that fails counts as an unreadable reply.
    """
    if isinstance(reply, Fault):
        return dict.fromkeys((row.key for row in sent), _fault(reply))
    try:
        outcomes = _understood(door, reply, sent, hide)
    except Exception:  # noqa: BLE001  a dialect that fails counts as an unreadable reply, whatever its bug
        outcomes = None
    if outcomes is None:
        outcomes = dict.fromkeys((row.key for row in sent), _by_status(reply))
    alone, wait = len(sent) == 1, retry_after(reply, now)
    return {
        key: outcome if outcome.state in _ENDED else _finished(door, outcome, wait, alone=alone)
        for key, outcome in outcomes.items()
    }


def took_all(
    door: Door, reply: Reply | Fault, keys: Sequence[str], *, hide: Sequence[str] = ()
) -> Sequence[str | None] | None:
    """Return the provider's ids of the rows where it took every one of them as new: none where it gives none.

    `None` where it did not, or where that is not told at once: then `settle` tells. What it says, `settle` says too.
    """
    if isinstance(reply, Fault) or not 200 <= reply.status < 300 or not _can(type(door.dialect)):
        return None
    try:
        theirs = cast("CanTakeAll", door.dialect).took_all(reply, keys)
    except Exception:  # noqa: BLE001  a dialect that fails has not understood, whatever its bug
        return None
    named = "\n".join(filter(None, theirs or ()))
    if any(secret and secret in named for secret in hide):
        return None
    return theirs


@cache
def _can(kind: type[Dialect]) -> bool:
    """Return whether a dialect can tell at once; a protocol takes long to say so."""
    return issubclass(kind, CanTakeAll)


def _understood(door: Door, reply: Reply, sent: Sequence[Sent], hide: Sequence[str]) -> dict[str, Outcome] | None:
    """Return what the answer says about each row, in words that people may read; `None`: nothing we know."""
    read = _read(door, reply, sent)
    if read is None:
        return None
    clean = cleaner(sent, hide)
    silent = _silent(reply)
    return {row.key: _cleaned(read.get(row.key, silent), clean, hide) for row in sent}


def _read(door: Door, reply: Reply, sent: Sequence[Sent]) -> Mapping[str, Outcome] | None:
    if 200 <= reply.status < 300:
        return door.dialect.read(door, reply, sent)
    text, code = words(door, reply)
    for rule in door.rules:
        if rule.row or reply.status not in rule.statuses or (rule.code is not None and rule.code != code):
            continue
        match = None if rule.text is None else search(rule.text, text)
        if rule.text is not None and match is None:
            continue
        verdict = Outcome(
            state=rule.state,
            code=rule.error,
            message=text,
            status=reply.status,
            provider_code=code,
            reduce=rule.error is ErrorCode.PAYLOAD_TOO_LARGE,
        )
        index = match.groupdict().get("index") if match is not None else None
        return _blame(door, sent, verdict, None if index is None else {int(index): text})
    if not 400 <= reply.status < 500:
        return None
    refused = Outcome(
        state=State.REJECTED,
        code=ErrorCode.PAYLOAD_TOO_LARGE if reply.status == _TOO_LARGE else ErrorCode.PROVIDER_REJECTED,
        message=text,
        status=reply.status,
        provider_code=code,
        reduce=reply.status == _TOO_LARGE,
    )
    refusal = reply.status in _REFUSALS
    named = issues(door, reply) if refusal else None
    if named is not None:
        return _blame(door, sent, refused, named)
    by_row = door.dialect.read(door, reply, sent)
    if by_row is None and text and refusal:
        return _blame(door, sent, refused, None)
    return by_row


def _blame(
    door: Door, sent: Sequence[Sent], verdict: Outcome, named: Mapping[int | None, str] | None
) -> Mapping[str, Outcome]:
    """Spread a verdict: on the rows it names, with their peers free to go again; else on all alike."""
    if verdict.state is not State.REJECTED:
        return dict.fromkeys((row.key for row in sent), verdict)
    if named is None or not named.keys() <= set(range(len(sent))):
        return dict.fromkeys((row.key for row in sent), replace(verdict, state=State.REFUSED))
    peer = Outcome(
        state=State.NOT_STORED,
        code=ErrorCode.PROVIDER_REJECTED,
        message="the provider refused the batch for another row",
        status=verdict.status,
        may_be_stored=door.refusal is Refusal.SOME,
    )
    return {
        row.key: replace(verdict, message=named[index] or verdict.message) if index in named else peer
        for index, row in enumerate(sent)
    }


def _cleaned(outcome: Outcome, clean: Callable[[str], str], hide: Sequence[str]) -> Outcome:
    theirs, code = outcome.provider_event_id, outcome.provider_code
    if theirs is not None:
        for secret in hide:
            if secret and secret in theirs:
                outcome = replace(outcome, provider_event_id=None)
    if not outcome.message and code is None:
        return outcome
    code = code if code is not None and clean(code) == code else None
    return replace(outcome, message=clean(outcome.message), provider_code=code)


def _finished(door: Door, outcome: Outcome, wait: timedelta | None, *, alone: bool) -> Outcome:
    """Apply what holds for every door, to what has not ended: who is to blame when alone, and what is left open."""
    state, may_be_stored = outcome.state, outcome.may_be_stored
    if state is State.REFUSED and alone:
        return replace(outcome, state=State.REJECTED)
    if state is State.REFUSED:
        # What is too large is refused before any of its rows is looked at.
        may_be_stored = door.refusal is Refusal.SOME and not outcome.reduce
    if may_be_stored and door.dedupe is None:
        state = State.UNKNOWN
    return replace(outcome, state=state, may_be_stored=may_be_stored or state is State.UNKNOWN, retry_after=wait)


def _fault(fault: Fault) -> Outcome:
    if fault.kind is FaultKind.NEVER_LEFT:
        code = ErrorCode.TIMEOUT if fault.timeout else ErrorCode.PROVIDER_UNAVAILABLE
        message = f"the request never left: {fault.name}"
        return Outcome(state=State.NOT_STORED, code=code, message=message)
    code = ErrorCode.TIMEOUT if fault.timeout else ErrorCode.PROVIDER_UNAVAILABLE
    message = f"no answer after sending: {fault.name}"
    return Outcome(state=State.UNKNOWN, code=code, message=message, may_be_stored=True)


def _silent(reply: Reply) -> Outcome:
    return Outcome(
        state=State.UNKNOWN,
        code=ErrorCode.PROTOCOL_ERROR,
        message="the provider's answer does not mention this row",
        status=reply.status,
    )


def _by_status(reply: Reply) -> Outcome:
    """Judge a reply whose words nobody knows. What was not processed by HTTP's own meaning may go again."""
    status = reply.status
    if status in {401, 407}:
        message = "the provider refused our credentials: check api_key, and that it is for this base_url"
        return Outcome(state=State.BLOCKED, code=ErrorCode.UNAUTHORIZED, message=message, status=status)
    if status in {402, 403}:
        message = "the provider does not permit this account or key to report usage"
        return Outcome(state=State.BLOCKED, code=ErrorCode.FORBIDDEN, message=message, status=status)
    if status in _NOT_HERE:
        message = "nothing takes usage at this address in this form: check base_url"
        return Outcome(state=State.BLOCKED, code=ErrorCode.PROTOCOL_ERROR, message=message, status=status)
    if status == 429:
        message = "the provider asks to slow down"
        return Outcome(state=State.NOT_STORED, code=ErrorCode.RATE_LIMITED, message=message, status=status)
    if status == _TOO_LARGE:
        message = "the provider calls the request too large"
        return Outcome(
            state=State.REFUSED, code=ErrorCode.PAYLOAD_TOO_LARGE, message=message, status=status, reduce=True
        )
    if status >= 500:
        message = "the provider failed after taking the request"
        return Outcome(state=State.UNKNOWN, code=ErrorCode.PROVIDER_UNAVAILABLE, message=message, status=status)
    message = "the provider's answer cannot be read"
    return Outcome(state=State.UNKNOWN, code=ErrorCode.PROTOCOL_ERROR, message=message, status=status)


def retry_after(reply: Reply, now: datetime) -> timedelta | None:
    """Read `Retry-After` in both forms, a day at most; a date in the past is no wait, nonsense is no word."""
    value = reply.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(timedelta(seconds=int(value[:9])), _DAY)
    try:
        then = parsedate_to_datetime(value)
        wait = (then if then.tzinfo is not None else then.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError):
        return None
    return min(max(wait, timedelta(0)), _DAY)


_DAY = timedelta(days=1)
