"""The demo: what it prints, that it adds up, that it leaves nothing behind and minds nobody's ports."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from canonical_schema import BatchResult, EventStatus
from gateway import demo as world
from gateway.demo.story import Figure
from gateway.demo.world import vendors

ROOT = Path(__file__).parents[2]
NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)


def begin(folder: Path, *argv: str) -> "subprocess.Popen[bytes]":
    (folder / "tmp").mkdir(parents=True)
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo", *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp"), "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int, bytes, str]]:
    """Two demos at the same time: folder, exit code, standard output, standard error."""
    folders = [tmp_path_factory.mktemp("demo") / "here" for _ in range(2)]
    running = [begin(folder, "--once") for folder in folders]
    done: list[tuple[Path, int, bytes, str]] = []
    for folder, process in zip(folders, running, strict=True):
        out, err = process.communicate(timeout=90)
        done.append((folder, process.returncode, out, err.decode()))
    return done


def test_two_at_once_end_with_the_same_merged_result_and_4(twice: list[tuple[Path, int, bytes, str]]) -> None:
    results: list[Any] = [json.loads(out) for _, _, out, _ in twice]
    expected = {
        "total": 200, "delivered": 181, "pending": 2, "partial": 7, "failed": 2, "unknown": 4, "unrouted": 1,
        "invalid": 2, "conflict": 1,
    }  # fmt: skip
    assert [4, 4] == [code for _, code, _, _ in twice]
    assert [expected, expected] == [one["summary"] for one in results]
    statuses = [Counter(one["status"] for one in result["results"]) for result in results]
    assert statuses[0] == statuses[1] == Counter({k: v for k, v in expected.items() if k != "total"})
    assert list(range(200)) == [one["index"] for one in results[0]["results"]]
    assert msgspec.json.decode(twice[0][2], type=BatchResult)


def test_it_leaves_nothing_behind(twice: list[tuple[Path, int, bytes, str]]) -> None:
    for folder, _, _, _ in twice:
        assert [folder / "tmp"] == list(folder.iterdir())
        assert [] == list((folder / "tmp").iterdir())


def test_people_are_told_what_became_of_it_and_that_the_bills_add_up(twice: list[tuple[Path, int, bytes, str]]) -> None:
    err = twice[0][3]
    for said in (
        "What became of the events",
        "What each vendor said",
        "What needs attention, and whose",
        "What the simulated vendors would bill",
        "181 delivered",
        "operator: look at the vendor, then resolve it",
        "sender: keep it, mend it, send it again",
    ):
        assert said in err
    assert 18 == err.count("✓ exact")
    assert 3 == err.count("✓ it had arrived")
    assert 3 == err.count("unbilled")
    assert "✗" not in err
    assert "Traceback" not in err


@pytest.fixture
def serving(tmp_path: Path) -> Generator["subprocess.Popen[bytes]"]:
    process = begin(tmp_path / "here")
    yield process
    process.kill()
    process.communicate()


def test_it_keeps_serving_beside_a_taken_port_until_ctrl_c(serving: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    assert serving.stderr is not None
    said: list[str] = []
    for line in iter(serving.stderr.readline, b""):
        said.append(line.decode())
        if "Ctrl-C ends it" in said[-1]:
            break
    url = next(word for line in said for word in line.split() if word.startswith("http://127.0.0.1:"))
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /v1/events/evt_0036 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b'"status":"duplicate","attempts":2' in answer
    assert (f":{port}/v1/events" in "".join(said)) is True
    serving.send_signal(signal.SIGINT)
    assert 130 == serving.wait(30)
    assert [] == list((tmp_path / "here" / "tmp").iterdir())


def test_ctrl_c_while_it_sends_is_no_fault(serving: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    assert serving.stderr is not None
    next(line for line in iter(serving.stderr.readline, b"") if b"wingback" in line)  # the last of the welcome
    serving.send_signal(signal.SIGINT)
    assert (130, b"") == (serving.wait(30), serving.stderr.read())
    assert [] == list((tmp_path / "here" / "tmp").iterdir())


def test_a_taken_port_is_said_and_another_one_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gateway.cli import demo

    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(demo, "PORT", taken.getsockname()[1])
        with demo.door(quiet=False) as listener:
            assert listener.getsockname()[1] not in {0, demo.PORT}
    assert f"Port {demo.PORT} is in use" in capsys.readouterr().err


# The sample events and the story.


def test_the_events_end_now_and_keep_their_distances() -> None:
    lines = [line for batch in world.batches(NOW) for line in batch]
    other = [line for batch in world.batches(datetime(2030, 1, 1, tzinfo=UTC)) for line in batch]
    assert 200 == len(lines) == len(other)
    assert 1 == sum(b'"timestamp": "2027-03-01T12:00:00Z"' in line for line in lines)
    assert 1 == sum(b'"timestamp": "2030-01-01T00:00:00Z"' in line for line in other)


def test_the_file_itself_is_made_of_lines_of_which_one_is_no_json() -> None:
    path = Path(world.__file__).with_name("events.ndjson")
    broken = [line for line in path.read_text().splitlines() if b"NaN" in line.encode()]
    assert 1 == len(broken)


def test_the_vendors_know_what_is_configured_but_for_what_the_demo_is_about() -> None:
    known = {vendor.name: vendor for vendor in vendors()}
    configuration = world.configuration("http://127.0.0.1", Path(tempfile.gettempdir()))
    assert list(configuration.destinations) == list(known)
    for vendor in known.values():
        assert vendor.known_customers is not None
        assert 5 == len(vendor.known_customers)
    assert "video_renders_2025" not in (known["flowglad"].known_meters or ())


def result(*statuses: EventStatus) -> BatchResult:
    results: list[Any] = [
        {"index": i, "id": f"e{i}", "status": status, "stored": True, "replayed": False, "deliveries": {}}
        for i, status in enumerate(statuses)
    ]
    return world.merged([{"object": "batch_result", "batch_id": "bat_1", "summary": Any, "results": results}])  # type: ignore[typeddict-item]


def test_several_answers_are_one_with_indexes_that_go_on() -> None:
    one, other = result(EventStatus.DELIVERED, EventStatus.UNROUTED), result(EventStatus.FAILED)
    both = world.merged([one, other])
    assert ("bat_1", 3, [0, 1, 2]) == (
        both["batch_id"],
        both["summary"]["total"],
        [each["index"] for each in both["results"]],
    )
    assert [0] == [each["index"] for each in other["results"]]


@pytest.mark.parametrize(
    ("figure", "fine"),
    [
        (Figure(destination="d", meter="m", delivered=Decimal(3), billed=Decimal(3)), True),
        (Figure(destination="d", meter="m", delivered=Decimal(3), billed=Decimal(4)), False),
        (Figure(destination="d", meter="m", delivered=Decimal(3), billed=Decimal(2)), False),
        (Figure(destination="d", meter="m", delivered=Decimal(3), doubtful=Decimal(2), billed=Decimal(5)), True),
        (Figure(destination="d", meter="m", delivered=Decimal(3), doubtful=Decimal(2), billed=Decimal(6)), False),
        (Figure(destination="d", meter="m", delivered=Decimal(3), billed=Decimal(2), dropped=Decimal(1)), True),
    ],
)
def test_a_figure_adds_up_only_where_nothing_is_billed_too_much_or_missing(figure: Figure, fine: bool) -> None:
    assert fine is figure.adds_up
    screen = io.StringIO()
    world.report(Console(file=screen, width=100), result(EventStatus.DELIVERED), [], [figure])
    assert fine is ("does not add up" not in screen.getvalue())
