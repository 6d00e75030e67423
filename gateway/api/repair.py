"""The endpoints by which people repair: resolve, retry, dead letters as lines, and the audit trail of it all."""

from typing import Any

import msgspec
from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from canonical_schema import DeliveryStatus, ErrorCode, format_time
from gateway.api.access import tenant_of
from gateway.api.asked import Asked, Reason, answer, body_of, key_name, lines, query_of
from gateway.configuration.findings import nearest
from gateway.errors import RequestRefused
from gateway.ledger import AuditRow, Code, split_ref
from gateway.listing import letters, read_filter, read_whole_filter
from gateway.repair import Actor, Resolution, resolve, resolve_many, retry
from gateway.service import Gateway
from gateway.times import from_micros, to_micros

__all__ = ["routes"]

_EVENTS = frozenset({"customer", "meter", "from", "to"})
"""What events can be told apart by whose deliveries are decided together."""


class _Resolve(Asked):
    """`POST /v1/deliveries/resolve`: one event's delivery, or all that are unknown and that a filter finds."""

    id: str | None = None
    filter: dict[str, str] | None = None
    destination: str
    resolution: Resolution
    dry_run: bool = False
    reason: str = Reason()

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "_Resolve":
        if (self.id is None) == (self.filter is None):
            raise ValueError("give id or filter, one of the two; an empty filter is everything that is unknown there")
        if self.filter is not None and not self.filter.keys() <= _EVENTS:
            raise ValueError(f"filter: there are {', '.join(sorted(_EVENTS))}")
        if self.dry_run and self.filter is None:
            raise ValueError("dry_run goes with a filter")
        return self


class _Retry(Asked):
    """`POST /v1/deliveries/retry`."""

    ids: list[str] | None = Field(default=None, min_length=1, max_length=10_000)
    filter: dict[str, str] | None = None
    remap: bool = False
    reason: str = Reason(needed=False)

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "_Retry":
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give ids or filter, one of the two")
        return self


def routes(gateway: Gateway) -> list[Route]:
    """Return the endpoints, over one gateway."""
    api = _Repair(gateway)
    return [
        Route("/v1/deliveries", api.letters, methods=["GET"]),
        Route("/v1/deliveries/resolve", api.resolve, methods=["POST"]),
        Route("/v1/deliveries/retry", api.retry, methods=["POST"]),
        Route("/v1/audit", api.audit, methods=["GET"]),
    ]


class _Repair:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def resolve(self, request: Request) -> Response:
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        asked = await body_of(request, _Resolve)
        actor = Actor(tenant, key_name(request), asked.reason)
        now = to_micros(self._gateway.clock.now())
        if asked.id is None:
            return await self._resolve_many(actor, asked, now)
        ref, code = await resolve(self._gateway.ledger, actor, asked.id, asked.destination, asked.resolution, now)
        if (lane := self._gateway.lanes.get(asked.destination)) is not None:
            if code is not Code.RETRYING:
                batch, index = split_ref(ref)
                await lane.settled(batch, [index])
            lane.wake()
        return answer({"id": asked.id, "destination": asked.destination, "status": code.status})

    async def _resolve_many(self, actor: Actor, asked: _Resolve, now: int) -> Response:
        wanted, lane = read_filter(asked.filter or {}), self._gateway.lanes.get(asked.destination)
        count, ended = await resolve_many(
            self._gateway.ledger, actor, asked.destination, wanted, asked.resolution, now, dry_run=asked.dry_run
        )
        known = self._gateway.configuration.destinations
        if not count and asked.destination not in known:  # of one that was removed there may be some
            says = nearest("destination", asked.destination, known)
            raise RequestRefused(404, ErrorCode.NOT_FOUND, f"destination: {says}")
        if lane is not None:
            for batch, index in ended:
                await lane.settled(batch, [index])
            lane.wake()
        said = {"object": "resolve_result", "destination": asked.destination, "resolution": asked.resolution}
        return answer({**said, "dry_run": asked.dry_run, "resolved": count})

    async def retry(self, request: Request) -> Response:
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        asked = await body_of(request, _Retry)
        actor = Actor(tenant, key_name(request), asked.reason)
        wanted = asked.ids if asked.ids is not None else read_whole_filter(asked.filter or {})
        now = to_micros(self._gateway.clock.now())
        result = await retry(self._gateway.ledger, actor, wanted, remap=asked.remap, now=now)
        for one in result["retried"]:
            self._gateway.wake(one["destination"])
        return answer(result)

    async def letters(self, request: Request) -> Response:
        """Stream deliveries of one status as NDJSON: the dead letters, by default."""
        tenant = tenant_of(request, self._gateway.keyring, "events:read")
        query = query_of(request)
        status = query.setdefault("status", DeliveryStatus.DEAD)
        if status not in set(DeliveryStatus):
            detail = f"status: there is no {status[:32]!r}; one of {', '.join(DeliveryStatus)}"
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, detail)
        return await lines(letters(self._gateway.ledger, tenant, read_whole_filter(query)))

    async def audit(self, request: Request) -> Response:
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        asked = read_filter(query_of(request, ("cursor", "limit")))
        rows = await self._gateway.ledger.trail(tenant, asked.cursor, asked.limit)
        data = [_shown(number, row) for number, row in rows]
        more = {"next_cursor": str(rows[-1][0])} if len(rows) == asked.limit else {}
        return answer({"data": data, **more})


def _shown(number: int, row: AuditRow) -> dict[str, Any]:
    shown: dict[str, Any] = {"number": number, **msgspec.to_builtins(row), "at": format_time(from_micros(row.at))}
    shown.pop("tenant")
    return shown
