"""`/v1/customers`: how each destination names a customer, put and taken away while the gateway runs."""

from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote

from pydantic import Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from canonical_schema import ErrorCode
from gateway.api.access import tenant_of
from gateway.api.asked import LONGEST_REASON, Asked, answer, body_of, key_name, lines, path_of, query_of
from gateway.api.coverage import coverage
from gateway.configuration.findings import nearest
from gateway.errors import RequestRefused
from gateway.links.book import KIND, Change
from gateway.service import Gateway

__all__ = ["routes"]

T = TypeVar("T")

PAGE, MOST = 100, 1000
PATH = "/v1/customers/"
_REASON = Field(
    default="put by the API", min_length=1, max_length=LONGEST_REASON, description="Why; kept in the audit trail."
)


class _Put(Asked):
    """`PUT /v1/customers/{customer}`: what `GET` answers can be put again."""

    id: str | None = None
    links: Mapping[str, object]
    sources: Mapping[str, str] | None = None
    reason: str = _REASON


class _One(Asked):
    id: str = Field(min_length=1, max_length=255)
    links: Mapping[str, object]


class _Several(Asked):
    """`POST /v1/customers`: destinations that an entry does not name stay as they are."""

    customers: list[_One] = Field(min_length=1, max_length=MOST)
    reason: str = _REASON


def routes(gateway: Gateway) -> list[Route]:
    """Return the endpoints, over one gateway."""
    api = _Customers(gateway)
    return [
        Route("/v1/customers", api.page, methods=["GET"]),
        Route("/v1/customers", api.several, methods=["POST"]),
        Route("/v1/links/coverage", api.coverage, methods=["GET"]),
        Route(PATH + "{customer:path}", api.get, methods=["GET"]),
        Route(PATH + "{customer:path}", api.put, methods=["PUT"]),
        Route(PATH + "{customer:path}", api.delete, methods=["DELETE"]),
    ]


class _Customers:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def get(self, request: Request) -> Response:
        tenant = tenant_of(request, self._gateway.keyring, "events:read")
        query_of(request, ())
        customer = _customer(request)
        shown = await self._shown(tenant, customer)
        if not shown["links"]:
            raise RequestRefused(404, ErrorCode.NOT_FOUND, "no link names this customer")
        return answer(shown)

    async def page(self, request: Request) -> Response:
        """List customers that have a link somewhere, by id."""
        tenant = tenant_of(request, self._gateway.keyring, "events:read")
        query = query_of(request, {"limit", "cursor", "destination", "missing", "source"})
        for name in ("destination", "missing"):
            if name in query and query[name] not in self._gateway.configuration.destinations:
                says = nearest("destination", query[name], self._gateway.configuration.destinations)
                raise RequestRefused(400, ErrorCode.INVALID_REQUEST, f"{name}: {says}")
        limit, after = _limit(query), query.get("cursor")
        data: list[dict[str, Any]] = []
        # Looks at no more than a few pages: it may come back short, with a cursor to go on.
        for _ in range(10):
            found = await self._gateway.book.page(tenant, after, limit)
            for customer, links, sources in found:
                after = customer
                if _fits(links, sources, query):
                    data.append({"id": customer, "links": links, "sources": sources})
                    if len(data) == limit:
                        return answer({"data": data, "next_cursor": customer})
            if len(found) < limit:
                return answer({"data": data})
        return answer({"data": data, "next_cursor": after})

    async def coverage(self, request: Request) -> Response:
        """Stream which customers with usage lack a link where, as NDJSON that ends with the sum."""
        tenant = tenant_of(request, self._gateway.keyring, "events:read")
        only = query_of(request, {"destination"}).get("destination")
        catalogue = self._gateway.catalogue
        if only is not None and only not in catalogue.destinations:
            says = nearest("destination", only, catalogue.destinations)
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, f"destination: {says}")
        return await lines(coverage(self._gateway.ledger, catalogue, tenant, only))

    async def put(self, request: Request) -> Response:
        """Have exactly these links for a customer, in the place of all that were put before."""
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        customer = _customer(request)
        asked = await body_of(request, _Put)
        if asked.id is not None and asked.id != customer:
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, "id: is not the customer of the address")
        if not 1 <= len(customer) <= 255:
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, "customer: must be a string of 1 to 255 characters")
        sources = asked.sources or {}
        links = {name: rows for name, rows in asked.links.items() if sources.get(name) != "configuration"}
        change = Change(customer=customer, links=links)
        await self._write(tenant, [change], request, asked.reason, whole=True)
        return answer(await self._shown(tenant, customer))

    async def several(self, request: Request) -> Response:
        """Put links of many customers, all or none."""
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        asked = await body_of(request, _Several)
        changes = [Change(customer=one.id, links=one.links) for one in asked.customers]
        changed = await self._write(tenant, changes, request, asked.reason, whole=False)
        return answer({"customers": len(changes), "changed": changed})

    async def delete(self, request: Request) -> Response:
        """Take away what was put, everywhere or at one destination. What was sent stays as it is."""
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        customer = _customer(request)
        query = query_of(request, {"destination", "reason"})
        only, reason = query.get("destination"), query.get("reason", "deleted by the API")
        if not 1 <= len(reason) <= LONGEST_REASON:
            detail = f"reason: must be 1 to {LONGEST_REASON} characters"
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, detail)
        if not await _put(
            self._gateway.linking.take_away(tenant, customer, only, key_name(request), reason), whole=True
        ):
            raise RequestRefused(404, ErrorCode.NOT_FOUND, "no link was put for this customer here")
        return answer(await self._shown(tenant, customer))

    async def _write(self, tenant: str, changes: list[Change], request: Request, reason: str, *, whole: bool) -> int:
        return await _put(
            self._gateway.linking.put(tenant, changes, key_name(request), reason, whole=whole), whole=whole
        )

    async def _shown(self, tenant: str, customer: str) -> dict[str, Any]:
        body = await self._gateway.ledger.document(KIND, tenant, customer)
        links, sources = self._gateway.book.shown(tenant, customer, body)
        return {"id": customer, "links": links, "sources": sources}


async def _put(write: Awaitable[T], *, whole: bool) -> T:
    """Return what a write answers; what does not fit is refused in words. `whole`: of one customer."""
    try:
        return await write
    except ValidationError as error:
        found = [(found["loc"], found["msg"]) for found in error.errors(include_url=False)]
    more = f"; and {len(found) - 20} more" if len(found) > 20 else ""
    several = [] if whole else ["customers"]
    says = "; ".join(f"{_path(several, place[1:] if whole else place)}: {what}" for place, what in found[:20])
    raise RequestRefused(400, ErrorCode.INVALID_REQUEST, says + more)


def _path(before: list[str], place: tuple[str | int, ...]) -> str:
    steps = [*before, *place]
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _customer(request: Request) -> str:
    """Return the customer of the address: an id may hold a slash, plain or escaped; what was sent, decoded once."""
    return unquote(path_of(request).partition(PATH)[2])


def _limit(query: Mapping[str, str]) -> int:
    given = query.get("limit", str(PAGE))
    if not given.isdecimal() or len(given) > 9 or not 1 <= int(given) <= MOST:
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, f"limit: must be a number between 1 and {MOST}")
    return int(given)


def _fits(links: Mapping[str, object], sources: Mapping[str, str], query: Mapping[str, str]) -> bool:
    return (
        ("destination" not in query or query["destination"] in links)
        and ("missing" not in query or query["missing"] not in links)
        and ("source" not in query or query["source"] in sources.values())
    )
