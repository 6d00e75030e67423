"""What deliveries look like at a provider before they are sent, or why they are not."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, TypeGuard

import structlog

from canonical_schema import ErrorCode, ErrorItem, Event
from gateway.catalogue import Catalogue
from gateway.lanes.absolutes import Absolutes
from gateway.lanes.columns import columns_of
from gateway.lanes.deadlines import ended
from gateway.lanes.lots import FRAME, Lot, deadline_of, moved
from gateway.lanes.rendering import Turned, encoded, render
from gateway.lanes.runs import Run
from gateway.lanes.stencils import Stencils
from gateway.lanes.verdict import SET_BACK, Next, doubtful, may_resend
from gateway.ledger import Change, Code, Part, Rendered, Sheet, Work, some_of
from gateway.times import from_micros, to_micros

__all__ = ["Preparer"]

log = structlog.get_logger()


class _Seen(NamedTuple):
    """What a look at a piece of work gave."""

    keys: Sequence[str]
    rows: bytes | Sequence[bytes | None]
    """A line each, or by itself; `None`: that one has to be asked for."""
    receipts: Sequence[datetime]


_RENDERED = _Seen((), (), ())
"""Of work that has its rows, nothing is looked at."""


class Preparer:
    """Makes lots of one destination's work."""

    def __init__(
        self, destination: str, catalogue: Catalogue, absolutes: Absolutes, once: Callable[[Work], bool]
    ) -> None:
        """`once` tells what rows nobody vouches for a second request with, whatever the provider does with repeats."""
        self._destination = destination
        self._catalogue = catalogue
        self._adapter = catalogue.destinations[destination].adapter
        self._absolutes = absolutes
        self._once = once
        self._stencils = Stencils(catalogue, destination)

    def prepared(
        self, runs: Sequence[Run], now: datetime, max_rows: int, max_bytes: int
    ) -> tuple[list[Lot], list[Change]]:
        """Return what can be sent, up to where so many rows or bytes are full, and what becomes of the others."""
        lots: list[Lot] = []
        turned: list[Change] = []
        rows = size = 0
        for work, seen in self._seen(runs, now):
            if rows >= max_rows or size >= max_bytes:
                break
            group = work.group
            if group.doubt and not may_resend(None if self._once(work) else self._adapter.dedupe, group, now):
                following = Next(code=Code.UNKNOWN, doubt=group.doubt, error=group.error)
                turned.append(moved(work, range(len(work.members)), following, now))
                continue
            if renamed := self._renamed(work, now):  # the others are taken again
                following = Next(code=Code.UNKNOWN, doubt=group.doubt, error=group.error)
                turned.append(moved(work, renamed, following, now))
                continue
            gone, places = ended(work, self._adapter.spec.title, now)
            turned += gone
            places, waiting = self._in_turn(work, places)
            if waiting:
                following = Next(code=Code.PENDING, doubt=group.doubt, error=group.error)
                turned.append(moved(work, waiting, following, now))
            if work.parts is None:
                places, parts, away = self._rendered(work, places, seen, now)
                turned += away
            else:
                parts = work.parts if len(places) == len(work.parts) else some_of(work.parts, places)
            if not places:
                continue
            lot = Lot(
                work.id,
                work.batch,
                work.members if len(places) == len(work.members) else [work.members[place] for place in places],
                group,
                parts,
                () if group.window is None else [deadline_of(work, place) for place in places],
            )
            lots.append(lot)
            rows, size = rows + lot.count, size + lot.size
        return lots, turned

    def _renamed(self, work: Work, now: datetime) -> list[int]:
        """Return the places of what may be there under another name of its meter, where a repeat has to have the same.

        What is in doubt by a restore may have been sent as it was named before: its rows are not known any more. Where
        the clock was set back since, the meter must never have had another name: when it had, nobody can tell.
        """
        dedupe, sent = self._adapter.dedupe, work.group.sent
        if not work.group.doubt or work.parts is not None or sent is None or dedupe is None or "meter" not in dedupe.by:
            return []
        since = 0 if sent > to_micros(now + SET_BACK) else sent
        events = enumerate(work.events)
        return [place for place, one in events if self._catalogue.renamed(self._destination, one.meter, since)]

    def _seen(self, runs: Sequence[Run], now: datetime) -> Iterable[tuple[Work, _Seen]]:
        """Return each piece of work with what there is to see of it. None is looked at before its run is asked for."""
        for run in runs:
            yield from zip(run.works, [_RENDERED] if run.rendered else self._look(run, now), strict=True)

    def _look(self, run: Run, now: datetime) -> Sequence[_Seen]:
        receipts = [when for work in run.works for when in _receipts(work)]
        rows, keys = self._filled(run, receipts, now), columns_of(run.events).keys
        if len(run.works) == 1:
            return [_Seen(keys, rows, receipts)]
        lines = rows.split(b"\n") if isinstance(rows, bytes) else None
        seen: list[_Seen] = []
        begin = 0
        for work in run.works:
            mine = slice(begin, begin := begin + len(work.members))
            ours = rows[mine] if lines is None else b"\n".join(lines[mine])
            seen.append(_Seen(keys[mine], ours, receipts[mine]))
        return seen

    def _in_turn(self, work: Work, places: Sequence[int]) -> tuple[Sequence[int], list[int]]:
        """Return the places of what may go, and of absolute values that wait for earlier ones."""
        if not self._adapter.allows_absolute:
            return places, []
        going: list[int] = []
        waiting: list[int] = []
        for place in places:
            may = self._absolutes.may_go(work, work.members[place], work.events[place])
            (going if may else waiting).append(place)
        return going, waiting

    def _rendered(
        self, work: Work, places: Sequence[int], seen: _Seen, now: datetime
    ) -> tuple[Sequence[int], Rendered, list[Change]]:
        """Return the places of what can be sent with its rows, and what becomes of what cannot."""
        keys, rows, receipts = seen
        largest = self._adapter.door.max_bytes - FRAME
        if isinstance(rows, bytes):
            if len(places) == len(keys) and len(rows) <= largest:
                return places, Sheet(keys, lines=rows), []
            rows = rows.split(b"\n")
        if len(places) < len(rows):
            rows = [rows[place] for place in places]
        if _all_there(rows) and (not rows or max(map(len, rows)) <= largest):
            return places, Sheet(keys if len(places) == len(keys) else [keys[place] for place in places], rows), []
        good: list[int] = []
        parts: list[list[Part]] = []
        away: dict[tuple[Code, str], tuple[Turned, list[int]]] = {}
        for place, row in zip(places, rows, strict=True):
            event = work.events[place]
            made = self._singly(work, event, receipts[place], now) if row is None else [Part("", event.id, row)]
            if not isinstance(made, Turned) and max(len(part.row) for part in made) > largest:
                title = self._adapter.spec.title
                message = f"the event is larger than {title} takes: send fewer or shorter properties"
                error = ErrorItem(code=ErrorCode.PAYLOAD_TOO_LARGE, message=message, retryable=False)
                made = Turned(Code.REJECTED, error)
            if isinstance(made, Turned):
                why = made.error["message"] if made.error else ""
                away.setdefault((made.code, why), (made, []))[1].append(place)
            else:
                good.append(place)
                parts.append(made)
        changes = [self._turned_away(work, reason, some, now) for reason, some in away.values()]
        if all(len(made) == 1 and made[0].code is Code.PENDING and not made[0].name for made in parts):
            return good, Sheet([made[0].key for made in parts], [made[0].row for made in parts]), changes
        return good, parts, changes

    def _filled(self, run: Run, receipts: Sequence[datetime], now: datetime) -> bytes | Sequence[bytes | None]:
        try:
            return self._stencils.rows(run.tenant, run.events, receipts, now)
        except Exception as error:  # noqa: BLE001  each event is asked for singly: one that is at fault stops no other
            log.error("lane.render_failed", destination=self._destination, error=type(error).__name__)
            return [None] * len(run.events)

    def _singly(self, work: Work, event: Event, received: datetime, now: datetime) -> list[Part] | Turned:
        try:
            made = render(self._catalogue, self._destination, work.tenant, event, received, now)
            return made if isinstance(made, Turned) else encoded(made)
        except Exception as error:  # noqa: BLE001  an adapter that stumbles over one event must not stop the lane
            log.error("lane.render_failed", destination=self._destination, error=type(error).__name__)
            message = f"{self._adapter.spec.title}'s adapter failed on this event: {type(error).__name__}"
            return Turned(Code.BLOCKED, ErrorItem(code=ErrorCode.UNSUPPORTED, message=message, retryable=True))

    def _turned_away(self, work: Work, reason: Turned, places: Sequence[int], now: datetime) -> Change:
        if reason.error is not None and reason.error["code"] == ErrorCode.UNMAPPED_CUSTOMER:
            for place in places:
                self._catalogue.miss(self._destination, work.tenant, work.events[place].customer)
        code, error, doubt = reason.code, reason.error, work.group.doubt
        if doubt and code in {Code.REJECTED, Code.DEAD}:
            # It may be there all the same: it was taken once, or is of before a restore.
            code, error = Code.UNKNOWN, doubtful(error)
        return moved(work, places, Next(code=code, doubt=doubt, error=error), now)


def _all_there(rows: Sequence[bytes | None]) -> TypeGuard[Sequence[bytes]]:
    return None not in rows


def _receipts(work: Work) -> list[datetime]:
    """Return when each event of a piece of work was received: most of a batch came together."""
    if not work.receipts:
        return [from_micros(work.received)] * len(work.members)
    times = {micros: from_micros(micros) for micros in set(work.receipts)}
    return [times[micros] for micros in work.receipts]
