"""The documents tell the truth: commands exist, examples answer what is printed, the table is what is declared."""

import json
import re
import shlex
import tomllib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from adapters import AnyAdapter, Measure, Reply, Sent, State, Usage, encode_row, settle
from gateway import __version__
from gateway import demo as world
from gateway.app import create_app
from gateway.cli import app
from gateway.configuration.file import loads
from gateway.describing.document import provider_table, renewed
from gateway.ledger import SqliteLedger
from gateway.service import Gateway
from gateway.simulator import FAULTS, SimulatedProvider

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
AT = datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_the_providers_table_is_what_the_adapters_declare() -> None:
    assert renewed(README) == README, "run `make docs`"
    assert provider_table() in README


def test_a_document_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the marks are missing"):
        renewed("no table here")


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    quoted = re.findall(r"`((?:usage-gateway|make) [^`]+)`", README)
    return sorted({line for line in (*lines, *quoted) if line.startswith(("usage-gateway ", "make "))})


@pytest.mark.parametrize("command", [one for one in commands() if one.startswith("usage-gateway")])
def test_every_command_that_the_readme_names_can_be_given(command: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("")
    tokens = [str(tmp_path / token) if token == "gateway.yaml" else token for token in shlex.split(command)[1:]]
    if len(tokens) == 1:
        assert tokens[0] in app
        return
    function, _, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    assert (function.__name__, ignored) == (tokens[1] if tokens[0] in {"keys", "config", "ledger"} else tokens[0], {})


@pytest.mark.parametrize("command", [one for one in commands() if one.startswith("make")])
def test_every_make_target_that_the_readme_names_is_there(command: str) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert command.split()[1] in targets


def test_every_file_that_the_readme_links_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_smallest_configuration_can_be_used() -> None:
    (text,) = blocks("yaml")
    configuration = loads(text, {"FLEXPRICE_API_KEY": "k"})
    assert list(configuration.meters["api_calls"].bindings) == list(configuration.destinations) == ["flexprice"]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient]:
    """The demo's gateway, as `make demo` has it."""
    base = "http://127.0.0.1:39083"
    vendors = world.vendors()
    configuration = world.configuration(base, tmp_path)
    mounts = {vendor.name: vendor.transport(f"{base}/{vendor.name}") for vendor in vendors}
    gateway = Gateway(configuration, SqliteLedger(configuration.ledger.path), mounts=mounts)
    await gateway.start()
    try:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            yield client
    finally:
        await gateway.stop()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_every_curl_answers_what_is_printed_below_it(client: httpx.AsyncClient) -> None:
    curls = [shlex.split(block) for block in blocks("sh") if block.startswith("curl")]
    printed = [json.loads(block) for block in blocks("json")]
    answers: list[Any] = []
    for command in curls:
        url = next(part for part in command if part.startswith("http://127.0.0.1:8080/"))
        body = command[command.index("-d") + 1]
        answers.append((await client.post(url, content=body, headers={"content-type": "application/json"})).json())
    assert len(printed) == len(curls) == 3
    assert [steady(one) for one in printed] == [steady(one) for one in answers]


def steady(value: object) -> object:
    """Return an answer without what differs from run to run."""
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        return {key: "-" if key in {"batch_id", "timestamp"} else steady(one) for key, one in members.items()}
    return [steady(one) for one in cast("list[object]", value)] if isinstance(value, list) else value


def test_the_readmes_adapter_sends_settles_and_can_be_simulated() -> None:
    (code,) = [block for block in blocks("python") if "(Adapter[" in block]
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    adapter: AnyAdapter = names["Meterbox"](names["Settings"](api_key="k"))
    vendor = SimulatedProvider(adapter.spec)
    row = adapter.encode(
        Usage(
            key="e1",
            event_id="e1",
            customer="acme",
            meter="calls",
            timestamp=AT,
            measures=(Measure(name="", quantity=Decimal("1.5"), binding=names["EventName"](event_name="calls")),),
            link=names["Account"](account="a1"),
        )
    )
    request = adapter.request([encode_row(row)])
    headers = {name.lower(): value for name, value in request.headers.items()}
    for _ in range(2):
        reply = vendor.handle(request.method, "/events", headers, request.body).reply
        assert reply is not None
        read = Reply(status=reply.status, headers=reply.headers, body=reply.body)
        outcomes = settle(adapter.door, read, [Sent(key="e1", row=row)], now=AT)
        assert [State.ACCEPTED] == [outcome.state for outcome in outcomes.values()]
    assert {("a1", "calls"): Decimal("1.5")} == vendor.billed()


def test_the_readmes_entry_point_is_the_group_that_is_looked_at() -> None:
    from adapters._base import GROUP

    (toml,) = blocks("toml")
    assert [GROUP] == list(tomllib.loads(toml)["project"]["entry-points"])


def test_the_readmes_fixture_and_fault_exist() -> None:
    (code,) = [block for block in blocks("python") if "def test_" in block]
    assert set(re.findall(r'fail\("(\w+)"', code)) <= set(FAULTS)
    assert f"def {re.findall(r'simulated_[a-z]+', code)[0]}(" in (ROOT / "gateway" / "testing.py").read_text()


def test_the_changelog_has_this_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert __version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
