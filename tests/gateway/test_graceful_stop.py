"""A process that is told to stop lets what it sent be answered, within a grace, and loses nothing either way."""

import json
import signal
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from gateway.ledger.check import add_up
from tests.gateway.cli.test_serve import Start, configure, event, start

__all__ = ["start"]


class Vendor:
    """A vendor that answers when it is told to; it is there for as long as the test."""

    def __init__(self) -> None:
        self.asked, self.may_answer = threading.Semaphore(0), threading.Event()
        self.ids: list[str] = []
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                vendor.ids += [row["event_id"] for row in body["events"]]
                vendor.asked.release()
                vendor.may_answer.wait(30)
                self.send_response(202)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base's
                """Say nothing."""

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:  # who asked has gone
                    self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def vendor() -> Generator[Vendor]:
    one = Vendor()
    serving = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    yield one
    one.may_answer.set()
    one.server.shutdown()
    serving.join()
    one.server.server_close()


def status(url: str) -> str:
    shown = httpx.get(f"{url}/v1/events/e1", trust_env=False).json()
    return shown["deliveries"]["flexprice"]["status"]


def test_what_is_in_flight_is_answered_before_the_process_ends(start: Start, vendor: Vendor, tmp_path: Path) -> None:
    config = configure(tmp_path, vendor.url, more="delivery: {grace: 20s}\n")
    gateway = start("serve", "--config", config)
    sent = httpx.post(f"{gateway.said['url']}/v1/events?ack=stored", json=event("e1"), trust_env=False)
    assert 202 == sent.status_code
    assert vendor.asked.acquire(timeout=20)
    gateway.popen.send_signal(signal.SIGTERM)
    while gateway.popen.poll() is None and _listens(gateway.said["url"]):
        pass
    for _ in range(30):  # nothing tells when the door is shut and the lanes alone are waited for
        gateway.popen.send_signal(signal.SIGHUP)  # which would end it, did nobody hear
        time.sleep(0.02)
    assert gateway.popen.poll() is None, "it waits for the vendor"
    vendor.may_answer.set()
    assert 0 == gateway.popen.wait(30)
    assert {"deliveries": 1, "accepted": 1} == add_up(tmp_path / "usage-gateway.db")["destinations"]["flexprice"]
    assert ["e1"] == vendor.ids


def _listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/livez", trust_env=False, timeout=1)
    except httpx.TransportError:
        return False
    return True


def test_who_waits_for_a_vendor_is_told_that_the_event_is_stored_before_the_process_ends(
    start: Start, vendor: Vendor, tmp_path: Path
) -> None:
    gateway = start("serve", "--config", configure(tmp_path, vendor.url, more="delivery: {grace: 2s}\n"))
    with ThreadPoolExecutor() as sender:
        url = f"{gateway.said['url']}/v1/events"
        waiting = sender.submit(httpx.post, url, json=event("e1"), trust_env=False, timeout=30)
        assert vendor.asked.acquire(timeout=20)
        assert 0 == gateway.end(signal.SIGTERM)
        answer = waiting.result()
    assert (202, "pending") == (answer.status_code, answer.json()["results"][0]["status"])


def test_after_the_grace_it_ends_and_the_next_process_knows_of_the_doubt(
    start: Start, vendor: Vendor, tmp_path: Path
) -> None:
    config = configure(tmp_path, vendor.url, more="delivery: {grace: 500ms}\n")
    gateway = start("serve", "--config", config)
    httpx.post(f"{gateway.said['url']}/v1/events?ack=stored", json=event("e1"), trust_env=False)
    assert vendor.asked.acquire(timeout=20)
    assert 0 == gateway.end(signal.SIGTERM)
    assert [] == add_up(tmp_path / "usage-gateway.db")["problems"]

    vendor.may_answer.set()
    gateway = start("serve", "--config", config)
    assert vendor.asked.acquire(timeout=20)  # sent again, under the id by which the vendor tells repeats
    answer = httpx.post(f"{gateway.said['url']}/v1/events", json=event("e1"), trust_env=False, timeout=30)
    assert (200, True) == (answer.status_code, answer.json()["results"][0]["replayed"])
    assert ["e1", "e1"] == vendor.ids
    assert "accepted" == status(gateway.said["url"])
