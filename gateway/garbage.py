"""How often the interpreter looks for garbage that refers to itself: as seldom as a service can afford."""

import gc

__all__ = ["collect_rarely"]

ALLOCATED = 10_000
"""Objects made and not yet gone at which the youngest are looked at. Requests in flight are that many hundreds each, so
at the default of 700 each look finds them all alive, and moves them on to where looking takes longest. A million are
some 100 MiB at the worst: then everything is looked at."""


def collect_rarely() -> None:
    """Look seldom, and never at what is there by then. To be called when a process has opened what it needs."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATED, 10, 10)
