"""What the ledger keeps beside deliveries: who decided what, documents, what is left of what is gone."""

import re
from hashlib import blake2b

import msgspec

from canonical_schema import Event

__all__ = ["AuditRow", "Document", "Erasure", "Remains"]

SHORTEST_NAME = 3
"""Characters of a customer's id that is sought in what people wrote: a shorter one is any word, and tells nothing."""


class AuditRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Who changed what by hand, and why. Written with the change, never changed afterwards."""

    at: int
    tenant: str
    actor: str
    """The name of the key that was used, or of the command."""
    action: str
    target: str
    """An event's id, or what else was changed."""
    reason: str
    destination: str | None = None
    before: str | None = None
    after: str | None = None


class Document(msgspec.Struct, kw_only=True, frozen=True):
    """What is kept and is no event, under a name of its own: a customer's links, a report, how far work has come."""

    kind: str
    tenant: str
    name: str
    body: bytes | None
    """JSON. `None`, in what is to be kept: nothing is, from then on."""


class Remains(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in for content that is gone: that of a whole batch, or of some of its events."""

    prints: bytes
    """The fingerprint of each event of the batch, as it was sent."""
    erased: frozenset[int] = frozenset()
    """Indexes of the events whose customer was erased."""
    trimmed: bool = False
    """Whether all that is left are ids, fingerprints and statuses."""
    segment: str | None = None
    """Where the full record was archived before that, if it was."""


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """A customer who is to be forgotten, and what stands in the place of the name."""

    tenant: str
    customer: str
    key: bytes
    """Of the pseudonyms: with the same key the same name gets the same one."""
    abandon: bool = False
    """Give up what is not settled; where not, such a batch is left alone."""

    def __repr__(self) -> str:
        return f"Erasure(alias={self.alias!r})"

    @property
    def alias(self) -> str:
        """The customer's pseudonym."""
        return self._pseudonym("customer", self.customer)

    def of(self, event: Event) -> Event:
        """Return the event without the customer: what was measured stays, so that it can still be added up."""
        named, said = event.subscription, event.corrects
        return msgspec.structs.replace(
            event,
            corrects=None if said is None else msgspec.structs.replace(said, reason=self.told(said.reason)),
            customer=self.alias,
            subscription=None if named is None else self._pseudonym("subscription", named),
            source=None,
            properties={},
        )

    def told(self, words: str) -> str:
        """Return what a person wrote, with the pseudonym wherever the customer's id stands alone."""
        if len(self.customer) < SHORTEST_NAME:
            return words
        return re.sub(rf"(?<!\w){re.escape(self.customer)}(?!\w)", self.alias, words)

    def row(self, row: AuditRow) -> AuditRow:
        """Return a line of the audit trail without the customer."""
        if row.target == self.customer:
            row = msgspec.structs.replace(row, target=self.alias, before=None, after=None)
        return msgspec.structs.replace(row, reason=self.told(row.reason))

    def _pseudonym(self, what: str, name: str) -> str:
        made = blake2b(f"{self.tenant}\0{what}\0{name}".encode(), key=self.key, digest_size=12)
        return f"erased_{made.hexdigest()}"
