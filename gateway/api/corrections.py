"""The endpoints by which events are corrected: one voided, one given another quantity, many by filter."""

from decimal import Decimal
from typing import Annotated, Literal, Self
from urllib.parse import unquote

from pydantic import BeforeValidator, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from canonical_schema import PLAIN, Quantities, to_quantity
from gateway.api.access import tenant_of
from gateway.api.asked import Asked, Reason, answer, body_of, key_name, path_of
from gateway.corrections.many import correct_many
from gateway.corrections.one import correct
from gateway.corrections.steps import Scale
from gateway.listing import read_whole_filter
from gateway.repair import Actor
from gateway.service import Gateway

__all__ = ["routes"]

WAIT = 10.0
"""Seconds that an answer waits for the vendors, at most."""
MOST_QUANTITIES = 16


_Number = Annotated[Decimal, BeforeValidator(to_quantity)]
"""A number as events have it: a JSON number or a decimal string, exactly."""


class _Asked(Asked):
    reason: str = Reason()
    dry_run: bool = False


class _Void(_Asked):
    """`POST /v1/events/{id}/void`."""


class _Correct(_Asked):
    """`POST /v1/events/{id}/correct`."""

    quantity: _Number | None = None
    quantities: dict[str, _Number] | None = Field(default=None, min_length=1, max_length=MOST_QUANTITIES)

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if (self.quantity is None) == (self.quantities is None):
            raise ValueError("give quantity or quantities, one of the two")
        return self

    def wanted(self) -> Quantities:
        return self.quantities or {PLAIN: self.quantity or Decimal(0)}


class _Many(_Asked):
    """`POST /v1/corrections`."""

    filter: dict[str, str] = Field(min_length=1)
    action: Literal["void", "replace", "scale"]
    quantity: _Number | None = None
    factor: _Number | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _what_the_action_needs(self) -> Self:
        needed = {"void": set[str](), "replace": {"quantity"}, "scale": {"factor"}}[self.action]
        given = {name for name in ("quantity", "factor") if getattr(self, name) is not None}
        if given != needed:
            wants = " and ".join(needed) or "neither quantity nor factor"
            raise ValueError(f"{self.action} takes {wants}")
        return self

    def wanted(self) -> Quantities | Scale:
        match self.action:
            case "void":
                return {}
            case "replace":
                return {PLAIN: self.quantity or Decimal(0)}
            case "scale":
                return Scale(self.factor or Decimal(0))


def routes(gateway: Gateway) -> list[Route]:
    """Return the endpoints, over one gateway."""
    api = _Corrections(gateway)
    return [
        Route("/v1/events/{id:path}/void", api.void, methods=["POST"]),
        Route("/v1/events/{id:path}/correct", api.correct, methods=["POST"]),
        Route("/v1/corrections", api.many, methods=["POST"]),
    ]


class _Corrections:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def void(self, request: Request) -> Response:
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        asked = await body_of(request, _Void)
        return await self._one(request, tenant, asked, {})

    async def correct(self, request: Request) -> Response:
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        asked = await body_of(request, _Correct, exact=True)
        return await self._one(request, tenant, asked, asked.wanted())

    async def _one(self, request: Request, tenant: str, asked: _Asked, wanted: Quantities) -> Response:
        actor = Actor(tenant, key_name(request), asked.reason)
        wait = 0.0 if "respond-async" in request.headers.get("prefer", "") else WAIT
        return answer(await correct(self._gateway, actor, _event_id(request), wanted, dry_run=asked.dry_run, wait=wait))

    async def many(self, request: Request) -> Response:
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        asked = await body_of(request, _Many, exact=True)
        wanted, actor = read_whole_filter(asked.filter), Actor(tenant, key_name(request), asked.reason)
        result = await correct_many(self._gateway, actor, wanted, asked.wanted(), dry_run=asked.dry_run)
        return answer(result)


def _event_id(request: Request) -> str:
    """Return the id in the path, which may hold slashes of its own."""
    return unquote(path_of(request).partition("/v1/events/")[2].rpartition("/")[0])
