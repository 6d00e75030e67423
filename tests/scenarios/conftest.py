"""The gateway as a process of its own, simulated vendors on real sockets, and a client between them."""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import yaml
from starlette.types import ASGIApp

from gateway.simulator import SimulatedProvider, serve_in_thread
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds in which a process says that it began, or ended."""
CONTRACT = "Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670"
GHOST = "Cust_0b8f3a44-3d0e-4f0e-9a53-5b1f4f7a2c11"

DESTINATIONS: dict[str, tuple[str, dict[str, object]]] = {
    "flowglad": ("flowglad", {}),
    "paygentic": ("paygentic", {"profile": "usage-v0", "merchant_id": "org_1"}),
    "paygentic_events": ("paygentic", {"profile": "events"}),
    "flexprice": ("flexprice", {"allow_amend": True}),
    "wingback": ("wingback", {}),
}
"""By name: the provider, and its settings beside the key and the address."""

BINDINGS: dict[str, dict[str, str]] = {
    "flowglad": {"price_slug": "api_calls"},
    "paygentic": {"billable_metric_id": "bm_calls"},
    "paygentic_events": {"event_type": "api_calls"},
    "flexprice": {"event_name": "api_calls"},
    "wingback": {"feature_slug": "API_CALLS"},
}


def event(event_id: str, quantity: object = 1, **members: str) -> dict[str, object]:
    """Return an event that every vendor takes."""
    return {"id": event_id, "customer": "acme", "meter": "api_calls", "quantity": quantity, **members}


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket) -> AsyncGenerator[None]:
    """Answer as an application says, on a socket that listens, for as long as this lasts."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    task = asyncio.create_task(server._serve([listener]))
    await until(lambda: server.started)  # uvicorn tells nobody
    try:
        yield
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def served(file: Path, *options: str, tree: Path | None = None) -> AsyncGenerator[tuple[dict[str, Any], int]]:
    """Run `serve` with a configuration; give what it says when it listens, and its process. It has to end well.

    `tree`: a folder with another version of the gateway, instead of this one.
    """
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(file), *options, "--json"]
    log = file.with_suffix(".log")
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=errors, cwd=tree)
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        assert line, log.read_text()
        yield json.loads(line), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert 0 == await asyncio.wait_for(process.wait(), 60)
        except TimeoutError:
            process.kill()
            raise


class Service:
    """One gateway, which may be killed and started again over the same ledger."""

    def __init__(self, folder: Path, urls: Mapping[str, str]) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.configuration: dict[str, Any] = {
            "listen": {"port": 0},
            "ledger": {"url": f"sqlite:///{folder}/ledger.db"},
            "destinations": {
                name: {
                    "provider": DESTINATIONS[name][0],
                    "rate": "none",
                    "settings": {"api_key": f"key-{name}", "base_url": url, **DESTINATIONS[name][1]},
                }
                for name, url in urls.items()
            },
            "meters": {"api_calls": {"bindings": {name: BINDINGS[name] for name in urls}}},
            "customers": {
                "acme": _links(urls, {"subscription_id": "sub_acme"}, {"customer_id": "cus_acme"}, CONTRACT),
                "ghost": _links(urls, {"subscription_id": "sub_ghost"}, {"customer_id": "cus_ghost"}, GHOST),
            },
            "delivery": {"retry": {"first": "10ms", "max": "50ms"}},
        }

    @property
    def log(self) -> str:
        """Everything that the processes wrote to standard error."""
        return (self._folder / "gateway.log").read_text()

    def launch(self) -> subprocess.Popen[str]:
        """Begin a process; `start` also waits until it listens."""
        file = self.configured()
        with (self._folder / "gateway.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", "--config", str(file), "--json"],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def configured(self) -> Path:
        """Return the file that the configuration is written to."""
        file = self._folder / "gateway.yaml"
        file.write_text(yaml.safe_dump(self.configuration, sort_keys=False))
        return file

    def start(self) -> None:
        """Start, and return once it listens."""
        self._process = self.launch()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.log
        self.client = httpx.Client(base_url=json.loads(line)["url"], timeout=60)

    def kill(self) -> None:
        """End the process as a power cut would: nothing gets a chance to finish."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process as an operator would."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None
        self.client.close()

    def send(self, events: Sequence[dict[str, object]], query: str = "?ack=all", wait: float = 30) -> httpx.Response:
        """Send a batch."""
        return self.client.post(f"/v1/events{query}", json=events, headers={"prefer": f"wait={wait}"})

    def stored(self, query: str = "") -> list[dict[str, Any]]:
        """Return every event that is in the ledger, over all pages."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.client.get(f"/v1/events?limit=1000{query}{cursor}").json()
            found += page["data"]
            if "next_cursor" not in page:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def settled(self, seconds: float = 30) -> list[dict[str, Any]]:
        """Return every event once no delivery is under way."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            queues = [one["queue"] for one in self.client.get("/v1/destinations").json()["data"]]
            if not any(queue["ready"] or queue["sending"] for queue in queues):
                return self.stored()
            time.sleep(0.05)
        raise AssertionError("something never settles")


class Forked(Service):
    """A service whose starts cost little: each is the real command in a process forked from one that is ready."""

    def __init__(self, folder: Path, urls: Mapping[str, str], *, hasty: bool = False) -> None:
        super().__init__(folder, urls)
        self._pid = 0
        with (folder / "gateway.log").open("a") as log:
            self._ready = subprocess.Popen(
                [sys.executable, "-m", "tests.scenarios.zygote", *(["hasty"] if hasty else [])],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
            )

    def start(self) -> None:
        self._tell(str(self.configured()))
        told = self._heard() | self._heard()
        self._pid = told["pid"]
        self.client = httpx.Client(base_url=told["url"], timeout=60)

    def close(self) -> None:
        """End everything."""
        self.kill()
        assert self._ready.stdin is not None
        assert self._ready.stdout is not None
        self._ready.stdin.close()
        self._ready.wait(30)
        self._ready.stdout.close()

    def _end(self, how: signal.Signals) -> None:
        if not self._pid:
            return
        os.kill(self._pid, how)
        self._tell("reap")
        self._heard()
        self._pid = 0
        self.client.close()

    def _tell(self, line: str) -> None:
        assert self._ready.stdin is not None
        self._ready.stdin.write(f"{line}\n".encode())

    def _heard(self) -> dict[str, Any]:
        assert self._ready.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            told, _, _ = select.select([self._ready.stdout], [], [], PATIENCE)
            more = self._ready.stdout.read(1) if told else b""
            assert more, self.log
            line += more
        return json.loads(line)


def _links(urls: Mapping[str, str], flowglad: object, paygentic: object, contract: str) -> dict[str, object]:
    links = {"flowglad": flowglad, "paygentic": paygentic, "wingback": {"customer_id": contract}}
    return {name: link for name, link in links.items() if name in urls}


@pytest.fixture
def vendors() -> dict[str, SimulatedProvider]:
    """The vendor behind each destination."""
    return {name: SimulatedProvider(provider) for name, (provider, _) in DESTINATIONS.items()}


@contextlib.contextmanager
def reached(vendors: Mapping[str, SimulatedProvider]) -> Generator[dict[str, str]]:
    """Give every vendor a socket of its own, in a thread of its own."""
    with contextlib.ExitStack() as up:
        yield {name: f"{up.enter_context(serve_in_thread([one]))}/{one.name}" for name, one in vendors.items()}


@pytest.fixture
def service(tmp_path: Path, vendors: dict[str, SimulatedProvider]) -> Generator[Service]:
    """A gateway that is configured and not started yet; its vendors are up."""
    with reached(vendors) as urls:
        made = Service(tmp_path, urls)
        try:
            yield made
        finally:
            made.kill()
