"""Order where it matters: absolute values of one customer and meter go first in, first out, one at a time."""

from bisect import insort
from collections.abc import Iterable

__all__ = ["Order"]

Key = tuple[str, str, str]
"""Tenant, customer, meter."""


class Order:
    """One destination's absolute values that are not settled. Additive usage is never in here.

    A head that is blocked, unknown or waiting to be sent again holds its own key, and no other.
    """

    def __init__(self) -> None:
        self._queues: dict[Key, list[int]] = {}
        self._keys: dict[int, Key] = {}

    def add(self, key: Key, ref: int) -> bool:
        """Take notice of a value; return whether it is the head of its key and may be sent."""
        queue = self._queues.setdefault(key, [])
        if ref not in self._keys:
            self._keys[ref] = key
            insort(queue, ref)  # refs grow as events are recorded
        return queue[0] == ref

    def first(self, ref: int) -> bool:
        """Return whether a value is the head of its key."""
        key = self._keys.get(ref)
        return key is not None and self._queues[key][0] == ref

    @property
    def awaited(self) -> list[int]:
        """The values that others wait for."""
        return [queue[0] for queue in self._queues.values() if len(queue) > 1]

    def settled(self, refs: Iterable[int]) -> list[int]:
        """Forget values that are settled; return those that may go in the place of one."""
        freed: dict[Key, None] = {}
        for ref in refs:
            key = self._keys.pop(ref, None)
            if key is None:
                continue
            queue = self._queues[key]
            if queue[0] == ref:
                freed[key] = None
            queue.remove(ref)
            if not queue:
                del self._queues[key]
        return [self._queues[key][0] for key in freed if key in self._queues]
