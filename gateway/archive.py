"""The archive: full records that leave the ledger, as segments of compressed lines, and the manifest that lists them.

A segment counts once the manifest names it; the manifest is replaced whole, and what a process that died left unnamed
is removed. So whatever it dies between, no record stands there twice and none is missing.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from hashlib import sha256
from io import BufferedWriter
from pathlib import Path
from typing import IO

import msgspec
import zstandard

from gateway.errors import GatewayError

__all__ = ["Archive", "ArchiveUnusable", "Draft", "Segment", "runs"]

MANIFEST = "manifest.json"
LEVEL = 6
_FILE = re.compile(r"segment-([0-9]+)(?:\.r[0-9]+)?\.ndjson\.zst")


class ArchiveUnusable(GatewayError):
    """Raised where the archive's folder cannot be used, or is not what its manifest says."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the archive, as the manifest has it."""

    name: str
    """By which records say where they are; never changes."""
    file: str
    """Changes when something is taken out of the segment."""
    ledger: str
    """Which ledger the records are from."""
    sha256: str
    """Of the file."""
    bytes: int
    events: int
    batches: list[tuple[int, int]]
    """Of that ledger, as first and last of each unbroken run."""
    received: tuple[str, str]
    """When the first and the last of them were received."""
    erased: int = 0
    """Events whose customer was erased after they were archived."""

    def holds(self, batch: int, received: datetime) -> bool:
        """Return whether a batch that was received then is in it.

        A ledger that was put back from a disk's copy may give numbers again: those came later than any that is here.
        """
        if not self.batches or not self.batches[0][0] <= batch <= self.batches[-1][1]:
            return False
        first, last = map(datetime.fromisoformat, self.received)
        return first <= received <= last and any(low <= batch <= high for low, high in self.batches)


class _Manifest(msgspec.Struct, kw_only=True):
    object: str = "usage_archive"
    version: int = 1
    compression: str = "zstd"
    segments: list[Segment]


class Draft:
    """A segment that is being written. It is nothing until the archive takes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = 0
        path.touch(0o600)  # it tells of customers
        self._file: BufferedWriter = path.open("wb")
        self._writer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(
            self._file, closefd=False
        )

    def add(self, lines: Iterable[bytes]) -> None:
        """Append records."""
        for line in lines:
            self._writer.write(line + b"\n")
            self.events += 1

    def done(self) -> None:
        """Make what was written durable."""
        self._writer.flush(zstandard.FLUSH_FRAME)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def drop(self) -> None:
        """Forget it."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class Archive:
    """A folder of segments, for one process. Every method blocks: call them from a thread."""

    def __init__(self, folder: Path, ledger: str) -> None:
        self.folder = folder
        self._ledger = ledger
        self._lock: IO[str] | None = None
        self._manifest = _Manifest(segments=[])

    @property
    def segments(self) -> list[Segment]:
        """Every segment, whichever ledger it is from, oldest first."""
        return self._manifest.segments

    def open(self) -> None:
        """Take the folder for this process, read its manifest, remove what was never finished.

        Raises ArchiveUnusable.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            manifest = self.folder / MANIFEST
            if manifest.exists():
                self._manifest = msgspec.json.decode(manifest.read_bytes(), type=_Manifest)
            elif lost := [path.name for path, _ in self._files()]:
                raise ArchiveUnusable(f"{manifest} is not there, and {lost[0]} is: put it back")
            else:
                self._keep([])  # from here on one that is not there was lost
            self._tidy()
        except BlockingIOError:
            raise ArchiveUnusable(f"{self.folder} is in use by another gateway process") from None
        except (OSError, msgspec.MsgspecError) as error:
            raise ArchiveUnusable(f"{self.folder} cannot be used as an archive: {error}") from error

    def _files(self) -> list[tuple[Path, int]]:
        """Return the segments' files with their numbers, whatever the manifest says of them."""
        found = ((path, _FILE.fullmatch(path.name)) for path in sorted(self.folder.iterdir()))
        return [(path, int(match[1])) for path, match in found if match]

    def _tidy(self) -> None:
        """Remove what a process left that died: another file of a segment that is named, or the one to come next.

        Any other is told instead: then it is the manifest that is not what it was.
        """
        named = {segment.file for segment in self.segments}
        for name in named:
            if not (self.folder / name).exists():
                raise ArchiveUnusable(f"{self.folder}: {MANIFEST} names {name}, which is not there: put it back")
        numbers = {int(segment.name) for segment in self.segments}
        left = [(path, number) for path, number in self._files() if path.name not in named]
        for path, number in left:
            if number not in numbers and number != max(numbers, default=0) + 1:
                raise ArchiveUnusable(
                    f"{self.folder}: {MANIFEST} does not name {path.name}: it is an older one, put the last one back"
                )
        for path in (*(path for path, _ in left), *self.folder.glob("*.part")):
            path.unlink()

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()

    def where(self, batch: int, received: datetime) -> Segment | None:
        """Return the segment that has a batch of this ledger, which was received then."""
        own = (segment for segment in reversed(self.segments) if segment.ledger == self._ledger)
        return next((segment for segment in own if segment.holds(batch, received)), None)

    def draft(self) -> Draft:
        """Begin a segment."""
        return Draft(self.folder / "next.part")

    def take(self, draft: Draft, batches: Iterable[int], received: tuple[str, str]) -> Segment:
        """Make a draft part of the archive. It is there when this returns, and else it is not."""
        draft.done()
        last = max((int(segment.name) for segment in self.segments), default=0)
        name = f"{last + 1:06}"
        segment = self._placed(
            draft,
            Segment(
                name=name,
                file=f"segment-{name}.ndjson.zst",
                ledger=self._ledger,
                sha256="",
                bytes=0,
                events=draft.events,
                batches=runs(batches),
                received=received,
            ),
        )
        self._keep([*self.segments, segment])
        return segment

    def rewrite(self, segment: Segment, change: Callable[[bytes], bytes | None], **members: object) -> Segment:
        """Pass every record of a segment through `change`, which returns `None` for one that goes.

        `members` are what else changes of what the manifest says. The segment keeps its name and gets a new file.
        """
        draft = self.draft()
        try:
            draft.add(made for line in self.read(segment) if (made := change(line)) is not None)
            draft.done()
        except BaseException:
            draft.drop()
            raise
        _, _, revision = segment.file.removesuffix(".ndjson.zst").partition(".r")
        file = f"segment-{segment.name}.r{int(revision or 0) + 1}.ndjson.zst"
        made = self._placed(draft, msgspec.structs.replace(segment, file=file, events=draft.events, **members))
        self._keep([made if one.name == segment.name else one for one in self.segments])
        (self.folder / segment.file).unlink()
        return made

    def note(self, segment: Segment, *, erased: int) -> None:
        """Say in the manifest of how many events of a segment the customer was erased."""
        noted = msgspec.structs.replace(segment, erased=erased)
        self._keep([noted if one.name == segment.name else one for one in self.segments])

    def read(self, segment: Segment) -> Iterator[bytes]:
        """Give a segment's records, without the line ends. Raises ArchiveUnusable where the file is another one."""
        path = self.folder / segment.file
        if _sum(path) != segment.sha256:
            raise ArchiveUnusable(f"{path} is not what {MANIFEST} says: its sha256 differs")
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            rest = b""
            while chunk := stream.read(2**20):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines

    def _placed(self, draft: Draft, segment: Segment) -> Segment:
        placed = self.folder / segment.file
        summed, size = _sum(draft.path), draft.path.stat().st_size
        draft.path.rename(placed)
        _sync(self.folder)
        return msgspec.structs.replace(segment, sha256=summed, bytes=size)

    def _keep(self, segments: list[Segment]) -> None:
        """Replace the manifest: from here on the segments are what it says."""
        manifest = _Manifest(segments=segments)
        part = self.folder / f"{MANIFEST}.part"
        with part.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.folder / MANIFEST)
        _sync(self.folder)
        self._manifest = manifest


def runs(batches: Iterable[int]) -> list[tuple[int, int]]:
    """Return numbers as the first and the last of each unbroken run."""
    made: list[tuple[int, int]] = []
    for batch in sorted(batches):
        if made and made[-1][1] == batch - 1:
            made[-1] = (made[-1][0], batch)
        else:
            made.append((batch, batch))
    return made


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        summed = sha256()
        while chunk := file.read(2**20):
            summed.update(chunk)
    return summed.hexdigest()


def _sync(folder: Path) -> None:
    """Make a rename durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
