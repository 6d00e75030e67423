"""`serve` and `simulate` as processes: they say where they are, do their work, and stop when they are told to."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli._server import Server

ROOT = Path(__file__).parents[3]

CONFIG = """
listen: {{port: {port}}}
destinations: {{flexprice: {{provider: flexprice, settings: {{api_key: secret-key, base_url: "{base}"}}}}}}
meters: {{api_calls: {{}}}}
"""


class Process:
    """A command that runs, with --json: its first line says where."""

    def __init__(self, *argv: str, cwd: Path) -> None:
        self._log = cwd / f"{argv[0]}.err"
        with self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "gateway", *argv, "--json"],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, self.err
        self.said: Any = json.loads(line)

    @property
    def err(self) -> str:
        return self._log.read_text()

    def logged(self, event: str) -> dict[str, Any]:
        """Return the first log line of an event, waiting for it."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for line in self.err.splitlines():
                if line.startswith("{") and line.endswith("}") and json.loads(line).get("event") == event:
                    return json.loads(line)
            time.sleep(0.02)
        raise AssertionError(self.err)

    def end(self, one: signal.Signals) -> int:
        self.popen.send_signal(one)
        return self.popen.wait(30)


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start]:
    """Start commands in an empty folder; whatever still runs in the end is killed."""
    with contextlib.ExitStack() as running:

        def started(*argv: str) -> Process:
            process = Process(*argv, cwd=tmp_path)
            running.callback(process.popen.wait)
            running.callback(process.popen.kill)
            running.enter_context(process.popen.stdout or contextlib.nullcontext())
            return process

        yield started


def configure(folder: Path, base: str, *, port: int = 0, more: str = "") -> str:
    (folder / "gateway.yaml").write_text(CONFIG.format(port=port, base=base) + more)
    return "gateway.yaml"


def event(event_id: str) -> dict[str, object]:
    return {"id": event_id, "customer": "acme", "meter": "api_calls", "quantity": 3}


def test_a_gateway_and_a_simulated_vendor_from_start_to_stop(start: Start, tmp_path: Path) -> None:
    vendors = start("simulate", "flexprice", "--port", "0")
    base = vendors.said["base_urls"]["flexprice"]
    gateway = start("serve", "--config", configure(tmp_path, base))
    url = gateway.said["url"]
    assert ("listening", "sqlite:///usage-gateway.db", "fsync") == (
        gateway.said["object"],
        gateway.said["ledger"],
        gateway.said["durability"],
    )
    listening = gateway.logged("gateway.listening")
    assert (url, "fsync") == (listening["url"], listening["durability"])

    answer = httpx.post(f"{url}/v1/events", json=event("e1"), trust_env=False)
    assert (200, "accepted") == (answer.status_code, answer.json()["results"][0]["deliveries"]["flexprice"]["status"])
    billed = httpx.get(f"{vendors.said['control']}/flexprice/billed", trust_env=False).json()["data"]
    assert [{"customer": "acme", "meter": "api_calls", "quantity": "3"}] == billed

    configure(tmp_path, base, more="routez: []\n")
    gateway.popen.send_signal(signal.SIGHUP)
    assert "routez: unknown key; did you mean routes?" in gateway.logged("configuration.refused")["error"]
    configure(tmp_path, base)
    gateway.popen.send_signal(signal.SIGHUP)
    assert 2 == gateway.logged("configuration.reloaded")["generation"]

    assert 0 == gateway.end(signal.SIGTERM)
    assert gateway.logged("gateway.stopped")
    assert 130 == vendors.end(signal.SIGINT)
    assert "secret-key" not in gateway.err
    assert "Traceback" not in gateway.err + vendors.err


def test_a_hangup_before_it_is_ready_is_heard_and_does_not_end_it(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    os.mkfifo(config)  # it stands still where it reads it
    with (
        (tmp_path / "err").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--config", "gateway.yaml", "--json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=log,
        ) as gateway,
    ):
        try:
            with config.open("w") as file:
                gateway.send_signal(signal.SIGHUP)
                file.write(CONFIG.format(port=0, base="http://127.0.0.1:9"))
            assert gateway.stdout is not None
            assert gateway.stdout.readline(), gateway.wait()
            with config.open("w") as file:  # it reads it again
                file.write(CONFIG.format(port=0, base="http://127.0.0.1:9"))
            gateway.send_signal(signal.SIGTERM)
            assert 0 == gateway.wait(30)
        finally:
            gateway.kill()


def test_ctrl_c_is_130_and_what_was_stored_is_there_at_the_next_start(start: Start, tmp_path: Path) -> None:
    config = configure(tmp_path, "http://127.0.0.1:9")
    gateway = start("serve", "--config", config)
    sent = httpx.post(f"{gateway.said['url']}/v1/events?ack=stored", json=event("e1"), trust_env=False)
    assert 202 == sent.status_code
    assert 130 == gateway.end(signal.SIGINT)
    gateway = start("serve", "--config", config)
    assert 200 == httpx.get(f"{gateway.said['url']}/v1/events/e1", trust_env=False).status_code


def test_a_second_process_on_the_same_ledger_is_one_line_and_1(start: Start, tmp_path: Path) -> None:
    config = configure(tmp_path, "http://127.0.0.1:9")
    start("serve", "--config", config)
    code, err = ended("serve", "--config", config, cwd=tmp_path)
    assert (1, "usage-gateway: usage-gateway.db is in use by another gateway process\n") == (code, err)


def test_an_idle_connection_is_kept_for_longer_than_those_who_send_keep_theirs() -> None:
    async def app(*_: object) -> None: ...

    load_balancers = 60
    assert Server(app).config.timeout_keep_alive > load_balancers


def test_a_port_that_is_taken_is_one_line_and_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = configure(tmp_path, "http://127.0.0.1:9", port=port)
        expected = f"usage-gateway: cannot listen on 127.0.0.1:{port}: Address already in use\n"
        assert (1, expected) == ended("serve", "--config", config, cwd=tmp_path)
        assert (1, expected) == ended("simulate", "--port", str(port), cwd=tmp_path)


def ended(*argv: str, cwd: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stdout
    return done.returncode, done.stderr


def test_whoever_reads_may_go_away(tmp_path: Path) -> None:
    command = f"{sys.executable} -m gateway config schema | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (b"{", b"") == (done.stdout, done.stderr)
