"""Refs: what one event of the ledger is called by, its batch and its place there in one number."""

from collections.abc import Iterable

__all__ = ["PLACES", "by_batch", "ref_of", "split_ref"]

PLACES = 1 << 16
"""Places in a batch; a ref is `batch * PLACES + index`."""


def ref_of(batch: int, index: int) -> int:
    """Return the ref of an event."""
    return batch * PLACES + index


def split_ref(ref: int) -> tuple[int, int]:
    """Return batch and index of a ref."""
    return divmod(ref, PLACES)


def by_batch(refs: Iterable[int]) -> dict[int, set[int]]:
    """Return the indexes of refs, by their batches."""
    found: dict[int, set[int]] = {}
    for batch, index in map(split_ref, refs):
        found.setdefault(batch, set()).add(index)
    return found
