"""The endpoints by which a billing period is looked at and closed."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from canonical_schema import ErrorCode
from gateway.api.access import tenant_of
from gateway.api.asked import Asked, Reason, answer, body_of, key_name, query_of
from gateway.errors import RequestRefused
from gateway.moving.closing import Closing
from gateway.periods import Period, period_of
from gateway.repair import Actor
from gateway.service import Gateway

__all__ = ["routes"]


class _Close(Asked):
    """`POST /v1/periods/{period}/close`."""

    timezone: str = "UTC"
    accept_open: bool = False
    reason: str = Reason()


def routes(gateway: Gateway) -> list[Route]:
    """Return the endpoints, over one gateway."""
    api = _Periods(gateway)
    return [
        Route("/v1/periods/{period}", api.report, methods=["GET"]),
        Route("/v1/periods/{period}/close", api.close, methods=["POST"]),
    ]


class _Periods:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._closing = Closing(gateway)

    async def report(self, request: Request) -> Response:
        """Show the report that was kept when the period was closed; of an open one, how it stands."""
        tenant = tenant_of(request, self._gateway.keyring, "events:read")
        period = _period(request, query_of(request, ("timezone",)).get("timezone", "UTC"))
        kept = await self._closing.kept(tenant, period.name)
        return answer(kept or {**await self._closing.report(tenant, period), "closed": False})

    async def close(self, request: Request) -> Response:
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        asked = await body_of(request, _Close)
        actor = Actor(tenant, key_name(request), asked.reason)
        period = _period(request, asked.timezone)
        return answer(await self._closing.close(actor, period, accept_open=asked.accept_open))


def _period(request: Request, zone: str) -> Period:
    try:
        return period_of(request.path_params["period"], zone)
    except ValueError as error:
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, str(error)) from None
