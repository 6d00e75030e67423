"""Adds the ledger up: every delivery has exactly one status, and whatever is not done is in exactly one place."""

import sqlite3
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from canonical_schema import FINGERPRINT
from gateway.errors import LedgerUnavailable
from gateway.ledger._ids import DIGEST
from gateway.ledger._model import Code, WorkState
from gateway.ledger._rows import unpack_members, unpack_parts
from gateway.ledger._schema import VERSION

__all__ = ["add_up"]

_FITTING = {
    WorkState.READY: {Code.PENDING, Code.RETRYING},
    WorkState.WAITING: {Code.PENDING, Code.RETRYING},
    WorkState.SENDING: {Code.PENDING, Code.RETRYING},
    WorkState.BLOCKED: {Code.BLOCKED},
    WorkState.HELD: {Code.BLOCKED},
    WorkState.UNKNOWN: {Code.UNKNOWN},
    WorkState.REJECTED: {Code.REJECTED},
    WorkState.DEAD: {Code.DEAD},
}
_IN_WORK = frozenset[Code]().union(*_FITTING.values())
MOST = 100
"""Problems that are told; more are counted."""
AT_ONCE = 1_000_000
"""Ids that are held in memory at a time."""


def add_up(path: Path) -> dict[str, Any]:
    """Return the counts of every destination, and what does not add up. Reads only; may run beside the gateway.

    Raises LedgerUnavailable where there is no ledger of this version.
    """
    if not path.exists():
        raise LedgerUnavailable(f"{path} does not exist: nothing was stored there yet")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            if found != VERSION:
                hint = "start the gateway on it once" if found < VERSION else "install a newer one"
                raise LedgerUnavailable(f"{path} has schema version {found}, this is for version {VERSION}: {hint}")
            connection.execute("BEGIN")  # one consistent look
            return _added(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise LedgerUnavailable(f"{path} cannot be read: {error}") from error


def _added(connection: sqlite3.Connection) -> dict[str, Any]:
    problems: list[str] = []
    sizes: dict[int, int] = dict(connection.execute("SELECT batch, size FROM batches"))
    claimed: dict[int, int] = dict(connection.execute("SELECT batch, length(digests) / ? FROM ids", (DIGEST,)))
    problems += [
        f"batch {batch}: {sizes.get(batch, 0)} events are stored and {claimed.get(batch, 0)} ids are claimed"
        for batch in sorted(sizes.keys() | claimed.keys())
        if sizes.get(batch, 0) != claimed.get(batch, 0)
    ]
    if twice := _twice(connection, sum(claimed.values())):
        problems.append(f"{twice} ids are claimed twice")
    closed: dict[int, set[int] | None] = {
        batch: None if trimmed else set(unpack_members(erased))
        for batch, erased, trimmed in connection.execute("SELECT batch, erased, trimmed FROM remains")
    }
    problems += [f"batch {batch}: remains of a batch that is not there" for batch in closed if batch not in sizes]
    for batch, size, body, prints in connection.execute(
        "SELECT batch, size, length(body), length(prints) FROM batches LEFT JOIN remains USING (batch)"
    ):
        if size and not body and closed.get(batch, _NONE) is not None:
            problems.append(f"batch {batch}: has neither events nor what is left of trimmed ones")
        if prints is not None and prints != size * FINGERPRINT:
            problems.append(f"batch {batch}: {prints // FINGERPRINT} fingerprints for {size} events")
    held: dict[tuple[int, str], dict[int, WorkState]] = {}
    for number, batch, destination, packed, state, parts in connection.execute(
        "SELECT id, batch, destination, members, state, parts FROM work"
    ):
        members = unpack_members(packed)
        places = held.setdefault((batch, destination), {})
        for index in members:
            if index in places:
                problems.append(f"batch {batch}, place {index}: {destination} has it in two pieces of work")
            places[index] = WorkState(state)
        rendered = unpack_parts(parts)
        if rendered is not None and len(rendered) != len(members):
            problems.append(f"work {number}: {len(members)} deliveries and {len(rendered)} renderings")
    counts: dict[str, Counter[str]] = {}
    for batch, destination, codes in connection.execute("SELECT batch, destination, codes FROM tracks"):
        counted = counts.setdefault(destination, Counter())
        places = held.pop((batch, destination), {})
        if len(codes) != sizes.get(batch):
            problems.append(f"batch {batch}: {destination} has {len(codes)} statuses for {sizes.get(batch)} events")
        for index, byte in enumerate(codes):
            code = Code(byte)
            if code is not Code.NONE:
                counted[code.status] += 1
            state = places.pop(index, None)
            alone = code in _IN_WORK and not _over(code, closed.get(batch, _NONE), index)
            if (state is not None and code not in _FITTING[state]) or (state is None and alone):
                place = "no work" if state is None else f"work that is {state}"
                problems.append(f"batch {batch}, place {index}: {destination} says {code.name.lower()}, with {place}")
        problems += [f"batch {batch}, place {index}: {destination} works on nothing" for index in places]
    problems += [f"batch {batch}: {destination} has work and no statuses" for batch, destination in held]
    return {
        "object": "ledger_check",
        "events": sum(sizes.values()),
        "destinations": {
            name: {"deliveries": sum(counted.values()), **dict(sorted(counted.items()))}
            for name, counted in sorted(counts.items())
        },
        "problems": problems[:MOST],
        "problem_count": len(problems),
    }


def _over(code: Code, closed: Collection[int] | None, index: int) -> bool:
    """Return whether a delivery that has no work ended for good: nothing can be repaired of what is not kept.

    `closed` are the events of the batch that were erased; `None`: the batch is trimmed.
    """
    return code in _ENDED and (closed is None or index in closed)


_NONE = frozenset[int]()
_ENDED = frozenset({Code.UNKNOWN, Code.REJECTED, Code.DEAD})


def _twice(connection: sqlite3.Connection, count: int) -> int:
    """Return how many ids are claimed more than once. Looks at a share of them at a time, to stay small."""
    shares, twice = 1 + count // AT_ONCE, 0
    for share in range(shares):
        seen: set[bytes] = set()
        looked = 0
        for (digests,) in connection.execute("SELECT digests FROM ids"):
            for start in range(0, len(digests), DIGEST):
                if (digests[start] | digests[start + 1] << 8) % shares == share:
                    seen.add(digests[start : start + DIGEST])
                    looked += 1
        twice += looked - len(seen)
    return twice
