"""Logs as one JSON object a line, on standard error. Nothing of a request's content is ever put in them."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

import msgspec
import structlog

__all__ = ["configure"]


def configure(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send every log line of this process to `stream` as JSON, those of libraries from WARNING up."""
    writer = structlog.WriteLogger(stream or sys.stderr)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, _rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Library())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _rendered(_: object, method: str, line: structlog.typing.EventDict) -> str:
    """Stamp a line and make JSON of it, in ASCII, whatever the stream can write."""
    plain = _SCALARS.issuperset(map(type, line.values()))  # else msgspec would show what a `repr` hides
    line["timestamp"] = datetime.now(UTC)
    try:
        if plain:
            return _ENCODER.encode(line).decode("ascii")
    except (UnicodeError, OverflowError):
        pass
    line["timestamp"] = f"{line['timestamp']:%Y-%m-%dT%H:%M:%S.%fZ}"
    return str(_ANY(None, method, line))


_SCALARS = frozenset({str, int, float, bool, type(None)})
_ENCODER = msgspec.json.Encoder()
_ANY = structlog.processors.JSONRenderer(separators=(",", ":"))

_PLAIN = ("gateway", "uvicorn")
"""Loggers whose lines hold nothing of a request's content."""


class _Library(logging.Formatter):
    """A library's line. What it puts into its messages is not told, and an exception is only named: both may hold
    a customer's data."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "event": "library",
            "logger": record.name,
            "level": record.levelname.lower(),
            "where": f"{record.filename}:{record.lineno}",
            "message": _message(record)[:300],
        }
        return json.dumps(line, separators=(",", ":"))


def _message(record: logging.LogRecord) -> str:
    raised = record.exc_info[0] if record.exc_info else None
    if raised is not None:
        return raised.__name__
    if record.name.partition(".")[0] in _PLAIN:
        return record.getMessage()
    return record.msg if isinstance(record.msg, str) and record.args else "(not shown)"
