"""Files of history: read a piece at a time, of any length, given oldest first.

NDJSON, JSON, CSV and Parquet; a name that ends in `.zst` or `.gz` is decompressed on the way. A line of an archive of
the gateway's own is taken for the event in it, where that is the tenant's whose history is read.
"""

import contextlib
import gzip
import heapq
import io
import tempfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from datetime import datetime
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

import msgspec
import zstandard

from canonical_schema import Event, InvalidEvent, decode_event, encode_event, read_event
from gateway.cli._event_files import MARK, NO_TEXT, Line, csv_lines, event_of, read_json
from gateway.cli._out import CommandFailed, Exit

__all__ = ["HistoryFormat", "Unreadable", "in_order", "read"]

HistoryFormat = Literal["ndjson", "json", "csv", "parquet"]

_SUFFIXES: dict[str, HistoryFormat] = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
CHUNK = 100_000
"""Events that are sorted in memory."""
PIECE = 16 * 1024
"""Bytes that are decompressed at once."""


class Unreadable(NamedTuple):
    """A row that is no event, and why."""

    line: int
    message: str


def read(path: Path, given: HistoryFormat | None, tenant: str) -> Iterator[Event | Unreadable]:
    """Yield a file's events as they stand there. Every one needs an id and a time of its own.

    An archive says whose each event is: those of other tenants are passed over.

    Raises CommandFailed where the file cannot be read as what it is said to be.
    """
    for line in _lines(path, given):
        if (body := _unwrapped(line.body, tenant)) is None:
            continue
        try:
            event = read_event(body)
        except InvalidEvent as error:
            yield Unreadable(line.number, error.message)
            continue
        if event.timestamp is None:
            yield Unreadable(line.number, "timestamp: is required here: history has no time of receipt")
        else:
            yield event


def in_order(events: Iterable[Event]) -> Iterator[Event]:
    """Yield events oldest first; of one instant, as they came. Of a long history all but a part is kept on disk."""
    source = iter(events)
    with contextlib.ExitStack() as files:
        runs: list[Iterator[tuple[datetime, int, Event]]] = []
        start = 0
        while chunk := list(islice(source, CHUNK)):
            ordered = sorted(
                ((_when(event), start + place, event) for place, event in enumerate(chunk)), key=lambda one: one[:2]
            )
            start += len(chunk)
            if not runs and len(chunk) < CHUNK:
                yield from (event for _, _, event in ordered)
                return
            file = files.enter_context(tempfile.TemporaryFile())
            for _, place, event in ordered:
                file.write(b"%d " % place + encode_event(event) + b"\n")
            file.seek(0)
            runs.append(_run(file))
        yield from (event for _, _, event in heapq.merge(*runs, key=lambda one: one[:2]))


def _run(file: IO[bytes]) -> Iterator[tuple[datetime, int, Event]]:
    for line in file:
        place, _, body = line.rstrip(b"\n").partition(b" ")
        event = decode_event(body)
        yield _when(event), int(place), event


def _when(event: Event) -> datetime:
    assert event.timestamp is not None
    return event.timestamp


class _Archived(msgspec.Struct):
    event: msgspec.Raw = msgspec.Raw()
    tenant: str | None = None


_ARCHIVED = msgspec.json.Decoder(_Archived)


def _unwrapped(line: bytes, tenant: str) -> bytes | None:
    """Return the event of a line of an archive, `None` for another tenant's; any other line as it is."""
    if b'"event":' not in line:
        return line
    try:
        found = _ARCHIVED.decode(line)
    except msgspec.MsgspecError:
        return line
    if not (event := bytes(found.event)):
        return line
    return event if found.tenant in {None, tenant} else None


def _lines(path: Path, given: HistoryFormat | None) -> Iterator[Line]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes.pop() if suffixes[-1:] in ([".zst"], [".gz"]) else ""
    how = given or (_SUFFIXES.get(suffixes[-1]) if suffixes else None) or "ndjson"
    try:
        with _opened(path, packed) as stream:
            match how:
                case "ndjson":
                    unmarked = chain([stream.readline().removeprefix(MARK)], stream)
                    pieces = ((number, line.strip()) for number, line in enumerate(unmarked, 1))
                    yield from (Line(number, line) for number, line in pieces if line)
                case "json":
                    yield from read_json(stream.read().removeprefix(MARK))
                case "csv":
                    with io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
                        yield from csv_lines(text)
                case "parquet":
                    yield from _parquet(stream)
    except CommandFailed as error:
        raise CommandFailed(f"{path}: {error}", error.code) from None
    except OSError as error:
        raise CommandFailed(f"{path}: cannot be read: {error.strerror or error}", Exit.USAGE) from None
    except UnicodeDecodeError:
        raise CommandFailed(f"{path}: {NO_TEXT}") from None
    except zstandard.ZstdError:
        raise CommandFailed(f"{path}: is not valid zstd") from None
    except zlib.error:
        raise CommandFailed(f"{path}: is not valid gzip") from None
    except EOFError:
        raise CommandFailed(f"{path}: is cut off: its end is missing") from None


@contextlib.contextmanager
def _opened(path: Path, packed: str) -> Generator[IO[bytes]]:
    with path.open("rb") as file:
        match packed:
            case ".gz":
                with gzip.open(file) as plain:
                    yield cast("IO[bytes]", plain)
            case ".zst":
                with io.BufferedReader(_Frames(file)) as buffered:
                    yield buffered
            case _:
                yield file


class _Frames(io.RawIOBase):
    """What frames of zstd hold, one after the other.

    Raises EOFError where the last one is cut off: zstd's own reader takes that for the end.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._rest = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any, /) -> int:
        while not self._ready:
            piece = self._rest or self._file.read(PIECE)
            if not piece and self._frame is not None:
                raise EOFError
            if not piece:
                return 0
            frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(frame.decompress(piece))
            self._frame, self._rest = (None, frame.unused_data) if frame.eof else (frame, b"")
        some = self._ready[: len(into)]
        into[: len(some)] = some
        self._ready = self._ready[len(some) :]
        return len(some)


def _parquet(stream: IO[bytes]) -> Iterator[Line]:
    """Yield rows; columns are named as in CSV, or hold structs. Decimals keep their digits, times their zone."""
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise CommandFailed("Parquet needs pyarrow: pip install 'usage-gateway[parquet]'", Exit.USAGE) from None
    number = 0
    try:
        for batch in parquet.ParquetFile(stream).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield Line(number, _ENCODER.encode(event_of({name: _plain(value) for name, value in row.items()})))
    except import_module("pyarrow").ArrowInvalid as error:
        raise CommandFailed(f"is not valid Parquet: {str(error).partition('.')[0]}") from None


def _plain(value: object) -> object:
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        return {name: _plain(each) for name, each in members.items() if each is not None}
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise CommandFailed("a time in the file has no zone, so it names no instant: write timestamps with UTC")
        return value.isoformat()
    return value


_ENCODER = msgspec.json.Encoder(decimal_format="number")
