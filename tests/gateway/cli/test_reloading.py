"""A configuration that is read again: what was written last is used, whatever is slow or away meanwhile."""

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.cli import serve
from gateway.configuration import Configuration
from gateway.configuration.file import load
from gateway.errors import ConfigurationError, LedgerUnavailable
from gateway.service import Gateway
from tests.waiting import until

FILE = Path("gateway.yaml")


class Taking:
    """In place of a gateway: remembers what it was told to use, once its ledger is there."""

    def __init__(self, *, away: int = 0) -> None:
        self.used: list[str] = []
        self.took = threading.Event()
        self._away = away

    async def reload(self, configuration: str, actor: str) -> None:
        if self._away:
            self._away -= 1
            raise LedgerUnavailable(f"it is away, and {actor} waits")
        self.used.append(configuration)
        self.took.set()

    async def uses(self, count: int) -> list[str]:
        await until(lambda: len(self.used) == count, "they are not used")
        return self.used


async def told_twice(gateway: Taking) -> list[str]:
    with serve._reloading(FILE, cast("Gateway", gateway)) as begun:
        begun.set()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.02)  # two that come at once count as one
        return await gateway.uses(2)


async def test_of_two_readings_the_later_one_is_used_though_the_first_takes_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readings, gateway = iter(("first", "second")), Taking()

    def load(*_: Any) -> str:
        told = next(readings)
        if told == "first":  # as long as it takes to use the second, were that not to wait for it
            gateway.took.wait(0.3)
        return told

    monkeypatch.setattr(serve, "load", load)
    assert ["first", "second"] == await told_twice(gateway)


async def test_a_reading_waits_for_the_ledger_and_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter(("first", "first, again", "second"))
    monkeypatch.setattr(serve, "load", lambda *_: next(readings))
    monkeypatch.setattr(serve, "AGAIN", 0)
    assert ["first, again", "second"] == await told_twice(Taking(away=1))


def test_a_file_that_is_refused_over_and_over_does_not_displace_the_one_in_use(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    written = "destinations: {it: {provider: PROVIDER, settings: {api_key: k}}}\nmeters: {calls: {}}\n"
    file.write_text(written.replace("PROVIDER", "flexprice"), "utf-8")
    used = serve._Used(file, load(file, {}))
    file.write_text(written.replace("PROVIDER", "flowglad"), "utf-8")
    for _ in range(2 * serve.REMEMBERED):
        used.read()

    def run(configuration: Configuration) -> int:
        if (now := configuration.destinations["it"].provider) != "flexprice":
            raise ConfigurationError(f"destinations.it: is {now}, and deliveries are flexprice's")
        return 0

    assert 0 == used.ended(run)
