"""`usage-gateway send`: a file of events to a running gateway, resumable, each event once."""

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter, validators
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from canonical_schema import InvalidEvent, read_event
from gateway.cli._asking import LOCAL, Url
from gateway.cli._event_files import EventFile, FileFormat, Line, opened
from gateway.cli._out import CommandFailed, Exit, Json, complain, hint, machine, people, say
from gateway.cli._sending import Ack, Refusals, Sender, State, Tally

__all__ = ["EventsPath", "send"]

SHOWN = 20
"""Faults that --dry-run tells one by one."""

EventsPath = Annotated[Path, Parameter(allow_leading_hyphen=True)]


def send(
    file: EventsPath,
    /,
    *,
    url: Url = LOCAL,
    key: Annotated[
        str | None, Parameter(env_var="USAGE_GATEWAY_KEY", help="`ugw_...`; better in the variable.")
    ] = None,
    format: Annotated[FileFormat | None, Parameter(help="Else by the file's name.")] = None,  # noqa: A002
    batch: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=10_000), help="Events a request.")] = 1000,
    ack: Annotated[Ack | None, Parameter(help="What an answer waits for; else as the gateway has it.")] = None,
    wait: Annotated[
        float, Parameter(validator=validators.Number(gte=0, lte=300), help="Seconds it waits at most.")
    ] = 10,
    refused: Annotated[Path | None, Parameter(help="Where refused events go; else FILE.refused.ndjson.")] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Read and validate here, send nothing.")] = False,
    as_json: Json = False,
) -> int:
    """Send events to a running gateway: NDJSON, JSON or CSV (columns named like fields, `properties.NAME`,
    `quantities.NAME`).

    Interrupted, it goes on where it was when started again: what is done stands in FILE.usage-gateway-state. Sending
    twice does no harm either, as every event has an id. Events that the gateway does not store are written to
    FILE.refused.ndjson, with the reason; all others are the gateway's to finish.

    Parameters
    ----------
    file
        The events; `-` is standard input.
    """
    events = opened(file, format)
    _need_ids(events)
    if dry_run:
        return _validate(events, as_json=as_json)
    state = State(file, events, url)
    refusals = Refusals(refused or file.with_name(f"{'stdin' if events.name == '-' else file.name}.refused.ndjson"))
    if state.sent:
        hint(f"Goes on after {state.sent} events that were sent before.")
    else:
        refusals.clear()
    try:
        with Sender(url, key, ack=ack, wait=wait) as sender, _progress() as progress:
            task = progress.add_task("sending", total=len(events.lines), completed=state.sent)
            while state.sent < len(events.lines):
                lines = events.lines[state.sent : state.sent + batch]
                sender.send(lines, state.tally, refusals)
                state.advance(len(lines))
                progress.advance(task, len(lines))
    except KeyboardInterrupt:
        say(f"Interrupted after {state.sent} of {len(events.lines)} events: the same command goes on from there.")
        raise
    state.done()
    return _told(events, state.tally, refusals, as_json=as_json)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = people()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


class _Id(msgspec.Struct):
    id: object = None


_ID = msgspec.json.Decoder(_Id)


def _need_ids(events: EventFile) -> None:
    """Raise CommandFailed where an event has no id. What is no JSON object at all is left to the gateway's words."""
    without = [line.number for line in events.lines if _lacks_id(line)]
    if without:
        more = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
        raise CommandFailed(
            f"{events.name}: event {without[0]}{more} has no id: give every event one that stays the same whenever"
            " it is sent again, or a repeat would be billed twice; nothing was sent"
        )


def _lacks_id(line: Line) -> bool:
    try:
        return _ID.decode(line.body).id is None
    except (msgspec.MsgspecError, RecursionError):
        return False


def _validate(events: EventFile, *, as_json: bool) -> int:
    """Hold every event against the contract. Meters, customers and clocks are the gateway's to judge."""
    faults: list[dict[str, object]] = []
    ids: dict[str, int] = {}
    for line in events.lines:
        try:
            event = read_event(line.body)
            ids[event.id] = ids.get(event.id, 0) + 1
        except InvalidEvent as error:
            named = {name: text for name, text in (("id", error.event_id), ("field", error.field)) if text}
            faults.append({"line": line.number, **named, "message": error.message})
    repeated = sum(count - 1 for count in ids.values())
    valid = len(events.lines) - len(faults)
    for fault in faults[:SHOWN]:
        complain(f"event {fault['line']}: {fault['message']}")
    if len(faults) > SHOWN:
        hint(f"... and {len(faults) - SHOWN} more")
    again = f"; {repeated} repeat an id, and would be answered from the ledger" if repeated else ""
    say(f"{len(events.lines)} events: {valid} valid, {len(faults)} invalid{again}. Nothing was sent.")
    if as_json:
        counts = {"total": len(events.lines), "valid": valid, "invalid": len(faults), "repeated": repeated}
        machine({"object": "dry_run", **counts, "faults": faults})
    return Exit.OK if not faults else Exit.PARTIAL if valid else Exit.FAILED


def _told(events: EventFile, tally: Tally, refusals: Refusals, *, as_json: bool) -> int:
    counts = {status: count for status, count in tally.summary.items() if count}
    say(f"{len(events.lines)} events sent: " + " · ".join(f"{count} {status}" for status, count in counts.items()))
    if tally.replayed:
        hint(f"{tally.replayed} were there before, and were answered from the ledger.")
    if tally.refused:
        say(f"{tally.refused} were not stored: they are in {refusals.path}, each with the reason.", "yellow")
    if as_json:
        written = {"refused": str(refusals.path)} if tally.refused else {}
        summary = {"total": len(events.lines), **tally.summary}
        machine({"object": "send_result", "summary": summary, "replayed": tally.replayed, **written})
    if tally.refused == len(events.lines):
        return Exit.FAILED
    return Exit.OK if not counts.keys() - {"delivered", "pending"} else Exit.PARTIAL
