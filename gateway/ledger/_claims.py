"""What the ledger answers when it is given events: stored now, stored before, or stored before with other content."""

from collections.abc import Sequence
from enum import StrEnum
from typing import overload

import msgspec

__all__ = ["Claim", "ClaimKind", "Run", "Spread"]


class ClaimKind(StrEnum):
    """What an id turned out to be."""

    NEW = "new"
    REPLAY = "replay"
    CONFLICT = "conflict"


class Claim(msgspec.Struct, frozen=True):
    """The ledger's answer for one event: stored now, stored before, or stored before with other content."""

    ref: int
    kind: ClaimKind
    fields: tuple[str, ...] = ()
    """In a conflict: the members that differ. None where only the fingerprint of what came before is left."""


class Run(Sequence[Claim]):
    """The answers for events that are all new and lie in one batch one after another: what is usual, said at once."""

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        """The ref of the first of them."""
        self.refs: Sequence[int] = range(first, first + count)

    def __len__(self) -> int:
        return len(self.refs)

    @overload
    def __getitem__(self, index: int) -> Claim: ...

    @overload
    def __getitem__(self, index: slice) -> "Sequence[Claim]": ...

    def __getitem__(self, index: int | slice) -> "Claim | Sequence[Claim]":
        if isinstance(index, slice):
            return [Claim(ref, ClaimKind.NEW) for ref in self.refs[index]]
        return Claim(self.refs[index], ClaimKind.NEW)


class Spread(Run):
    """The same for events that lie in several batches."""

    def __init__(self, refs: Sequence[int]) -> None:
        super().__init__(refs[0], 0)
        self.refs = refs
