"""A vendor's rate limits and its trouble, counted and told for all processes that send to it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, Protocol

__all__ = ["Flow", "Health", "Limits"]


class Flow(NamedTuple):
    """One limit, and what a request takes of it."""

    name: str
    """Tells it from the destination's other limits, and stays when its figures change."""
    capacity: float
    """How much may be spent at once; the rest flows in."""
    a_second: float
    amount: float


class Health(NamedTuple):
    """How a destination stands for all processes that send to it."""

    faults: int
    """Requests in a row without a usable answer, as far as they were told; 0: all is well."""
    wait: timedelta
    """For how long this process may not try, because nobody may or another one tries."""


class Limits(Protocol):
    """Where requests are counted against a vendor's rate limits, for all processes that send to it."""

    async def spend(self, destination: str, flows: Sequence[Flow], *, queues: bool = True) -> timedelta:
        """Count a request that leaves now, or return how long it has to wait and count nothing.

        Of the processes that have to wait the first goes first, so that a large request gets its turn; one that does
        not queue goes when it can. Never counts less than what leaves. Raises nothing: where nobody can say, it has
        to wait.
        """
        ...

    async def agree(
        self, destination: str, heard: tuple[int, timedelta] | None = None, *, tries: bool = False
    ) -> Health | None:
        """Tell the others what was heard, and hear how the destination stands; `None` where nobody can say.

        `heard`: how many requests in a row came to nothing, and for how long nobody may try; or 0, and how long ago
        a request began that was answered. `tries`: while there are faults one process tries, and the others wait.
        """
        ...
