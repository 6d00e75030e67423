"""From plans to what is stored of them: statuses, work and what has no way, by destination."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from gateway.ledger._model import Code, Group, Plan, WorkState
from gateway.ledger._redis.layout import pack_head, pack_runs

__all__ = ["Deliveries", "Ways", "alike", "planned", "ready", "tally", "tracked"]


class Deliveries(NamedTuple):
    """What plans come to."""

    codes: dict[str, bytearray]
    """By destination, a status for each event of the batch; 0 where it has no delivery."""
    heads: list[bytes]
    """Work that is ready to be sent."""
    live: set[str]
    """Destinations that count for an event at least."""
    unrouted: list[int]


class Ways(NamedTuple):
    """What of a batch's deliveries is the same for all batches of as many events that are sent the same way."""

    tracks: list[bytes | str | int]
    """How many destinations there are, and for each its name, whether it looks on, statuses and their tally."""
    unrouted: bytes


@lru_cache(1024)
def alike(plan: Plan, size: int) -> Ways:
    """Return the statuses of events that are all sent the same way."""
    codes = dict.fromkeys(plan.live + plan.shadow, Code.PENDING) | dict(plan.filtered)
    counted = {*plan.live, *(destination for destination, _ in plan.filtered)}
    tracks: list[bytes | str | int] = [len(codes)]
    for name, code in codes.items():
        tracks += [name, int(name not in counted), bytes((code,)) * size, b"%d:%d" % (code, size)]
    return Ways(tracks, b"" if plan.routed else pack_runs(range(size)))


def ready(plan: Plan, size: int, now: int, first: int, owner: bytes) -> list[bytes]:
    """Return the work of events that are all sent the same way; `first` is when the first was, for windows."""
    windows = dict(plan.windows)
    heads: list[bytes] = []
    for destination in dict.fromkeys(plan.live + plan.shadow):
        window = windows.get(destination)
        deadline = None if window is None else first + window
        group = Group(state=WorkState.READY, due=now, since=now, window=window, deadline=deadline)
        heads.append(pack_head(group, owner, destination, range(size)))
    return heads


def planned(
    members: Sequence[int], plans: Sequence[Plan], size: int, now: int, happened: Sequence[int] | None, owner: bytes
) -> Deliveries:
    """Return the deliveries of events; `happened` tells when each was, where a plan has windows."""
    by_plan: dict[int, tuple[Plan, list[int]]] = {}
    for place, plan in enumerate(plans):  # a request has many events and few plans
        by_plan.setdefault(id(plan), (plan, []))[1].append(place)
    codes: dict[str, bytearray] = {}
    work: dict[str, list[int]] = {}
    closing: dict[str, tuple[int, int]] = {}
    live: set[str] = set()
    unrouted: list[int] = []
    for plan, at in by_plan.values():
        indexes = [members[place] for place in at]
        for destination in plan.live + plan.shadow:
            _fill(codes, destination, indexes, Code.PENDING, size)
            work.setdefault(destination, []).extend(indexes)
        for destination, code in plan.filtered:
            _fill(codes, destination, indexes, code, size)
        first_of_all = 0 if happened is None else min(happened[place] for place in at)
        for destination, window in plan.windows if happened is not None else ():
            closes = first_of_all + window
            _, first = closing.get(destination, (window, closes))
            closing[destination] = window, min(first, closes)
        live.update(plan.live, (destination for destination, _ in plan.filtered))
        if not plan.routed:
            unrouted += indexes
    heads: list[bytes] = []
    for destination, indexes in work.items():
        window, deadline = closing.get(destination, (None, None))
        group = Group(state=WorkState.READY, due=now, since=now, window=window, deadline=deadline)
        heads.append(pack_head(group, owner, destination, sorted(indexes)))
    return Deliveries(codes, heads, live, sorted(unrouted))


def tracked(made: Deliveries) -> Ways:
    """Return the statuses of deliveries, as those that are all sent the same way stand."""
    tracks: list[bytes | str | int] = [len(made.codes)]
    for name, codes in made.codes.items():
        tracks += [name, int(name not in made.live), bytes(codes), tally(codes)]
    return Ways(tracks, pack_runs(made.unrouted))


def tally(after: bytes | bytearray, before: bytes | bytearray = b"") -> bytes:
    """Return how much more of each status there is, as the scripts read it: `1:40,4:-40`."""
    found = Counter(after)
    found.subtract(before)
    return b",".join(b"%d:%d" % (code, times) for code, times in found.items() if times and code != Code.NONE)


def _fill(codes: dict[str, bytearray], destination: str, indexes: Sequence[int], code: Code, size: int) -> None:
    track = codes.setdefault(destination, bytearray(size))
    if len(indexes) == size:
        track[:] = bytes((code,)) * size
        return
    for index in indexes:
        track[index] = code
