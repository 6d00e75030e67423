"""`usage-gateway deliveries`: what a person decides about deliveries, at a running gateway."""

import sys
from typing import Annotated, Any, Literal

import httpx
from cyclopts import App, Parameter

from gateway.cli._asking import LOCAL, Key, Reason, Url, ask
from gateway.cli._filters import OPTIONS, Customer, Destination, Meter, Since, Until, chosen
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
    meter: Meter = None,
    customer: Customer = None,
    since: Since = None,
    until: Until = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Count them, and decide nothing.")] = False,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Decide every `unknown` delivery to a destination in one way, those that a filter finds.

    Look at the vendor first: where it cannot tell repeats, what goes again and had arrived is billed twice.
    """
    body = {
        "filter": chosen(customer=customer, meter=meter, since=since, until=until),
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
    reason: Reason = "",
    status: Annotated[Literal["dead", "rejected"] | None, Parameter(help="Only those of this status.")] = None,
    destination: Destination = None,
    meter: Meter = None,
    customer: Customer = None,
    since: Since = None,
    until: Until = None,
    remap: Annotated[bool, Parameter(negative="", help="Render them anew from today's catalogue.")] = False,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Send `dead` or `rejected` deliveries again, by event ids or by filter.

    With --remap they are rendered anew, which is done only where nothing can have been stored.
    """
    given = chosen(status=status, destination=destination, customer=customer, meter=meter, since=since, until=until)
    if bool(ids) == bool(given):
        raise CommandFailed(f"name event ids, or a filter ({OPTIONS}): one of the two", Exit.USAGE)
    wanted: dict[str, Any] = {"ids": list(ids)} if ids else {"filter": given}
    result = ask(url, key, "POST", "/v1/deliveries/retry", {**wanted, "remap": remap, "reason": reason}).json()
    if as_json:
        machine(result)
    else:
        say(f"{len(result['retried'])} go again, {len(result['skipped'])} do not")
        for one in result["skipped"]:
            at = f" at {one['destination']}" if "destination" in one else ""
            say(f"  {one['id']}{at}: {one['why']}")
    return Exit.PARTIAL if result["skipped"] else Exit.OK


@deliveries.command
def export(
    *,
    status: Annotated[str, Parameter(help="A delivery's status.")] = "dead",
    destination: Destination = None,
    meter: Meter = None,
    customer: Customer = None,
    since: Since = None,
    until: Until = None,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = True,  # which every command takes: this one writes nothing else
) -> int:
    """Write deliveries of one status to standard output as NDJSON: the dead letters, by default."""
    query = chosen(status=status, destination=destination, customer=customer, meter=meter, since=since, until=until)
    sys.stdout.write(ask(url, key, "GET", f"/v1/deliveries?{httpx.QueryParams(query)}", None).text)
    return Exit.OK
