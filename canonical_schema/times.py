"""Instants as they are written: RFC 3339 with a zone, in UTC."""

import re
from datetime import UTC, datetime

__all__ = ["format_time", "parse_time"]

_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
).fullmatch


def parse_time(text: str) -> datetime:
    """Return the instant of an RFC 3339 time in UTC, floored to the microsecond.

    A blank may stand for the `T`. Raises ValueError with a message that never shows the text.
    """
    if _TIME(text) is None and _TIME(text := text.upper()) is None:
        if _TIME(re.sub(r"(:\d\d):60", r"\1:59", text)):
            raise ValueError("must not be a leap second: send :59 in place of :60")
        raise ValueError("must be an RFC 3339 time with a zone and at most 9 decimals, like 2026-11-23T11:52:00.5Z")
    try:
        when = datetime.fromisoformat(text)
        return when if when.tzinfo is UTC else when.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a day that exists, within the years 1 to 9999 in UTC") from None


def format_time(when: datetime) -> str:
    """Return an aware time in RFC 3339, in UTC with `Z`, with no more decimals than it needs."""
    if when.tzinfo is None:
        raise ValueError("a time without zone names no instant: give it one")
    text = when.astimezone(UTC).replace(tzinfo=None).isoformat()
    return f"{text.rstrip('0')}Z" if when.microsecond else f"{text}Z"
