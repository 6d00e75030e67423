"""Event files: NDJSON, JSON and CSV, each event as one line of JSON with every digit as it was written."""

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from gateway.cli._out import CommandFailed, Exit

__all__ = ["MARK", "NO_TEXT", "EventFile", "FileFormat", "Line", "csv_lines", "event_of", "opened", "read_json"]

NO_TEXT = "the CSV is not UTF-8 text"
MARK = b"\xef\xbb\xbf"
"""What some programs put before UTF-8."""
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
"""What gzip, zstd and zip begin with."""

FileFormat = Literal["ndjson", "json", "csv"]

_SUFFIXES: Mapping[str, FileFormat] = {".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "json", ".csv": "csv"}
_FIELDS = {"id", "customer", "meter", "quantity", "timestamp", "kind", "subscription", "source"}
_GROUPS = ("properties", "quantities")


class Line(NamedTuple):
    """One event of a file."""

    number: int
    """Where it stands: the line, or its place in a JSON array; the first is 1."""
    body: bytes
    """The event on one line. May be no event at all: that is for its reader to say."""


class EventFile(NamedTuple):
    """A file that was read."""

    name: str
    """`-`: standard input."""
    lines: list[Line]
    digest: str
    """Of the whole content; another content has another one."""


def opened(path: Path, given: FileFormat | None) -> EventFile:
    """Read a file, or standard input for `-`. Without a format its name says, or its first character.

    Raises CommandFailed where it cannot be read as what it is said to be.
    """
    content = _content(path).removeprefix(MARK)
    if content.startswith(_PACKED):
        raise CommandFailed(f"{path}: is compressed: unpack it first")
    how = given or _SUFFIXES.get(path.suffix.lower()) or ("json" if content.lstrip()[:1] == b"[" else "ndjson")
    try:
        match how:
            case "ndjson":
                pieces = enumerate(content.split(b"\n"), 1)
                lines = [Line(number, piece.strip()) for number, piece in pieces if piece.strip()]
            case "json":
                lines = list(read_json(content))
            case "csv":
                lines = list(csv_lines(io.StringIO(_utf8(content), newline="")))
    except CommandFailed as error:
        raise CommandFailed(f"{path}: {error}", error.code) from None
    if not lines:
        raise CommandFailed(f"{path}: holds no events")
    return EventFile(str(path), lines, sha256(content).hexdigest())


def _content(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"{path}: cannot be read: {error.strerror}", Exit.USAGE) from None


_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_json(content: bytes) -> Iterator[Line]:
    """Yield the members of an array, of `{"events": [...]}`, or the one event."""
    try:
        if content.lstrip()[:1] == b"[":
            raws = _ARRAY.decode(content)
        else:
            members = _OBJECT.decode(content)
            raws = _ARRAY.decode(members["events"]) if "events" in members else [content]
            if "events" in members and content.count(b'"events"') > 1:
                with contextlib.suppress(ValueError, RecursionError):  # what is wrong within is for the gateway to say
                    json.loads(content, object_pairs_hook=_once)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandFailed(
            f"is no JSON array or object of events: {error}; one event a line is --format ndjson"
        ) from None
    for number, raw in enumerate(raws, 1):
        # A line end inside a JSON string is always escaped, so these are between members.
        yield Line(number, bytes(raw).replace(b"\r", b" ").replace(b"\n", b" ").strip())


def _once(members: list[tuple[str, object]]) -> None:
    """Raise CommandFailed where `events` stands twice: all but the last would be passed over."""
    if sum(name == "events" for name, _ in members) > 1:
        raise CommandFailed("events: appears more than once")


def _utf8(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandFailed(NO_TEXT) from None


def csv_lines(text: Iterable[str]) -> Iterator[Line]:
    """Yield rows: columns are named like fields, `properties.NAME` and `quantities.NAME`. An empty cell is absent."""
    reader = csv.DictReader(text, restkey="", strict=True)
    try:
        _check_head(reader.fieldnames or ())
        for row in reader:
            if "" in row:
                raise CommandFailed(f"line {reader.line_num}: has more cells than there are columns")
            yield Line(reader.line_num, msgspec.json.encode(event_of(row)))
    except csv.Error as error:
        # The row that cannot be read begins behind the last one that could: a quote left open takes all that follows.
        raise CommandFailed(f"line {reader.line_num + 1}: is no CSV: {error}") from None


def _check_head(columns: Sequence[str]) -> None:
    for column in columns:
        group, dot, name = column.partition(".")
        if column not in _FIELDS and not (group in _GROUPS and dot and name):
            known = ", ".join(sorted(_FIELDS))
            raise CommandFailed(f"column {column!r}: there is {known}, properties.NAME and quantities.NAME")
        if columns.count(column) > 1:
            raise CommandFailed(f"column {column!r}: is there twice")


def event_of(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row as an event: quantities stay the decimal text they are, properties are text."""
    made: dict[str, object] = {}
    groups: dict[str, dict[str, object]] = {}
    for column, value in row.items():
        if value is None or value == "":
            continue
        group, dot, name = column.partition(".")
        if dot:
            groups.setdefault(group, {})[name] = value
        else:
            made[column] = value
    return {**made, **groups}
