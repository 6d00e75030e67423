"""`usage-gateway backfill`: history to one destination, behind live traffic, at a running gateway."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from canonical_schema import Event, encode_event
from gateway.cli._asking import LOCAL, Key, Reason, Url, ask, bearer, refused
from gateway.cli._history import HistoryFormat, in_order, read
from gateway.cli._out import CommandFailed, Exit, Json, complain, hint, machine, people, say
from gateway.cli.preflight import Customer, Format, From, Meter, Rate, Since, To, Until, filters

__all__ = ["backfill", "outcome"]

BATCH = 500
"""Events of a request."""
LOOK = 1.0
"""Seconds between two looks at a job that goes on by itself."""
PATIENCE = 60
"""Seconds for a gateway that does not answer."""


def backfill(
    *,
    to: To,
    source: From,
    reason: Reason,
    rate: Rate = None,
    too_old: Annotated[
        Literal["fail", "skip"], Parameter(help="What becomes of events that the vendor takes no more.")
    ] = "fail",
    unproven: Annotated[
        Literal["skip", "send"],
        Parameter(help="What becomes of events of a file so old that nobody knows whether they were sent before."),
    ] = "skip",
    since: Since = None,
    until: Until = None,
    meter: Meter = None,
    customer: Customer = None,
    format: Format = None,  # noqa: A002
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Fill a destination in with history, oldest first: from the ledger, or from a file of events.

    Ids and times are those of the source: nothing is stamped anew, and an event that has a delivery there gets no
    second one. Broken off, the same command goes on where it was. The exit code is 4 where something was left out.
    """
    asked: dict[str, Any] = {"to": to, "too_old": too_old, "reason": reason} | ({} if rate is None else {"rate": rate})
    if source == "ledger":
        asked |= {"source": "ledger", "filter": filters(since, until, meter, customer)}
        job = ask(url, key, "POST", "/v1/backfills", asked).json()
        job = _followed(job, lambda: ask(url, key, "GET", f"/v1/backfills/{job['id']}").json())
    else:
        if since or until or meter or customer:
            raise CommandFailed("--since, --until, --meter and --customer go with --from ledger", Exit.USAGE)
        path = Path(source)
        asked |= {"source": "file", "digest": _digest(path), "unproven": unproven}
        job = ask(url, key, "POST", "/v1/backfills", asked).json()
        try:
            rows = _rows(path, format, str(job["tenant"]))
        except CommandFailed:
            if not job.get("cursor"):  # a file that is mended is another one: this job would never end
                ask(url, key, "POST", f"/v1/backfills/{job['id']}/cancel", {"reason": "its file cannot be read"})
            raise
        job = _sent(path, format, job, rows, url, key)
    if as_json:
        machine(job)
    else:
        _tell(job)
    return outcome(job)


def outcome(job: Mapping[str, Any]) -> int:
    """Return the exit code of a job that ended: partial where something of the history was left out."""
    if job["state"] != "done":
        return Exit.FAILED
    if job.get("invalid", {}).get("count"):
        return Exit.PARTIAL
    return Exit.PARTIAL if set(job.get("counts", {})) - {"fed", "there_already", "corrected", "erased"} else Exit.OK


def _digest(path: Path) -> str:
    made = sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(2**20):
                made.update(piece)
    except OSError as error:
        raise CommandFailed(f"{path}: cannot be read: {error.strerror}", Exit.USAGE) from None
    return made.hexdigest()


def _followed(job: Mapping[str, Any], look: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return a job that goes on by itself once it has ended, and show how far it is until then."""
    try:
        with _progress() as progress:
            task = progress.add_task("batches", total=job["progress"]["of"])
            while job["state"] == "running":
                time.sleep(LOOK)
                job = look()
                progress.update(task, completed=min(job["progress"]["batch"], job["progress"]["of"]))
    except KeyboardInterrupt:
        say(f"{job['id']} goes on in the gateway; the same command follows it again.")
        raise
    return job


def _rows(path: Path, given: HistoryFormat | None, tenant: str) -> Counter[bool]:
    """Return how many rows are events, and how many are not."""
    rows = Counter(isinstance(one, Event) for one in read(path, given, tenant))
    if not rows[True]:
        raise CommandFailed(f"{path}: holds no events of tenant {tenant}")
    return rows


def _sent(
    path: Path, given: HistoryFormat | None, job: Mapping[str, Any], rows: Mapping[bool, int], url: str, key: str | None
) -> Mapping[str, Any]:
    """Send what the gateway has not taken yet; return the job, and of how many rows nothing can be sent."""
    tenant = str(job["tenant"])
    total, invalid = rows[True], rows[False]
    events = in_order(_good(path, given, tenant))
    done = int(job.get("cursor", 0))
    if done:
        hint(f"Goes on after {done:,} events that were taken before.")
    waiting = islice(events, done, None)
    with _progress() as progress:
        task = progress.add_task("events", total=total, completed=done)
        size, held = BATCH, list[Event]()
        while job["state"] == "running":
            held += islice(waiting, max(0, size - len(held)))
            some = held[:size]
            answer = _put(url, key, job, done, some, last=done + len(some) >= total)
            if answer is None:
                size = (len(some) + 1) // 2
                continue
            job, held, done = answer, held[len(some) :], done + len(some)
            progress.update(task, completed=done)
    return {**job, "invalid": {"count": invalid}}


def _good(path: Path, given: HistoryFormat | None, tenant: str) -> Iterator[Event]:
    told = 0
    for one in read(path, given, tenant):
        if isinstance(one, Event):
            yield one
        else:
            told += 1
            complain(f"{path}: row {one.line} is left out: {one.message}")


def _put(
    url: str, key: str | None, job: Mapping[str, Any], first: int, events: list[Event], *, last: bool
) -> Mapping[str, Any] | None:
    """Send some events, and wait where live traffic comes first. A repeat is harmless: every event has an id.

    `None`: they are more than the gateway takes at once.
    """
    headers = {"content-type": "application/x-ndjson"} | bearer(key)
    params = {"first": str(first), "last": str(last).lower()}
    body = b"\n".join(encode_event(event) for event in events)
    silent = time.monotonic() + PATIENCE
    while True:
        try:
            answer = httpx.post(
                f"{url.rstrip('/')}/v1/backfills/{job['id']}/events",
                params=params,
                content=body,
                headers=headers,
                timeout=60,
                trust_env=False,
            )
        except httpx.TransportError as error:
            if time.monotonic() > silent:
                raise CommandFailed(
                    f"{url} does not answer ({type(error).__name__}): the same command goes on from here"
                ) from None
            time.sleep(1)
            continue
        if answer.status_code in {429, 503}:
            silent = time.monotonic() + PATIENCE
            time.sleep(min(60.0, float(answer.headers.get("retry-after", "1"))))
            continue
        if answer.status_code == 413 and len(events) > 1:
            return None
        if answer.is_error:
            raise refused(url, answer)
        return answer.json()


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = people()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _tell(job: Mapping[str, Any]) -> None:
    counts = job.get("counts", {})
    say(f"{job['id']} to {job['to']}: {job['state']}" + (f": {job['why']}" if job.get("why") else ""), "bold")
    for what, count in counts.items():
        say(f"  {count:,} {what.replace('_', ' ')}")
    if job["state"] == "done" and not counts:
        say("  nothing: the ledger has no event that was asked for", "yellow")
    if job.get("invalid", {}).get("count"):
        say(f"  {job['invalid']['count']:,} rows are no events", "red")
    if "records_since" in job:
        hint(
            f"  The ledger has full records since {job['records_since']}: what is older is in its archive, if anywhere."
        )
    for one in job.get("problems", ()):
        hint(f"  {one['id']}: {one['problem']}: {one['why']}")
    if job["state"] == "done":
        hint(f"  What was fed is stored; GET /v1/destinations/{job['to']} tells how far the lane is.")
