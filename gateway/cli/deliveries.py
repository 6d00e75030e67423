"""`usage-gateway deliveries`: what a person decides about deliveries, at a running gateway."""

import sys
from typing import Annotated, Any, Literal

import httpx
from cyclopts import App, Parameter

from gateway.cli._asking import LOCAL, Key, Reason, Url, ask
from gateway.cli._out import CommandFailed, Exit, Json, machine, say

__all__ = ["deliveries"]

deliveries = App(name="deliveries", help="Look at and repair deliveries.")


@deliveries.command
def resolve(
    event_id: str,
    destination: str,
    resolution: Literal["accepted", "resend", "abandon"],
    /,
    *,
    reason: Reason,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Decide an `unknown` delivery: it arrived, it did not and goes again, or it is given up."""
    body = {"id": event_id, "destination": destination, "resolution": resolution, "reason": reason}
    result = ask(url, key, "POST", "/v1/deliveries/resolve", body).json()
    if as_json:
        machine(result)
    else:
        say(f"{event_id} at {destination}: {result['status']}")
    return Exit.OK


@deliveries.command(name="resolve-all")
def resolve_all(
    destination: str,
    resolution: Literal["accepted", "resend", "abandon"],
    /,
    *,
    reason: Reason,
    meter: Annotated[str | None, Parameter(help="Only those of this meter.")] = None,
    customer: Annotated[str | None, Parameter(help="Only those of this customer.")] = None,
    since: Annotated[str | None, Parameter("--from", help="Only events at or after this instant.")] = None,
    until: Annotated[str | None, Parameter("--to", help="Only events before this instant.")] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Count them, and decide nothing.")] = False,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Decide every `unknown` delivery to a destination in one way, those that a filter finds.

    Look at the vendor first: where it cannot tell repeats, what goes again and had arrived is billed twice.
    """
    filters = {"meter": meter, "customer": customer, "from": since, "to": until}
    body = {
        "filter": {name: value for name, value in filters.items() if value is not None},
        "destination": destination,
        "resolution": resolution,
        "dry_run": dry_run,
        "reason": reason,
    }
    result = ask(url, key, "POST", "/v1/deliveries/resolve", body).json()
    if as_json:
        machine(result)
    else:
        say(f"{result['resolved']} at {destination}: {'would be ' if dry_run else ''}{_DECIDED[resolution]}")
    return Exit.OK


_DECIDED = {"accepted": "taken for arrived", "resend": "sent again", "abandon": "given up"}


@deliveries.command
def retry(
    *ids: str,
    reason: Reason,
    status: Annotated[Literal["dead", "rejected"] | None, Parameter(help="Only those of this status.")] = None,
    destination: Annotated[str | None, Parameter(help="Only those to this destination.")] = None,
    meter: Annotated[str | None, Parameter(help="Only those of this meter.")] = None,
    customer: Annotated[str | None, Parameter(help="Only those of this customer.")] = None,
    since: Annotated[str | None, Parameter("--from", help="Only events at or after this instant.")] = None,
    until: Annotated[str | None, Parameter("--to", help="Only events before this instant.")] = None,
    remap: Annotated[bool, Parameter(negative="", help="Render them anew from today's catalogue.")] = False,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Send `dead` or `rejected` deliveries again, by event ids or by filter.

    With --remap they are rendered anew, which is done only where nothing can have been stored.
    """
    filters = {
        "status": status, "destination": destination, "meter": meter, "customer": customer, "from": since, "to": until,
    }  # fmt: skip
    given = {name: value for name, value in filters.items() if value is not None}
    if bool(ids) == bool(given):
        options = ", ".join(f"--{name}" for name in filters)
        raise CommandFailed(f"name event ids, or a filter ({options}): one of the two", Exit.USAGE)
    wanted: dict[str, Any] = {"ids": list(ids)} if ids else {"filter": given}
    result = ask(url, key, "POST", "/v1/deliveries/retry", {**wanted, "remap": remap, "reason": reason}).json()
    if as_json:
        machine(result)
    else:
        say(f"{len(result['retried'])} go again, {len(result['skipped'])} do not")
        for one in result["skipped"]:
            say(f"  {one['id']} at {one['destination']}: {one['why']}")
    return Exit.PARTIAL if result["skipped"] else Exit.OK


@deliveries.command
def export(
    *,
    status: Annotated[str, Parameter(help="A delivery's status.")] = "dead",
    destination: Annotated[str | None, Parameter(help="Only those to this destination.")] = None,
    meter: Annotated[str | None, Parameter(help="Only those of this meter.")] = None,
    customer: Annotated[str | None, Parameter(help="Only those of this customer.")] = None,
    since: Annotated[str | None, Parameter("--from", help="Only events at or after this instant.")] = None,
    until: Annotated[str | None, Parameter("--to", help="Only events before this instant.")] = None,
    url: Url = LOCAL,
    key: Key = None,
) -> int:
    """Write deliveries of one status to standard output as NDJSON: the dead letters, by default."""
    filters = {
        "status": status, "destination": destination, "meter": meter, "customer": customer, "from": since, "to": until,
    }  # fmt: skip
    query = {name: wanted for name, wanted in filters.items() if wanted is not None}
    sys.stdout.write(ask(url, key, "GET", f"/v1/deliveries?{httpx.QueryParams(query)}", None).text)
    return Exit.OK
