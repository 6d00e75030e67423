"""`usage-gateway close`: whether a billing period is complete, and its immutable report."""

from collections.abc import Mapping
from typing import Annotated, Any

import httpx
from cyclopts import Parameter

from gateway.cli._asking import LOCAL, Key, Url, ask
from gateway.cli._out import CommandFailed, Exit, Json, hint, machine, say

__all__ = ["close"]

SHOWN = 20


def close(
    *,
    period: Annotated[str, Parameter(help="A month: 2026-11.")],
    timezone: Annotated[str, Parameter(help="Whose month it is: Europe/Berlin.")] = "UTC",
    reason: Annotated[
        str | None, Parameter(help="Why; kept in the audit trail. Absent: look, and close nothing.")
    ] = None,
    accept_open: Annotated[
        bool, Parameter(negative="", help="Close although something is open; the report says what.")
    ] = False,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Tell whether a month is complete, and with --reason close it. Its report is kept and never changes.

    The exit code is 3 where usage of it is unsettled, unknown, rejected, blocked or without a destination, or where two
    destinations of a group billed the same event.
    """
    if accept_open and reason is None:
        raise CommandFailed("--accept-open closes the period: say why with --reason", Exit.USAGE)
    if reason is None:
        query = httpx.QueryParams({"timezone": timezone})
        report = ask(url, key, "GET", f"/v1/periods/{period}?{query}").json()
    else:
        asked = {"timezone": timezone, "accept_open": accept_open, "reason": reason}
        report = ask(url, key, "POST", f"/v1/periods/{period}/close", asked).json()
    if as_json:
        machine(report)
    else:
        _tell(report)
    done = report["complete"] or (report["closed"] and accept_open)
    return Exit.OK if done else Exit.DIFFERENT


def _tell(report: Mapping[str, Any]) -> None:
    state = "closed" if report["closed"] else "complete, not closed" if report["complete"] else "open"
    say(f"{report['period']} ({report['timezone']}): {state}", "bold green" if report["complete"] else "bold red")
    if not report["ended"]:
        say(f"  it ends at {report['to']}")
    if trimmed := report.get("trimmed_batches"):  # reports are kept, and older ones do not say
        say(f"  {trimmed:,} batches since its start are trimmed from the ledger: figures lack them", "yellow")
    for one in report["settled"]:
        say(f"  {one['destination']} {one['meter']}: {one['events']:,} {one['status']}, {_quantities(one)}")
    for one in report["open"][:SHOWN]:
        say(
            f"  {one['destination']} {one['meter']}: {one['events']:,} {one['status']} of {one['customer']},"
            f" {_quantities(one)}",
            "red",
        )
    for one in report["unrouted"][:SHOWN]:
        say(f"  no destination takes {one['events']:,} of {one['customer']}, {one['meter']}: {_quantities(one)}", "red")
    for one in report["billed_twice"][:SHOWN]:
        say(f"  {one['id']} is billed by {' and '.join(one['destinations'])}, of group {one['group']}", "bold red")
    for one in report["late"][:SHOWN]:
        where = f"{one['destination']} {one['meter']}"
        hint(f"  late: {where}: {one['events']:,} of {one['customer']}, {_quantities(one)}")
    counts = (report.get(f"{name}_count", len(report[name])) for name in ("open", "unrouted", "billed_twice", "late"))
    more = sum(max(0, count - SHOWN) for count in counts)
    if more:
        hint(f"  ... and {more} more: --json has them")


def _quantities(one: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {each}" for name, each in one["quantities"].items())
