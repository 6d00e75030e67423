"""The simulated vendors as an ASGI app: one path prefix each, and a control API under `/_control`.

`/flowglad/usage-events/bulk` mirrors the vendor's path after its base URL; with the base URL's own path before it
(`/flowglad/api/v1/usage-events/bulk`) it is the same, for clients that know only the host. On a server that hands out
its connections (`gateway.simulator.server`) resets and halves are real; elsewhere they raise.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
import msgspec
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from canonical_schema import ErrorCode, Problem
from gateway.simulator.control import FailBody, KnownBody, RefuseBody, described
from gateway.simulator.faults import FAULTS, Answer
from gateway.simulator.provider import SimulatedProvider

__all__ = ["CONNECTION", "create_app"]

CONNECTION = "usage_gateway.connection"
"""The ASGI extension in which a server hands out its connection: `reset` and `close`."""

Sleep = Callable[[float], Awaitable[None]]

_ENCODER = msgspec.json.Encoder(decimal_format="number", enc_hook=str)


def create_app(
    providers: Sequence[SimulatedProvider], *, sleep: Sleep = anyio.sleep, hang: float = 3600.0
) -> Starlette:
    """Return an app with every vendor under its name. Raises ValueError where two have one name.

    `sleep` serves latencies, and bounds a request that is never answered to `hang` seconds.
    """
    by_name = {provider.name: provider for provider in providers}
    if len(by_name) != len(providers):
        raise ValueError(f"two simulated providers have one name: {', '.join(provider.name for provider in providers)}")
    control = _Control(by_name)
    routes: list[Route | Mount] = [
        Route("/_control", control.index, methods=["GET"]),
        Route("/_control/{provider}/{what}", control.look, methods=["GET"]),
        Route("/_control/{provider}/{what}", control.act, methods=["POST", "DELETE"]),
    ]
    routes += [Mount(f"/{name}", app=_Vendor(provider, sleep, hang)) for name, provider in by_name.items()]
    return Starlette(routes=routes, exception_handlers={HTTPException: control.nowhere})


class _Vendor:
    """One vendor's front."""

    def __init__(self, provider: SimulatedProvider, sleep: Sleep, hang: float) -> None:
        self._provider = provider
        self._base = urlsplit(provider.spec.base_url).path
        self._sleep = sleep
        self._hang = hang

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith(f"{self._base}/"):
            path = path.removeprefix(self._base)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        result = self._provider.handle(scope["method"], path, headers, body, query)
        seconds = self._hang if result.how == "hang" else result.delay
        if seconds and await self._left(receive, seconds):
            return
        extensions = cast("Mapping[str, Mapping[str, Callable[[], None]]]", scope.get("extensions") or {})
        connection = extensions.get(CONNECTION)
        if result.how == "whole" and result.reply is not None:
            await _send(send, result, half=False)
            return
        if connection is None:
            raise ConnectionResetError("the simulated vendor breaks the connection")
        if result.how == "half":
            await _send(send, result, half=True)
            connection["close"]()
        else:
            connection["reset"]()
        await _gone(receive)

    async def _left(self, receive: Receive, seconds: float) -> bool:
        """Wait; tell whether the client went away meanwhile."""
        left = False
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                nonlocal left
                await _gone(receive)
                left = True
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await self._sleep(seconds)
            group.cancel_scope.cancel()
        return left


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, result: Answer, *, half: bool) -> None:
    reply = result.reply
    if reply is None:
        return
    length = max(len(reply.body), 2) if half else len(reply.body)
    headers = {**reply.headers, "content-length": str(length)}
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        }
    )
    body = reply.body[: len(reply.body) // 2] if half else reply.body
    await send({"type": "http.response.body", "body": body, "more_body": half})


class _Control:
    """Looks at the vendors and tells them what to do."""

    def __init__(self, providers: Mapping[str, SimulatedProvider]) -> None:
        self._providers = providers

    async def index(self, _: Request) -> Response:
        """List the vendors and the faults."""
        faults = {
            name: {"says": fault.says, "takes": ["times", "after", "keys", *sorted(fault.takes)]}
            for name, fault in FAULTS.items()
        }
        return _json({"providers": list(self._providers), "faults": faults})

    async def look(self, request: Request) -> Response:
        """Show what a vendor holds."""
        provider = self._providers.get(request.path_params["provider"])
        if provider is None:
            return self._unknown_provider(request)
        match request.path_params["what"]:
            case "stored" | "calls" | "billed" | "faults" as what:
                return _json({"data": described(provider, what)})
            case what:
                return _problem(
                    404, ErrorCode.NOT_FOUND, f"there is no {what!r} to look at: stored, calls, billed, faults"
                )

    async def act(self, request: Request) -> Response:
        """Tell a vendor what to do."""
        provider = self._providers.get(request.path_params["provider"])
        if provider is None:
            return self._unknown_provider(request)
        body = await request.body() or b"{}"
        try:
            match request.method, request.path_params["what"]:
                case "POST", "fail":
                    FailBody.model_validate_json(body).tell(provider)
                case "POST", "refuse":
                    RefuseBody.model_validate_json(body).tell(provider)
                case "POST", "known":
                    KnownBody.model_validate_json(body).tell(provider)
                case "POST", "reset":
                    provider.reset()
                case "DELETE", "faults":
                    provider.clear()
                case method, what:
                    detail = f"{method} {what} does nothing: POST fail, refuse, known, reset; DELETE faults"
                    return _problem(404, ErrorCode.NOT_FOUND, detail)
        except ValidationError as error:
            flaws = [f"{'.'.join(map(str, flaw['loc'])) or 'body'}: {flaw['msg']}" for flaw in error.errors()]
            return _problem(422, ErrorCode.INVALID_REQUEST, "; ".join(flaws))
        except ValueError as error:
            return _problem(422, ErrorCode.INVALID_REQUEST, str(error))
        return _json({"faults": described(provider, "faults")})

    async def nowhere(self, _: Request, error: Exception) -> Response:
        """Answer what no route takes."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        code = ErrorCode.METHOD_NOT_ALLOWED if status == 405 else ErrorCode.NOT_FOUND
        places = ", ".join(f"/{name}" for name in self._providers)
        return _problem(status, code, f"nothing is here: the vendors are at {places}, the controls at /_control")

    def _unknown_provider(self, request: Request) -> Response:
        name, names = request.path_params["provider"], ", ".join(self._providers)
        return _problem(404, ErrorCode.NOT_FOUND, f"there is no provider {name!r} here; there are: {names}")


def _json(body: object, status: int = 200, kind: str = "application/json") -> Response:
    return Response(_ENCODER.encode(body), status, media_type=kind)


def _problem(status: int, code: ErrorCode, detail: str) -> Response:
    title = {404: "Not found", 405: "Method not allowed"}.get(status, "Invalid request")
    body = Problem(
        type="about:blank", title=title, status=status, detail=detail, code=code, request_id=f"req_{uuid4().hex}"
    )
    return _json(body, status, "application/problem+json")
