"""`usage-gateway links`: a table in and out, and who lacks a link, at a gateway on a real socket."""

import csv
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import structlog
import uvicorn

from gateway.app import create_app
from gateway.cli import main
from gateway.cli._server import address, listen
from gateway.configuration.file import loads
from gateway.ledger import SqliteLedger
from gateway.links.table import COLUMNS, TableFault, read
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from tests.gateway.conftest import VENDORS, configured, event

Captured = pytest.CaptureFixture[str]
CONTRACT = "Cust_0b8f3a44-3d0e-4f0e-9a53-5b1f4f7a2c11"


@pytest.fixture
def at(tmp_path: Path) -> Iterator[str]:
    mounts = {name: SimulatedProvider(name).transport() for name in VENDORS}
    listener = listen("127.0.0.1", 0)
    gateway = Gateway(loads(configured(), {}), SqliteLedger(tmp_path / "ledger.db"), mounts=mounts)
    server = uvicorn.Server(uvicorn.Config(create_app(gateway), lifespan="on", log_config=None, ws="none"))
    server.install_signal_handlers = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with structlog.testing.capture_logs():  # of the server: standard output is the command's
        yield address(listener)
    server.should_exit = True
    thread.join()
    listener.close()


def table(path: Path, *lines: str) -> str:
    file = path / "links.csv"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return str(file)


HEAD = "customer,destination,subscription,from,until,customer_id,subscription_id"


def test_a_table_is_put_and_comes_out_again(at: str, tmp_path: Path, capsys: Captured) -> None:
    file = table(
        tmp_path,
        HEAD,
        f"globex,wingback,,,2026-12-01T00:00:00Z,{CONTRACT},",
        f"globex,wingback,eu,,,{CONTRACT},",
        "globex,flowglad,,,,,sub_globex",
        '"a, ""b""",flowglad,,,,,sub_ab',
    )
    assert 0 == main(["links", "import", file, "--url", at, "--json"])
    assert {"object": "links_import", "customers": 2, "changed": 2} == json.loads(capsys.readouterr().out)
    assert 0 == main(["links", "import", file, "--url", at])
    assert "2 customers read, 0 have other links now" in capsys.readouterr().err
    assert 0 == main(["links", "export", "--url", at, "--source", "api"])
    out = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [("globex", "flowglad"), ("globex", "wingback"), ("globex", "wingback")] == [
        (row["customer"], row["destination"]) for row in rows if row["customer"] == "globex"
    ]
    assert {"sub_ab"} == {row["subscription_id"] for row in rows if row["customer"] == 'a, "b"'}
    assert {"api"} == {row["source"] for row in rows}
    (tmp_path / "again.csv").write_text(out, "utf-8")
    assert 0 == main(["links", "import", str(tmp_path / "again.csv"), "--url", at])
    assert "2 customers read, 0 have other links now" in capsys.readouterr().err


def test_links_go_out_as_json_too_as_they_can_be_put_again(at: str, tmp_path: Path, capsys: Captured) -> None:
    assert 0 == main(["links", "import", table(tmp_path, HEAD, "globex,flowglad,,,,,sub_1"), "--url", at])
    capsys.readouterr()
    assert 0 == main(["links", "export", "--url", at, "--json"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('{"id"')]
    assert ["acme", "globex"] == [json.loads(line)["id"] for line in lines]
    assert httpx.get(f"{at}/v1/customers/globex").json() == json.loads(lines[1])


def test_more_than_one_request_holds_are_put_in_order(at: str, tmp_path: Path, capsys: Captured) -> None:
    many = [f"c{index:04},flowglad,,,,,sub_{index}" for index in range(1203)]
    assert 0 == main(["links", "import", table(tmp_path, HEAD, *many), "--url", at, "--json"])
    assert 1203 == json.loads(capsys.readouterr().out)["changed"]
    assert 0 == main(["links", "export", "--url", at])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [f"c{index:04}" for index in range(1203)] == [row["customer"] for row in rows if row["customer"] != "acme"]


def test_what_does_not_fit_is_said_by_line_and_never_shown(at: str, tmp_path: Path, capsys: Captured) -> None:
    file = table(tmp_path, HEAD, "globex,flowglad,,,,,sub_1", "initech,wingback,,,,secret-thing,")
    assert 1 == main(["links", "import", file, "--url", at])
    err = capsys.readouterr().err
    assert "line 3: wingback[0].customer_id: " in err
    assert "secret-thing" not in err
    assert 404 == httpx.get(f"{at}/v1/customers/globex").status_code


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "line 1: there is no column customer"),
        (["customer,flowglad"], "line 1: there is no column destination"),
        (["customer,destination,x"], "line 1: unknown column 'x'; known are customer, destination, subscription"),
        (["customer,destination,from,from"], "line 1: the column from is there twice"),
        (["customer,destination", "acme"], "line 2: has 1 cells, and there are 2 columns"),
        (["customer,destination", "acme,"], "line 2: needs a customer and a destination"),
        (
            ["customer,destination", "a,x", "b,x", "a,y"],
            "line 4: the customer stood further up already: put its rows together",
        ),
        (["customer,destination", '"a'], "line 2: is no CSV"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_line(lines: list[str], says: str) -> None:
    with pytest.raises(TableFault) as caught:
        list(read(line + "\n" for line in lines))
    assert says in str(caught.value)


def test_the_columns_are_those_of_every_provider() -> None:
    assert {"customer", "destination", "subscription", "from", "until", "source"} < set(COLUMNS)
    assert {"subscription_id", "customer_id", "external_customer_id", "external_subject"} < set(COLUMNS)


def test_coverage_names_who_lacks_a_link_where(at: str, capsys: Captured) -> None:
    sent = [event("e1"), event("e2", customer="globex"), event("e3", customer="globex"), event("e4", meter="jobs")]
    sent[2]["timestamp"] = "2026-11-20T00:00:00Z"
    httpx.post(f"{at}/v1/events?ack=stored", json=sent).raise_for_status()
    assert 3 == main(["links", "coverage", "--url", at, "--json"])
    *lacks, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["flowglad", "paygentic", "wingback"] == [lack["destination"] for lack in lacks]
    assert {("globex", 2, "2026-11-20T00:00:00Z")} == {
        (lack["customer"], lack["events"], lack["first"]) for lack in lacks
    }
    assert {
        "object": "coverage",
        "customers": 2,
        "events": 4,
        "destinations": {"flowglad": 1, "paygentic": 1, "wingback": 1},
    } == last
    httpx.put(f"{at}/v1/customers/globex", json={"links": {"flowglad": {"subscription_id": "s"}}}).raise_for_status()
    assert 0 == main(["links", "coverage", "--url", at, "--destination", "flowglad"])
    capsys.readouterr()
    assert 3 == main(["links", "coverage", "--url", at, "--destination", "wingback"])
    out, err = capsys.readouterr()
    says = "globex has no link to wingback: 2 events from 2026-11-20T00:00:00Z"
    assert (False, True) == (says in out, says in err)
    assert 1 == main(["links", "coverage", "--url", at, "--destination", "nowhere"])
    assert "destination: unknown destination" in capsys.readouterr().err
