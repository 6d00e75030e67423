"""A loopback server that answers as told and keeps what it was sent."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

from adapters import Request

CLIENTS_OWN = {"host", "connection", "accept-encoding", "user-agent", "content-length"}
"""Headers in which two HTTP clients may differ without a difference in meaning."""


@dataclass(frozen=True)
class Recorded:
    """One request, as it was received."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By lower-case name, without those that any client sets for itself."""
    body: Any
    """The decoded body, with every digit; `None` where there is none."""

    @classmethod
    def of(cls, method: str, path: str, headers: Mapping[str, str], body: bytes) -> "Recorded":
        kept = {name.lower(): value for name, value in headers.items() if name.lower() not in CLIENTS_OWN}
        return cls(method, path, kept, json.loads(body, parse_float=Decimal) if body else None)

    @classmethod
    def ours(cls, request: Request, base_url: str) -> "Recorded":
        """Return a request of ours as the same server would have recorded it."""
        assert request.url.startswith(base_url)
        return cls.of(request.method, request.url.removeprefix(base_url), request.headers, request.body)


@dataclass
class Recorder:
    """The server's address and its memory."""

    url: str
    requests: list[Recorded] = field(default_factory=list[Recorded])


@contextmanager
def recorder(status: int, answer: object) -> Generator[Recorder]:
    """Serve one answer to whatever comes, until left."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            kept.requests.append(Recorded.of(self.command, self.path, dict(self.headers.items()), body))
            said = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        kept = Recorder(f"http://127.0.0.1:{server.server_address[1]}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join()
