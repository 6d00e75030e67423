"""The HTTP API: every endpoint, and what each request leaves in the log."""

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncGenerator, Mapping
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote

import structlog
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from canonical_schema import ErrorCode, Event, format_time
from gateway import __version__
from gateway.accepting import Accepting, Ack
from gateway.api import corrections, customers, erasing, migration, periods, reconciling, repair
from gateway.api.access import tenant_of
from gateway.api.asked import answer, path_of, plain_body, query_of
from gateway.api.destinations import described
from gateway.api.problems import HANDLERS, cut_off
from gateway.configuration.keys import Scope as KeyScope
from gateway.corrections.one import shown
from gateway.errors import RequestRefused
from gateway.intake import Bad, parse_in_slices
from gateway.listing import page, read_filter
from gateway.reconciling.reading_back import read_back
from gateway.service import Gateway
from gateway.tokens import token

__all__ = ["create_app"]

log = structlog.get_logger()

DEFAULT_WAIT = 10.0
LONGEST_WAIT = 300.0
EXPLAINED = 20
"""Events that are explained before other requests have a turn: each is rendered for every destination."""
CLIENT_GONE = 499
"""In the log alone: the client went away before there was an answer."""


def create_app(gateway: Gateway, accepting: Accepting | None = None) -> ASGIApp:
    """Return the service as an ASGI application that starts and stops the gateway with its lifespan.

    `accepting` is its door for events; absent: the usual one. Beside the requests it reads back what is in doubt.
    """
    read_back(gateway)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    api = _Api(gateway, accepting or Accepting(gateway))
    app = Starlette(
        routes=[
            Route("/v1/events", api.events, methods=["GET", "POST"]),
            Route("/v1/events/{id:path}", api.get_event, methods=["GET"]),
            Route("/v1/explain", api.explain, methods=["POST"]),
            Route("/v1/destinations", api.destinations, methods=["GET"]),
            Route("/v1/destinations/{name}", api.destination, methods=["GET"]),
            *repair.routes(gateway),
            *erasing.routes(gateway),
            *migration.routes(gateway),
            *periods.routes(gateway),
            *reconciling.routes(gateway),
            *customers.routes(gateway),
            *corrections.routes(gateway),
            Route("/livez", api.livez, methods=["GET"]),
            Route("/readyz", api.readyz, methods=["GET"]),
            Route("/version", api.version, methods=["GET"]),
        ],
        exception_handlers=cast("Any", HANDLERS),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    templates = {cast("Route", route).endpoint: cast("Route", route).path.replace(":path", "") for route in app.routes}
    return _Requests(app, templates)


class _Api:
    """The endpoints, over one gateway."""

    def __init__(self, gateway: Gateway, accepting: Accepting) -> None:
        self._gateway = gateway
        self._accepting = accepting

    async def events(self, request: Request) -> Response:
        return await (self.post_events(request) if request.method == "POST" else self.list_events(request))

    async def post_events(self, request: Request) -> Response:
        tenant = self._tenant(request, "events:write")
        ack, wait = self._patience(request)
        sent = await self._sent(request)
        merged = await self._accepting.accept(tenant, sent, ack, wait)
        return Response(merged.json(), merged.http_status, media_type="application/json")

    async def list_events(self, request: Request) -> Response:
        tenant = self._tenant(request, "events:read")
        return answer(await page(self._gateway.ledger, tenant, read_filter(query_of(request))))

    async def get_event(self, request: Request) -> Response:
        tenant = self._tenant(request, "events:read")
        query_of(request, ())
        event_id = unquote(path_of(request).partition("/v1/events/")[2])
        found = await self._gateway.event(tenant, event_id)
        if found is None:
            raise RequestRefused(404, ErrorCode.NOT_FOUND, "no event of this tenant has this id")
        return answer({**found, **await shown(self._gateway, tenant, event_id)})

    async def explain(self, request: Request) -> Response:
        tenant = self._tenant(request, "events:read")
        query_of(request, ())
        sent = await self._sent(request)
        results: list[Any] = []
        for first in range(0, len(sent), EXPLAINED):
            some = [event.customer for event in sent[first : first + EXPLAINED] if isinstance(event, Event)]
            await self._gateway.catalogue.learn([(tenant, some)])
            results += self._gateway.explain(tenant, sent[first : first + EXPLAINED], first)["results"]
            await asyncio.sleep(0)
        return answer({"results": results})

    async def destinations(self, request: Request) -> Response:
        self._tenant(request, "events:read")
        query_of(request, ())
        return answer({"data": await described(self._gateway)})

    async def destination(self, request: Request) -> Response:
        self._tenant(request, "events:read")
        query_of(request, ())
        name = request.path_params["name"]
        found = [one for one in await described(self._gateway) if one["name"] == name]
        if not found:
            raise RequestRefused(404, ErrorCode.NOT_FOUND, "no destination of this name is configured")
        return answer(found[0])

    async def livez(self, request: Request) -> Response:
        return answer({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        trouble = await self._gateway.ledger.ready()  # raises where nothing can be promised
        generation = self._gateway.generation
        return answer(
            {
                "status": "ok" if trouble is None else "degraded",
                "ledger": {
                    "durability": self._gateway.ledger.durability,
                    **({} if trouble is None else {"trouble": trouble}),
                },
                "configuration": {
                    "generation": generation.number,
                    "digest": generation.digest,
                    "since": format_time(generation.since),
                },
            }
        )

    async def version(self, request: Request) -> Response:
        return answer({"name": "usage-gateway", "version": __version__})

    def _tenant(self, request: Request, scope: KeyScope) -> str:
        return tenant_of(request, self._gateway.keyring, scope)

    def _patience(self, request: Request) -> tuple[Ack, float]:
        preferences = ",".join(request.headers.getlist("prefer"))
        return _patience(request.scope["query_string"], preferences, self._gateway.configuration.intake.ack)

    async def _sent(self, request: Request) -> list[Event | Bad]:
        intake = self._gateway.configuration.intake
        plain = await plain_body(request, intake.max_bytes)
        media_type = request.headers.get("content-type", "application/json")
        return await parse_in_slices(plain, media_type, intake.max_events)


@lru_cache(256)  # senders nearly always ask the same
def _patience(query: bytes, preferences: str, usual: Ack) -> tuple[Ack, float]:
    """Return what the answer waits for and for how long at most, from `?ack=` and `Prefer`."""
    given = QueryParams(query)
    if (strange := next((name for name in given if name != "ack"), None)) is not None:
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, f"unknown parameter {strange[:32]!r}: there is ack")
    if len(given.multi_items()) > 1:
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, "ack: is there twice, and takes one value")
    ack = given.get("ack", usual)
    if ack not in {"stored", "required", "all"}:
        detail = f"ack: there is no {ack[:32]!r}; one of stored, required, all"
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, detail)
    wait = DEFAULT_WAIT
    for preference in preferences.split(","):
        name, _, value = (part.strip(' \t"') for part in preference.partition(";")[0].partition("="))
        if name.lower() == "respond-async":
            ack = "stored"
        elif name.lower() == "wait" and re.fullmatch(r"\d{1,9}(\.\d{1,6})?", value):
            wait = min(float(value), LONGEST_WAIT)
    return cast("Ack", ack), wait


class _Requests:
    """Gives every request an id, and writes one line for each that ends."""

    def __init__(self, app: ASGIApp, templates: Mapping[Any, str]) -> None:
        self._app = app
        self._templates = templates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else f"req_{token()}"
        scope["gateway.request_id"] = request_id
        began = time.perf_counter()
        status, ended = 0, False

        async def sending(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, sending)
            except ClientDisconnect:
                status = status or CLIENT_GONE
            except asyncio.CancelledError:
                if not status:  # the process ends, and waited as long as it may
                    await cut_off(Request(scope))(scope, receive, sending)
                raise
            except Exception as error:
                log.error("request.failed", error=type(error).__name__, where=_where(error))
                if not ended:  # half an answer must not look whole: the server breaks the connection
                    raise
            finally:
                log.info(
                    "request.done",
                    method=scope["method"],
                    # What stands in a path is the sender's, an id say, so the path itself is not told.
                    path=self._templates.get(scope.get("endpoint"), "unknown"),
                    status=status,
                    ms=math.ceil((time.perf_counter() - began) * 1000),
                    key=scope.get("gateway.key"),
                )


def _where(error: BaseException) -> str:
    """Return where an exception was raised, which says nothing about the data that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
