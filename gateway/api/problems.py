"""Requests that are refused as a whole, as RFC 9457 problem details."""

from http import HTTPStatus

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from canonical_schema import ErrorCode, Problem
from gateway.errors import LedgerUnavailable, RequestRefused

__all__ = ["HANDLERS", "cut_off", "problem"]

AGAIN = 1
"""Seconds until a gateway that stops may be there again, or another in its place."""

NOTHING = "nothing is here: see the README for the endpoints"


def problem(
    request: Request, status: int, code: ErrorCode, detail: str, headers: dict[str, str] | None = None
) -> Response:
    """Return a problem response with the request's id."""
    body = Problem(
        type=f"urn:usage-gateway:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=str(request.scope.get("gateway.request_id", "")),
    )
    return Response(
        msgspec.json.encode(body), status_code=status, media_type="application/problem+json", headers=headers
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)
    return problem(request, error.status, error.code, error.detail, error.headers)


async def _unavailable(request: Request, error: Exception) -> Response:
    assert isinstance(error, LedgerUnavailable)
    detail = f"{error}; nothing of this request is promised: keep the events and send them again"
    return problem(request, 503, ErrorCode.LEDGER_UNAVAILABLE, detail, {"retry-after": str(error.retry_after)})


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            return problem(request, 404, ErrorCode.NOT_FOUND, NOTHING)
        case 405:
            taken = _methods(request)
            detail = f"this endpoint takes {taken}"
            return problem(request, 405, ErrorCode.METHOD_NOT_ALLOWED, detail, {"allow": taken})
        case other:
            return problem(request, other, ErrorCode.INVALID_REQUEST, str(error.detail), dict(error.headers or {}))


def _methods(request: Request) -> str:
    """Return the methods that a path takes. Starlette tells those of its first route alone, and some have several."""
    routes = [one for one in request.app.routes if isinstance(one, Route)]
    taken = [one.methods or () for one in routes if one.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for methods in taken for method in methods}))


async def _failed(request: Request, error: Exception) -> Response:
    detail = "the gateway failed; what it had stored stays stored, so send the same events again"
    return problem(request, 500, ErrorCode.LEDGER_UNAVAILABLE, detail)


def cut_off(request: Request) -> Response:
    """Return what a request is told whose answer would come too late: the process ends."""
    detail = "the gateway stops; what it had stored of this request stays stored, so send the same again"
    return problem(request, 503, ErrorCode.LEDGER_UNAVAILABLE, detail, {"retry-after": str(AGAIN)})


HANDLERS = {RequestRefused: _refused, LedgerUnavailable: _unavailable, HTTPException: _http, Exception: _failed}
