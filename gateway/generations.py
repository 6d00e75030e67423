"""Which configuration is in use, on record: the audit trail tells of every one that took another's place."""

import msgspec

from gateway.catalogue import DEFAULT_TENANT
from gateway.configuration.generation import Generation
from gateway.ledger import AuditRow, Document, Ledger
from gateway.times import to_micros

__all__ = ["began", "reloaded"]

KIND = "configuration"
"""Kind of the document that holds the digest of the configuration that was used last: `last`."""


async def began(ledger: Ledger, generation: Generation) -> None:
    """Write down with which configuration a gateway starts, and that it is another than the one before, where it is."""
    body = await ledger.document(KIND, "", "last")
    before = None if body is None else msgspec.json.decode(body, type=str)
    if before == generation.digest:
        return
    row = _row(generation, "start", "started with another configuration, or as another version", before)
    await ledger.keep([_last(generation)], [] if before is None else [row])


async def reloaded(ledger: Ledger, before: Generation, generation: Generation, actor: str) -> None:
    """Write down that the configuration was read again, whether it has changed or not."""
    row = _row(generation, actor, "the configuration was read again", before.digest)
    await ledger.keep([_last(generation)], [row])


def _last(generation: Generation) -> Document:
    return Document(kind=KIND, tenant="", name="last", body=msgspec.json.encode(generation.digest))


def _row(generation: Generation, actor: str, reason: str, before: str | None) -> AuditRow:
    return AuditRow(
        at=to_micros(generation.since),
        tenant=DEFAULT_TENANT,
        actor=actor,
        action="configure",
        target=f"generation {generation.number}",
        reason=reason,
        before=before,
        after=generation.digest,
    )
