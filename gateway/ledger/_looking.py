"""Which deliveries of a batch at one destination look on: sent and shown, and part of nobody's outcome.

A batch is recorded as one of the two. What is added later, by another configuration, may be the other.
"""

from collections.abc import Mapping, Sequence

import msgspec

from gateway.ledger._model import Code, Plan
from gateway.ledger._rows import pack_members, unpack_members

__all__ = ["Looking", "sides"]

_SHADOW = b"1"


class Looking(msgspec.Struct, frozen=True):
    """Whether a track's deliveries look on."""

    shadow: bool = False
    counting: frozenset[int] = frozenset()
    """Of a track that looks on: those that count all the same."""

    @classmethod
    def unpack(cls, stored: bytes | int | None) -> "Looking":
        """Return it as it was stored; nothing, and 0, is a track whose deliveries count."""
        if isinstance(stored, bytes) and stored not in {b"", _SHADOW}:
            return cls(shadow=True, counting=frozenset(unpack_members(stored)))
        return cls(shadow=bool(stored))

    def pack(self) -> bytes:
        """Return it as it is stored; nothing where all of them count."""
        if not self.shadow:
            return b""
        return pack_members(sorted(self.counting)) if self.counting else _SHADOW

    def given(self, before: bytes, sides: Mapping[int, bool]) -> "Looking":
        """Return it with more deliveries, or with some that count by now. `before`: the status bytes there were."""
        there = {index for index, code in enumerate(before) if code != Code.NONE}
        counting = set(self.counting) if self.shadow else set(there)
        for index, counts in sides.items():
            (counting.add if counts else counting.discard)(index)
        there.update(sides)
        if counting >= there:
            return Looking()
        return Looking(shadow=True, counting=frozenset(counting & there))


def sides(wanted: Mapping[int, Plan], fresh: Sequence[Plan]) -> dict[str, dict[int, bool]]:
    """Return for each destination which events count there from now on, and which of the new ones look on.

    A delivery that looked on counts where its destination is live for it by now.
    """
    made: dict[str, dict[int, bool]] = {}
    for (index, plan), new in zip(wanted.items(), fresh, strict=True):
        for name in (*plan.live, *(name for name, _ in new.filtered)):
            made.setdefault(name, {})[index] = True
        for name in new.shadow:
            made.setdefault(name, {})[index] = False
    return made
