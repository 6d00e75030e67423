"""A ledger with a past: events that were delivered long ago, written as the lanes would have written them."""

import time
from itertools import islice

from bench.events import event_id, texts
from canonical_schema import read_event
from gateway.ledger import AttemptRow, Change, Code
from gateway.service import Gateway
from gateway.times import from_micros

__all__ = ["fill"]

SIZE = 1000
NAMED = {"flowglad": "usage_event_", "paygentic": "usg_"}
"""Providers that answer with an id of their own for each row."""


async def fill(gateway: Gateway, prefix: str, count: int) -> None:
    """Store `count` events with every delivery accepted."""
    ledger = gateway.ledger
    written = texts(prefix, count)
    for start in range(0, count, SIZE):
        ids = [event_id(prefix, number) for number in range(start, min(count, start + SIZE))]
        events = [read_event(text.encode()) for text in islice(written, SIZE)]
        now = time.time_ns() // 1000
        await ledger.record("default", now, events, gateway.catalogue.plans("default", events, from_micros(now)))
        for name, destination in gateway.configuration.destinations.items():
            changes: list[Change] = []
            attempts: list[AttemptRow] = []
            rows, theirs = destination.adapter.door.max_rows, NAMED.get(destination.provider)
            for work in await ledger.take(name, now + 1, len(events)):
                changes.append(
                    Change(
                        work=work.id,
                        batch=work.batch,
                        destination=name,
                        members=work.members,
                        code=Code.ACCEPTED,
                        group=None,
                    )
                )
                for at in range(0, len(work.members), rows):
                    members = work.members[at : at + rows]
                    named = {} if theirs is None else {index: theirs + ids[index] for index in members}
                    attempts.append(
                        AttemptRow(
                            batch=work.batch,
                            destination=name,
                            members=members,
                            at=now,
                            duration_ms=12,
                            http_status=200,
                            outcome="accepted",
                            provider_event_ids=named,
                        )
                    )
            await ledger.settle(changes, attempts)
