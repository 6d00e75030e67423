"""`POST /v1/customers/{customer}/erase`: a customer is forgotten."""

from typing import Literal
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from canonical_schema import ErrorCode
from gateway.api.access import tenant_of
from gateway.api.asked import Asked, Reason, answer, body_of, key_name, path_of
from gateway.erasing import erase
from gateway.errors import RequestRefused
from gateway.repair import Actor
from gateway.service import Gateway

__all__ = ["routes"]

LONGEST = 255
"""Characters of a customer's id."""


class _Erase(Asked):
    """The request."""

    reason: str = Reason()
    unsettled: Literal["refuse", "abandon"] = "refuse"


def routes(gateway: Gateway) -> list[Route]:
    """Return the endpoint, over one gateway."""

    async def post(request: Request) -> Response:
        tenant = tenant_of(request, gateway.keyring, "admin")
        asked = await body_of(request, _Erase)
        customer = unquote(path_of(request).removeprefix("/v1/customers/").removesuffix("/erase"))
        if not 1 <= len(customer) <= LONGEST:
            detail = f"customer: must be a string of 1 to {LONGEST} characters"
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, detail)
        actor = Actor(tenant, key_name(request), asked.reason)
        return answer(await erase(gateway, actor, customer, abandon=asked.unsettled == "abandon"))

    return [Route("/v1/customers/{customer:path}/erase", post, methods=["POST"])]
