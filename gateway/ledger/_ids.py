"""Which ids are known: a table in memory says that one is certainly new, or where the ledger may hold it.

The ledger keeps digests by batch, in the order in which they came: written once, never sorted, never read where an
id is new. What finds one again is this table of eight bytes a slot, made anew when the ledger is opened. A slot
holds the running number of an id and 24 bits of its digest; those and twelve more that choose the part of the table
leave one new id in ten thousand to be looked up in vain with five million known. Parts have every size between that of
one that just grew and that of one about to, so that the table as a whole takes some 16 bytes an id however many there
are, and no id is the one too many that makes all of them grow.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable

from gateway.ledger._refs import ref_of

__all__ = ["DIGEST", "Ids"]

DIGEST = 16
"""Bytes of an id's digest."""

_PARTS = 1 << 12
"""Parts of the table. Each grows by itself, which takes well under a millisecond."""
_PART = _PARTS - 1
_NUMBER = 40
_NUMBERS = (1 << _NUMBER) - 1
_TAG = 64 - _NUMBER
_FEWEST = 48
"""Ids that the smallest part takes."""
_FULL = 0.75
"""Of a part's slots, how many are taken when it grows: the fuller it is, the farther an id may lie from its place."""
_GROWTH = 2
"""How many times the ids that it has a part takes once it grew."""
_SPARE = 1.2
"""How many times its share of the ids that are expected a part takes at least: shares are not quite alike."""


class Ids:
    """The ids of all batches that were added, as far as eight bytes can tell them apart.

    One thread adds. Others may ask meanwhile: what was added before is found, wherever it is being moved to.
    """

    def __init__(self, expected: int = 0) -> None:
        """`expected`: how many ids are about to be added."""
        least = max(expected * _SPARE / _PARTS, _FEWEST)
        # The next to grow lies beside the last one, so that what they leave behind is in one piece.
        slots = [_slots(least * (_GROWTH / _SPARE) ** (part / _PARTS)) for part in range(_PARTS)]
        self._parts = [array("Q", [0]) * count for count in slots]
        self._room = [int(count * _FULL) for count in slots]
        """How many more each part takes before it grows."""
        self._next = 1  # an empty slot is 0
        self._starts = array("Q"), array("Q")
        """The number of each batch's first id, ascending, and the batches: they say whose a number is."""
        self._oldest = 1
        """Numbers below are of batches that were forgotten."""

    def add(self, batch: int, digests: bytes, *, if_new: bool = False) -> bool:
        """Know the ids of a batch, in its order, and return True.

        With `if_new` none of them where one may be known, twice in the batch too; then it returns False.
        """
        parts, room, first = self._parts, self._room, self._next
        for number, bits in enumerate(_bits(digests), first):
            chosen = bits & _PART
            if not room[chosen]:
                self._grow(chosen)
            part, tag = parts[chosen], bits >> _NUMBER
            slot = tag * len(part) >> _TAG
            while held := part[slot]:
                if if_new and held >> _NUMBER == tag:
                    self._take_out(first, digests[: (number - first) * DIGEST])
                    return False
                slot -= 1  # below zero it goes on from the other end
            part[slot] = tag << _NUMBER | number
            room[chosen] -= 1
        self._next = first + len(digests) // DIGEST
        firsts, batches = self._starts
        batches.append(batch)
        firsts.append(first)
        return True

    def take_back(self, batch: int, digests: bytes) -> None:
        """Give up the slots of a batch that was added and is not there; what cannot be given up leads nowhere."""
        firsts, batches = self._starts
        at = len(batches) - 1
        while batches[at] != batch:
            at -= 1
        self._take_out(firsts[at], digests)

    def candidates(self, digests: bytes) -> dict[int, list[int]]:
        """Return the refs that each id may have, by its place; one without any is certainly new."""
        found: dict[int, list[int]] = {}
        parts = self._parts
        for place, bits in enumerate(_bits(digests)):
            part, tag = parts[bits & _PART], bits >> _NUMBER
            slot = tag * len(part) >> _TAG
            while held := part[slot]:
                if held >> _NUMBER == tag and (ref := self._ref(held & _NUMBERS)) is not None:
                    found.setdefault(place, []).append(ref)
                slot -= 1
        return found

    def forget(self, batches: Iterable[int]) -> None:
        """Take notice that batches are gone. The slots of the oldest are given up as parts grow."""
        firsts, held = self._starts
        gone, count = set(batches), 0
        while count < len(held) and held[count] in gone:
            count += 1
        self._starts = firsts[count:], held[count:]
        self._oldest = firsts[count] if count < len(firsts) else self._next

    def _ref(self, number: int) -> int | None:
        firsts, batches = self._starts
        at = bisect_right(firsts, number) - 1
        return ref_of(batches[at], number - firsts[at]) if at >= 0 else None

    def _take_out(self, first: int, digests: bytes) -> None:
        """Empty the slots of ids, the last one first, but for those that another's way leads over."""
        bits = _bits(digests)
        for at in range(len(bits) - 1, -1, -1):
            part, tag = self._parts[bits[at] & _PART], bits[at] >> _NUMBER
            slot = tag * len(part) >> _TAG
            while part[slot] and part[slot] & _NUMBERS != first + at:
                slot -= 1
            if part[slot] and not part[slot - 1]:
                self._room[bits[at] & _PART] += 1
                part[slot] = 0

    def _grow(self, chosen: int) -> None:
        """Put a full part's ids into one with room for as many again, leaving out those that were forgotten."""
        full = self._parts[chosen]
        kept: Iterable[int] = filter(None, full)
        count = int(len(full) * _FULL)
        if self._oldest > 1:
            kept = [held for held in kept if held & _NUMBERS >= self._oldest]
            count = len(kept)
        slots = _slots(max(count, _FEWEST) * _GROWTH)
        grown = array("Q", [0]) * slots
        for held in kept:
            slot = (held >> _NUMBER) * slots >> _TAG
            while grown[slot]:
                slot -= 1
            grown[slot] = held
        self._room[chosen] = int(slots * _FULL) - count
        self._parts[chosen] = grown


def _slots(ids: float) -> int:
    """Return how many a part has that takes so many ids before it grows."""
    return int(ids / _FULL) + 1


def _bits(digests: bytes) -> list[int]:
    """Return the first half of each digest as a number."""
    return memoryview(digests).cast("Q")[::2].tolist()
