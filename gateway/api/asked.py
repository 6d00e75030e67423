"""What endpoints share: the path as it was sent, a body read against a model, an answer, and who asked."""

import asyncio
from collections.abc import AsyncIterator, Collection
from decimal import Decimal, InvalidOperation
from typing import TypeVar, cast

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from canonical_schema import ErrorCode
from gateway.configuration.findings import keys_of, saying
from gateway.errors import RequestRefused
from gateway.intake import decoded, too_large

__all__ = [
    "LONGEST_REASON",
    "Asked",
    "Reason",
    "answer",
    "body_of",
    "key_name",
    "lines",
    "path_of",
    "plain_body",
    "query_of",
]

MAX_BODY = 2**20
LONGEST_REASON = 500
_TOO_LARGE = f"the body is larger than {MAX_BODY} bytes: ask for less at a time"
_OBJECT = "should be an object"
_UNREADABLE = "body: is no JSON: send an object as application/json"
_ENCODER = msgspec.json.Encoder(decimal_format="number")
_EXACT = msgspec.json.Decoder(float_hook=Decimal)
Model = TypeVar("Model", bound=BaseModel)


class Asked(BaseModel):
    """A request's body. Unknown members are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def Reason(*, needed: bool = True) -> str:  # noqa: N802  stands where pydantic's own `Field` does
    """Return the field for why a person does something, which the audit trail keeps."""
    why = "Why; kept in the audit trail."
    if needed:
        return Field(min_length=1, max_length=LONGEST_REASON, description=why)
    return Field(default="", max_length=LONGEST_REASON, description=why)


async def body_of(request: Request, model: type[Model], *, exact: bool = False) -> Model:
    """Return a request's body, read against a model. `exact`: a JSON number is a Decimal with every digit.

    No body is an object without members. Raises RequestRefused with every problem by its member, and never a value of
    what was sent; for a parameter of the address as well, which would say what nobody reads.
    """
    query_of(request, ())
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise RequestRefused(413, ErrorCode.PAYLOAD_TOO_LARGE, _TOO_LARGE)
    body = body or bytearray(b"{}")
    try:
        return model.model_validate(_EXACT.decode(body)) if exact else model.model_validate_json(bytes(body))
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidOperation, RecursionError):
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, _UNREADABLE) from None
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        if found[0]["type"] == "json_invalid":
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, _UNREADABLE) from None
        problems = "; ".join(
            f"{'.'.join(str(part) for part in one['loc']) or 'body'}: "
            f"{_OBJECT if one['type'] == 'model_type' else saying(one, keys_of(model), 'member')}"
            for one in found
        )
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, problems) from None


async def plain_body(request: Request, limit: int) -> bytes:
    """Return a body of events without its `Content-Encoding`, at most `limit` bytes of it.

    It is undone in a thread: others have their turns meanwhile. Raises RequestRefused for more, and for what cannot be.
    """
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        raise too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large(limit)
    encoding = request.headers.get("content-encoding", "").strip().lower()
    return await asyncio.to_thread(decoded, bytes(body), encoding, limit) if encoding else bytes(body)


def answer(body: object, status: int = 200) -> Response:
    """Return a JSON answer, every digit kept."""
    return Response(_ENCODER.encode(body), status_code=status, media_type="application/json")


async def lines(told: AsyncIterator[object]) -> Response:
    """Return an answer that is streamed as NDJSON. What fails before the first line is answered in words."""
    first = await anext(told, None)

    async def encoded() -> AsyncIterator[bytes]:
        if first is not None:
            yield _ENCODER.encode(first) + b"\n"
        async for one in told:
            yield _ENCODER.encode(one) + b"\n"

    return StreamingResponse(encoded(), media_type="application/x-ndjson")


def query_of(
    request: Request, known: Collection[str] | None = None, *, several: Collection[str] = ()
) -> dict[str, str]:
    """Return a request's parameters. Raises RequestRefused for one that is not known, and for one that is there twice.

    `known`: absent where whoever reads them knows them. `several`: which may be there more often; the last is returned.
    """
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if known is not None and name not in known:
            *most, last = sorted(known) or ["none"]
            there = f"there are {', '.join(most)} and {last}" if most else f"there is {last}"
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, f"unknown parameter {name[:64]!r}: {there}")
        if name in found and name not in several:
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, f"{name}: is there twice, and takes one value")
        found[name] = value
    return found


def path_of(request: Request) -> str:
    """Return the path as it was sent: what stands in it may hold a slash, plain or escaped, and is decoded once."""
    raw = cast("bytes", request.scope.get("raw_path") or request.scope["path"].encode())
    return raw.partition(b"?")[0].decode("ascii", "replace")


def key_name(request: Request) -> str:
    """Return the name of the key that was used, for the audit trail."""
    return str(request.scope.get("gateway.key") or "anonymous")
