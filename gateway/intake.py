"""From a body to events: parsed one by one, validated, frozen; one bad event never spoils its neighbours."""

import asyncio
import gzip
import io
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from canonical_schema import ErrorCode, ErrorItem, Event, InvalidEvent, read_cloudevent, read_event
from gateway.catalogue import Catalogue
from gateway.configuration.sections import Intake
from gateway.errors import RequestRefused

__all__ = [
    "AHEAD",
    "MEMBERS",
    "SLICE",
    "Bad",
    "admit",
    "decoded",
    "impossible",
    "parse",
    "parse_in_slices",
    "slices",
    "too_large",
]

AHEAD = timedelta(minutes=5)
"""How far ahead of the gateway's clock a timestamp may be."""

SLICE = 250
"""Events that are worked on before other requests have a turn: about a millisecond."""

MEMBERS = 1000
"""Members of a gzip body. Each takes 20 microseconds to open, whatever is in it, and 20 bytes are enough for one."""

MEDIA_TYPES = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/cloudevents+json": "cloudevent",
    "application/cloudevents-batch+json": "cloudevents",
}

_MEMBER = b"\x1f\x8b\x08"
"""What each member of gzip begins with (RFC 1952, 2.3.1); elsewhere it stands once in sixteen million bytes."""


class Bad(msgspec.Struct, frozen=True):
    """An event that was refused, and why."""

    error: ErrorItem
    event_id: str | None = None
    untimely: Event | None = None
    """The event itself, where nothing but its time is wrong with it."""


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a body without its `Content-Encoding`, never more than `limit` bytes of it.

    Raises RequestRefused for another encoding, for broken data, and for more than the limit.
    """
    if encoding in {"", "identity"}:
        return body
    if encoding not in {"gzip", "x-gzip"}:
        message = f"content-encoding {encoding[:32]!r} is not supported: send gzip, or none"
        raise RequestRefused(415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)
    if body.count(_MEMBER) > MEMBERS:
        raise _unreadable(f"the body is of more than {MEMBERS} gzip members: compress it as one")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as stream:
            plain = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error):
        raise _unreadable("the body is not valid gzip") from None
    if len(plain) > limit:
        raise too_large(limit)
    return plain


def too_large(limit: int) -> RequestRefused:
    """Return the refusal of a body over the limit."""
    message = f"the body is larger than {limit} bytes decoded: send fewer events at a time, or raise intake.max_bytes"
    return RequestRefused(413, ErrorCode.PAYLOAD_TOO_LARGE, message)


async def slices(count: int) -> AsyncIterator[range]:
    """Give positions a slice at a time, and whoever else waits for the event loop a turn between them."""
    for first in range(0, count, SLICE):
        if first:
            await asyncio.sleep(0)
        yield range(first, min(first + SLICE, count))


def parse(body: bytes, media_type: str, max_events: int) -> list[Event | Bad]:
    """Return what was sent, in order: an event, or why it is none.

    Raises RequestRefused where the body as a whole cannot be read, is empty, or holds too many events.
    """
    pieces, read = _split(body, media_type, max_events)
    return [_read(piece, read) for piece in pieces]


async def parse_in_slices(body: bytes, media_type: str, max_events: int) -> list[Event | Bad]:
    """Do as `parse` does, without holding the event loop for long."""
    pieces, read = _split(body, media_type, max_events)
    made: list[Event | Bad] = []
    async for part in slices(len(pieces)):
        made += [_read(pieces[position], read) for position in part]
    return made


_Piece = bytes | msgspec.Raw
_Reader = Callable[[_Piece], Event]


def _split(body: bytes, media_type: str, max_events: int) -> tuple[list[_Piece], _Reader]:
    """Return the text of each event, and what reads it."""
    body = body.removeprefix(_BYTE_ORDER_MARK)
    kind = MEDIA_TYPES.get(media_type.partition(";")[0].strip().lower())
    if kind is None:
        known = ", ".join(MEDIA_TYPES)
        message = f"content-type {media_type[:64]!r} is not supported: send one of {known}"
        raise RequestRefused(415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)
    if kind == "ndjson":
        pieces: list[_Piece] = [line for line in body.split(b"\n") if line.strip()]
    else:
        pieces = _members(body, wrapped=kind == "json")
    if not pieces:
        raise _unreadable("the batch is empty: send at least one event")
    if len(pieces) > max_events:
        message = f"{len(pieces)} events are more than {max_events}: send fewer at a time, or raise intake.max_events"
        raise RequestRefused(413, ErrorCode.PAYLOAD_TOO_LARGE, message)
    return pieces, read_cloudevent if kind.startswith("cloudevent") else read_event


_raws = msgspec.json.Decoder(list[msgspec.Raw])
_wrapper = msgspec.json.Decoder(dict[str, msgspec.Raw])


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _members(body: bytes, *, wrapped: bool) -> list[_Piece]:
    start = body.lstrip()[:1]
    if start not in {b"[", b"{"}:
        raise _unreadable("the body must be a JSON object or array of events")
    try:
        if start == b"[":
            return list(_raws.decode(body))
        members = _wrapper.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        masked = _SURROGATE.sub(rb"\\u0041", body)
        if masked == body:
            raise _unreadable(f"the body is not valid JSON: {error}") from None
        return _unmasked(_members(masked, wrapped=wrapped), masked, body)
    except RecursionError:
        raise _unreadable("the body is nested too deeply") from None
    if not wrapped or "events" not in members:
        return [body]
    listed = members.pop("events")
    if members:
        raise _unreadable(f"unknown member {next(iter(members))[:64]!r} beside 'events': leave it out")
    if body.replace(listed, b"", 1).translate(None, b" \t\r\n") != b'{"events":}':
        raise _unreadable("'events' appears more than once: send one array")
    try:
        return list(_raws.decode(listed))
    except msgspec.ValidationError:
        raise _unreadable("'events' must be an array of events") from None


# Half of a surrogate pair is what is left of a character in a text that was cut. msgspec will not step over it, and
# one such event must not spoil its neighbours.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def _unmasked(pieces: Sequence[_Piece], masked: bytes, body: bytes) -> list[_Piece]:
    """Return pieces of a masked body as they were sent: a mask is as long as what it hides."""
    found: list[_Piece] = []
    end = 0
    for piece in map(bytes, pieces):
        start = masked.index(piece, end)
        end = start + len(piece)
        found.append(body[start:end])
    return found


def _unreadable(message: str) -> RequestRefused:
    return RequestRefused(400, ErrorCode.INVALID_REQUEST, message)


def _read(piece: _Piece, read: _Reader) -> Event | Bad:
    try:
        return read(piece)
    except InvalidEvent as error:
        return Bad(_item(ErrorCode.INVALID_EVENT, error.message, error.field), error.event_id)


def _item(code: ErrorCode, message: str, field: str | None) -> ErrorItem:
    item = ErrorItem(code=code, message=message)
    if field is not None:
        item["field"] = field
    return item


def admit(
    sent: Sequence[Event | Bad], catalogue: Catalogue, intake: Intake, now: datetime, horizon: timedelta
) -> Iterator[Event | Bad]:
    """Hold each event against what only the gateway knows: its clock, its horizon, its meters."""
    oldest = now - horizon
    for event in sent:
        if isinstance(event, Bad):
            yield event
            continue
        why = _inadmissible(event, catalogue, intake, now, oldest, horizon)
        yield event if why is None else Bad(why, event.id, event if why.get("field") == "timestamp" else None)


def impossible(event: Event, catalogue: Catalogue, now: datetime) -> ErrorItem | None:
    """Return why an event is none, however old it may be: it is of the future, or does not say how much."""
    return _ahead(event, now) or _unsaid(event, catalogue)


def _inadmissible(
    event: Event, catalogue: Catalogue, intake: Intake, now: datetime, oldest: datetime, horizon: timedelta
) -> ErrorItem | None:
    if (ahead := _ahead(event, now)) is not None:
        return ahead
    if event.timestamp is not None and event.timestamp < oldest:
        message = f"timestamp: older than the {_words(horizon)} for which ids are remembered; `backfill` is for that"
        return _item(ErrorCode.INVALID_EVENT, message, "timestamp")
    if intake.unknown_meter == "refuse" and catalogue.meter(event.meter) is None:
        message = "meter: not in the catalogue; add it under meters, or correct the name"
        return _item(ErrorCode.UNKNOWN_METER, message, "meter")
    return _unsaid(event, catalogue)


def _ahead(event: Event, now: datetime) -> ErrorItem | None:
    if event.timestamp is None or event.timestamp <= now + AHEAD:
        return None
    message = f"timestamp: more than {AHEAD.seconds // 60} minutes ahead of the gateway's clock"
    return _item(ErrorCode.INVALID_EVENT, message, "timestamp")


def _unsaid(event: Event, catalogue: Catalogue) -> ErrorItem | None:
    if event.quantity is not None or event.quantities is not None:
        return None
    meter = catalogue.meter(event.meter)
    if meter is not None and meter.aggregation == "count":
        return None
    message = "quantity: required, as quantity or quantities, unless the meter's aggregation is count"
    return _item(ErrorCode.INVALID_EVENT, message, "quantity")


def _words(span: timedelta) -> str:
    """Return a duration as the configuration writes it, in words: 35 days, 12 hours."""
    for unit, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if span.total_seconds() % unit == 0:
            return f"{span.total_seconds() / unit:.0f} {name}"
    return f"{span.total_seconds():g} seconds"
