"""A disk that is full is a 503 at the door: nothing is promised, nothing is lost, and it goes on when there is room."""

import contextlib
import resource
import secrets
import signal
import subprocess
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.ledger.check import add_up
from tests.gateway.cli.test_serve import Process, Start, configure, event, start
from tests.gateway.test_graceful_stop import Vendor, vendor

__all__ = ["start", "vendor"]

MIB = 2**20


@pytest.fixture
def small(tmp_path: Path) -> Generator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={2 * MIB}", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def bulky(name: str) -> dict[str, object]:
    """An event that does not compress."""
    return {**event(name), "properties": {"noise": secrets.token_hex(7000)}}


def post(url: str, events: list[dict[str, object]]) -> httpx.Response:
    return httpx.post(f"{url}/v1/events?ack=stored", json=events, trust_env=False, timeout=60)


def filled(url: str) -> tuple[list[str], httpx.Response]:
    """Send until there is no room; return what was promised, and the answer that told."""
    promised: list[str] = []
    for number in range(200):
        sent = [bulky(f"e{number}-{n}") for n in range(20)]
        answer = post(url, sent)
        if answer.status_code == 503:
            return promised, answer
        assert 202 == answer.status_code
        promised += [str(one["id"]) for one in sent]
    raise AssertionError("it never was full")


def goes_on(gateway: Process, vendor: Vendor, promised: list[str], ledger: Path) -> None:
    """Hold a gateway that has room again against what it promised."""
    url = gateway.said["url"]
    assert 200 == httpx.get(f"{url}/readyz", trust_env=False).status_code
    again = httpx.post(f"{url}/v1/events", json=event("after"), trust_env=False, timeout=60)
    assert 200 == again.status_code, again.text
    for one in (*promised[:3], *promised[-3:]):
        answer = httpx.get(f"{url}/v1/events/{one}", trust_env=False)
        assert (200, one) == (answer.status_code, answer.json()["id"])
    assert 0 == gateway.end(signal.SIGTERM)
    sums: dict[str, Any] = add_up(ledger)
    assert ([], len(promised) + 1) == (sums["problems"], sums["events"])


def told(answer: httpx.Response) -> None:
    problem = answer.json()
    assert ("ledger_unavailable", 503) == (problem["code"], problem["status"])
    assert "keep the events and send them again" in problem["detail"]
    assert int(answer.headers["retry-after"]) > 0


def test_a_small_disk_that_is_full(start: Start, vendor: Vendor, tmp_path: Path, small: Path) -> None:
    vendor.may_answer.set()
    ballast = small / "ballast"
    ballast.write_bytes(bytes(MIB))
    more = "ledger: {url: 'sqlite:///small/ledger.db'}\ndelivery: {retry: {first: 10ms, max: 50ms}}\n"
    gateway = start("serve", "--config", configure(tmp_path, vendor.url, more=more))
    promised, answer = filled(gateway.said["url"])
    told(answer)
    assert 200 == httpx.get(f"{gateway.said['url']}/livez", trust_env=False).status_code
    ballast.unlink()
    goes_on(gateway, vendor, promised, small / "ledger.db")


def test_files_that_may_grow_no_further(start: Start, vendor: Vendor, tmp_path: Path) -> None:
    vendor.may_answer.set()
    gateway = start(
        "serve", "--config", configure(tmp_path, vendor.url, more="delivery: {retry: {first: 10ms, max: 50ms}}\n")
    )
    pid = gateway.popen.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (MIB // 2, most))
    promised, answer = filled(gateway.said["url"])
    told(answer)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
    goes_on(gateway, vendor, promised, tmp_path / "usage-gateway.db")


@pytest.mark.parametrize("reloaded", [False, True], ids=["", "reloaded"])
def test_answers_that_cannot_be_written_down_are_in_doubt_and_asked_for_again(
    start: Start, vendor: Vendor, tmp_path: Path, small: Path, reloaded: bool
) -> None:
    """Also where the configuration is read again while the disk is full."""
    more = "ledger: {url: 'sqlite:///small/ledger.db'}\ndelivery: {retry: {first: 10ms, max: 50ms}}\n"
    gateway = start("serve", "--config", configure(tmp_path, vendor.url, more=more))
    url = gateway.said["url"]
    stored = [f"e{number}" for number in range(3)]
    for one in stored:
        assert 202 == post(url, [event(one)]).status_code
        assert vendor.asked.acquire(timeout=20), "a request of its own, which waits for its answer"
    ballast = small / "ballast"
    with ballast.open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
    with ThreadPoolExecutor(16) as senders:  # of one flush, or a few
        sent = [event(f"n{number}") for number in range(64)]
        answers = list(senders.map(lambda one: post(url, [one]), sent))
    assert {503} == {answer.status_code for answer in answers}
    told(answers[0])
    told(httpx.get(f"{url}/readyz", trust_env=False))
    vendor.may_answer.set()
    gateway.logged("lane.shipment_failed")
    if reloaded:
        gateway.popen.send_signal(signal.SIGHUP)
        gateway.logged("configuration.waits")
    ballast.unlink()
    goes_on(gateway, vendor, stored, small / "ledger.db")
    counted = add_up(small / "ledger.db")["destinations"]["flexprice"]
    assert {"deliveries": 4, "accepted": 4} == counted
    assert {*stored, "after"} == set(vendor.ids), "what was refused went nowhere"
