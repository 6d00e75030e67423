"""`usage-gateway init PROVIDER`: a working configuration, and the customers' links, from what stands at the vendor."""

import asyncio
import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import yaml
from cyclopts import Parameter
from pydantic import ValidationError

from adapters import AnyAdapter, provider, providers
from adapters._inventory import CanListCustomers, CanListMeters, RemoteCustomer, RemoteMeter
from adapters._readback import Unread
from gateway.cli._out import CommandFailed, Exit, Json, hint, machine, say
from gateway.cli._remote import asked
from gateway.configuration.file import load
from gateway.configuration.findings import checked
from gateway.links.table import COLUMNS

__all__ = ["init"]

SHOWN = 20


def init(
    name: Annotated[str, Parameter(help="The vendor: `usage-gateway providers` lists them.")],
    /,
    *,
    setting: Annotated[
        tuple[str, ...],
        Parameter("--setting", negative="", help="NAME=VALUE of the vendor's settings; may be given again."),
    ] = (),
    key_env: Annotated[str | None, Parameter(help="The variable that holds the key; else PROVIDER_API_KEY.")] = None,
    config: Annotated[Path, Parameter("--config", help="Where the configuration is written.")] = Path("gateway.yaml"),
    links: Annotated[Path, Parameter("--links", help="Where the customers' links are written.")] = Path("links.csv"),
    as_json: Json = False,
) -> int:
    """Read a vendor's meters and customers with your key, and write a configuration that works and a table of links.

    The key stays in the environment: the configuration names the variable. Nothing is changed at the vendor, and no
    file is overwritten. `usage-gateway links import` takes the table.
    """
    if name not in providers():
        raise CommandFailed(f"{name[:64]!r} is none of {', '.join(providers())}", Exit.USAGE)
    for path in (config, links):
        if path.exists():
            raise CommandFailed(f"{path} is there already: name another, or move it away", Exit.USAGE)
    variable = key_env or f"{name.upper()}_API_KEY"
    adapter = _adapter(name, variable, setting)
    meters, customers, notes = asyncio.run(_read(adapter))
    text = _configuration(name, variable, adapter, meters)
    config.write_text(text)
    written = len(load(config, os.environ).meters)  # what was written can be used, or this command has a fault
    choices = _write_links(links, name, customers, needed=adapter.door.link.default is None)
    notes += choices
    if as_json:
        told = {"meters": written, "customers": len(customers), "notes": notes}
        machine({"object": "init", "provider": name, "configuration": str(config), "links": str(links), **told})
    else:
        say(f"{config}: {written} meters of {adapter.spec.title}", "green")
        say(f"{links}: {sum(len(one.links) == 1 for one in customers)} of {len(customers)} customers linked", "green")
        for note in notes[:SHOWN]:
            say(f"  {note}", "yellow")
        hint(f"Next: usage-gateway check --config {config} --remote")
    return Exit.PARTIAL if notes else Exit.OK


def _adapter(name: str, variable: str, given: Sequence[str]) -> AnyAdapter:
    settings: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals:
            raise CommandFailed(f"--setting {one!r}: write NAME=VALUE", Exit.USAGE)
        settings[key] = value
    secret = os.environ.get(variable, "")
    if not secret:
        raise CommandFailed(f"the environment variable {variable} is not set: it has to hold your key", Exit.USAGE)
    made = provider(name)
    try:
        return made(checked(made.Settings, {**settings, "api_key": secret}))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg']}"
            for one in error.errors(include_url=False, include_input=False)
        )
        raise CommandFailed(f"--setting: {problems}", Exit.USAGE) from None


async def _read(adapter: AnyAdapter) -> tuple[list[RemoteMeter], list[RemoteCustomer], list[str]]:
    title, notes = adapter.spec.title, list[str]()
    meters: list[RemoteMeter] = []
    customers: list[RemoteCustomer] = []
    if isinstance(adapter, CanListMeters):
        found = await asked(adapter, adapter.list_meters())
        if isinstance(found, Unread):
            raise CommandFailed(f"{title}: {found.why}")
        meters = list(found)
    else:
        notes.append(f"{title} lists no meters: write them by hand, under meters")
    if isinstance(adapter, CanListCustomers):
        known = await asked(adapter, adapter.list_customers())
        if isinstance(known, Unread):
            notes.append(f"customers were not read: {known.why}")
        else:
            customers = list(known)
    return meters, customers, notes


def _configuration(name: str, variable: str, adapter: AnyAdapter, meters: Sequence[RemoteMeter]) -> str:
    """Return the file: one destination, and a meter for each of the vendor's that can be billed."""
    own = {
        field: value
        for field, value in adapter.settings.model_dump(mode="json", exclude_unset=True).items()
        if field != "api_key"
    }
    first = adapter.door.binding.names[0]
    taken: dict[str, dict[str, object]] = {}
    for meter in meters:
        if first not in meter.binding or meter.caution:
            continue
        ours = _free(_name(meter.binding[first]), taken)
        adds = {} if meter.aggregation in {None, "sum"} else {"aggregation": meter.aggregation}
        taken[ours] = {**adds, "bindings": {name: {first: meter.binding[first], **meter.quantity}}}
    made = {
        "destinations": {name: {"provider": name, "settings": {"api_key": f"${{{variable}}}", **own}}},
        "meters": taken,
    }
    body = yaml.safe_dump(made, sort_keys=False, allow_unicode=True)
    left = [f"#   {one.title}: {one.caution}" for one in meters if one.caution]
    left_out = "\n".join(["#", "# Left out:", *left]) + "\n" if left else ""
    head = f"# {adapter.spec.title}, as its account stands. Meters' names are yours to change: events use them.\n"
    return head + left_out + body


def _name(theirs: str) -> str:
    """Return a vendor's name as one of ours: lower case, words joined by `_`."""
    return re.sub(r"[^a-z0-9]+", "_", theirs.lower()).strip("_") or "meter"


def _free(name: str, taken: Mapping[str, object]) -> str:
    number, made = 2, name
    while made in taken:
        made, number = f"{name}_{number}", number + 1
    return made


def _write_links(path: Path, name: str, customers: Sequence[RemoteCustomer], *, needed: bool) -> list[str]:
    """Write a row for each customer with one link; return what a person has to choose."""
    notes: list[str] = []
    with path.open("x", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        for one in customers:
            if len(one.links) == 1:
                table.writerow({"customer": one.customer, "destination": name, **one.links[0]})
            elif one.links:
                several = ", ".join(" ".join(link.values()) for link in one.links)
                notes.append(f"customer {one.customer} has several there, choose one: {several}")
            elif needed:
                notes.append(f"customer {one.customer} has nothing there that usage could be billed to")
    return notes
