"""`usage-gateway reconcile`: ledger against providers, and one provider against another."""

import csv
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

from cyclopts import Parameter

from gateway.cli._asking import LOCAL, Key, Url, ask
from gateway.cli._out import CommandFailed, Exit, Json, hint, machine, say
from gateway.cli._reconciled import html, left_out

__all__ = ["reconcile"]

SHOWN = 20
PAUSE = 0.5
"""Seconds between two looks whether the comparison is made."""


def reconcile(
    *,
    since: Annotated[datetime, Parameter("--from", help="From this instant of event time on; without zone, UTC.")],
    until: Annotated[datetime, Parameter("--to", help="Before this instant.")],
    destination: Annotated[str | None, Parameter("--destination", help="Absent: all.")] = None,
    against: Annotated[str | None, Parameter("--against", help="Another destination to hold it against.")] = None,
    customer: Annotated[str | None, Parameter("--customer", help="Only this customer.")] = None,
    meter: Annotated[str | None, Parameter("--meter", help="Only this meter.")] = None,
    accept: Annotated[
        tuple[str, ...],
        Parameter("--accept", negative="", help="A class that you have looked at; it is explained then: capability."),
    ] = (),
    csv_file: Annotated[Path | None, Parameter("--csv", help="Write every figure to a file.")] = None,
    html_file: Annotated[Path | None, Parameter("--html", help="Write a report for people to a file.")] = None,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Hold the usage in the ledger against what each vendor has, by customer and meter, and say why they differ.

    The exit code is 3 where a difference is unexplained, and 4 where none is but something could not be read.
    """
    if against is not None and destination is None:
        raise CommandFailed("--against needs --destination: the one that is held against it", Exit.USAGE)
    asked = {
        "from": _instant(since),
        "to": _instant(until),
        **({} if destination is None else {"destinations": [destination]}),
        **{
            name: value
            for name, value in (("against", against), ("customer", customer), ("meter", meter))
            if value is not None
        },
        **({"accept": list(accept)} if accept else {}),
    }
    told = ask(url, key, "POST", "/v1/reconciliations", asked).json()
    while told["state"] in {"queued", "running"}:
        time.sleep(PAUSE)
        told = ask(url, key, "GET", f"/v1/reconciliations/{told['id']}").json()
    if told["state"] == "failed":
        raise CommandFailed(f"{told['id']}: {told['why']}")
    report = told["report"]
    if csv_file is not None:
        _write(csv_file, report)
    if html_file is not None:
        html_file.write_text(html(told), "utf-8")
    if as_json:
        machine(told)
    else:
        _tell(told["id"], report)
    if more := left_out(report):
        say(f"{more:,} figures are in no report, those that match first: ask by --meter for all of them", "yellow")
    if report["unexplained"]:
        return Exit.DIFFERENT
    return Exit.OK if report["complete"] else Exit.PARTIAL


def _instant(when: datetime) -> str:
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).isoformat()


_COLUMNS = (
    "left", "right", "customer", "meter", "part", "class", "explained", "left_quantity", "right_quantity",
    "difference", "events", "reason", "reason_quantity", "reason_events", "ids", "unread",
)  # fmt: skip


def _write(path: Path, report: Mapping[str, Any]) -> None:
    """Write a row for each reason of each figure; what a spreadsheet would take for a formula is quoted."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for row in _rows(report):
            writer.writerow([f"'{cell}" if cell[:1] in _FORMULA and not _number(cell) else cell for cell in row])


_FORMULA = frozenset("=+-@\t\r")


def _number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdecimal()


def _rows(report: Mapping[str, Any]) -> Iterator[list[str]]:
    for comparison in report["comparisons"]:
        for one in comparison["figures"]:
            known = [
                comparison["left"], comparison["right"], one["customer"], one["meter"], one.get("part", ""),
                one["class"], "yes" if one["explained"] else "no", one.get("left", ""), one.get("right", ""),
                one.get("difference", ""), str(one["events"]),
            ]  # fmt: skip
            unread = cast("Mapping[str, str]", one.get("unread", {})).get("why", "")
            reasons: list[dict[str, Any]] = one["reasons"] or [{}]
            for found in reasons:
                yield [
                    *known,
                    found.get("class", ""),
                    found.get("quantity", ""),
                    str(found.get("events", "")),
                    " ".join(found.get("ids", [])),
                    unread,
                ]


def _tell(name: str, report: Mapping[str, Any]) -> None:
    unexplained = report["unexplained"]
    state = f"{unexplained:,} figures differ, unexplained" if unexplained else "no unexplained difference"
    say(f"{report['from']} to {report['to']}: {state} ({name})", "bold red" if unexplained else "bold green")
    for one in report["destinations"]:
        if "unread" in one:
            say(f"  {one['destination']} could not be read: {one['unread']['why']}", "yellow")
        if "outside" in one:
            say(
                f"  {one['destination']} counts its own period: {one['outside']:,} events outside are left out",
                "yellow",
            )
        for missing in one["missing"]:
            say(f"  {one['destination']} {missing['meter']} could not be read: {missing['why']}", "yellow")
    if report["trimmed_batches"]:
        say(
            f"  {report['trimmed_batches']:,} batches since then are trimmed from the ledger: figures lack them",
            "yellow",
        )
    for comparison in report["comparisons"]:
        counts = ", ".join(f"{counted['figures']:,} {why}" for why, counted in comparison["classes"].items())
        say(f"  {comparison['left']} and {comparison['right']}: {comparison['figures_count']:,} figures; {counts}")
        different = [one for one in comparison["figures"] if one["class"] != "match"]
        for one in different[:SHOWN]:
            _tell_figure(one)
        if len(different) > SHOWN:
            hint(f"    ... and {len(different) - SHOWN:,} more: --json, --csv and --html have them")


def _tell_figure(one: Mapping[str, Any]) -> None:
    what = f"{one['customer']} {one['meter']}" + (f" {one['part']}" if "part" in one else "")
    if "unread" in one:
        hint(f"    {what}: {one['unread']['why']}")
        return
    style = "yellow" if one["explained"] else "red"
    say(f"    {what}: {one.get('left')} and {one.get('right')}, difference {one.get('difference')}", style)
    for reason in one["reasons"]:
        ids = ", ".join(reason["ids"][:5]) + (" ..." if reason["events"] > 5 else "")
        hint(f"      {reason['class']}: {reason['quantity']} in {reason['events']:,} events: {ids}")
