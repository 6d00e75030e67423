"""A ledger that was put back by means of its own, a server's files or a disk's: what was sent since is in doubt.

`ledger restore` does the same in one step for a file that `ledger backup` made.
"""

from typing import Any

import msgspec

from canonical_schema import format_time
from gateway.ledger._kept import AuditRow, Document
from gateway.ledger._model import LOST_ANSWER, Change, Code, Group, Work, WorkState
from gateway.ledger._protocol import Ledger
from gateway.ledger._restored import BACKUP, MOVED, OPEN, RESTORE, RestoredAt, sent_since
from gateway.times import from_micros

__all__ = ["doubt"]

PAGE = 200


async def doubt(ledger: Ledger, taken: int, now: int) -> dict[str, Any]:
    """Put whatever was not done by `taken`, and may have been sent since, in doubt. No gateway may be running.

    Asked again, as where it was interrupted, it does what is left to do.
    """
    changed = 0
    for destination in await ledger.counts():
        for state in OPEN:
            after = 0
            while works := await ledger.walk(destination, state, after, PAGE):
                after = works[-1].id
                changes = [_in_doubt(work, taken) for work in works if _sure(work.group, taken)]
                if changes:
                    await ledger.settle(changes, [])
                changed += sum(len(change.members) for change in changes)
    body = await ledger.document(RESTORE, "", "last")
    before = None if body is None else msgspec.json.decode(body, type=RestoredAt)
    since = RestoredAt(taken if before is None else min(taken, before.taken), now)
    row = AuditRow(
        at=now,
        tenant="default",
        actor="ledger restored",
        action="restore",
        target=f"as of {format_time(from_micros(taken))}",
        reason="the ledger was restored by means of its own",
        after=f"{changed} deliveries in doubt",
    )
    documents = [
        Document(kind=RESTORE, tenant="", name="last", body=msgspec.json.encode(since)),
        Document(kind=BACKUP, tenant="", name="taken", body=None),
        Document(kind=MOVED, tenant="", name="to a server", body=None),
    ]
    await ledger.keep(documents, [row])
    return {"object": "ledger_restored", "at": format_time(from_micros(taken)), "in_doubt": changed}


def _sure(group: Group, taken: int) -> bool:
    return group.doubt < LOST_ANSWER or group.sent is None or group.sent > taken


def _in_doubt(work: Work, taken: int) -> Change:
    group = work.group
    code = Code.RETRYING if group.attempts else Code.PENDING
    sent = taken if group.sent is None else min(taken, group.sent)
    return Change(
        work=work.id,
        batch=work.batch,
        destination=work.destination,
        members=work.members,
        code=Code.BLOCKED if group.state in {WorkState.BLOCKED, WorkState.HELD} else code,
        group=msgspec.structs.replace(group, doubt=LOST_ANSWER, sent=sent, error=group.error or sent_since(taken)),
        parts=work.parts,
    )
