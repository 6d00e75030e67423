"""`usage-gateway events` and `corrections`: look at events, void them, give them other quantities."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import httpx
from cyclopts import App, Parameter

from gateway.cli._asking import LOCAL, Key, Reason, Url, ask, in_path
from gateway.cli._filters import OPTIONS, Customer, Destination, Meter, Since, Until, chosen
from gateway.cli._out import CommandFailed, Exit, Json, hint, machine, say

__all__ = ["corrections", "events"]

events = App(name="events", help="Look at events, and correct them.")

DryRun = Annotated[bool, Parameter("--dry-run", negative="", help="Show what it would do, and do nothing.")]

_DONE = {"accepted", "duplicate", "filtered"}
_BAD = {"unsupported", "rejected", "blocked"}


@events.command
def show(event_id: str, /, *, url: Url = LOCAL, key: Key = None, as_json: Json = False) -> int:
    """Show one event, what became of it at each vendor, and what corrected it."""
    found = ask(url, key, "GET", f"/v1/events/{in_path(event_id)}").json()
    if as_json:
        machine(found)
        return Exit.OK
    say(f"{found['id']}: {found['status']}, received at {found['received_at']}", "bold")
    for name, one in found["deliveries"].items():
        say(f"  {name}: {_told(one)}")
    for one in found.get("corrections", ()):
        say(f"  {one['id']}: {_change(one)} ({one['status']}), by {one['actor']}: {one['reason']}")
    return Exit.OK


@events.command(name="list")
def listed(
    *,
    status: Annotated[str | None, Parameter(help="Only events, or deliveries, of this status.")] = None,
    destination: Destination = None,
    customer: Customer = None,
    meter: Meter = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, Parameter(help="How many at most, the newest first.")] = 100,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """List events and what became of them at each vendor, newest first."""
    query = chosen(status=status, destination=destination, customer=customer, meter=meter, since=since, until=until)
    if limit < 1:
        raise CommandFailed("--limit: at least 1", Exit.USAGE)
    found: list[dict[str, Any]] = []
    more: dict[str, str] = {}
    while len(found) < limit:
        asked = httpx.QueryParams({**query, **more, "limit": min(1000, limit - len(found))})
        page = ask(url, key, "GET", f"/v1/events?{asked}").json()
        found += page["data"]
        if "next_cursor" not in page:
            more = {}
            break
        more = {"cursor": page["next_cursor"]}
    if as_json:
        machine({"data": found} | ({"next_cursor": more["cursor"]} if more else {}))
        return Exit.OK
    for one in found:
        told = ", ".join(f"{name} {delivery['status']}" for name, delivery in one["deliveries"].items())
        say(f"{one['id']}: {one['status']}" + (f" ({told})" if told else ""))
    hint(f"{len(found):,} events" + ("; there may be more: --limit" if more else ""))
    return Exit.OK


@events.command
def void(
    event_id: str,
    /,
    *,
    reason: Reason,
    dry_run: DryRun = False,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Void one event: take it back where it was not sent, and where it was do what the vendor offers."""
    return _one(url, key, event_id, "void", {"reason": reason, "dry_run": dry_run}, as_json=as_json)


@events.command
def correct(
    event_id: str,
    quantities: Annotated[list[str], Parameter(help="The right quantity; or NAME=QUANTITY, for each measure.")],
    /,
    *,
    reason: Reason,
    dry_run: DryRun = False,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Give one event another quantity: `events correct e1 2.5`, or `events correct e1 input=12 output=9`."""
    body = {**_quantities(quantities), "reason": reason, "dry_run": dry_run}
    return _one(url, key, event_id, "correct", body, as_json=as_json)


def corrections(
    action: Literal["void", "replace", "scale"],
    value: str | None = None,
    /,
    *,
    reason: Reason,
    dry_run: DryRun = False,
    status: Annotated[str | None, Parameter(help="Only events, or deliveries, of this status.")] = None,
    destination: Destination = None,
    customer: Customer = None,
    meter: Meter = None,
    since: Since = None,
    until: Until = None,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Correct many events by filter, and show what that does to each customer: --dry-run first.

    Parameters
    ----------
    action
        `void`; `replace` by one quantity; `scale` what was sent by a factor.
    value
        The quantity or the factor.
    """
    given = chosen(status=status, destination=destination, customer=customer, meter=meter, since=since, until=until)
    if not given:
        raise CommandFailed(f"name what to correct by a filter: {OPTIONS}", Exit.USAGE)
    needs = {"void": None, "replace": "quantity", "scale": "factor"}[action]
    if (needs is None) != (value is None):
        raise CommandFailed(f"{action} takes {'no value' if needs is None else f'a {needs}'}", Exit.USAGE)
    body: dict[str, Any] = {"filter": given, "action": action, "reason": reason, "dry_run": dry_run}
    if needs is not None:
        body[needs] = value
    result = ask(url, key, "POST", "/v1/corrections", body).json()
    if as_json:
        machine(result)
    else:
        _tell_many(result)
    unsupported = any(_BAD & counts.keys() for one in result["impact"] for counts in one["destinations"].values())
    return Exit.PARTIAL if result["skipped"] or unsupported else Exit.OK


def _one(url: str, key: str | None, event_id: str, what: str, body: Mapping[str, Any], *, as_json: bool) -> int:
    result = ask(url, key, "POST", f"/v1/events/{in_path(event_id)}/{what}", body).json()
    if as_json:
        machine(result)
    else:
        say(f"{event_id}: {_change(result)}" if "after" in result else f"{event_id}: says this already", "bold")
        for name, one in result["deliveries"].items():
            say(f"  {name}: {_told(one)}")
    told = {one.get("does", one.get("status")) for one in result["deliveries"].values()}
    good = not told & _BAD if body["dry_run"] else told <= _DONE
    return Exit.OK if good else Exit.PARTIAL


def _tell_many(result: Mapping[str, Any]) -> None:
    would = "would be" if result["dry_run"] else "are"
    say(f"{result['corrected']} events {would} corrected, {result['unchanged']} say it already", "bold")
    for one in result["impact"]:
        say(f"  {one['customer']}, {one['meter']}: {one['events']} events, {_change(one)}")
        for name, counts in one["destinations"].items():
            say(f"    {name}: " + ", ".join(f"{count} {does}" for does, count in counts.items()))
    for one in result["skipped"]:
        say(f"  {one['id']} is left as it is: {one['why']}")


def _told(one: Mapping[str, Any]) -> str:
    told = str(one.get("does", one.get("status")))
    told += ", taken back" if one.get("taken_back") and told != "taken back" else ""
    told += f" ({one['reason']})" if "reason" in one else ""
    return f"{told}: {one['error']['message']}" if "error" in one else told


def _change(one: Mapping[str, Any]) -> str:
    return f"{_said(one['before'])} -> {_said(one['after'])}"


def _said(quantities: Mapping[str, Any]) -> str:
    if "quantity" in quantities:
        return str(quantities["quantity"])
    return ", ".join(f"{name}={each}" for name, each in quantities.get("quantities", {}).items()) or "void"


def _quantities(given: Sequence[str]) -> dict[str, Any]:
    """Return the member of the request that holds the quantities."""
    named = [re.fullmatch(r"(.+)=([^=]+)", one) for one in given]
    if len(given) == 1 and named[0] is None:
        return {"quantity": given[0]}
    if not given or not all(named):
        raise CommandFailed("give one quantity, or NAME=QUANTITY for each measure", Exit.USAGE)
    return {"quantities": {found[1]: found[2] for found in named if found is not None}}
