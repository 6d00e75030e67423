"""The command line: what stands on which stream, how commands end, and what is said of wrong input."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from cyclopts import App

from adapters import providers
from gateway import __version__
from gateway.__main__ import main as started
from gateway.cli import app, main
from gateway.cli._out import Exit
from gateway.configuration.file import loads
from gateway.configuration.keys import sha256

SMALL = """
destinations: {flexprice: {provider: flexprice, settings: {api_key: "${KEY}"}}}
meters: {api_calls: {}}
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder, with `KEY` in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEY", "secret-key")

    def ran(*argv: str) -> Done:
        code = main(argv)
        out, err = capsys.readouterr()
        return Done(int(code), out, err)

    return ran


def write(text: str, name: str = "gateway.yaml") -> str:
    Path(name).write_text(text)
    return name


def test_the_commands_are_those_that_are_built_and_no_others(run: Run) -> None:
    names = {name for name in app if not name.startswith("-")}
    assert {
        "backfill",
        "check",
        "close",
        "config",
        "corrections",
        "deliveries",
        "links",
        "demo",
        "events",
        "explain",
        "init",
        "keys",
        "ledger",
        "preflight",
        "providers",
        "reconcile",
        "send",
        "serve",
        "simulate",
    } == names
    done = run("--help")
    assert (0, "") == (done.code, done.err)
    assert [name for name in names if name not in done.out] == []


def commands(of: App, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return every command that does something, as words."""
    names = [name for name in of if not name.startswith("-")]
    return [each for name in names for each in commands(of[name], (*before, name))] if names else [before]


@pytest.mark.parametrize("command", commands(app), ids=" ".join)
def test_every_command_has_help_and_json(run: Run, command: tuple[str, ...]) -> None:
    done = run(*command, "--help")
    assert (0, "", True) == (done.code, done.err, "--json" in done.out)


def test_an_interrupt_before_the_command_has_begun_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gateway.cli.main", interrupted)
    assert Exit.INTERRUPTED == started()


def test_machines_read_utf8_whatever_the_terminal_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding="ascii") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        assert 0 == main(["keys", "new", "--name", "é", "--json"])
        assert "é" == json.loads(written.getvalue())["configuration"]["name"]


def test_the_version_is_the_packages(run: Run) -> None:
    assert (0, f"{__version__}\n", "") == run("--version")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["sned"], 'Unknown command "sned". Did you mean "send"?'),
        (["rollups"], 'Unknown command "rollups"'),
        (["send"], "FILE"),
        (["send", "nowhere.ndjson"], "nowhere.ndjson: cannot be read: No such file or directory"),
        (["send", "x", "--nope"], "Unknown option: --nope"),
        (["send", "x", "--batch", "0"], "--batch"),
        (["send", "x", "--format", "xml"], "ndjson"),
        (["send", "x", "--url", "localhost:8080"], "must start with http:// or https://"),
        (["events", "list", "--url", "localhost:8080"], "must start with http:// or https://"),
        (["links", "coverage", "--url", "http://"], "must start with http:// or https://"),
        (["events", "list", "--key", "ugw_\n"], "--key: holds a line end, or another character that no key has"),
        (["links", "coverage", "--key", "ugw_é"], "--key: holds a line end, or another character that no key has"),
        (
            ["send", __file__, "--format", "ndjson", "--key", "ugw_é"],
            "--key: holds a line end, or another character that no key has",
        ),
        (["check"], "--config"),
        (["check", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["serve", "--config", "."], "directory"),
        (["simulate", "flexprize"], "there is no provider 'flexprize': did you mean flexprice?"),
        (["simulate", "--port", "99999"], "--port"),
        (["providers", "acme"], f"there is no provider 'acme': there are {', '.join(providers())}"),
        (["keys", "new", "--tenant", "a b"], "--tenant"),
        (["keys", "new", "--scope", "everything"], "everything"),
    ],
)
def test_a_command_that_cannot_be_meant_is_one_line_and_2(run: Run, argv: list[str], says: str) -> None:
    done = run(*argv)
    assert (2, "", 1) == (done.code, done.out, len(done.err.splitlines()))
    assert done.err.startswith("usage-gateway: ")
    assert says in done.err
    assert "ugw_" not in done.err


@pytest.mark.parametrize("command", ["serve", "check", "explain"])
def test_a_wrong_configuration_is_said_with_its_line_and_is_1(run: Run, command: str) -> None:
    config = write("destinations:\n  fp: {provider: flexprize}\nmeterz: {}\n")
    write("{}\n", "e.ndjson")
    done = run(command, *(["e.ndjson"] if command == "explain" else []), "--config", config)
    assert (1, "") == done[:2]
    assert [
        "usage-gateway: gateway.yaml:2: destinations.fp.provider: unknown provider; did you mean flexprice?",
        "usage-gateway: gateway.yaml:2: destinations.fp.settings: is missing",
        "usage-gateway: gateway.yaml:3: meterz: unknown key; did you mean meters?",
    ] == done.err.splitlines()


def test_a_ledger_in_a_folder_that_is_not_there_ends_serve_with_one_line(run: Run) -> None:
    config = write(SMALL + "listen: {port: 0}\nledger: {url: 'sqlite:///no/such/folder.db'}\n")
    done = run("serve", "--config", config)
    assert (1, "") == done[:2]
    assert "no/such/folder.db cannot be opened for writing" in done.err
    assert "Traceback" not in done.err


def test_providers_is_for_people_on_stderr_and_for_machines_on_stdout(run: Run) -> None:
    people = run("providers")
    assert (0, "") == people[:2]
    assert all(adapter.spec.title in people.err for adapter in providers().values())
    machine = run("providers", "--json")
    assert (0, "", sorted(providers())) == (machine.code, machine.err, [one["name"] for one in machine.json["data"]])


def test_one_provider_comes_with_the_source_of_every_fact(run: Run) -> None:
    spec = providers()["paygentic"].spec
    told = run("providers", "paygentic", "--json").json
    assert ["events", "usage-v0"] == list(told["profiles"])
    assert [source.fact for source in spec.sources] == [source["fact"] for source in told["sources"]]
    assert [caution for caution in spec.cautions if caution not in run("providers", "paygentic").err] == []


def test_a_new_key_fits_its_own_configuration(run: Run) -> None:
    told = run("keys", "new", "--name", 'the "shop"', "--tenant", "shop", "--scope", "events:write", "--json").json
    assert told["configuration"] == {
        "name": 'the "shop"',
        "sha256": sha256(told["key"]),
        "tenant": "shop",
        "scopes": ["events:write"],
    }


def test_people_get_a_key_once_and_yaml_that_loads(run: Run) -> None:
    done = run("keys", "new", "--name", 'the "shop": 1', "--tenant", "shop", "--scope", "admin")
    (key,) = re.findall(r"ugw_[\w-]{43}", done.err)
    yaml_text = done.err.partition("For the configuration:")[2]
    (entry,) = loads(yaml_text, {}).auth.keys
    assert (0, "", sha256(key), "shop", {"admin"}) == (done.code, done.out, entry.sha256, entry.tenant, entry.scopes)
    assert yaml.safe_load(yaml_text)["auth"]["keys"][0]["name"] == 'the "shop": 1'


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_schema_is_a_json_schema(run: Run, options: list[str]) -> None:
    done = run("config", "schema", *options)
    assert (0, "", "https://json-schema.org/draft/2020-12/schema") == (done.code, done.err, done.json["$schema"])


# check


def codes(done: Done) -> list[str]:
    return [warning["code"] for warning in done.json["warnings"]]


def test_check_says_that_a_configuration_can_be_used_and_never_shows_a_secret(run: Run) -> None:
    done = run("check", "--config", write(SMALL))
    assert (0, "") == done[:2]
    assert "gateway.yaml: can be used: 1 live destination, 1 meter" in done.err
    assert "secret-key" not in done.err


def test_check_says_for_machines_what_is_wrong(run: Run) -> None:
    done = run("check", "--config", write("meterz: {}\n"), "--json")
    assert (1, "") == (done.code, done.err)
    assert {
        "object": "check_result",
        "ok": False,
        "errors": ["gateway.yaml:1: meterz: unknown key; did you mean meters?"],
        "warnings": [],
    } == done.json


SURPRISING = """
destinations:
  flowglad: {provider: flowglad, settings: {api_key: k, base_url: "http://sandbox.example/v1"}}
  flexprice: {provider: flexprice, settings: {api_key: k}}
  wingback: {provider: wingback, mode: shadow, settings: {api_key: k}}
  old: {provider: flexprice, mode: "off", settings: {api_key: k}}
meters:
  calls: {bindings: {flowglad: {usage_meter_slug: calls}, flexprice: {}}}
  peak: {aggregation: max, bindings: {flowglad: {price_slug: peak}}}
  only_shadow: {bindings: {wingback: {}}}
  nobody: {bindings: {old: {}}}
customers: {acme: {flowglad: {subscription_id: sub_1}}, globex: {}}
"""


def test_check_warns_of_everything_that_will_surprise(run: Run) -> None:
    done = run("check", "--config", write(SURPRISING), "--json")
    told = {(one["code"], one["at"]): one["message"] for one in done.json["warnings"]}
    assert [
        ("billed_by_several", "destinations"),
        ("default_price", "meters.calls.bindings.flowglad"),
        ("aggregation", "meters.peak.bindings.flowglad"),
        ("unrouted_meter", "meters.only_shadow"),
        ("unrouted_meter", "meters.nobody"),
        ("unlinked", "destinations.flowglad"),
        ("unlinked", "destinations.wingback"),
        ("plain_http", "destinations.flowglad.settings.base_url"),
        ("unverified", "destinations.flowglad"),
        ("unverified", "destinations.flexprice"),
        ("unverified", "destinations.wingback"),
        ("off", "destinations.old"),
        ("no_keys", "auth.keys"),
    ] == list(told)
    assert "calls is billed by flowglad and flexprice alike" in told["billed_by_several", "destinations"]
    assert "globex has no link" in told["unlinked", "destinations.flowglad"]
    assert "acme, globex have no link" in told["unlinked", "destinations.wingback"]
    assert "cannot aggregate by max" in told["aggregation", "meters.peak.bindings.flowglad"]
    assert (0, True) == (done.code, done.json["ok"])
    assert 1 == run("check", "--config", "gateway.yaml", "--strict").code


def test_destinations_of_different_tenants_do_not_bill_the_same(run: Run) -> None:
    config = write("""
destinations:
  one: {provider: flexprice, tenants: [a], settings: {api_key: k}}
  two: {provider: flexprice, tenants: [b], settings: {api_key: k}}
meters: {calls: {}}
""")
    assert "billed_by_several" not in codes(run("check", "--config", config, "--json"))


def test_customers_of_several_tenants_that_would_be_one_at_the_vendor_are_told(run: Run) -> None:
    listed = ", ".join(f"{{name: {one}, tenant: {one}, sha256: '{one * 64}', scopes: [admin]}}" for one in "ab")
    keys = f"auth: {{keys: [{listed}]}}\n"
    shared = "destinations: {one: {provider: flexprice, settings: {api_key: k}}}\nmeters: {calls: {}}\n"
    warned = run("check", "--config", write(keys + shared), "--json")
    assert "customers_of_several_tenants" in codes(warned)
    apart = run("check", "--config", write(keys + shared.replace("flexprice,", "flexprice, tenants: [a],")), "--json")
    assert "customers_of_several_tenants" not in codes(apart)


def test_check_finds_what_would_stop_the_service(run: Run) -> None:
    config = write(SMALL + "ledger: {url: 'sqlite:///no/such/folder.db'}\n")
    done = run("check", "--config", config)
    assert (1, "") == done[:2]
    assert "ledger.url: the folder" in done.err


def test_check_adds_up_a_ledger_that_is_there_and_says_so_where_it_is_not(run: Run) -> None:
    done = run("check", "--config", write(SMALL), "--ledger")
    assert (1, "") == done[:2]
    assert "usage-gateway.db does not exist" in done.err


# explain


def test_explain_shows_the_request_without_its_key(run: Run) -> None:
    write('{"id": "e1", "customer": "acme", "meter": "api_calls", "quantity": 1.50}\n', "e.ndjson")
    done = run("explain", "e.ndjson", "--config", write(SMALL), "--json")
    (one,) = done.json["results"]
    request = one["deliveries"]["flexprice"]["request"]
    assert (0, "", "***") == (done.code, done.err, request["headers"]["x-api-key"])
    assert {"quantity": "1.50"} == request["body"]["events"][0]["properties"]
    people = run("explain", "e.ndjson", "--config", "gateway.yaml")
    assert (0, "") == people[:2]
    assert "POST https://us.api.flexprice.io/v1/events/bulk" in people.err
    assert "secret-key" not in people.err


def test_explain_ends_with_4_where_something_would_be_refused(run: Run) -> None:
    write('[{"id": "e1", "customer": "acme", "meter": "api_calls", "quantity": -1}, {"id": "e2"}]', "e.json")
    done = run("explain", "e.json", "--config", write(SMALL))
    assert (4, "") == done[:2]
    assert "quantity_not_representable: quantity: Flexprice takes nothing below 0" in done.err
    assert "invalid_event: customer: is required" in done.err
