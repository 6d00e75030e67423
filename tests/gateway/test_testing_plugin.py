"""The pytest plugin as its users meet it: in projects of their own, with every import counted."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import httpx
import pytest
from respx.models import AllMockedAssertionError

from gateway.simulator import FAULTS
from gateway.testing import __all__ as fixtures
from gateway.testing import _mounted as mounted

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "contract-tests"
LOADED = (
    [] if any(point.value == "gateway.testing" for point in entry_points(group="pytest11")) else ["gateway.testing"]
)
"""The plugin, for where the distribution is not installed."""


def run(*arguments: str, cwd: Path, plugins: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    load = [part for name in (*LOADED, *plugins) for part in ("-p", name)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *load, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(cwd)]), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_example_project_passes() -> None:
    done = run(cwd=EXAMPLE)
    assert (done.returncode, "11 passed" in done.stdout) == (0, True), done.stdout + done.stderr


def test_the_example_project_fails_where_its_code_would_bill_twice(tmp_path: Path) -> None:
    code = (EXAMPLE / "billing.py").read_text()
    careless = code.replace('"timestamp": at.astimezone(UTC).isoformat(),\n', "")
    assert careless != code
    (tmp_path / "billing.py").write_text(careless.replace("json=body", "json=_stamped(body)") + STAMPS)
    (tmp_path / "test_billing.py").write_text((EXAMPLE / "test_billing.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = run(cwd=tmp_path)
    failed = [line.split("::")[1].split(" ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert failed == [
        "test_a_lost_answer_is_not_billed_twice",
        "test_a_broken_connection_is_not_billed_twice[reset_after]",
        "test_a_broken_connection_is_not_billed_twice[timeout]",
        "test_a_broken_connection_is_not_billed_twice[half_answer]",
    ], done.stdout + done.stderr


STAMPS = '''

_ticks = iter(range(100))


def _stamped(body):
    """Stamp at sending, the mistake that bills a repeat again."""
    at = f"2026-11-23T12:00:{next(_ticks):02}Z"
    return {"events": [{**event, "timestamp": at} for event in body["events"]]} if "events" in body else body
'''


def test_loading_the_plugin_imports_nothing_that_is_heavy() -> None:
    heavy = ["httpx", "starlette", "pydantic", "uvicorn", "respx", "adapters", "msgspec"]
    code = f"import sys, gateway.testing; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_fixture_without_respx_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(simulated_wingback):\n    pass\n")
    (tmp_path / "hidden.py").write_text("import sys\nsys.modules['respx'] = None\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = run("-p", "no:respx", cwd=tmp_path, plugins=["hidden"])
    assert "simulated_wingback needs respx: pip install 'usage-gateway[testing]'" in done.stdout


def test_the_readme_of_the_example_names_every_fixture_and_every_fault() -> None:
    readme = (EXAMPLE / "README.md").read_text()
    assert [name for name in (*FAULTS, *fixtures) if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("fixture", fixtures)
def test_a_vendor_is_mounted_at_its_real_address_and_nothing_else_is(fixture: str) -> None:
    with mounted(fixture.removeprefix("simulated_")) as vendor:
        for door in vendor.spec.doors.values():
            answer = httpx.post(vendor.spec.base_url + door.path, json={})
            assert answer.status_code == 401
        assert len(vendor.calls) == len(vendor.spec.doors)
        with pytest.raises(AllMockedAssertionError):
            httpx.get("https://example.com/")


@pytest.mark.anyio
async def test_an_asynchronous_client_reaches_the_same_vendor() -> None:
    with mounted("wingback") as vendor:
        vendor.fail("timeout")
        async with httpx.AsyncClient(base_url="https://api.wingback.com", headers={"wb-key": "k"}) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/c/usage/bulk", json=[])
            assert (await client.post("/v1/c/usage/bulk", json=[])).status_code == 200


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
