"""A process that is killed while it upgrades a ledger leaves a file of the old version or of the new, never between."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from canonical_schema import DeliveryStatus
from gateway.ledger import ref_of
from gateway.ledger._schema import UPGRADES, VERSION
from gateway.ledger.check import add_up
from tests.gateway.ledger.conftest import SqliteStore, opened
from tests.gateway.ledger.test_schema import old

__all__ = ["old"]

ROOT = Path(__file__).parents[3]

KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from gateway.ledger import _schema
steps = list(_schema.UPGRADES[1])
steps.insert(int(sys.argv[2]), lambda _: os.kill(os.getpid(), signal.SIGKILL))
_schema.UPGRADES = {**_schema.UPGRADES, 1: tuple(steps)}
_schema.upgrade(_schema.connect(Path(sys.argv[1])))
"""


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        return found


@pytest.mark.parametrize("step", range(len(UPGRADES[1]) + 1))
async def test_a_file_is_of_one_version_or_of_the_other(old: SqliteStore, step: int) -> None:
    done = subprocess.run(  # noqa: ASYNC221  nothing else runs meanwhile
        [sys.executable, "-c", KILLED, str(old.path), str(step)], cwd=ROOT, check=False
    )
    assert -9 == done.returncode
    assert 1 == version(old.path)
    async with opened(old) as ledger:
        assert ref_of(1, 1) == await ledger.find("default", "e2")
        assert {"a": {"accepted": 1, "retrying": 1}, "b": {"blocked": 1, "filtered": 1}} == {
            name: {DeliveryStatus(status).value: count for status, count in counted.items()}
            for name, counted in (await ledger.counts()).items()
        }
    assert VERSION == version(old.path)
    assert [] == add_up(old.path)["problems"]
