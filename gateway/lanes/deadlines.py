"""Acceptance windows that close: when they do for a delivery, and what then becomes of it."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from canonical_schema import ErrorCode, ErrorItem
from gateway.lanes.lots import closing, deadline_of, moved
from gateway.lanes.verdict import Next, combined, doubtful
from gateway.ledger import Change, Code, Part, Work, WorkState, some_of
from gateway.times import from_micros, to_micros

__all__ = ["ended", "given_up"]


def ended(work: Work, title: str, now: datetime) -> tuple[list[Change], Sequence[int]]:
    """Return what becomes of members whose window is closed, and the places of the others."""
    if work.group.deadline is None or to_micros(now) <= work.group.deadline:
        return [], range(len(work.members))
    if work.parts is not None:  # the verdicts are written into them
        work.parts = list(work.parts)
    left: list[int] = []
    alike: dict[tuple[Code, str], tuple[Next, list[int]]] = {}
    for place in range(len(work.members)):
        following = _closed(work, place, title, now)
        if following is None:
            left.append(place)
        else:
            why = following.error["message"] if following.error else ""
            alike.setdefault((following.code, why), (following, []))[1].append(place)
    return [moved(work, places, following, now) for following, places in alike.values()], left


def given_up(works: Iterable[Work], title: str, now: datetime) -> list[Change]:
    """Return what becomes of every member of work past its deadline: the open ones stay as they are."""
    return [change for work in works for change in _given_up(work, title, now)]


def _given_up(work: Work, title: str, now: datetime) -> list[Change]:
    changes, left = ended(work, title, now)
    if not left:
        return changes
    group = msgspec.structs.replace(work.group)
    closing(group, (deadline_of(work, place) for place in left))
    going = Code.RETRYING if group.attempts else Code.PENDING
    stays = Change(
        work=work.id,
        batch=work.batch,
        destination=work.destination,
        members=[work.members[place] for place in left],
        code=Code.BLOCKED if group.state in {WorkState.BLOCKED, WorkState.HELD} else going,
        group=group,
        parts=None if work.parts is None else some_of(work.parts, left),
        waiting=True,
    )
    return [*changes, stays]


def _closed(work: Work, place: int, title: str, now: datetime) -> Next | None:
    """Return what becomes of a member whose window is closed; `None`: it is open, or there is none.

    What may be stored by an earlier request is in doubt and not dead. Writes the verdict into its parts.
    """
    deadline = deadline_of(work, place)
    if deadline is None or to_micros(now) <= deadline:
        return None
    group = work.group
    assert group.window is not None
    span = from_micros(group.window) - from_micros(0)
    if work.received_at(place) > deadline:
        message = f"{title} takes nothing older than {span}"
        error = ErrorItem(code=ErrorCode.OUTSIDE_TIME_WINDOW, message=message, retryable=False)
        if group.doubt:  # of before a restore: it may have been sent in time
            return Next(code=Code.UNKNOWN, doubt=group.doubt, error=doubtful(error))
        return Next(code=Code.REJECTED, doubt=group.doubt, error=error)
    why = "it waited too long" if group.error is None else f"until then: {group.error['message']}"
    if group.doubt:
        why = f"an earlier request may have stored it; {why}"
    message = f"{title} takes nothing older than {span}, and the window closed; {why}"
    error = ErrorItem(code=ErrorCode.EXPIRED, message=message, retryable=False)
    following = Next(code=Code.UNKNOWN if group.doubt else Code.DEAD, doubt=group.doubt, error=error)
    parts: list[Part] = [] if work.parts is None else work.parts[place]
    verdicts = {part.key: following for part in parts if part.code is Code.PENDING}
    return combined(parts, verdicts) if verdicts else following
