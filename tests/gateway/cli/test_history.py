"""Files of history: four kinds, packed or not, of any length, oldest first."""

import gzip
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from canonical_schema import Event
from gateway.cli import _history
from gateway.cli._history import Unreadable, in_order, read
from gateway.cli._out import CommandFailed

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
WANTED = Event(
    id="e1", customer="acme", meter="api_calls", quantity=Decimal("0.10"), timestamp=NOON, properties={"region": "eu"}
)
LINE = (
    '{"id":"e1","customer":"acme","meter":"api_calls","quantity":0.10,"timestamp":"2026-11-20T12:00:00Z",'
    '"properties":{"region":"eu"}}'
)
ROW = "id,customer,meter,quantity,timestamp,properties.region\ne1,acme,api_calls,0.10,2026-11-20T12:00:00Z,eu\n"


def _parquet(path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "id": ["e1"],
        "customer": ["acme"],
        "meter": ["api_calls"],
        "quantity": pa.array([Decimal("0.10")], pa.decimal128(38, 2)),
        "timestamp": pa.array([NOON], pa.timestamp("us", tz="UTC")),
        "properties.region": ["eu"],
    }
    parquet.write_table(pa.table(columns), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("h.ndjson", lambda path: path.write_text(LINE + "\n\n")),
        ("h.json", lambda path: path.write_text(f'{{"events":[{LINE}]}}')),
        ("h.csv", lambda path: path.write_text("\ufeff" + ROW)),
        ("marked.ndjson", lambda path: path.write_text("\ufeff" + LINE)),
        ("marked.json", lambda path: path.write_text(f"\ufeff[{LINE}]")),
        ("h.ndjson.gz", lambda path: path.write_bytes(gzip.compress(LINE.encode()))),
        ("h.csv.zst", lambda path: path.write_bytes(zstandard.compress(ROW.encode()))),
        ("archive.ndjson", lambda path: path.write_text(f'{{"tenant":"default","event":{LINE},"deliveries":{{}}}}\n')),
        ("h.parquet", _parquet),
    ],
)
def test_every_kind_of_file_gives_the_same_event(tmp_path: Path, name: str, write: Callable[[Path], object]) -> None:
    write(tmp_path / name)
    assert [WANTED] == list(read(tmp_path / name, None, "default"))


def test_an_archive_in_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "h.ndjson.zst"
    path.write_bytes(b"".join(zstandard.compress(LINE.replace("e1", name).encode() + b"\n") for name in ("e1", "e2")))
    assert ["e1", "e2"] == [one.id for one in read(path, None, "default") if isinstance(one, Event)]


def test_of_an_archive_of_several_tenants_only_ones_own_events_are_read(tmp_path: Path) -> None:
    path = tmp_path / "archive.ndjson"
    tenants = {"e1": "default", "e2": "eu", "e3": "default", "e4": "eu"}
    lines = [f'{{"tenant":"{whose}","event":{LINE.replace("e1", name)}}}\n' for name, whose in tenants.items()]
    path.write_text("".join(lines) + LINE.replace("e1", "plain"))
    for tenant in ("default", "eu"):
        own = [name for name, whose in tenants.items() if whose == tenant]
        assert [*own, "plain"] == [one.id for one in read(path, None, tenant) if isinstance(one, Event)]


def test_a_row_that_is_no_event_is_told_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "h.ndjson"
    path.write_text('{"id":"e0"}\n' + LINE)
    broken, whole = read(path, None, "default")
    assert isinstance(broken, Unreadable)
    assert 1 == broken.line
    assert WANTED == whole


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("h.ndjson.zst", b"no"),
        ("h.csv", b"id\n\xff"),
        ("h.csv", b"id,custmer\n"),
        ("h.ndjson.gz", b"no"),
        ("h.json", b"[{]"),
        ("h.parquet", b"no"),
        ("h.parquet", b""),
        ("h.parquet", b"PAR1" + b"no" * 50 + b"PAR1"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_ends_with_a_clear_message(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CommandFailed, match=name):
        list(read(tmp_path / name, None, "default"))


@pytest.mark.parametrize(("name", "pack"), [("h.ndjson.zst", zstandard.compress), ("h.ndjson.gz", gzip.compress)])
def test_a_file_that_is_cut_off_is_not_taken_for_whole(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    path, first, second = tmp_path / name, pack(LINE.encode() + b"\n"), pack(LINE.replace("e1", "e2").encode())
    path.write_bytes(first + second)
    assert 2 == len(list(read(path, None, "default")))
    for missing in (1, len(second) // 2, len(second) + 1):
        path.write_bytes((first + second)[:-missing])
        with pytest.raises(CommandFailed, match=f"{name}: is cut off"):
            list(read(path, None, "default"))


@given(st.lists(st.integers(0, 50), max_size=60))
def test_events_come_oldest_first_and_of_one_instant_as_they_stood(minutes: list[int]) -> None:
    events = [
        Event(id=f"e{place}", customer="a", meter="m", quantity=Decimal(1), timestamp=NOON + timedelta(minutes=minute))
        for place, minute in enumerate(minutes)
    ]
    wanted = sorted(events, key=lambda event: event.timestamp or NOON)
    small = pytest.MonkeyPatch()
    small.setattr(_history, "CHUNK", 7)
    try:
        assert wanted == list(in_order(events))
    finally:
        small.undo()
    assert wanted == list(in_order(events))


def test_what_is_sorted_on_disk_keeps_every_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_history, "CHUNK", 1)
    exact = Event(id="e1", customer="a", meter="m", quantity=Decimal("12345678901234567890.123456789"), timestamp=NOON)
    later = Event(id="e2", customer="a", meter="m", quantity=Decimal(1), timestamp=NOON + timedelta(seconds=1))
    assert [exact, later] == list(in_order([later, exact]))
