"""Times as text, a column at a time, in the ways that providers take them. All UTC, as bytes of JSON.

A time that is read here is written as the ledger stores it: ISO 8601 without its zone, with six decimal places or none.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from adapters import TimeRule

__all__ = ["Writer", "text_of", "time_of", "writer_of"]

Writer = Callable[[Sequence[bytes]], Sequence[bytes]]
"""Floors times and writes them as `Adapter.wire_time` does."""

_MS, _S, _US = timedelta(milliseconds=1), timedelta(seconds=1), timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EASY = b"1971"
"""From here on milliseconds since 1970 have so many digits that those of a second stand before them."""


def text_of(when: datetime) -> bytes:
    """Return a UTC time as a column holds it."""
    return when.replace(tzinfo=None).isoformat().encode()


def time_of(text: bytes) -> datetime:
    """Return the time that a column holds."""
    return datetime.fromisoformat(text.decode()).replace(tzinfo=UTC)


def writer_of(rule: TimeRule) -> Writer | None:
    """Return how a provider takes times; `None`: in no way known here."""
    if rule.style == "epoch_ms":
        return _epoch_ms if rule.resolution in {_MS, _US} else None
    return {_US: _micros, _MS: _millis, _S: _seconds}.get(rule.resolution)


def _lines(times: Sequence[bytes]) -> bytes:
    return b"Z\n".join(times) + b"Z\n"


def _unlined(text: bytes) -> Sequence[bytes]:
    return text[:-1].split(b"\n")


def _finer(lines: bytes) -> bool:
    """Return whether a time is finer than a millisecond."""
    return lines.count(b".") > lines.count(b"000Z")


def _micros(times: Sequence[bytes]) -> Sequence[bytes]:
    lines = _lines(times)
    return _unlined(lines.replace(b"000Z", b"Z"))


def _millis(times: Sequence[bytes]) -> Sequence[bytes]:
    lines = _lines(times)
    if not _finer(lines):
        return _unlined(lines.replace(b"000Z", b"Z"))
    return [(text[:19] if text[20:23] == b"000" else text[:23]) + b"Z" for text in times]


def _seconds(times: Sequence[bytes]) -> Sequence[bytes]:
    return [text[:19] + b"Z" for text in times]


def _epoch_ms(times: Sequence[bytes]) -> Sequence[bytes]:
    if min(times) < _EASY:
        return [b"%d" % ((time_of(text) - _EPOCH) // _MS) for text in times]
    return [_second(text[:19]) + (text[20:23] or b"000") for text in times]


@lru_cache(4096)  # what is used in one hour is most often of the same
def _second(text: bytes) -> bytes:
    return b"%d" % ((time_of(text) - _EPOCH) // _S)
