"""A ledger that was put back from a copy: what came after the copy is not in it, and the vendors may have it.

Usage from before the restore that is given a delivery after it may have been delivered already: by the same event
that its sender repeats, by a way that it was given, by a backfill. It is in doubt, and goes by the rules of doubt.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from gateway.chain import Chain, Stand
from gateway.ledger import LOST_ANSWER, RESTORE, Group, Ledger, RestoredAt, Sheet, Work, sent_since
from gateway.times import to_micros

__all__ = ["Restored"]

LONG = timedelta(days=35) // timedelta(microseconds=1)
"""After the restore: what is delivered later than this is no repeat of what was lost."""


class Restored:
    """What the lanes of one gateway know of the restore of their ledger."""

    def __init__(self) -> None:
        self._last: RestoredAt | None = None

    async def read(self, ledger: Ledger) -> None:
        """Take notice of the last restore, where there was one."""
        body = await ledger.document(RESTORE, "", "last")
        self._last = None if body is None else msgspec.json.decode(body, type=RestoredAt)

    def doubted(self, works: Sequence[Work]) -> Sequence[Work]:
        """Return work, with what may have been delivered since the copy in doubt.

        Of a piece that is in doubt in part that part alone is returned: the rest of it is taken again.
        """
        last = self._last
        return works if last is None else [_doubted(work, last) for work in works]

    def other(self, work: Work) -> bool:
        """Return whether rows in doubt may not be those that left: another correction had their id since the copy."""
        last, group = self._last, work.group
        if last is None or not group.doubt or group.since < last.at or group.sent != last.taken:
            return False
        return any(_under_its_id(work, place) for place in range(len(work.members)))

    def seen(self, chain: Chain, stands: Sequence[Stand]) -> Sequence[Stand]:
        """Return how the events of a chain stand, with what may have been delivered since the copy in doubt."""
        last = self._last
        if last is None:
            return stands
        return [
            msgspec.structs.replace(stand, group=_in_doubt(stand.group, last))
            if stand.group is not None and _may_be_there(stand.group, last) and _at(stand, chain) < last.at
            else stand
            for stand in stands
        ]


def _may_be_there(group: Group, last: RestoredAt) -> bool:
    return not group.attempts and not group.doubt and last.at <= group.since < last.at + LONG


def _in_doubt(group: Group, last: RestoredAt) -> Group:
    # An attempt that nobody remembers counts as one: what a person sends again is not doubted again.
    return msgspec.structs.replace(group, attempts=1, doubt=LOST_ANSWER, sent=last.taken, error=sent_since(last.taken))


def _doubted(work: Work, last: RestoredAt) -> Work:
    group = work.group
    if group.doubt and group.sent is not None and last.taken <= group.sent < last.at:
        # Nothing was sent then that the ledger knows of. What was said of earlier attempts is that none arrived.
        return msgspec.structs.replace(work, group=msgspec.structs.replace(group, error=sent_since(group.sent)))
    if not _may_be_there(group, last):
        return work
    places = [place for place in range(len(work.events)) if _when(work, place) < last.at]
    if not places:
        return work
    places = [place for place in places if _under_its_id(work, place)] or places
    return msgspec.structs.replace(work.some(places), group=_in_doubt(group, last))


def _under_its_id(work: Work, place: int) -> bool:
    """Return whether it is a correction that is sent as a row of its own, under the id that this gateway gave it."""
    event = work.events[place]
    if event.corrects is None or work.parts is None or isinstance(work.parts, Sheet):
        return False
    return any(part.key == event.id or part.key.startswith(f"{event.id}/") for part in work.parts[place])


def _when(work: Work, place: int) -> int:
    return _happened(work.events[place].timestamp, work.received_at(place))


def _at(stand: Stand, chain: Chain) -> int:
    return _happened(stand.event.timestamp, chain.received)  # corrections have a time of their own


def _happened(told: datetime | None, received: int) -> int:
    """Return when usage happened, as far as it says so itself."""
    return received if told is None else to_micros(told)
