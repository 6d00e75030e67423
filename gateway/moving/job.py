"""One history on its way to one destination: what was asked, how far it is, and what was wrong with some of it."""

import uuid
from datetime import datetime
from typing import Any, Literal

import msgspec

from canonical_schema import Event, format_time
from gateway.ledger import split_ref
from gateway.times import from_micros

__all__ = ["KIND", "Job", "Selection", "TooOld", "Unproven", "new_id", "shown"]

KIND = "backfill"
"""Of the documents that jobs are kept as."""
PROBLEMS = 20
"""Events that are named with what is wrong; all are counted."""
State = Literal["running", "done", "failed", "cancelled"]
TooOld = Literal["fail", "skip"]
Unproven = Literal["skip", "send"]


class Selection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which events of the ledger. `None` is all."""

    customer: str | None = None
    meter: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, event: Event, when: datetime) -> bool:
        """Return whether an event is wanted; the interval is half open."""
        return (
            self.customer in {None, event.customer}
            and self.meter in {None, event.meter}
            and (self.since is None or self.since <= when)
            and (self.until is None or when < self.until)
        )


class Job(msgspec.Struct, kw_only=True):
    """One history on its way to one destination."""

    id: str
    to: str
    tenant: str
    source: Literal["ledger", "file"]
    digest: str = ""
    """Of a file: the same content to the same destination is the same job."""
    wanted: Selection = Selection()
    rate: float | None = None
    """Events a second, at most."""
    too_old: TooOld = "fail"
    """What becomes of what the provider takes no more: the job ends, or goes on without it."""
    unproven: Unproven = "skip"
    """Of a file: what becomes of events so old that their ids may have been forgotten, as it was sent before."""
    created: int
    until: int = 0
    """From the ledger: the last batch that belongs to it. What is recorded later goes its own way."""
    records_since: int | None = None
    """From the ledger: when the oldest full record was received; what is older was trimmed. `None`: there is none."""
    cursor: int = 0
    """From the ledger: the ref behind which it goes on. Of a file: how many events were taken."""
    counts: dict[str, int] = {}
    problems: list[dict[str, str]] = []
    due: int = 0
    """When it may go on, where it has a rate of its own."""
    state: State = "running"
    why: str | None = None

    def count(self, what: str, how_many: int = 1) -> None:
        """Add to a count; nothing is not written down."""
        if how_many:
            self.counts = {**self.counts, what: self.counts.get(what, 0) + how_many}

    def problem(self, what: str, event: Event, why: str) -> None:
        """Count an event that something is wrong with, and name it where not many are named."""
        self.count(what)
        if len(self.problems) < PROBLEMS:
            self.problems = [*self.problems, {"id": event.id, "problem": what, "why": why}]


def new_id() -> str:
    """Return an id for a job."""
    return f"bf_{uuid.uuid4().hex}"


def shown(job: Job) -> dict[str, Any]:
    """Return a job as people see it."""
    made: dict[str, Any] = {
        "object": "backfill",
        **msgspec.to_builtins(job),
        "created": format_time(from_micros(job.created)),
    }
    made.pop("due")
    if job.records_since is not None:
        made["records_since"] = format_time(from_micros(job.records_since))
    else:
        made.pop("records_since")
    if job.source == "ledger":
        made["progress"] = {"batch": split_ref(job.cursor)[0], "of": job.until}
    return made
