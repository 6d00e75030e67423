"""What every ledger does, whatever it is kept in."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from canonical_schema import DeliveryStatus, ErrorItem, Event
from gateway.ledger._claims import Claim
from gateway.ledger._kept import AuditRow, Document, Erasure
from gateway.ledger._limits import Limits
from gateway.ledger._model import AttemptRow, Change, Plan, Portion, QueueDepth, Snapshot, Unrouted, Work, WorkState

__all__ = ["Ledger", "snapshot_of"]


class Ledger(Protocol):
    """What every backend does. Each call is atomic and durable when it returns.

    Every method raises `LedgerUnavailable` when nothing can be promised.
    """

    durability: str
    """What survives what, in a word or two, for `/readyz`."""

    shared: bool
    """Whether other processes may work on it at the same time."""

    @property
    def fenced(self) -> bool:
        """Whether other processes may take this one for gone, and send what it would: then nothing may leave."""
        ...

    @property
    def lapses(self) -> int:
        """How often that was so before: what this one meant to send until then, others may have sent since."""
        ...

    @property
    def leads(self) -> bool:
        """Whether this process does what one alone may do, of those that share the ledger."""
        ...

    @property
    def in_line(self) -> bool:
        """Whether work that is recorded later has a higher number."""
        ...

    def alone(self, destination: str) -> bool:
        """Have one process alone send to a destination, the one that leads; return whether it is this one."""
        ...

    async def lease(self, name: str) -> bool:
        """Take what one process alone does at a time, or keep it; return whether it is this one's.

        It is until it is given back, or this process is not heard of any more.
        """
        ...

    async def give_back(self, name: str) -> None:
        """Let others take it. Nothing where it is not this process's."""
        ...

    @property
    def limits(self) -> Limits | None:
        """Where the rate limits are counted for all processes; `None` where there is one, which counts for itself."""
        ...

    async def open(self) -> None:
        """Make the ledger usable: schema, lock, threads."""
        ...

    async def close(self) -> None:
        """Finish what was asked for, then let go."""
        ...

    async def record(
        self, tenant: str, received: int, events: Sequence[Event], plans: Sequence[Plan], audit: Sequence[AuditRow] = ()
    ) -> Sequence[Claim]:
        """Claim the ids, store the new events and enqueue their deliveries; the answers keep the order.

        `audit` is appended with them, and only where every one of them is new.
        A `Run` where all are new and lie together. What comes at the same time from one tenant may share a batch.
        """
        ...

    async def find(self, tenant: str, event_id: str) -> int | None:
        """Return the ref of an id, if it is known."""
        ...

    async def refs(self, tenant: str, ids: Sequence[str]) -> Mapping[str, int]:
        """Return the refs of ids, in one look; those that are not known are left out."""
        ...

    async def snapshots(self, batches: Sequence[int]) -> Mapping[int, Snapshot]:
        """Return batches as they stand, by number; unknown ones are left out."""
        ...

    async def batches_before(self, batch: int | None, limit: int) -> Sequence[int]:
        """Return batch numbers below `batch` (or from the newest), newest first; trimmed ones are left out."""
        ...

    async def batches_after(self, batch: int, limit: int) -> Sequence[int]:
        """Return batch numbers above `batch`, oldest first; those that were trimmed are left out."""
        ...

    async def take(self, destination: str, now: int, limit: int) -> Sequence[Work]:
        """Return ready work that is due, at most `limit` deliveries; the last may be a part.

        What has a deadline comes first, oldest deadline first, then what was due first.
        """
        ...

    async def overdue(self, destination: str, now: int, limit: int) -> tuple[Sequence[Work], int | None]:
        """Return work past its deadline, and when the next deadline is; what is being sent or ended has none.

        Oldest deadline first, at most `limit` pieces; the deadline is that of the first piece not returned.
        """
        ...

    async def next_due(self, destination: str) -> int | None:
        """Return when the next ready work is due."""
        ...

    async def intend(self, portions: Sequence[Portion], now: int) -> Sequence[int]:
        """Write down that these are about to be sent; return the work that now holds each portion."""
        ...

    async def settle(
        self, changes: Sequence[Change], attempts: Sequence[AttemptRow], audit: Sequence[AuditRow] = ()
    ) -> None:
        """Write down what became of what was sent, or what a person decided.

        Raises Moved, and writes nothing, where a piece of work no longer holds what is to be changed, or is being
        sent and was thought to wait.
        """
        ...

    async def confirm(self, destination: str, batch: int, members: Sequence[int]) -> int:
        """Mark those of a batch's deliveries that are accepted and queued as confirmed; return how many were."""
        ...

    async def pieces(self, batch: int, destination: str) -> Sequence[Work]:
        """Return all work of one batch and destination, whatever its state."""
        ...

    async def in_state(self, states: Sequence[WorkState], destination: str | None) -> Sequence[tuple[int, str]]:
        """Return batch and destination of all work in these states, oldest first."""
        ...

    async def note(self, audit: Sequence[AuditRow]) -> None:
        """Append to the audit trail."""
        ...

    async def trail(self, tenant: str, below: int | None, limit: int) -> Sequence[tuple[int, AuditRow]]:
        """Return the audit trail, newest first, with its numbers; below a number, or from the newest."""
        ...

    async def keep(self, documents: Sequence[Document], audit: Sequence[AuditRow] = ()) -> None:
        """Write documents down, each in place of the one of its name, and who wanted it: all of it or nothing."""
        ...

    async def document(self, kind: str, tenant: str, name: str) -> bytes | None:
        """Return the body of one document, if there is one."""
        ...

    async def named(self, kind: str, tenant: str, names: Sequence[str]) -> Mapping[str, bytes]:
        """Return the bodies of many documents, by name, in one look; those that are not there are left out."""
        ...

    async def documents(self, kind: str, tenant: str, after: str | None, limit: int) -> Sequence[Document]:
        """Return documents by name, in the order of code points: those after a name, or from the first."""
        ...

    async def held(self, destination: str, state: WorkState) -> Sequence[Work]:
        """Return all work of one state: what was being sent when the process died, what is blocked."""
        ...

    async def abandoned(self, destination: str) -> Sequence[Work]:
        """Return what was being sent by processes that are gone, of those that share the ledger."""
        ...

    async def walk(self, destination: str, state: WorkState, after: int, limit: int) -> Sequence[Work]:
        """Return work of one state with a number above `after`, by number, at most `limit` pieces."""
        ...

    async def hold(self, destination: str, error: ErrorItem) -> Mapping[int, Sequence[int]]:
        """Hold everything that is ready, for a reason that concerns all; return indexes by batch."""
        ...

    async def release(self, destination: str, state: WorkState, now: int, pieces: int | None = None) -> int:
        """Make what is held or blocked ready again, all or some pieces of work; return how many pieces."""
        ...

    def unrouted(self) -> AsyncIterator[Unrouted]:
        """Return events without any live delivery, batch by batch, the oldest first: there may be any number."""
        ...

    async def route(self, batch: int, members: Sequence[int], plans: Sequence[Plan], now: int) -> None:
        """Give unrouted events their deliveries."""
        ...

    async def extend(self, batch: int, members: Sequence[int], plans: Sequence[Plan], now: int) -> int:
        """Give stored events deliveries at destinations where they have none; return how many are new.

        One that has a delivery there, or ended there, gets no second; what is filtered for want of a way does.
        What was trimmed or erased gets none.
        """
        ...

    async def ready(self) -> str | None:
        """Return what cannot be promised at the moment, `None` where everything can.

        Raises LedgerUnavailable, with the reason, where nothing can be.
        """
        ...

    async def depth(self) -> Mapping[str, QueueDepth]:
        """Return what waits, by destination."""
        ...

    async def counts(self) -> Mapping[str, Mapping[DeliveryStatus, int]]:
        """Count all deliveries by destination and status."""
        ...

    async def name(self, providers: Mapping[str, str]) -> None:
        """Remember which provider stands behind each destination."""
        ...

    async def trimmable(
        self, before: int, letters: int | None, after: int, limit: int
    ) -> tuple[Sequence[int], int | None]:
        """Return settled batches that were recorded before an instant, from those above `after`, in order.

        A delivery that is rejected, dead or unknown counts as settled where it was recorded before `letters`;
        `None` for never. The second value is where to look on, `None` for the end.
        """
        ...

    async def trim(self, prints: Mapping[int, bytes], segment: str | None, letters: int | None) -> Sequence[int]:
        """Drop the full records of batches, but for ids, fingerprints and statuses; return those not settled by then.

        `prints` holds by batch the fingerprint of each event; `segment` says where the records were archived.
        """
        ...

    async def trimmed(self, tenant: str, since: int) -> int:
        """Count the batches of a tenant that were recorded at an instant or after it, and were trimmed."""
        ...

    async def forget(self, before: int, limit: int) -> int:
        """Forget trimmed batches that were recorded before an instant, with their ids; return how many went."""
        ...

    async def secret(self, name: str) -> bytes:
        """Return 32 random bytes that this ledger alone keeps under a name, drawn when they are first asked for."""
        ...

    async def holding(self, tenant: str, customer: str, after: int, limit: int) -> tuple[Sequence[int], int | None]:
        """Return the batches with events of a customer among `limit` above `after`, and where to look on."""
        ...

    async def erase(self, batch: int, erasure: Erasure) -> tuple[int, Mapping[str, int]]:
        """Take a customer out of a batch; return how many events that concerns, and what of them is unsettled.

        What is unsettled is counted by its `WorkState`, or as `unrouted`. Where it is not to be abandoned, and
        always where something is being sent, nothing is changed.
        """
        ...

    async def unname(self, erasure: Erasure) -> int:
        """Put the pseudonym in the place of a customer in the audit trail; return in how many lines.

        What such a line says of before and after goes: it tells how vendors name the customer.
        """
        ...


async def snapshot_of(ledger: Ledger, batch: int) -> Snapshot | None:
    """Return a batch as it stands; `None` where it is unknown."""
    return (await ledger.snapshots([batch])).get(batch)
