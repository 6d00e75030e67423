"""What a lane hears from its provider: what that teaches about the pace, and the lines that tell of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from adapters import Fault, Outcome, Reply, State, retry_after
from canonical_schema import ErrorCode, ErrorItem
from gateway.asking import AskFailed
from gateway.lanes.pace import Heard, Pace
from gateway.lanes.verdict import error_item

__all__ = ["Health", "Hearing"]

log = structlog.get_logger()


@dataclass(slots=True)
class Health:
    """What a lane last heard, for people."""

    last_error: ErrorItem | None = None
    last_error_at: datetime | None = None
    last_success_at: datetime | None = None


class Hearing:
    """One destination's answers, requests that deliver and harmless reads alike."""

    def __init__(self, destination: str, provider: str, pace: Pace, in_flight: Callable[[], int]) -> None:
        """`in_flight` tells how many requests are."""
        self.health = Health()
        self._destination = destination
        self._provider = provider
        self._pace = pace
        self._in_flight = in_flight

    def attempt(
        self, reply: Reply | Fault, told: Mapping[State, int], first: Outcome, began: datetime, now: datetime
    ) -> None:
        """Learn from a request that delivered how to go on, and write the one line that tells of the attempt."""
        busy = self._pace.room(self._in_flight(), began) == 0
        if not _TROUBLE.issuperset(told):
            self.health.last_success_at = now
            self._pace.heard(Heard.FINE, began, now, busy=busy)
        else:
            self.health.last_error, self.health.last_error_at = error_item(first), now
            what = _HEARD.get(first.state, Heard.FAULT)
            if first.code is ErrorCode.RATE_LIMITED:
                what = Heard.THROTTLED
            self._pace.heard(what, began, now, busy=busy, retry_after=first.retry_after)
        log.info(
            "attempt.settled",
            destination=self._destination,
            provider=self._provider,
            rows=sum(told.values()),
            **_said(reply, began, now),
            **{**_NONE, **told},
        )

    def probe(self, answer: Reply | Fault | AskFailed, began: datetime, now: datetime) -> None:
        """Learn from a harmless read, or from why it could not be asked: what cannot be asked is tried."""
        if isinstance(answer, AskFailed):
            log.error("lane.probe_failed", destination=self._destination, error=str(answer))
            self._pace.probed(Heard.FINE, now)
            return
        status = answer.status if isinstance(answer, Reply) else None
        what = Heard.FAULT if status is None or status >= 500 else Heard.THROTTLED if status == 429 else Heard.FINE
        self._pace.probed(what, now, retry_after(answer, now) if isinstance(answer, Reply) else None)
        log.info(
            "lane.probed",
            destination=self._destination,
            provider=self._provider,
            heard=what.value,
            **_said(answer, began, now),
        )


def _said(answer: Reply | Fault, began: datetime, now: datetime) -> dict[str, int | str | None]:
    return {
        "ms": round((now - began).total_seconds() * 1000),
        "http_status": None if isinstance(answer, Fault) else answer.status,
        "fault": answer.name if isinstance(answer, Fault) else None,
    }


_NONE = {state.value: 0 for state in State}
_HEARD = {State.BLOCKED: Heard.REFUSED}
_TROUBLE = frozenset({State.NOT_STORED, State.UNKNOWN, State.BLOCKED})
