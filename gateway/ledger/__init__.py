"""The durable record of events and deliveries: one protocol, here on embedded SQLite."""

from gateway.ledger._model import (
    AttemptRow,
    Change,
    Claim,
    ClaimKind,
    Code,
    Group,
    Ledger,
    Part,
    Plan,
    Portion,
    QueueDepth,
    Snapshot,
    Track,
    Work,
    WorkState,
    ref_of,
    split_ref,
)
from gateway.ledger.sqlite import SqliteLedger

__all__ = [
    "AttemptRow",
    "Change",
    "Claim",
    "ClaimKind",
    "Code",
    "Group",
    "Ledger",
    "Part",
    "Plan",
    "Portion",
    "QueueDepth",
    "Snapshot",
    "SqliteLedger",
    "Track",
    "Work",
    "WorkState",
    "ref_of",
    "split_ref",
]
