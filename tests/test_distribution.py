"""The distribution: what is in it, and that it works where only it and its dependencies are installed."""

import json
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def ran(*argv: str | Path, cwd: Path) -> str:
    """Run a command with nothing of ours in its environment; return its standard output."""
    done = subprocess.run(
        argv, cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode in {0, 4}, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, and the wheel that is built from it and from nothing else."""
    folder = tmp_path_factory.mktemp("dist")
    ran(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


def one(dist: Path, pattern: str) -> Path:
    (found,) = dist.glob(pattern)
    return found


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(one(dist, "*.whl")) as wheel:
        names = set(wheel.namelist())
    packages = ("adapters", "canonical_schema", "gateway")
    assert {name.split("/")[0] for name in names} - set(packages) == {"usage_gateway-0.1.0.dist-info"}
    assert {f"{package}/py.typed" for package in packages} <= names
    assert {"gateway/demo/config.yaml", "gateway/demo/events.ndjson"} <= names
    assert "usage_gateway-0.1.0.dist-info/licenses/LICENSE" in names
    ours = {str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py")}
    assert ours == {name for name in names if name.endswith(".py")}


def test_the_source_distribution_can_be_tested(dist: Path) -> None:
    with tarfile.open(one(dist, "*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "config.example.yaml", "pyproject.toml",
        "requirements/dev.lock", "requirements/runtime.lock", "tests/test_documents.py",
        "examples/contract-tests/test_billing.py",
    } <= names  # fmt: skip


def test_the_wheel_works_where_only_it_is_installed(dist: Path, tmp_path: Path) -> None:
    fresh, site = tmp_path / "fresh", Path(sysconfig.get_path("purelib"))
    ran(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=tmp_path)
    python = fresh / "bin" / "python"
    ran(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index",
        one(dist, "*.whl"), cwd=tmp_path)  # fmt: skip
    # The dependencies are those of this environment, so that no network is needed. A path in a .pth file is not
    # looked at for .pth files of its own: the source tree stays out of it.
    theirs = Path(ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (theirs / "dependencies.pth").write_text(f"{site}\n")

    where = ran(python, "-c", "import gateway, adapters; print(gateway.__file__, adapters.__file__)", cwd=tmp_path)
    assert all(Path(path).is_relative_to(fresh) for path in where.split())
    told = json.loads(ran(fresh / "bin" / "usage-gateway", "demo", "--once", cwd=tmp_path))
    assert 200 == told["summary"]["total"]
    assert ["fresh"] == [path.name for path in tmp_path.iterdir()]
