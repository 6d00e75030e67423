"""Comparisons that were asked for: kept in the ledger, made one after the other in the background."""

import asyncio
import contextlib
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
import structlog

from adapters import Window
from canonical_schema import ErrorCode, format_time
from gateway.errors import GatewayError, RequestRefused
from gateway.ledger import Document
from gateway.reconciling._model import Scope, Why
from gateway.reconciling.comparing import compare, scope_of
from gateway.reconciling.report import report
from gateway.service import Gateway
from gateway.times import from_micros, to_micros
from gateway.tokens import token

log = structlog.get_logger()

__all__ = ["KIND", "REPORT", "Reconciliation", "Reconciliations", "Terms", "anew"]

KIND = "reconciliation"
REPORT = "reconciliation report"
LOOK = timedelta(seconds=30)
"""Between two looks at what other processes were asked for."""
AGAIN = 1.0
"""Seconds between two looks whether another process is done."""

State = Literal["queued", "running", "done", "failed"]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What to compare."""

    start: datetime
    end: datetime
    destinations: tuple[str, ...] = ()
    against: str | None = None
    customer: str | None = None
    meter: str | None = None
    accept: tuple[str, ...] = ()


class Reconciliation(msgspec.Struct, kw_only=True):
    """One comparison that was asked for."""

    id: str
    tenant: str
    wanted: Terms
    created: int
    state: State = "queued"
    finished: int | None = None
    why: str | None = None


class Reconciliations:
    """The comparisons of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._chore = gateway.chore(KIND, self.step)
        self._done = asyncio.Condition()

    async def begin(self, tenant: str, wanted: Terms) -> Reconciliation:
        """Note down what to compare. Raises RequestRefused for what cannot be."""
        self._scope(tenant, wanted)
        now = to_micros(self._gateway.clock.now())
        asked = Reconciliation(id=f"rec_{now:016x}_{token()[:8]}", tenant=tenant, wanted=wanted, created=now)
        await self._gateway.ledger.keep([_document(asked)])
        self._chore.wake()
        return asked

    async def waited(self, asked: Reconciliation, seconds: float) -> Reconciliation:
        """Return it when it is done, or as it stands after a while."""
        try:
            async with asyncio.timeout(seconds), self._done:
                while (asked := await self.get(asked.tenant, asked.id)).finished is None:
                    with contextlib.suppress(TimeoutError):  # made by another process, which tells nobody here
                        await asyncio.wait_for(self._done.wait(), AGAIN)
        except TimeoutError:
            pass
        return asked

    async def get(self, tenant: str, name: str) -> Reconciliation:
        """Return one. Raises RequestRefused where there is none of this id."""
        body = await self._gateway.ledger.document(KIND, tenant, name)
        if body is None:
            raise RequestRefused(404, ErrorCode.NOT_FOUND, "no reconciliation of this tenant has this id")
        return msgspec.json.decode(body, type=Reconciliation)

    async def shown(self, asked: Reconciliation) -> dict[str, Any]:
        """Return one with its report, where there is one."""
        body = await self._gateway.ledger.document(REPORT, asked.tenant, asked.id)
        return {
            "id": asked.id,
            "state": asked.state,
            "created": format_time(from_micros(asked.created)),
            **({} if asked.finished is None else {"finished": format_time(from_micros(asked.finished))}),
            **({} if asked.why is None else {"why": asked.why}),
            **({} if body is None else {"report": msgspec.Raw(body)}),
        }

    async def step(self) -> datetime | None:
        """Make the oldest comparison that is not made."""
        ledger = self._gateway.ledger
        if not await ledger.lease(KIND):  # another process is at one
            return self._gateway.clock.now() + LOOK
        try:
            waiting = [one for tenant in self._gateway.tenants for one in await self._open(tenant)]
            if not waiting:
                return self._gateway.clock.now() + LOOK
            await self._make(min(waiting, key=lambda one: one.created))
            return self._gateway.clock.now()
        finally:
            await ledger.give_back(KIND)

    async def _make(self, asked: Reconciliation) -> None:
        asked = await self._begun(asked)
        begun = _document(asked).body
        made: list[Document] = []
        try:
            found = await compare(self._gateway, self._scope(asked.tenant, asked.wanted))
            meters = self._gateway.configuration.meters
            # Of a hundred thousand figures it takes most of a second, in which others' requests go on.
            body = await asyncio.to_thread(lambda: msgspec.json.encode(report(found, meters)))
            made.append(Document(kind=REPORT, tenant=asked.tenant, name=asked.id, body=body))
            asked.state = "done"
        except GatewayError as error:  # what was asked for is not configured any more
            asked.state, asked.why = "failed", str(error)
        except Exception as error:  # noqa: BLE001  one comparison that fails must not stand before all later ones
            log.error("reconciliation.failed", id=asked.id, error=type(error).__name__)
            asked.state, asked.why = "failed", f"it could not be made: {type(error).__name__}"
        asked.finished = to_micros(self._gateway.clock.now())
        async with self._gateway.turns.comparing:
            if await self._gateway.ledger.document(KIND, asked.tenant, asked.id) != begun:
                return  # somebody it names was erased meanwhile: it is made again
            await self._gateway.ledger.keep([*made, _document(asked)])
        async with self._done:
            self._done.notify_all()

    async def _begun(self, asked: Reconciliation) -> Reconciliation:
        """Write down that one is being made; return it as it was asked for, or was unnamed since."""
        async with self._gateway.turns.comparing:
            asked = await self.get(asked.tenant, asked.id)
            asked.state = "running"
            await self._gateway.ledger.keep([_document(asked)])
            return asked

    def _scope(self, tenant: str, wanted: Terms) -> Scope:
        return scope_of(
            self._gateway,
            tenant,
            Window(start=wanted.start, end=wanted.end),
            wanted.destinations,
            wanted.customer,
            wanted.meter,
            wanted.against,
            frozenset(Why(one) for one in wanted.accept),
        )

    async def _open(self, tenant: str) -> list[Reconciliation]:
        found: list[Reconciliation] = []
        after: str | None = None
        while page := await self._gateway.ledger.documents(KIND, tenant, after, 100):
            decoded = [msgspec.json.decode(one.body or b"", type=Reconciliation) for one in page]
            found += [one for one in decoded if one.finished is None]
            after = page[-1].name
        return found


def anew(body: bytes) -> bytes:
    """Return one that is being made as one that is still to be made: what it has read is not so any more."""
    asked = msgspec.json.decode(body, type=Reconciliation)
    if asked.state == "running":
        asked.state = "queued"
    return msgspec.json.encode(asked)


def _document(asked: Reconciliation) -> Document:
    return Document(kind=KIND, tenant=asked.tenant, name=asked.id, body=msgspec.json.encode(asked))
