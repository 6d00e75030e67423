"""What retention leaves, and how it is brought to its end."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import zstandard

from gateway.ledger.check import add_up
from tests.gateway.conftest import Asking

__all__ = ["adds_up", "archived", "erase", "keeping", "kept"]


def keeping(tmp_path: Path, **members: object) -> dict[str, Any]:
    return {"retention": {"events": "1d", "ids": "10d", "archive": str(tmp_path / "archive"), **members}}


def archived(tmp_path: Path) -> list[dict[str, Any]]:
    """Return every record of the archive, by what its manifest says."""
    manifest = json.loads((tmp_path / "archive" / "manifest.json").read_bytes())
    lines: list[dict[str, Any]] = []
    for segment in manifest["segments"]:
        with (tmp_path / "archive" / segment["file"]).open("rb") as file:
            body = zstandard.ZstdDecompressor().stream_reader(file).read()
        lines += [json.loads(line) for line in body.splitlines()]
    return lines


def adds_up(tmp_path: Path) -> dict[str, Any]:
    sums = add_up(tmp_path / "ledger.db")
    assert [] == sums["problems"]
    return sums


async def kept(asking: Asking) -> None:
    """Do what is to be done until there is nothing left to do."""
    for _ in range(50):
        now = asking.gateway.clock.now()
        if await asking.gateway.keeper.step() - now > timedelta(minutes=1):
            return
    raise AssertionError("there is no end to it")


async def erase(asking: Asking, customer: str = "acme", **members: object) -> Any:
    body = {"reason": "asked for", **members}
    return await asking.client.post(f"/v1/customers/{customer}/erase", json=body)
