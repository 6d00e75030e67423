"""Many answers, one answer: what every provider said about every event of a request."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache

import msgspec

from canonical_schema import (
    Attempt,
    BatchResult,
    DeliveryDetail,
    DeliveryResult,
    DeliveryStatus,
    ErrorItem,
    Event,
    EventDetail,
    EventResult,
    EventStatus,
    PartResult,
    Summary,
    event_json,
    event_status,
    format_time,
)
from gateway.ledger import NO_WAY, AttemptRow, Code, Group, Part, Plan, Snapshot, Track
from gateway.times import from_micros

__all__ = ["View", "batch_result", "closing", "fresh", "refused", "summed"]

_CODES = {int(code): code for code in Code}
"""By the byte that the ledger keeps: an enum's own look-up costs as much as the rest of an entry."""


class View:
    """A batch of the ledger, read event by event."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._tracks = [_TrackView(track, snapshot) for track in snapshot.tracks]

    def status(self, index: int) -> EventStatus:
        """Return what became of one event."""
        return _status(bytes(track.codes[index] for track in self._tracks if track.counts(index)))

    def open(self, index: int) -> list[str]:
        """Return the live destinations where one event has not ended, blocked ones left out."""
        return [track.name for track in self._tracks if track.codes[index] in _OPEN and track.counts(index)]

    def codes(self, index: int) -> dict[str, Code]:
        """Return one event's status bytes, by destination."""
        return {track.name: track.code(index) for track in self._tracks if track.codes[index]}

    def live(self, index: int) -> dict[str, Code]:
        """Return one event's status bytes where it counts, by destination."""
        return {track.name: track.code(index) for track in self._tracks if track.codes[index] and track.counts(index)}

    def deliveries(self, index: int) -> dict[str, DeliveryResult]:
        """Return one event's deliveries, as clients see them."""
        return {track.name: track.result(index) for track in self._tracks if track.codes[index]}

    @property
    def erased(self) -> Collection[int]:
        """The events whose customer was erased: nobody can be told any more whose they are."""
        return frozenset[int]() if self.snapshot.remains is None else self.snapshot.remains.erased

    @property
    def trimmed(self) -> bool:
        """Whether nothing but statuses is left of the batch."""
        return self.snapshot.remains is not None and self.snapshot.remains.trimmed

    def result(self, position: int, index: int, event_id: str, *, replayed: bool) -> EventResult:
        """Return one event's entry in the answer to a request."""
        made = EventResult(
            index=position,
            id=event_id,
            status=self.status(index),
            stored=True,
            replayed=replayed,
            deliveries=self.deliveries(index),
        )
        if self.trimmed:
            made["trimmed"] = True
        return made

    def detail(self, index: int, event_id: str | None = None) -> EventDetail:
        """Return everything that is known of one event; of one that was trimmed that is how it ended.

        Its id stands in the event, where that is still there; else it has to be told.
        """
        received, left = from_micros(self.snapshot.received_at(index)), self.snapshot.remains
        deliveries = {
            track.name: DeliveryDetail(**track.result(index), history=track.history(index))
            for track in self._tracks
            if track.codes[index]
        }
        named, status, at = event_id or self.snapshot.events[index].id, self.status(index), format_time(received)
        if self.trimmed:
            made = EventDetail(id=named, status=status, received_at=at, deliveries=deliveries)
        else:
            shown = event_json(self.snapshot.events[index])
            shown.setdefault("timestamp", at)
            made = EventDetail(id=named, status=status, received_at=at, event=shown, deliveries=deliveries)
        if self.trimmed and left is not None:
            made["trimmed"] = True
            if left.segment is not None:
                made["archive"] = left.segment
        if left is not None and index in left.erased:
            made["erased"] = True
        return made


class _TrackView:
    """One destination's view of a batch, read event by event."""

    def __init__(self, track: Track, snapshot: Snapshot) -> None:
        self.name = track.destination
        self._snapshot = snapshot
        self._shadow = track.shadow
        self.codes = track.codes
        self._track = track
        self._groups: dict[int, Group] = {index: group for group, members in track.work for index in members}
        self._attempts: dict[int, tuple[AttemptRow, ...]] = {}
        for attempt in track.attempts:
            alone = (attempt,)  # shared by all that were sent once: most of a large batch
            for index in attempt.members:
                before = self._attempts.get(index)
                self._attempts[index] = alone if before is None else (*before, attempt)

    def counts(self, index: int) -> bool:
        """Return whether one delivery is part of its event's outcome."""
        return not self._shadow or not self._track.looks_on(index)

    def code(self, index: int) -> Code:
        return _CODES[self.codes[index]]

    def result(self, index: int) -> DeliveryResult:
        code, attempts = self.code(index), self._attempts.get(index, ())
        group, parts = self._groups.get(index), self._track.parts.get(index)
        made = DeliveryResult(provider=self._track.provider, status=code.status, attempts=len(attempts))
        for row in attempts:
            if index in row.provider_event_ids:
                made["provider_event_id"] = row.provider_event_ids[index]
                break
        _tell(made, code)
        if parts is not None and code is Code.ACCEPTED_CONFIRMED:  # all rows of it were seen, or none counts as such
            parts = [_confirmed(part) for part in parts]
        if not self.counts(index):
            made["shadow"] = True
        if group is not None:
            if code is Code.RETRYING:
                made["next_attempt_at"] = format_time(from_micros(group.due))
            if group.window is not None:
                made["deadline"] = _closes(
                    self._snapshot.events[index], self._snapshot.received_at(index), group.window
                )
            if group.error is not None:
                made["error"] = group.error
        if parts is not None:
            made["parts"] = {part.name: _part(part) for part in parts}
        return made

    def history(self, index: int) -> list[Attempt]:
        return [_attempt(attempt, index) for attempt in self._attempts.get(index, ())]


def _closes(event: Event, received: int, window: int) -> str:
    when = from_micros(received) if event.timestamp is None else event.timestamp
    return format_time(when + timedelta(microseconds=window))


_OPEN = frozenset({Code.PENDING, Code.RETRYING})


@lru_cache(4096)
def _status(codes: bytes) -> EventStatus:
    """Return what an event is whose live deliveries have these codes."""
    return event_status(Code(code).status for code in codes if code not in NO_WAY)


def _tell(made: DeliveryResult | PartResult, code: Code) -> None:
    if code.receipt is not None:
        made["receipt"] = code.receipt
    if code.reason is not None:
        made["reason"] = code.reason
    if code is Code.DUPLICATE_UNEXPECTED:
        made["unexpected"] = True


def _part(part: Part) -> PartResult:
    made = PartResult(status=part.code.status)
    if part.provider_event_id is not None:
        made["provider_event_id"] = part.provider_event_id
    _tell(made, part.code)
    if part.error is not None:
        made["error"] = part.error
    return made


def _confirmed(part: Part) -> Part:
    if part.code is not Code.ACCEPTED_QUEUED:
        return part
    return msgspec.structs.replace(part, code=Code.ACCEPTED_CONFIRMED)


def _attempt(attempt: AttemptRow, index: int) -> Attempt:
    outcome, error = attempt.others.get(index, (attempt.outcome, attempt.error))
    made = Attempt(at=format_time(from_micros(attempt.at)), duration_ms=attempt.duration_ms, outcome=outcome)
    if attempt.http_status is not None:
        made["http_status"] = attempt.http_status
    if error is not None:
        made["error"] = error
    return made


def closing(shown: Mapping[str, DeliveryResult], plan: Plan, event: Event, received: int) -> dict[str, DeliveryResult]:
    """Return what `fresh` showed with the deadlines of one event."""
    made = dict(shown)
    for name, window in plan.windows:
        if name in made:
            made[name] = made[name].copy()
            made[name]["deadline"] = _closes(event, received, window)
    return made


def fresh(plan: Plan, providers: Mapping[str, str]) -> tuple[EventStatus, dict[str, DeliveryResult]]:
    """Return status and deliveries of an event that was stored just now and not looked at since."""
    made: dict[str, DeliveryResult] = {}
    for name in plan.live:
        made[name] = DeliveryResult(provider=providers[name], status=DeliveryStatus.PENDING, attempts=0)
    for name in plan.shadow:
        made[name] = DeliveryResult(provider=providers[name], status=DeliveryStatus.PENDING, attempts=0, shadow=True)
    for name, code in plan.filtered:
        made[name] = DeliveryResult(provider=providers[name], status=code.status, attempts=0)
        _tell(made[name], code)
    return event_status(DeliveryStatus.PENDING for _ in plan.live), made


def refused(position: int, event_id: str | None, status: EventStatus, error: ErrorItem) -> EventResult:
    """Return the entry of an event that was not stored."""
    if event_id is None:
        return EventResult(index=position, status=status, stored=False, replayed=False, deliveries={}, error=error)
    return EventResult(
        index=position, id=event_id, status=status, stored=False, replayed=False, deliveries={}, error=error
    )


def batch_result(batch_id: str, results: Sequence[EventResult]) -> BatchResult:
    """Return the answer to a request, with its counts."""
    counts = Counter(result["status"] for result in results)
    return BatchResult(object="batch_result", batch_id=batch_id, summary=summed(counts), results=list(results))


def summed(counts: Mapping[EventStatus, int]) -> Summary:
    """Return how many events ended in each status, all of them named."""
    return Summary(
        total=sum(counts.values()),
        delivered=counts.get(EventStatus.DELIVERED, 0),
        pending=counts.get(EventStatus.PENDING, 0),
        partial=counts.get(EventStatus.PARTIAL, 0),
        failed=counts.get(EventStatus.FAILED, 0),
        unknown=counts.get(EventStatus.UNKNOWN, 0),
        unrouted=counts.get(EventStatus.UNROUTED, 0),
        invalid=counts.get(EventStatus.INVALID, 0),
        conflict=counts.get(EventStatus.CONFLICT, 0),
    )
