"""Small pieces of work looked at together: a look at a single event costs nearly what one at many does."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from canonical_schema import Event
from gateway.lanes.columns import shared
from gateway.ledger import StoredEvents, Work

__all__ = ["Run", "runs_of"]

MOST = 1000
"""Events of a run: as many as most providers take, and as are dealt with before others have a turn."""
SMALL = 500
"""Events of a piece of work from which on it is worth a look of its own; what is seen of a whole batch always is."""
BESIDE = 64
"""Batches whose work goes together. Runs end at the same batches for every lane, so that they share what they see."""
KEPT = 16
"""Runs whose events are remembered, until the last lane had them: some 4 MiB."""


@dataclass(slots=True, frozen=True)
class Run:
    """Pieces of a tenant's work, one after the other, none of which was rendered; or any single one."""

    works: Sequence[Work]
    events: Sequence[Event]
    """Of all of them."""

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.works[0].tenant

    @property
    def rendered(self) -> bool:
        """Whether it has its rows."""
        return self.works[0].parts is not None


def runs_of(works: Iterable[Work]) -> list[Run]:
    """Put pieces of work together, in their order."""
    runs: list[list[Work]] = []
    open_, size = False, 0
    for work in works:
        count = len(work.members)
        joins = work.parts is None and count < SMALL and isinstance(work.events, StoredEvents)
        joins = joins and shared(work.events) is None
        if joins and open_ and size + count <= MOST and _beside(runs[-1][-1], work):
            runs[-1].append(work)
            size += count
        else:
            runs.append([work])
            open_, size = joins, count
    return [Run(some, some[0].events if len(some) == 1 else _joined(some)) for some in runs]


def _beside(one: Work, other: Work) -> bool:
    return one.tenant == other.tenant and one.batch // BESIDE == other.batch // BESIDE


_known: OrderedDict[tuple[int, ...], tuple[list[StoredEvents], StoredEvents]] = OrderedDict()
"""By identity, with what is identified: the ledger hands the same events to every lane, one soon after the other."""


def _joined(works: Sequence[Work]) -> StoredEvents:
    events = [StoredEvents.of(work.events) for work in works]
    key = tuple(map(id, events))
    found = _known.get(key)
    if found is None:
        joined = StoredEvents(b"".join([some.text for some in events]), sum(map(len, events)))
        found = _known[key] = events, joined
        if len(_known) > KEPT:
            _known.popitem(last=False)
    return found[1]
