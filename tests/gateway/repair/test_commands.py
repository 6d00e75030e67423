"""The same decisions from the command line, at a gateway on a real socket."""

import json
import threading
from pathlib import Path

import pytest
import uvicorn

from gateway.app import create_app
from gateway.cli import main
from gateway.cli._server import address, listen
from gateway.configuration.file import loads
from gateway.ledger import SqliteLedger
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider

from .conftest import CONFIGURATION


@pytest.fixture
def at(tmp_path: Path) -> "object":
    vendors = {name: SimulatedProvider(name) for name in ("flowglad", "wingback")}
    vendors["wingback"].fail("lost_answer")
    vendors["flowglad"].known_meters = set()
    mounts = {name: vendor.transport() for name, vendor in vendors.items()}
    listener = listen("127.0.0.1", 0)
    gateway = Gateway(loads(CONFIGURATION, {}), SqliteLedger(tmp_path / "ledger.db"), mounts=mounts)
    config = uvicorn.Config(create_app(gateway), lifespan="on", log_config=None, ws="none")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield address(listener), vendors
    server.should_exit = True
    thread.join()
    listener.close()


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    out = "".join(line for line in out.splitlines(keepends=True) if line.startswith("{"))  # the server logs here too
    return code, out, " ".join(err.split())


def test_a_person_resolves_retries_and_exports(
    at: tuple[str, dict[str, SimulatedProvider]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, vendors = at
    events = tmp_path / "events.ndjson"
    events.write_text('{"id": "e1", "customer": "acme", "meter": "api_calls", "quantity": 3}\n')
    assert 0 == main(["send", str(events), "--url", url, "--ack", "all"]) % 4
    capsys.readouterr()
    code, out, _ = run(capsys, "deliveries", "export", "--status", "rejected", "--url", url)
    assert (0, "flowglad") == (code, json.loads(out)["destination"])
    assert (0, out) == run(capsys, "deliveries", "export", "--status", "rejected", "--url", url, "--json")[:2]
    others = ("--status", "rejected", "--meter", "api_calls", "--to", "2020-01-01T00:00:00Z")
    assert (0, "") == run(capsys, "deliveries", "export", *others, "--url", url)[:2]
    assert 0 == run(capsys, "deliveries", "retry", *others, "--reason", "none of them", "--url", url)[0]
    code, _, err = run(
        capsys, "deliveries", "resolve", "e1", "wingback", "accepted", "--reason", "counted", "--url", url
    )
    assert (0, "e1 at wingback: accepted") == (code, err)
    more = ("wingback", "resend", "--customer", "acme", "--reason", "none is left", "--url", url)
    assert (0, "0 at wingback: would be sent again") == run(capsys, "deliveries", "resolve-all", "--dry-run", *more)[
        ::2
    ]
    vendors["flowglad"].known_meters = None
    code, out, _ = run(capsys, "deliveries", "retry", "e1", "--reason", "price made", "--url", url, "--json")
    assert (0, [{"id": "e1", "destination": "flowglad"}]) == (code, json.loads(out)["retried"])


def test_a_person_looks_at_events_and_corrects_them(
    at: tuple[str, dict[str, SimulatedProvider]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, vendors = at
    vendors["flowglad"].known_meters = None
    vendors["wingback"].clear()
    events = tmp_path / "events.ndjson"
    events.write_text('{"id": "a/1", "customer": "acme", "meter": "api_calls", "quantity": 3}\n')
    assert 0 == main(["send", str(events), "--url", url, "--ack", "all"])
    capsys.readouterr()
    more = ("--reason", "read wrong", "--url", url)
    code, _, err = run(capsys, "events", "correct", "a/1", "5", "--dry-run", *more)
    assert (0, "a/1: 3 -> 5 flowglad: delta wingback: delta") == (code, err)
    code, _, err = run(capsys, "events", "correct", "a/1", "5", *more)
    assert (0, "a/1: 3 -> 5 flowglad: accepted wingback: accepted") == (code, err)
    assert 5 == sum(vendors["flowglad"].billed().values())
    code, out, _ = run(capsys, "events", "void", "a/1", *more, "--json")
    assert (4, "void", "unsupported") == (
        code, json.loads(out)["action"], json.loads(out)["deliveries"]["flowglad"]["error"]["code"],
    )  # fmt: skip
    code, _, err = run(capsys, "events", "show", "a/1", "--url", url)
    assert 0 == code
    assert "a/1~c2: 5 -> void (failed), by anonymous: read wrong" in err
    code, _, err = run(capsys, "events", "list", "--status", "delivered", "--meter", "api_calls", "--url", url)
    assert (0, True) == (code, "a/1: delivered (flowglad accepted, wingback accepted)" in err)
    code, out, _ = run(capsys, "events", "list", "--limit", "2", "--json", "--url", url)
    page = json.loads(out)
    assert (0, ["a/1~c2", "a/1~c1"], True) == (code, [one["id"] for one in page["data"]], "next_cursor" in page)
    assert 2 == run(capsys, "events", "list", "--limit", "0", "--url", url)[0]
    code, _, err = run(capsys, "events", "list", "--status", "gone", "--url", url)
    assert (1, True) == (code, "status: there is no 'gone'; one of" in err)
    code, _, err = run(capsys, "corrections", "scale", "2", "--meter", "api_calls", "--dry-run", *more)
    assert (0, "0 events would be corrected, 1 say it already") == (code, err)
    code, _, err = run(capsys, "corrections", "replace", "6", "--meter", "api_calls", "--dry-run", *more)
    assert (0, True) == (code, "acme, api_calls: 1 events, void -> 6 flowglad: 1 delta wingback: 1 delta" in err)
    assert 2 == run(capsys, "corrections", "void", *more)[0]
    assert 2 == run(capsys, "corrections", "scale", "--meter", "m", *more)[0]


def test_wrong_words_are_one_line(at: tuple[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    url, _ = at
    code, _, err = run(capsys, "deliveries", "retry", "--reason", "x", "--url", url)
    assert 2 == code
    assert "name event ids, or a filter" in err
    code, _, err = run(capsys, "deliveries", "resolve", "nobody", "wingback", "resend", "--reason", "x", "--url", url)
    assert (1, "usage-gateway: not_found: no event of this tenant has this id") == (code, err)
    code, _, err = run(capsys, "deliveries", "export", "--url", "http://127.0.0.1:1")
    assert 1 == code
    assert "no gateway answers there" in err
