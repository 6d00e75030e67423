"""The endpoints by which usage is read back, and ledger and providers are held against each other."""

import re
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adapters import Window
from adapters._models import Instant
from canonical_schema import ErrorCode, format_time, parse_time, plain
from gateway.api.access import tenant_of
from gateway.api.asked import Asked, answer, body_of, query_of
from gateway.errors import RequestRefused
from gateway.reconciling._model import UNLINKED, Cell, Side, Why, in_unit
from gateway.reconciling.comparing import Comparison, compare, scope_of
from gateway.reconciling.readback import Reader
from gateway.reconciling.reconciliations import Reconciliations, Terms
from gateway.reconciling.report import charges, ledger_figures, why_unread, window_of
from gateway.service import Gateway

__all__ = ["routes"]

_ONE, _ZERO = Decimal(1), Decimal(0)

WAIT = 10.0
"""Seconds that an answer waits for a comparison, where the request does not say."""


class _Reconcile(Asked):
    """`POST /v1/reconciliations`."""

    since: Instant = Field(alias="from")
    until: Instant = Field(alias="to")
    destinations: tuple[str, ...] = Field(default=(), description="Absent: all.")
    against: str | None = Field(default=None, description="Hold the one destination against this one, too.")
    customer: str | None = None
    meter: str | None = None
    accept: tuple[Why, ...] = Field(default=(), description="Classes that somebody has looked at.")

    def wanted(self) -> Terms:
        """Return it as the gateway knows it."""
        return Terms(
            start=self.since,
            end=self.until,
            destinations=self.destinations,
            against=self.against,
            customer=self.customer,
            meter=self.meter,
            accept=self.accept,
        )


def routes(gateway: Gateway) -> list[Route]:
    """Return the endpoints, over one gateway."""
    api = _Reconciling(gateway)
    return [
        Route("/v1/usage", api.usage, methods=["GET"]),
        Route("/v1/reconciliations", api.begin, methods=["POST"]),
        Route("/v1/reconciliations/{id}", api.get, methods=["GET"]),
    ]


class _Reconciling:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._made = Reconciliations(gateway)

    async def begin(self, request: Request) -> Response:
        """Begin a comparison; the answer waits for it a while, unless `Prefer: respond-async`."""
        tenant = tenant_of(request, self._gateway.keyring, "events:read")
        wanted = (await body_of(request, _Reconcile)).wanted()
        asked = await self._made.begin(tenant, wanted)
        if "respond-async" not in request.headers.get("prefer", ""):
            asked = await self._made.waited(asked, WAIT)
        return answer(await self._made.shown(asked), 202 if asked.finished is None else 201)

    async def get(self, request: Request) -> Response:
        tenant = tenant_of(request, self._gateway.keyring, "events:read")
        query_of(request, ())
        return answer(await self._made.shown(await self._made.get(tenant, request.path_params["id"])))

    async def usage(self, request: Request) -> Response:
        """Read one customer's usage of one meter back, beside what the ledger has."""
        tenant = tenant_of(request, self._gateway.keyring, "events:read")
        query_of(request, ("customer", "meter", "from", "to", "destination"), several=("destination",))
        customer, meter = _needed(request, "customer"), _needed(request, "meter")
        window = Window(start=_time(request, "from"), end=_time(request, "to"))
        destinations = tuple(request.query_params.getlist("destination"))
        made = await compare(self._gateway, scope_of(self._gateway, tenant, window, destinations, customer, meter))
        read = [await self._read(made, name, side, meter) for name, side in made.sides.items()]
        return answer(
            {
                "customer": customer,
                "meter": meter,
                "from": format_time(window.start),
                "to": format_time(window.end),
                "trimmed_batches": made.trimmed,
                "destinations": read,
            }
        )

    async def _read(self, made: Comparison, name: str, side: Side, meter: str) -> dict[str, Any]:
        cells = {place.part: cell for place, cell in side.cells.items() if place.meter == meter}
        unread = side.unread or next(iter(side.missing.values()), None)
        if not cells:
            cells = {"": Cell(_ONE, provider=None if unread else _ZERO, unread=unread)}
        if not side.links:  # nobody was asked
            for cell in cells.values():
                cell.provider, cell.unread = None, cell.unread or UNLINKED
        return {
            "destination": name,
            "kind": side.kind,
            "exact": side.exact,
            "figures": [_figure(part, cell) for part, cell in cells.items()],
            "charges": await self._charges(made, name, side),
        }

    async def _charges(self, made: Comparison, name: str, side: Side) -> list[dict[str, Any]]:
        if name not in self._gateway.catalogue.destinations:  # it was removed meanwhile
            return []
        reader = Reader(self._gateway, name)
        try:
            read = [await reader.charges(made.scope.window, link) for link in side.links]
        finally:
            await reader.close()
        return [charges(one) for one in read if one is not None]


def _figure(part: str, cell: Cell) -> dict[str, Any]:
    provider = None if cell.provider is None else in_unit(cell.provider, cell.scale)
    difference = cell.difference
    return {
        **({"part": part} if part else {}),
        **({} if provider is None else {"provider": plain(provider)}),
        "ledger": ledger_figures(cell),
        **({} if difference is None else {"difference": plain(in_unit(difference, cell.scale))}),
        "events": cell.events,
        **({} if cell.window is None else {"window": window_of(cell.window)}),
        **({} if cell.unread is None else {"unread": why_unread(cell.unread)}),
        "reasons": [
            {
                "class": why,
                "events": one.events,
                "quantity": plain(in_unit(one.quantity, cell.scale)),
                "ids": [each for each in one.ids if each],
            }
            for why, one in cell.reasons.items()
        ],
    }


def _needed(request: Request, name: str) -> str:
    if not (value := request.query_params.get(name, "")):
        raise _refused(f"{name}: is needed")
    return value


def _time(request: Request, name: str) -> datetime:
    text = _needed(request, name)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        text += "T00:00:00Z"
    try:
        return parse_time(text)
    except ValueError:
        raise _refused(f"{name}: {text[:64]!r} is no instant: write 2026-11-01T00:00:00Z") from None


def _refused(detail: str) -> RequestRefused:
    return RequestRefused(400, ErrorCode.INVALID_REQUEST, detail)
