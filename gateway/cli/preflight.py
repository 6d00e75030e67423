"""`usage-gateway preflight`: what a destination would do with a history, before any of it is sent."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators

from canonical_schema import Event
from gateway.catalogue import DEFAULT_TENANT, Catalogue
from gateway.cli._asking import LOCAL, Key, Url, ask
from gateway.cli._history import HistoryFormat, read
from gateway.cli._out import CommandFailed, Exit, Json, complain, hint, machine, say
from gateway.configuration.file import load
from gateway.intake import impossible
from gateway.moving.preflight import Preflight

__all__ = ["From", "Rate", "Since", "To", "Until", "preflight"]

SHOWN = 20
"""Kinds of refusal, and rows that are no events, that are told one by one."""

To = Annotated[str, Parameter("--to", help="The destination, by its name in the configuration.")]
From = Annotated[str, Parameter("--from", help="`ledger`, or a file: NDJSON, JSON, CSV or Parquet, also .gz and .zst.")]
Rate = Annotated[float | None, Parameter("--rate", validator=validators.Number(gt=0), help="Events a second, at most.")]
Since = Annotated[datetime | None, Parameter("--since", help="Only events of the ledger from this instant on.")]
Until = Annotated[datetime | None, Parameter("--until", help="Only events of the ledger before this instant.")]
Format = Annotated[HistoryFormat | None, Parameter(help="Else by the file's name.")]
Meter = Annotated[str | None, Parameter("--meter", help="Only events of the ledger of this meter.")]
Customer = Annotated[str | None, Parameter("--customer", help="Only events of the ledger of this customer.")]


def preflight(
    *,
    to: To,
    source: From,
    config: Annotated[
        Path | None,
        Parameter("--config", validator=validators.Path(exists=True, dir_okay=False), help="For a file: as YAML."),
    ] = None,
    rate: Rate = None,
    since: Since = None,
    until: Until = None,
    meter: Meter = None,
    customer: Customer = None,
    format: Format = None,  # noqa: A002
    tenant: Annotated[str, Parameter(help="For a file: whose events these are.")] = DEFAULT_TENANT,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Tell what would be refused and why, by count and quantity, and how long sending would take. Sends nothing.

    A file is read here, against --config; the ledger is read by the running gateway. The exit code is 3 where something
    would be refused.
    """
    if source == "ledger":
        wanted = filters(since, until, meter, customer)
        asked = {"to": to, "filter": wanted} | ({} if rate is None else {"rate": rate})
        report = ask(url, key, "POST", "/v1/preflights", asked).json()
        invalid = 0
    else:
        if config is None:
            raise CommandFailed("a file is held against a configuration: name it with --config", Exit.USAGE)
        report, invalid = _of_file(Path(source), format, config, to, tenant, rate)
    if as_json:
        machine(report)
    else:
        _tell(report)
    return Exit.DIFFERENT if report["refused"] or invalid else Exit.OK


def filters(since: datetime | None, until: datetime | None, meter: str | None, customer: str | None) -> dict[str, str]:
    """Return which events of the ledger are meant, as the API takes it. A time without zone is UTC."""
    times = {"from": since, "to": until}
    named = {"meter": meter, "customer": customer}
    return {
        **{
            name: (when if when.tzinfo else when.replace(tzinfo=UTC)).isoformat()
            for name, when in times.items()
            if when
        },
        **{name: value for name, value in named.items() if value is not None},
    }


def _of_file(
    path: Path, given: HistoryFormat | None, config: Path, to: str, tenant: str, rate: float | None
) -> tuple[dict[str, Any], int]:
    catalogue = Catalogue(load(config, os.environ))
    if to not in catalogue.destinations:
        raise CommandFailed(f"--to: {to!r} is none of {', '.join(catalogue.destinations)}", Exit.USAGE)
    now, invalid = datetime.now(UTC), list[dict[str, Any]]()
    made = Preflight(catalogue, to, now)
    count = 0
    for event in read(path, given, tenant):
        if isinstance(event, Event):
            if (why := impossible(event, catalogue, now)) is None:
                made.add(tenant, event, now)
            else:
                made.impossible(event, now, why)
            continue
        count += 1
        if len(invalid) < SHOWN:
            invalid.append({"line": event.line, "message": event.message})
    for one in invalid:
        complain(f"{path}: row {one['line']}: {one['message']}")
    return made.report(rate) | {"invalid": {"count": count, "first": invalid}}, count


def _tell(report: Mapping[str, Any]) -> None:
    ready, refused = report["ready"], report["refused"]
    say(f"{report['events']:,} events to {report['destination']} ({report['provider']})", "bold")
    zero = f"; {report['zero']:,} are zero, and are left out" if report["zero"] else ""
    say(f"  {ready['events']:,} can be sent, in {ready['requests']:,} requests{zero}")
    if report["routed_elsewhere"]:
        say(f"  {report['routed_elsewhere']:,} of all are not for it by the routes: backfill leaves them out", "yellow")
    for one in refused[:SHOWN]:
        quantity = one.get("quantity") or ", ".join(f"{name} {each}" for name, each in one["quantities"].items())
        say(
            f"  {one['events']:,} refused: {one['code']} ({one['meter']}, quantity {quantity}): {one['message']}", "red"
        )
    if len(refused) > SHOWN:
        hint(f"  ... and {len(refused) - SHOWN} more kinds of refusal")
    customers = report["unmapped_customers"]
    if customers["count"]:
        named = ", ".join(customers["named"][:SHOWN]) + (" ..." if customers["count"] > SHOWN else "")
        say(f"  {customers['count']:,} customers have no link there: {named}")
    if report.get("invalid", {}).get("count"):
        say(f"  {report['invalid']['count']:,} rows are no events", "red")
    seconds = report["duration"]["seconds"]
    takes = "as long as the vendor takes" if seconds is None else f"at least {_span(seconds)}"
    say(f"  sending takes {takes} ({report['duration']['limited_by']})")


def _span(seconds: float) -> str:
    for size, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} seconds"
