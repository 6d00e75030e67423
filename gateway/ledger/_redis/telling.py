"""Work as the scripts tell it: its place, its head, what went wrong, its rows; and the events that it is about."""

from collections.abc import AsyncIterator, Sequence

from gateway.ledger._events import some_events
from gateway.ledger._keeping import LETTERS
from gateway.ledger._model import Work
from gateway.ledger._redis.base import Base
from gateway.ledger._redis.layout import split_member, unpack_head, unpack_rendered
from gateway.ledger._redis.link import Link

__all__ = ["AT_ONCE", "Telling"]

AT_ONCE = 200
"""Pieces of work that one script goes through: nobody waits longer for it than a few milliseconds."""


class Telling(Base):
    """Work that is looked at."""

    async def _pages(
        self, destination: str, state: bytes, links: Sequence[Link] = ()
    ) -> AsyncIterator[Sequence[bytes]]:
        """Give the work in one state, a page at a time; in all partitions unless some are named."""
        for link in links or self._opened():
            after = 0
            while answer := await link.run("walk", destination, state, after, AT_ONCE):
                yield answer
                after = split_member(answer[-4])[0]

    async def _told(self, answers: Sequence[Sequence[bytes]]) -> list[tuple[Work, bytes]]:
        """Return work as the scripts told it, with who sends it."""
        heads = [
            (*split_member(member), unpack_head(head, failure or None), rendered)
            for answer in answers
            for member, head, failure, rendered in zip(*(answer[at::4] for at in range(4)), strict=True)
        ]
        batches = await self._batches.get({batch for _, batch, _, _ in heads})
        there = {number for number, one in batches.items() if one.events}
        return [
            (
                Work(
                    id=number,
                    destination=head.destination,
                    batch=batch,
                    tenant=batches[batch].tenant,
                    received=batches[batch].received,
                    group=head.group,
                    members=head.members,
                    events=some_events(batches[batch].events, head.members),
                    parts=unpack_rendered(rendered, head.members),
                    receipts=[batches[batch].receipts[index] for index in head.members]
                    if batches[batch].receipts
                    else (),
                ),
                head.owner,
            )
            for number, batch, head, rendered in heads
            if batch in there or head.group.state not in LETTERS  # which others may have trimmed meanwhile
        ]
