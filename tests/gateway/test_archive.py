"""The archive holds each record once, whatever the process dies between."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from gateway.archive import Archive, ArchiveUnusable, Segment, runs

ROOT = Path(__file__).parents[2]
RECEIVED = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
WHEN = datetime.fromisoformat(RECEIVED[0])

Open = Callable[..., Archive]


@pytest.fixture
def opened() -> Generator[Open]:
    """Open archives, and close what the test leaves open."""
    with contextlib.ExitStack() as left:

        def one(folder: Path, ledger: str = "one") -> Archive:
            archive = Archive(folder, ledger)
            left.callback(archive.close)
            archive.open()
            return archive

        yield one


def refusal(folder: Path) -> str:
    """Return why a folder cannot be used."""
    archive = Archive(folder, "one")
    with contextlib.closing(archive), pytest.raises(ArchiveUnusable) as refused:
        archive.open()
    return str(refused.value)


def filled(archive: Archive, *batches: int) -> Segment:
    draft = archive.draft()
    draft.add(b'{"batch":%d}' % batch for batch in batches)
    return archive.take(draft, batches, RECEIVED)


def contents(archive: Archive) -> list[int]:
    return [json.loads(line)["batch"] for segment in archive.segments for line in archive.read(segment)]


def test_a_segment_is_compressed_lines_and_the_manifest_sums_it_up(opened: Open, tmp_path: Path) -> None:
    archive = opened(tmp_path / "a" / "b")
    segment = filled(archive, 3, 4, 5, 9)
    body = (archive.folder / segment.file).read_bytes()
    lines = zstandard.ZstdDecompressor().stream_reader(body).read().splitlines()
    assert [3, 4, 5, 9] == [json.loads(line)["batch"] for line in lines]
    assert 0o600 == (archive.folder / segment.file).stat().st_mode & 0o777, "it tells of customers"
    manifest = json.loads((archive.folder / "manifest.json").read_bytes())
    assert ("usage_archive", 1, "zstd") == (manifest["object"], manifest["version"], manifest["compression"])
    assert [
        {
            "name": "000001",
            "file": "segment-000001.ndjson.zst",
            "ledger": "one",
            "sha256": sha256(body).hexdigest(),
            "bytes": len(body),
            "events": 4,
            "batches": [[3, 5], [9, 9]],
            "received": list(RECEIVED),
            "erased": 0,
        }
    ] == manifest["segments"]


def test_it_is_found_again_and_batches_are_those_of_one_ledger(opened: Open, tmp_path: Path) -> None:
    first = opened(tmp_path)
    filled(first, 1, 2)
    filled(first, 4)
    first.close()
    again = opened(tmp_path)
    with pytest.raises(ArchiveUnusable, match="in use by another"):
        opened(tmp_path, "two")
    assert ["000001", "000001", None, "000002"] == [
        None if (found := again.where(batch, WHEN)) is None else found.name for batch in (1, 2, 3, 4)
    ]
    again.close()
    other = opened(tmp_path, "two")
    assert None is other.where(1, WHEN)
    assert "000003" == filled(other, 1).name
    assert [1, 2, 4, 1] == contents(other)


def test_what_is_taken_out_leaves_the_segment_its_name_and_no_old_file(opened: Open, tmp_path: Path) -> None:
    archive = opened(tmp_path)
    filled(archive, 1, 2, 3)
    segment = filled(archive, 4)
    for expected in (2, 3):
        made = archive.rewrite(
            archive.segments[0], lambda line: None if line == b'{"batch":1}' else line, batches=[(2, 3)]
        )
        assert ("000001", f"segment-000001.r{expected - 1}.ndjson.zst") == (made.name, made.file)
    assert [2, 3, 4] == contents(archive)
    assert None is archive.where(1, WHEN)
    assert {segment.file, "segment-000001.r2.ndjson.zst", "manifest.json", ".lock"} == set(os.listdir(tmp_path))


def test_a_file_that_was_changed_or_lost_is_told(opened: Open, tmp_path: Path) -> None:
    archive = opened(tmp_path)
    segment = filled(archive, 1)
    path = tmp_path / segment.file
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ArchiveUnusable, match="sha256 differs"):
        list(archive.read(segment))
    archive.close()
    path.unlink()
    with pytest.raises(ArchiveUnusable, match="put it back"):
        opened(tmp_path)


# Each step of the way to disk after which the process may be gone.
KILLED = """
import os, signal, sys
from pathlib import Path
from gateway import archive as module
stop, calls = int(sys.argv[2]), 0
def dying(function):
    def instead(*given, **named):
        global calls
        calls += 1
        if calls == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)
    return instead
archive = module.Archive(Path(sys.argv[1]), "one")
archive.open()
os.fsync, Path.rename, Path.unlink = dying(os.fsync), dying(Path.rename), dying(Path.unlink)
draft = archive.draft()
draft.add([b'{"batch":2}'])
archive.take(draft, [2], ("", ""))
archive.rewrite(archive.segments[0], lambda line: line.replace(b"1", b"7"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_process_that_is_killed_at_any_step_leaves_all_or_nothing(opened: Open, tmp_path: Path) -> None:
    seen: set[str] = set()
    for stop in range(1, 30):
        folder = tmp_path / str(stop)
        archive = opened(folder)
        filled(archive, 1)
        archive.close()
        done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(stop)], cwd=ROOT, check=False)
        archive = opened(folder)
        held = contents(archive)
        assert held in ([1], [1, 2], [7, 2])
        seen.add(str(held))
        assert {segment.file for segment in archive.segments} | {"manifest.json", ".lock"} == set(os.listdir(folder))
        archive.close()
        if done.returncode != -9:
            assert -15 == done.returncode
            break
    assert 3 == len(seen)


@pytest.mark.parametrize("manifest", [None, b"", b"{}", b'{"segments": []}', "of the first segment"])
def test_no_segment_goes_that_only_a_lost_manifest_does_not_name(
    opened: Open, tmp_path: Path, manifest: bytes | str | None
) -> None:
    archive = opened(tmp_path)
    filled(archive, 1)
    first = (tmp_path / "manifest.json").read_bytes()
    filled(archive, 2)
    filled(archive, 3)
    archive.close()
    held = {path.name: path.read_bytes() for path in tmp_path.glob("segment-*")}
    whole = (tmp_path / "manifest.json").read_bytes()
    match manifest:
        case None:
            (tmp_path / "manifest.json").unlink()
        case bytes():
            (tmp_path / "manifest.json").write_bytes(manifest)
        case str():
            (tmp_path / "manifest.json").write_bytes(first)
    assert refusal(tmp_path)
    assert held == {path.name: path.read_bytes() for path in tmp_path.glob("segment-*")}
    (tmp_path / "manifest.json").write_bytes(whole)
    assert [1, 2, 3] == contents(opened(tmp_path))


def test_a_rewritten_segment_outlives_an_older_manifest(opened: Open, tmp_path: Path) -> None:
    archive = opened(tmp_path)
    segment = filled(archive, 1)
    older = (tmp_path / "manifest.json").read_bytes()
    made = archive.rewrite(segment, lambda line: line)
    archive.close()
    (tmp_path / "manifest.json").write_bytes(older)
    assert "put it back" in refusal(tmp_path)
    assert (tmp_path / made.file).exists()


def test_a_single_segment_without_a_manifest_is_told_and_stays(opened: Open, tmp_path: Path) -> None:
    archive = opened(tmp_path)
    filled(archive, 1)
    archive.close()
    (tmp_path / "manifest.json").unlink()
    assert "manifest.json is not there" in refusal(tmp_path)
    assert 1 == len([*tmp_path.glob("segment-*")])


def test_runs_say_every_number_once() -> None:
    assert [(1, 3), (5, 5), (7, 8)] == runs([8, 1, 3, 2, 7, 5])
