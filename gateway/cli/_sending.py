"""Requests of `send`: patience with a busy gateway, what was refused, and where to go on."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal, Self

import httpx
import msgspec

from canonical_schema import BatchResult, EventResult, EventStatus
from gateway.cli._asking import bearer
from gateway.cli._event_files import EventFile, Line
from gateway.cli._out import CommandFailed, hint

__all__ = ["Ack", "Refusals", "Sender", "State", "Tally"]

Ack = Literal["stored", "required", "all"]

ATTEMPTS = 12
"""Of one request. With the pauses between them, about five minutes."""
LONGEST_PAUSE = 60.0
BUSY = frozenset({429, 500, 502, 503, 504})


class Tally(msgspec.Struct):
    """What became of the events so far."""

    summary: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(map(str, EventStatus), 0))
    replayed: int = 0

    @property
    def refused(self) -> int:
        """How many were not stored."""
        return self.summary[EventStatus.INVALID] + self.summary[EventStatus.CONFLICT]

    def add(self, result: BatchResult) -> None:
        """Count an answer."""
        counted = Counter(one["status"] for one in result["results"])
        self.summary = {status: count + counted[EventStatus(status)] for status, count in self.summary.items()}
        self.replayed += sum(one["replayed"] for one in result["results"])


class Refusals:
    """The events that were not stored, a line each, with the reason."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def clear(self) -> None:
        """Forget those of an earlier run."""
        self.path.unlink(missing_ok=True)

    def add(self, line: Line, result: EventResult) -> None:
        """Write one down."""
        try:
            event: object = msgspec.Raw(line.body) if msgspec.json.decode(line.body) is not None else None
        except (msgspec.DecodeError, RecursionError):
            event = line.body.decode("utf-8", "replace")
        told = {"line": line.number, "status": result["status"], "error": result.get("error"), "event": event}
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(told) + b"\n")


class _Saved(msgspec.Struct):
    url: str
    digest: str
    sent: int
    tally: Tally


class State:
    """How far a file was sent, kept beside it until all of it is. Of standard input nothing is kept."""

    def __init__(self, file: Path, events: EventFile, url: str) -> None:
        """Go on where the same content was being sent to the same gateway; else start from the beginning."""
        self.sent = 0
        self.tally = Tally()
        self._url, self._digest = url, events.digest
        self._path = None if events.name == "-" else file.with_name(f"{file.name}.usage-gateway-state")
        try:
            found = None if self._path is None else msgspec.json.decode(self._path.read_bytes(), type=_Saved)
        except (OSError, msgspec.DecodeError):
            found = None
        if found is None:
            return
        if (found.url, found.digest) == (url, events.digest) and 0 <= found.sent <= len(events.lines):
            self.sent, self.tally = found.sent, found.tally
        else:
            hint("Something else was being sent when the last run ended: starts from the beginning.")

    def advance(self, count: int) -> None:
        """Note that so many more are done."""
        self.sent += count
        if self._path is not None:
            new = self._path.with_name(f"{self._path.name}.new")
            new.write_bytes(msgspec.json.encode(_Saved(self._url, self._digest, self.sent, self.tally)))
            new.replace(self._path)

    def done(self) -> None:
        """Note that all is."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class Sender:
    """Sends batches, and waits where the gateway says so."""

    def __init__(
        self, url: str, key: str | None, *, ack: Ack | None, wait: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        headers = {"content-type": "application/x-ndjson", "prefer": f"wait={wait:g}"} | bearer(key)
        self._sleep = sleep
        self._params = {} if ack is None else {"ack": ack}
        self._reached = False
        try:
            self._client = httpx.Client(base_url=url, headers=headers, timeout=wait + 60, trust_env=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise CommandFailed(f"--url cannot be used: {type(error).__name__}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, lines: Sequence[Line], tally: Tally, refusals: Refusals) -> None:
        """Send a batch, in halves where it is too large. Raises CommandFailed where the gateway takes none of it."""
        answer = self._answer(b"\n".join(line.body for line in lines))
        if answer.status_code == 413 and len(lines) > 1:
            for half in (lines[: len(lines) // 2], lines[len(lines) // 2 :]):
                self.send(half, tally, refusals)
            return
        result = _result(answer, self._client.base_url)
        tally.add(result)
        for line, one in zip(lines, result["results"], strict=True):
            if not one["stored"]:
                refusals.add(line, one)

    def _answer(self, body: bytes) -> httpx.Response:
        """Return an answer that is no plea for patience. A repeat is harmless: every event has an id."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self._client.post("/v1/events", params=self._params, content=body)
            except httpx.TransportError as error:
                why, pause = f"did not answer ({type(error).__name__})", 0.0
                if not self._reached:
                    raise CommandFailed(f"cannot reach {self._client.base_url}: {error}; is the gateway up?") from None
            else:
                self._reached = True
                if answer.status_code not in BUSY:
                    return answer
                why, pause = f"answered {answer.status_code}", _retry_after(answer)
            if attempt == ATTEMPTS:
                break
            pause = max(pause, min(LONGEST_PAUSE, 2.0 ** (attempt - 1)))
            hint(f"The gateway {why}: tries again in {pause:.0f} s.")
            self._sleep(pause)
        raise CommandFailed(
            f"{self._client.base_url} did not take the events in {ATTEMPTS} attempts: run the same command again later"
        )


_RESULT = msgspec.json.Decoder(BatchResult)


class _Problem(msgspec.Struct):
    detail: str = ""


def _result(answer: httpx.Response, url: httpx.URL) -> BatchResult:
    """Return what an answer says. Raises CommandFailed for a refusal as a whole, and for what is no gateway's."""
    try:
        if answer.status_code in {200, 202, 207, 422}:
            return _RESULT.decode(answer.content)
        detail = msgspec.json.decode(answer.content, type=_Problem).detail
    except msgspec.DecodeError:
        detail = "the answer is no Usage Gateway's: is --url right?"
    raise CommandFailed(f"{url} answered {answer.status_code}: {detail}")


def _retry_after(answer: httpx.Response) -> float:
    """Return the seconds that `Retry-After` asks for, given as seconds or as a date."""
    given = answer.headers.get("retry-after", "")
    if given.isdigit():
        return float(given[:6])
    try:
        return max(0.0, (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
