"""What waits in the file, counted as it comes and goes: a backlog of millions is not read through for its size."""

import sqlite3
from collections import defaultdict
from collections.abc import Mapping

from gateway.ledger._model import QueueDepth, WorkState

__all__ = ["count_waiting", "waiting"]

_SLOT = 24
"""Bits of a time in microseconds that the counts are not told apart by: 17 seconds. What has waited longest is told so
exactly where what waited longer, and was counted with it, is done."""

_STATES = "('ready', 'waiting', 'sending', 'blocked', 'held')"
# Temporary: in memory and of one connection, so it costs no page of the file. It is taken back with what it counts.
_TABLE = """
CREATE TEMP TABLE waiting (
    destination TEXT, state TEXT, slot INTEGER, deliveries INTEGER, since INTEGER,
    PRIMARY KEY (destination, state, slot)
) WITHOUT ROWID;
"""


_COMES = f"""
    INSERT INTO waiting VALUES (NEW.destination, NEW.state, NEW.since >> {_SLOT}, length(NEW.members) / 2, NEW.since)
    ON CONFLICT DO UPDATE SET deliveries = deliveries + excluded.deliveries, since = min(since, excluded.since);
"""
_MINE = f"destination = OLD.destination AND state = OLD.state AND slot = OLD.since >> {_SLOT}"
_GOES = f"""
    UPDATE waiting SET deliveries = deliveries - length(OLD.members) / 2 WHERE {_MINE};
    DELETE FROM waiting WHERE {_MINE} AND deliveries = 0;
"""
_MOVES = "UPDATE OF destination, state, members, since"
_TRIGGERS = f"""
CREATE TEMP TRIGGER waiting_new AFTER INSERT ON main.work WHEN NEW.state IN {_STATES} BEGIN {_COMES} END;
CREATE TEMP TRIGGER waiting_gone AFTER DELETE ON main.work WHEN OLD.state IN {_STATES} BEGIN {_GOES} END;
CREATE TEMP TRIGGER waiting_before AFTER {_MOVES} ON main.work WHEN OLD.state IN {_STATES} BEGIN {_GOES} END;
CREATE TEMP TRIGGER waiting_after AFTER {_MOVES} ON main.work WHEN NEW.state IN {_STATES} BEGIN {_COMES} END;
"""


def count_waiting(connection: sqlite3.Connection) -> None:
    """Have the connection that writes count what waits, from what there is."""
    connection.executescript(_TABLE)
    connection.execute(
        f"INSERT INTO waiting SELECT destination, state, since >> {_SLOT}, sum(length(members) / 2), min(since)"
        f" FROM work WHERE state IN {_STATES} GROUP BY 1, 2, 3"
    )
    connection.executescript(_TRIGGERS)


def waiting(connection: sqlite3.Connection) -> Mapping[str, QueueDepth]:
    """Return what waits, by destination; for a connection that counts it."""
    found: defaultdict[str, QueueDepth] = defaultdict(QueueDepth)
    query = """
        SELECT destination, state, sum(deliveries), min(since), (
            SELECT min(deadline) FROM work
            WHERE destination = waiting.destination AND state = waiting.state AND deadline IS NOT NULL
        ) FROM waiting GROUP BY destination, state
    """
    for destination, state, count, since, deadline in connection.execute(query):
        depth = found[destination]
        match state:
            case WorkState.READY | WorkState.WAITING:
                depth.ready += count
            case WorkState.SENDING:
                depth.sending = count
            case _:
                depth.blocked += count
        depth.oldest = since if depth.oldest is None else min(depth.oldest, since)
        if deadline is not None:
            depth.deadline = deadline if depth.deadline is None else min(depth.deadline, deadline)
    return found
