"""How the ledger's values stand in Redis: members as runs, work as a fixed head, numbers that carry their partition.

The scripts read the same bytes, by the same places: see `common.lua`.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from gateway.ledger._model import Group, Rendered, WorkState, some_of
from gateway.ledger._rows import pack_parts, unpack_error, unpack_parts

__all__ = [
    "DIGEST",
    "OWNER",
    "PARTITIONS",
    "STATES",
    "Head",
    "index_member",
    "pack_head",
    "pack_rendered",
    "pack_runs",
    "split_member",
    "unpack_head",
    "unpack_rendered",
    "unpack_runs",
]

PARTITIONS = 16
"""Partitions there may be at most: the last part of every number says which one it belongs to."""
DIGEST = 12
"""Bytes of an id's digest: of a thousand million ids, two are alike with a chance of one in 10^11."""
OWNER = 5
"""Bytes of a process's name. Three more in a head say which of its intents it was."""

STATES = {
    WorkState.READY: b"r",
    WorkState.SENDING: b"s",
    WorkState.BLOCKED: b"b",
    WorkState.HELD: b"h",
    WorkState.WAITING: b"w",
    WorkState.UNKNOWN: b"u",
    WorkState.REJECTED: b"j",
    WorkState.DEAD: b"d",
}
_STATE_OF = {letter: state for state, letter in STATES.items()}

# state, attempts, due, since, deadline + 1, window + 1, doubt, sent + 1, owner, length of the destination's name;
# 0 where there is no deadline, no window, or nothing was sent
_HEAD = struct.Struct("<cIQQQQBQ8sB")
_RUN = struct.Struct("<HH")


class Head(NamedTuple):
    """A piece of work without its rows."""

    group: Group
    owner: bytes
    """The process that brought it or sends it, and by which intent."""
    destination: str
    members: list[int]


def pack_runs(members: Sequence[int]) -> bytes:
    """Return ascending indexes as runs of first and last, two bytes each: a whole batch is four bytes."""
    if not members:
        return b""
    first, last = members[0], members[-1]
    if last - first + 1 == len(members):
        return _RUN.pack(first, last)
    packed = bytearray()
    begin = before = first
    for index in members[1:]:
        if index != before + 1:
            packed += _RUN.pack(begin, before)
            begin = index
        before = index
    return bytes(packed + _RUN.pack(begin, before))


def unpack_runs(packed: bytes) -> list[int]:
    """Return the indexes of `pack_runs`."""
    found: list[int] = []
    for first, last in _RUN.iter_unpack(packed):
        found.extend(range(first, last + 1))
    return found


def pack_head(group: Group, owner: bytes, destination: str, members: Sequence[int]) -> bytes:
    """Return a piece of work as its head. What went wrong stands beside it."""
    name = destination.encode()
    fixed = _HEAD.pack(
        STATES[group.state],
        group.attempts,
        group.due,
        group.since,
        0 if group.deadline is None else max(group.deadline, 0) + 1,  # before 1970 is as past as then
        0 if group.window is None else group.window + 1,
        group.doubt,
        0 if group.sent is None else group.sent + 1,
        owner,
        len(name),
    )
    return fixed + name + pack_runs(members)


def unpack_head(packed: bytes, error: bytes | None) -> Head:
    """Return the work of `pack_head`."""
    state, attempts, due, since, deadline, window, doubt, sent, owner, length = _HEAD.unpack_from(packed)
    group = Group(
        state=_STATE_OF[state],
        due=due,
        attempts=attempts,
        doubt=doubt,
        since=since,
        sent=sent - 1 if sent else None,
        error=unpack_error(error) if error else None,
        window=window - 1 if window else None,
        deadline=deadline - 1 if deadline else None,
    )
    name = packed[_HEAD.size : _HEAD.size + length].decode()
    return Head(group, owner, name, unpack_runs(packed[_HEAD.size + length :]))


def pack_rendered(members: Sequence[int], parts: Rendered | None) -> bytes:
    """Return rendered rows with whose they are, so that work can be split without touching them; empty for none."""
    if parts is None:
        return b""
    runs = pack_runs(members)
    return struct.pack("<I", len(runs)) + runs + (pack_parts(parts) or b"")


def unpack_rendered(packed: bytes | None, members: Sequence[int]) -> Rendered | None:
    """Return the rows of these members, `None` where nothing was rendered."""
    if not packed:
        return None
    (length,) = struct.unpack_from("<I", packed)
    whose = unpack_runs(packed[4 : 4 + length])
    rows = unpack_parts(packed[4 + length :]) or []
    if whose == members:
        return rows
    places = {index: place for place, index in enumerate(whose)}
    return some_of(rows, [places[index] for index in members])


def index_member(number: int, batch: int) -> bytes:
    """Return how a piece of work stands in an index: numbers sort as they were given."""
    return b"%016d:%d" % (number, batch)


def split_member(member: bytes) -> tuple[int, int]:
    """Return number and batch of an entry in an index."""
    number, _, batch = member.partition(b":")
    return int(number), int(batch)
