"""Adds the ledger up: every delivery has exactly one status, and whatever is not done is in exactly one place."""

import sqlite3
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from canonical_schema import FINGERPRINT
from gateway.errors import LedgerUnavailable
from gateway.ledger._ids import DIGEST
from gateway.ledger._model import Code, WorkState
from gateway.ledger._rows import unpack_members, unpack_parts
from gateway.ledger._schema import VERSION

__all__ = ["Adder", "add_up"]

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


class Adder:
    """Adds up what a backend holds, in the order: batches, then work, then tracks."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._sizes: dict[int, int] = {}
        self._closed: dict[int, Collection[int] | None] = {}
        self._held: dict[tuple[int, str], dict[int, WorkState]] = {}
        self.counts: dict[str, Counter[str]] = {}

    def batch(
        self, batch: int, size: int, ids: int, *, body: bool, left: tuple[int, Collection[int], bool] | None
    ) -> None:
        """Take notice of a batch: its events and ids, whether they are there, and what is left of what is not.

        `left`: bytes of fingerprints, events that were erased, whether it is trimmed.
        """
        self._sizes[batch] = size
        if ids != size:
            self.problems.append(f"batch {batch}: {size} events are stored and {ids} ids are claimed")
        if left is not None:
            prints, erased, trimmed = left
            self._closed[batch] = None if trimmed else erased
            if prints != size * FINGERPRINT:
                self.problems.append(f"batch {batch}: {prints // FINGERPRINT} fingerprints for {size} events")
        if size and not body and self._closed.get(batch, _NONE) is not None:
            self.problems.append(f"batch {batch}: has neither events nor what is left of trimmed ones")

    def work(
        self, number: int, batch: int, destination: str, members: Sequence[int], state: WorkState, rows: int | None
    ) -> None:
        """Take notice of a piece of work. `rows`: how many of its members were rendered, `None` for not at all."""
        places = self._held.setdefault((batch, destination), {})
        for index in members:
            if index in places:
                self.problems.append(f"batch {batch}, place {index}: {destination} has it in two pieces of work")
            places[index] = state
        if rows is not None and rows != len(members):
            self.problems.append(f"work {number}: {len(members)} deliveries and {rows} renderings")

    def track(self, batch: int, destination: str, codes: bytes) -> None:
        """Take notice of a batch's statuses at a destination."""
        counted = self.counts.setdefault(destination, Counter())
        places = self._held.pop((batch, destination), {})
        size, problems = self._sizes.get(batch), self.problems
        if len(codes) != size:
            problems.append(f"batch {batch}: {destination} has {len(codes)} statuses for {size} events")
        for index, byte in enumerate(codes):
            code = Code(byte)
            if code is not Code.NONE:
                counted[code.status] += 1
            state = places.pop(index, None)
            alone = code in _IN_WORK and not _over(code, self._closed.get(batch, _NONE), index)
            if (state is not None and code not in _FITTING[state]) or (state is None and alone):
                place = "no work" if state is None else f"work that is {state}"
                problems.append(f"batch {batch}, place {index}: {destination} says {code.name.lower()}, with {place}")
        problems += [f"batch {batch}, place {index}: {destination} works on nothing" for index in places]

    def report(self) -> dict[str, Any]:
        """Return the sums."""
        events = sum(self._sizes.values())
        problems = list(self.problems)
        problems += [f"batch {batch}: {destination} has work and no statuses" for batch, destination in self._held]
        return {
            "object": "ledger_check",
            "events": events,
            "destinations": {
                name: {"deliveries": sum(counted.values()), **dict(sorted(counted.items()))}
                for name, counted in sorted(self.counts.items())
            },
            "problems": problems[:MOST],
            "problem_count": len(problems),
        }


def _added(connection: sqlite3.Connection) -> dict[str, Any]:
    adder = Adder()
    claimed: dict[int, int] = dict(connection.execute("SELECT batch, length(digests) / ? FROM ids", (DIGEST,)))
    if twice := _twice(connection, sum(claimed.values())):
        adder.problems.append(f"{twice} ids are claimed twice")
    query = (
        "SELECT batch, size, length(body), length(prints), erased, trimmed FROM batches LEFT JOIN remains USING (batch)"
    )
    for batch, size, body, prints, erased, trimmed in connection.execute(query):
        left = None if prints is None else (prints, set(unpack_members(erased)), bool(trimmed))
        adder.batch(batch, size, claimed.pop(batch, 0), body=bool(body), left=left)
    adder.problems += [
        f"batch {batch}: 0 events are stored and {ids} ids are claimed" for batch, ids in claimed.items()
    ]
    for (batch,) in connection.execute("SELECT batch FROM remains WHERE batch NOT IN (SELECT batch FROM batches)"):
        adder.problems.append(f"batch {batch}: remains of a batch that is not there")
    for number, batch, destination, packed, state, parts in connection.execute(
        "SELECT id, batch, destination, members, state, parts FROM work"
    ):
        rendered = unpack_parts(parts)
        rows = None if rendered is None else len(rendered)
        adder.work(number, batch, destination, unpack_members(packed), WorkState(state), rows)
    for batch, destination, codes in connection.execute("SELECT batch, destination, codes FROM tracks"):
        adder.track(batch, destination, codes)
    return adder.report()


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
