"""From a body to events: parsed one by one, validated, frozen; one bad event never spoils its neighbours."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from canonical_schema import ErrorCode, ErrorItem, Event, InvalidEvent, read_cloudevent, read_event
from gateway.catalogue import Catalogue
from gateway.configuration_sections import Intake
from gateway.errors import RequestRefused

__all__ = ["AHEAD", "Bad", "admit", "decoded", "parse"]

AHEAD = timedelta(minutes=5)
"""How far ahead of the gateway's clock a timestamp may be."""

MEDIA_TYPES = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/cloudevents+json": "cloudevent",
    "application/cloudevents-batch+json": "cloudevents",
}


class Bad(msgspec.Struct, frozen=True):
    """An event that was refused, and why."""

    error: ErrorItem
    event_id: str | None = None


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a body without its `Content-Encoding`, never more than `limit` bytes of it.

    Raises RequestRefused for another encoding, for broken data, and for more than the limit.
    """
    if encoding in {"", "identity"}:
        return body
    if encoding not in {"gzip", "x-gzip"}:
        message = f"content-encoding {encoding[:32]!r} is not supported: send gzip, or none"
        raise RequestRefused(415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as stream:
            plain = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error):
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, "the body is not valid gzip") from None
    if len(plain) > limit:
        raise too_large(limit)
    return plain


def too_large(limit: int) -> RequestRefused:
    """Return the refusal of a body over the limit."""
    message = f"the body is larger than {limit} bytes decoded: send fewer events at a time, or raise intake.max_bytes"
    return RequestRefused(413, ErrorCode.PAYLOAD_TOO_LARGE, message)


def parse(body: bytes, media_type: str, max_events: int) -> list[Event | Bad]:
    """Return what was sent, in order: an event, or why it is none.

    Raises RequestRefused where the body as a whole cannot be read, is empty, or holds too many events.
    """
    kind = MEDIA_TYPES.get(media_type.partition(";")[0].strip().lower())
    if kind is None:
        known = ", ".join(MEDIA_TYPES)
        message = f"content-type {media_type[:64]!r} is not supported: send one of {known}"
        raise RequestRefused(415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)
    if kind == "ndjson":
        pieces: list[bytes | msgspec.Raw] = [line for line in body.split(b"\n") if line.strip()]
    else:
        pieces = _members(body, wrapped=kind == "json")
    if not pieces:
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, "the batch is empty: send at least one event")
    if len(pieces) > max_events:
        message = f"{len(pieces)} events are more than {max_events}: send fewer at a time, or raise intake.max_events"
        raise RequestRefused(413, ErrorCode.PAYLOAD_TOO_LARGE, message)
    read = read_cloudevent if kind.startswith("cloudevent") else read_event
    return [_read(piece, read) for piece in pieces]


_raws = msgspec.json.Decoder(list[msgspec.Raw])
_wrapper = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _members(body: bytes, *, wrapped: bool) -> list[bytes | msgspec.Raw]:
    start = body.lstrip(b" \t\r\n\xef\xbb\xbf")[:1]
    try:
        if start == b"[":
            return list(_raws.decode(body))
        if start != b"{":
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, "the body must be a JSON object or array of events")
        members = _wrapper.decode(body)
        if wrapped and "events" in members:
            if len(members) > 1:
                extra = ", ".join(repr(name[:64]) for name in members if name != "events")
                message = f"unknown member {extra} beside 'events': leave it out"
                raise RequestRefused(400, ErrorCode.INVALID_REQUEST, message)
            return list(_raws.decode(members["events"]))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, f"the body is not valid JSON: {error}") from None
    return [body]


def _read(piece: bytes | msgspec.Raw, read: Callable[[bytes | msgspec.Raw], Event]) -> Event | Bad:
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
    oldest, newest = now - horizon, now + AHEAD
    for event in sent:
        if isinstance(event, Bad):
            yield event
            continue
        why = _inadmissible(event, catalogue, intake, oldest, newest, horizon)
        yield event if why is None else Bad(why, event.id)


def _inadmissible(
    event: Event, catalogue: Catalogue, intake: Intake, oldest: datetime, newest: datetime, horizon: timedelta
) -> ErrorItem | None:
    when = event.timestamp
    if when is not None and when > newest:
        message = f"timestamp: more than {AHEAD.seconds // 60} minutes ahead of the gateway's clock"
        return _item(ErrorCode.INVALID_EVENT, message, "timestamp")
    if when is not None and when < oldest:
        message = f"timestamp: older than the {horizon.days} days for which ids are remembered"
        return _item(ErrorCode.INVALID_EVENT, message, "timestamp")
    meter = catalogue.meter(event.meter)
    if meter is None and intake.unknown_meter == "refuse":
        message = "meter: not in the catalogue; add it under meters, or correct the name"
        return _item(ErrorCode.UNKNOWN_METER, message, "meter")
    counts = meter is not None and meter.aggregation == "count"
    if event.quantity is None and event.quantities is None and not counts:
        message = "quantity: required, as quantity or quantities, unless the meter's aggregation is count"
        return _item(ErrorCode.INVALID_EVENT, message, "quantity")
    return None
