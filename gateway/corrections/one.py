"""One event corrected: recorded, carried out, and answered with what became of it; and how it is shown since."""

from collections.abc import Mapping
from typing import Any

from canonical_schema import DeliveryStatus, ErrorCode, Event, Quantities, correction_json, format_time, quantities_json
from gateway.chain import LedgerReader, correction_id
from gateway.corrections.foreseeing import foresee
from gateway.corrections.recording import carry_out, not_ended, record
from gateway.corrections.steps import NotCorrected, chain_of, steps_to
from gateway.errors import RequestRefused
from gateway.ledger import split_ref
from gateway.merge import View
from gateway.repair import Actor
from gateway.service import Gateway
from gateway.times import from_micros

__all__ = ["correct", "shown"]

TRIES = 5


async def correct(
    gateway: Gateway, actor: Actor, event_id: str, wanted: Quantities, *, dry_run: bool, wait: float
) -> dict[str, Any]:
    """Void one event, or give it another quantity; wait for the end of that, at most `wait` seconds.

    The same correction again answers with what became of the first. Raises RequestRefused where it cannot be done.
    """
    for _ in range(TRIES):
        with gateway.board.watch() as watch:
            async with gateway.turns.correcting:
                reader = LedgerReader(gateway.ledger)
                try:
                    chain = await chain_of(reader, actor.tenant, event_id)
                    steps = await steps_to(gateway, reader, chain, wanted, actor)
                except NotCorrected as refused:
                    raise RequestRefused(refused.status, refused.code, refused.detail) from None
                if dry_run:
                    foreseen = await foresee(gateway, reader, chain, steps) if steps else {}
                    said = _said(steps[-1].event) if steps else {"corrects": event_id, "action": "none"}
                    return {"object": "correction", "dry_run": True, **said, "deliveries": foreseen}
                if not steps:
                    break
                refs = [ref for ref in await record(gateway, actor, steps) if ref is not None]
            if len(refs) < len(steps):  # another process corrected it at the same time: this one builds on theirs
                continue
            await carry_out(gateway, refs, steps)
            awaited = await not_ended(gateway, refs)
            if awaited and wait > 0:
                await watch.until_ended(awaited, wait)
        return await _answer(gateway, chain.tenant, steps[-1].event, replayed=False)
    else:
        detail = "others correct this event at the same time: look at it, and try again"
        raise RequestRefused(409, ErrorCode.CONFLICT, detail)
    if len(chain.events) == 1:
        detail = "the event says this already: there is nothing to correct"
        raise RequestRefused(409, ErrorCode.CONFLICT, detail)
    return await _answer(gateway, chain.tenant, chain.events[-1], replayed=True)


async def _answer(gateway: Gateway, tenant: str, event: Event, *, replayed: bool) -> dict[str, Any]:
    detail = await gateway.event(tenant, event.id)
    assert detail is not None
    made: dict[str, Any] = {"object": "correction", "replayed": replayed, **_said(event)}
    assert event.corrects is not None
    first = await gateway.event(tenant, correction_id(event.corrects.of, event.corrects.number - 1))
    if first is not None and event.corrects.action == "replace":
        half: Any = first.get("event", {}).get("corrects")
        if isinstance(half, Mapping) and half["action"] == "refund":
            made["refund"] = {"id": first["id"], "status": first["status"], "deliveries": _brief(first["deliveries"])}
    return {**made, "status": detail["status"], "deliveries": _brief(detail["deliveries"])}


def _brief(deliveries: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {member: value for member, value in one.items() if member != "history"}
        for name, one in deliveries.items()
        if one["status"] != DeliveryStatus.FILTERED or one.get("reason") in {"voided", "zero"}
    }


def _said(event: Event) -> dict[str, Any]:
    assert event.corrects is not None
    said = correction_json(event.corrects)
    return {**said, "id": event.id, "corrects": event.corrects.of}


async def shown(gateway: Gateway, tenant: str, event_id: str) -> dict[str, Any]:
    """Return the corrections of an event and what it says since; nothing where it has none."""
    reader = LedgerReader(gateway.ledger)
    if await gateway.ledger.find(tenant, correction_id(event_id, 1)) is None:
        return {}
    chain = await reader.chain(tenant, event_id)
    if chain is None or len(chain.events) == 1:
        return {}
    made: list[dict[str, Any]] = []
    for event, ref in zip(chain.events[1:], chain.refs[1:], strict=True):
        batch, index = split_ref(ref)
        snapshot = await reader.snapshot(batch)
        if snapshot is not None and event.corrects is not None:
            said = correction_json(event.corrects) | {
                "id": event.id,
                "at": format_time(from_micros(snapshot.received_at(index))),
                "status": View(snapshot).status(index),
            }
            made.append(said)
    return {"current": quantities_json(chain.value) or {"void": True}, "corrections": made}
