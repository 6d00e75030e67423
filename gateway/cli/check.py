"""`usage-gateway check`, `config schema`: what is wrong with a configuration, and what will surprise."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.text import Text

from gateway.cli._out import CommandFailed, ConfigFile, Exit, Json, complain, hint, machine, people, say
from gateway.cli._remote import compared
from gateway.cli._surprises import Surprise, surprises
from gateway.configuration import Configuration
from gateway.configuration.file import load
from gateway.configuration.schema import json_schema
from gateway.errors import ConfigurationError
from gateway.opening import sums_of

__all__ = ["check", "config"]

config = App(name="config", help="About the configuration file.")


@config.command
def schema(*, as_json: Json = True) -> int:  # which every command takes: this one writes nothing else
    """Print the JSON Schema of the configuration file, for editors."""
    machine(json_schema())
    return Exit.OK


def check(
    *,
    config: ConfigFile,
    strict: Annotated[bool, Parameter(negative="", help="A warning is a failure too.")] = False,
    ledger: Annotated[bool, Parameter(negative="", help="Also add up what the ledger holds.")] = False,
    remote: Annotated[bool, Parameter(negative="", help="Also hold bindings against the vendors' own meters.")] = False,
    as_json: Json = False,
) -> int:
    """Check everything that can be checked without asking a vendor, and warn of what will surprise.

    With --ledger, every delivery is also counted: each must have exactly one status, and nothing may be missing.
    With --remote, the vendors that list their meters are asked: a metric that was renamed there would bill nothing.
    """
    try:
        configuration = load(config, os.environ)
        errors = [f"{config}: {found}" for found in _unusable(configuration)]
    except ConfigurationError as error:
        configuration, errors = None, str(error).splitlines()
    warnings = [] if configuration is None else surprises(configuration)
    sums = asyncio.run(sums_of(configuration.ledger)) if ledger and configuration is not None else None
    told_there = asyncio.run(compared(configuration)) if remote and configuration is not None else None
    if told_there is not None:
        errors += [f"{config}: {found.at}: {found.message}" for found in told_there.findings if found.weight == "error"]
        warnings += [Surprise("vendor", one.at, one.message) for one in told_there.findings if one.weight == "warning"]
    failed = bool(errors or (strict and warnings) or (sums and sums["problem_count"]))
    if as_json:
        told = [warning._asdict() for warning in warnings]
        added = ({} if sums is None else {"ledger": sums}) | ({} if told_there is None else {"remote": told_there.read})
        machine({"object": "check_result", "ok": not failed, "errors": errors, "warnings": told, **added})
    else:
        for error in errors:
            complain(error)
        _tell(config, configuration, warnings)
        for name, what in ({} if told_there is None else told_there.read).items():
            hint(f"  {name}: {what}")
        if sums is not None:
            _tell_sums(sums)
    return Exit.FAILED if failed else Exit.OK


def _unusable(configuration: Configuration) -> list[str]:
    """Return what would stop the service at its start, beyond the file itself."""
    if configuration.ledger.address is not None:
        return []
    folder = configuration.ledger.path.resolve().parent
    if not folder.is_dir():
        return [f"ledger.url: the folder {folder} does not exist: make it"]
    return [] if os.access(folder, os.W_OK | os.X_OK) else [f"ledger.url: the folder {folder} cannot be written to"]


def _tell(path: Path, configuration: Configuration | None, warnings: list[Surprise]) -> None:
    for warning in warnings:
        label = Text("warning ", style="yellow") + Text(f"{warning.at}: ", style="bold")
        people().print(label + Text(warning.message), soft_wrap=True)
    if configuration is not None:
        live = [name for name, one in configuration.destinations.items() if one.mode == "live"]
        counts = [(len(live), "live destination"), (len(configuration.meters), "meter")]
        counts.append((len(configuration.customers), "linked customer"))
        told = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts)
        warned = f", {len(warnings)} to think about" if warnings else ""
        say(f"{path}: can be used: {told}{warned}", "green")


def _tell_sums(sums: Mapping[str, Any]) -> None:
    if sums["problem_count"]:
        for problem in sums["problems"]:
            complain(problem)
        raise CommandFailed(f"the ledger does not add up: {sums['problem_count']} problems")
    say(f"the ledger adds up: {sums['events']} events", "green")
    for name, counts in sums["destinations"].items():
        hint(f"  {name}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
