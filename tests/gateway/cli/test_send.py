"""`usage-gateway send`: files of three kinds, patience, going on where it was, and what was refused."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

from canonical_schema import EventStatus
from gateway.cli import main
from gateway.cli._event_files import Line, opened
from gateway.cli._out import CommandFailed
from gateway.cli._sending import ATTEMPTS, Refusals, Sender, Tally

URL = "http://127.0.0.1:8080"


class Door:
    """A gateway's door: takes everything, but for ids that start with `bad`, and remembers bodies."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.bodies: list[list[Any]] = []
        self.before: list[httpx.Response | Exception | type[BaseException]] = []
        """What happens first, one a request."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.before:
            first = self.before.pop(0)
            if isinstance(first, httpx.Response):
                return first
            raise first
        lines = request.content.split(b"\n")
        events = [json.loads(line) for line in lines]
        self.bodies.append(events)
        results = [self._result(index, event) for index, event in enumerate(events)]
        statuses = [one["status"] for one in results]
        summary = {"total": len(events), **{status: statuses.count(status) for status in EventStatus}}
        body = {"object": "batch_result", "batch_id": "bat_1", "summary": summary, "results": results}
        return httpx.Response(207 if "invalid" in statuses else 200, json=body)

    def _result(self, index: int, event: Any) -> dict[str, object]:
        bad = str(event.get("id", "")).startswith("bad")
        made = {"index": index, "id": event["id"], "status": "invalid" if bad else "delivered", "stored": not bad}
        error = {"error": {"code": "invalid_event", "message": "meter: is required", "field": "meter"}} if bad else {}
        return {**made, "replayed": False, "deliveries": {}, **error}

    @property
    def ids(self) -> list[list[str]]:
        return [[event["id"] for event in body] for body in self.bodies]


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("USAGE_GATEWAY_KEY", raising=False)
    door = Door()
    with respx.mock(assert_all_called=False) as router:
        router.post(f"{URL}/v1/events").mock(side_effect=door)
        yield door


def ndjson(*ids: str, name: str = "events.ndjson") -> str:
    Path(name).write_text(
        "".join(f'{{"id": "{one}", "customer": "acme", "meter": "m", "quantity": 1}}\n' for one in ids)
    )
    return name


Captured = pytest.CaptureFixture[str]


def test_a_file_is_sent_in_batches_and_counted(door: Door, capsys: Captured) -> None:
    assert 0 == main(["send", ndjson("a", "b", "c"), "--batch", "2", "--json"])
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [["a", "b"], ["c"]] == door.ids
    assert ("send_result", 3, 3) == (told["object"], told["summary"]["total"], told["summary"]["delivered"])
    assert err == "3 events sent: 3 delivered\n"
    assert sorted(path.name for path in Path().iterdir()) == ["events.ndjson"]


def test_the_key_comes_from_the_environment_and_the_wait_is_asked_for(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_GATEWAY_KEY", "ugw_1")
    assert 0 == main(["send", ndjson("a"), "--ack", "all", "--wait", "3"])
    (request,) = door.requests
    assert ("Bearer ugw_1", "wait=3", "all") == (
        request.headers["authorization"],
        request.headers["prefer"],
        request.url.params["ack"],
    )


def test_refused_events_are_kept_with_the_reason_and_it_ends_with_4(door: Door, capsys: Captured) -> None:
    assert 4 == main(["send", ndjson("a", "bad_1")])
    (line,) = Path("events.ndjson.refused.ndjson").read_text().splitlines()
    told = json.loads(line)
    assert (2, "invalid", "meter", "bad_1") == (
        told["line"],
        told["status"],
        told["error"]["field"],
        told["event"]["id"],
    )
    assert "events.ndjson.refused.ndjson" in capsys.readouterr().err


def test_it_ends_with_1_where_nothing_is_stored(door: Door) -> None:
    assert 1 == main(["send", ndjson("bad_1", "bad_2")])


def test_it_goes_on_where_it_was_interrupted(door: Door, capsys: Captured) -> None:
    file = ndjson("a", "bad_1", "c", "d")
    door.before = [httpx.Response(207, json=answer("a", "bad_1")), KeyboardInterrupt]
    assert 130 == main(["send", file, "--batch", "2"])
    assert "Interrupted after 2 of 4 events" in capsys.readouterr().err
    assert Path("events.ndjson.usage-gateway-state").exists()
    assert 4 == main(["send", file, "--batch", "2", "--json"])
    out, err = capsys.readouterr()
    assert [["c", "d"]] == door.ids
    assert "Goes on after 2 events" in err
    assert (4, 3, 1) == tuple(json.loads(out)["summary"][name] for name in ("total", "delivered", "invalid"))
    assert sorted(path.name for path in Path().iterdir()) == ["events.ndjson", "events.ndjson.refused.ndjson"]


def answer(*ids: str) -> object:
    door = Door()
    body = "\n".join(f'{{"id": "{one}"}}' for one in ids)
    return door(httpx.Request("POST", URL, content=body.encode())).json()


def test_another_content_or_another_gateway_starts_from_the_beginning(door: Door, capsys: Captured) -> None:
    door.before = [httpx.Response(200, json=answer("a")), KeyboardInterrupt]
    assert 130 == main(["send", ndjson("a", "b"), "--batch", "1"])
    assert 0 == main(["send", ndjson("a", "b", "c"), "--batch", "9"])
    assert "starts from the beginning" in capsys.readouterr().err
    assert [["a", "b", "c"]] == door.ids


def test_an_event_without_an_id_is_refused_before_anything_is_sent(door: Door, capsys: Captured) -> None:
    Path("e.ndjson").write_text('{"id": "a"}\n\n{"customer": "acme"}\n{"id": null}\n')
    assert 1 == main(["send", "e.ndjson"])
    assert capsys.readouterr().err.startswith(
        "usage-gateway: e.ndjson: event 3 (and 1 more) has no id: give every event"
    )
    assert door.requests == []


def test_a_dry_run_sends_nothing_and_tells_every_fault(door: Door, capsys: Captured) -> None:
    Path("e.ndjson").write_text(
        '{"id": "a", "customer": "acme", "meter": "m"}\n{"id": "b", "customer": "acme"}\nnot json\n'
        '{"id": "a", "customer": "acme", "meter": "m"}\n'
    )
    assert 4 == main(["send", "e.ndjson", "--dry-run", "--json"])
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (4, 2, 2, 1) == (told["total"], told["valid"], told["invalid"], told["repeated"])
    assert [(2, "b"), (3, None)] == [(fault["line"], fault.get("id")) for fault in told["faults"]]
    assert "event 2: meter: is required" in err
    assert door.requests == []
    assert [Path("e.ndjson")] == list(Path().iterdir())


def test_a_gateway_that_is_not_there_is_one_line(door: Door, capsys: Captured) -> None:
    door.before = [httpx.ConnectError("Connection refused")]
    assert 1 == main(["send", ndjson("a")])
    assert "usage-gateway: cannot reach http://127.0.0.1:8080: Connection refused; is the gateway up?\n" == (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (httpx.Response(401, json={"detail": "send a key"}), "answered 401: send a key"),
        (httpx.Response(404, text="<html>"), "answered 404: the answer is no Usage Gateway's: is --url right?"),
        (httpx.Response(200, text="hello"), "answered 200: the answer is no Usage Gateway's: is --url right?"),
    ],
)
def test_a_refusal_as_a_whole_is_one_line(door: Door, capsys: Captured, given: httpx.Response, says: str) -> None:
    door.before = [given]
    assert 1 == main(["send", ndjson("a")])
    assert [f"usage-gateway: {URL} {says}"] == capsys.readouterr().err.splitlines()


# The sender's patience.


def patient(door: Door, lines: Sequence[Line]) -> tuple[list[float], Tally]:
    """Send lines; return the pauses that were made, and the counts."""
    pauses: list[float] = []
    tally = Tally()
    with Sender(URL, None, ack=None, wait=1, sleep=pauses.append) as sender:
        sender.send(lines, tally, Refusals(Path("refused.ndjson")))
    return pauses, tally


def lines_of(*ids: str) -> list[Line]:
    return [Line(number, f'{{"id": "{one}"}}'.encode()) for number, one in enumerate(ids, 1)]


def test_a_busy_gateway_is_waited_for_as_long_as_it_says(door: Door) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    door.before = [
        httpx.Response(429, headers={"retry-after": "7"}),
        httpx.Response(503, headers={"retry-after": later}),
        httpx.Response(500),
        httpx.ReadTimeout("slow"),
    ]
    pauses, tally = patient(door, lines_of("a"))
    assert pauses[0] == 7
    assert 80 < pauses[1] <= 90
    assert pauses[2:] == [4, 8]
    assert tally.summary["delivered"] == 1


def test_it_gives_up_in_the_end_and_says_what_to_do(door: Door) -> None:
    door.before = [httpx.Response(503) for _ in range(ATTEMPTS)]
    with pytest.raises(CommandFailed, match="run the same command again later"):
        patient(door, lines_of("a"))


def test_a_batch_that_is_too_large_goes_in_halves(door: Door) -> None:
    door.before = [httpx.Response(413)]
    _, tally = patient(door, lines_of("a", "b", "c"))
    assert [["a"], ["b", "c"]] == door.ids
    assert tally.summary["delivered"] == 3


# Files.


def read(name: str, text: str, tmp_path: Path) -> list[tuple[int, Any]]:
    (tmp_path / name).write_text(text)
    return [(line.number, json.loads(line.body, parse_float=str)) for line in opened(tmp_path / name, None).lines]


def test_csv_columns_are_fields_properties_and_quantities(tmp_path: Path) -> None:
    text = (
        "id,customer,meter,quantity,properties.region,quantities.input,quantities.output\r\n"
        'e1,"Acme, Inc.",calls,0.10,eu,,\r\n'
        "e2,acme,tokens,,,1200,300\r\n"
    )
    assert [
        (
            2,
            {
                "id": "e1",
                "customer": "Acme, Inc.",
                "meter": "calls",
                "quantity": "0.10",
                "properties": {"region": "eu"},
            },
        ),
        (3, {"id": "e2", "customer": "acme", "meter": "tokens", "quantities": {"input": "1200", "output": "300"}}),
    ] == read("e.csv", text, tmp_path)


@pytest.mark.parametrize(
    "text",
    ['[{"id": "a",\n "quantity": 1.10}, {"id": "b"}]', '{"events": [{"id": "a", "quantity": 1.10}, {"id": "b"}]}'],
)
def test_json_members_keep_their_digits_on_one_line(text: str, tmp_path: Path) -> None:
    assert [(1, {"id": "a", "quantity": "1.10"}), (2, {"id": "b"})] == read("e.json", text, tmp_path)


def test_a_json_file_may_be_one_event(tmp_path: Path) -> None:
    assert [(1, {"id": "a"})] == read("e.json", '\ufeff{"id":\n "a"}', tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("e.ndjson", "\n\n", "e.ndjson: holds no events"),
        ("e.json", "[{]", "e.json: is no JSON array or object of events"),
        ("e.json", '{"events": [{"id": "a"}], "events": []}', "e.json: events: appears more than once"),
        ("e.ndjson.gz", "\x1f\udc8b\x08", "e.ndjson.gz: is compressed: unpack it first"),
        ("e.json", "(\udcb5/\udcfd", "e.json: is compressed: unpack it first"),
        ("e.csv", "id,custmer\na,b\n", "e.csv: column 'custmer': there is customer, id"),
        ("e.csv", "id,customer\na,b,c\n", "e.csv: line 2: has more cells than there are columns"),
        ("e.csv", "id,customer,quantity,quantity\na,b,1,2\n", "e.csv: column 'quantity': is there twice"),
        ("e.csv", 'id,"cust\na,b\n', "e.csv: line 1: is no CSV: unexpected end of data"),
        ("e.csv", 'id,customer\na,b\nc,"d\ne,f\n', "e.csv: line 3: is no CSV: unexpected end of data"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    name: str, text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert 1 == main(["send", name])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"usage-gateway: {says}")


def test_standard_input_is_sent_and_leaves_no_state(
    door: Door, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    with Path(ndjson("a", "bad_1")).open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert 4 == main(["send", "-"])
    assert [["a", "bad_1"]] == door.ids
    assert "stdin.refused.ndjson" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["events.ndjson", "stdin.refused.ndjson"]
