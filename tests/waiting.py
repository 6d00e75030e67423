"""Waiting for what other tasks, threads or processes bring about, where nothing tells when."""

import asyncio
import inspect
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

__all__ = ["until"]

T = TypeVar("T")

AT_ONCE = 1_000
"""Looks at what is at hand that only let others have their turn: what the event loop brings about is there by then."""
PAUSE = 0.003
"""Seconds between two looks otherwise: a thread or a process may lack a processor for a while."""


async def until(
    look: Callable[[], T | Awaitable[T | None] | None], never: str = "it never came", seconds: float = 30
) -> T:
    """Look again and again; return the first thing seen that is true.

    Raises AssertionError, saying what `never` came, where there is none within so many seconds.
    """
    end = time.monotonic() + seconds
    for turn in itertools.count():
        found = look()
        asks = inspect.isawaitable(found)
        seen = cast("T | None", await found if asks else found)
        if seen:
            return seen
        assert time.monotonic() < end, never
        await asyncio.sleep(PAUSE if asks or turn >= AT_ONCE else 0)
    raise AssertionError(never)
