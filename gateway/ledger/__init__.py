"""The durable record of events and deliveries: one protocol, here on embedded SQLite."""

from gateway.ledger._claims import Claim, ClaimKind, Run
from gateway.ledger._events import StoredEvents
from gateway.ledger._kept import AuditRow, Document, Erasure, Remains
from gateway.ledger._limits import Flow, Limits, Standing
from gateway.ledger._model import (
    BILLS,
    LOST_ANSWER,
    NO_DOUBT,
    NO_WAY,
    REFUSED_BATCH,
    AttemptRow,
    Change,
    Code,
    Group,
    Moved,
    Part,
    Plan,
    Portion,
    QueueDepth,
    Rendered,
    Sheet,
    Snapshot,
    Track,
    Unrouted,
    Work,
    WorkState,
    some_of,
)
from gateway.ledger._protocol import Ledger
from gateway.ledger._refs import PLACES, by_batch, ref_of, split_ref
from gateway.ledger._restored import RESTORE, RestoredAt, sent_since
from gateway.ledger.sqlite import SqliteLedger

__all__ = [
    "BILLS",
    "LOST_ANSWER",
    "NO_DOUBT",
    "NO_WAY",
    "PLACES",
    "REFUSED_BATCH",
    "RESTORE",
    "AttemptRow",
    "AuditRow",
    "Change",
    "Claim",
    "ClaimKind",
    "Code",
    "Document",
    "Erasure",
    "Flow",
    "Group",
    "Ledger",
    "Limits",
    "Moved",
    "Part",
    "Plan",
    "Portion",
    "QueueDepth",
    "Remains",
    "Rendered",
    "RestoredAt",
    "Run",
    "Sheet",
    "Snapshot",
    "SqliteLedger",
    "Standing",
    "StoredEvents",
    "Track",
    "Unrouted",
    "Work",
    "WorkState",
    "by_batch",
    "ref_of",
    "sent_since",
    "some_of",
    "split_ref",
]
