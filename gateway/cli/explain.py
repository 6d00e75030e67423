"""`usage-gateway explain`: what would be sent for events, without a server and without sending."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, cast

import msgspec
from cyclopts import Parameter
from rich.text import Text

from gateway.catalogue import DEFAULT_TENANT, Catalogue
from gateway.cli._event_files import FileFormat, opened
from gateway.cli._out import ConfigFile, Exit, Json, hint, machine, people, say
from gateway.cli.send import EventsPath
from gateway.configuration.file import load
from gateway.explaining import explain as explained
from gateway.intake import admit, parse

__all__ = ["explain"]

_ENCODER = msgspec.json.Encoder(decimal_format="string")


def explain(
    file: EventsPath,
    /,
    *,
    config: ConfigFile,
    format: Annotated[FileFormat | None, Parameter(help="Else by the file's name.")] = None,  # noqa: A002
    tenant: Annotated[str, Parameter(help="Whose events these are.")] = DEFAULT_TENANT,
    as_json: Json = False,
) -> int:
    """Show the exact request that each destination would get for events, and every refusal that can be foreseen.

    Credentials are masked. Nothing is sent and nothing is stored. The exit code is 4 where something is refused.

    Parameters
    ----------
    file
        The events: NDJSON, JSON or CSV; `-` is standard input.
    """
    configuration = load(config, os.environ)
    lines = opened(file, format).lines
    body = b"\n".join(line.body for line in lines)
    now, catalogue = datetime.now(UTC), Catalogue(configuration)
    sent = parse(body, "application/x-ndjson", len(lines))
    admitted = list(admit(sent, catalogue, configuration.intake, now, configuration.retention.events))
    made = explained(catalogue, tenant, admitted, now)
    # What the API would answer, read back: bodies are kept as bytes until then.
    results = cast("list[dict[str, Any]]", msgspec.json.decode(_ENCODER.encode(made))["results"])
    if as_json:
        machine(made)
    else:
        for one in results:
            _show(one)
    return Exit.PARTIAL if any(_troubled(one) for one in results) else Exit.OK


def _troubled(one: Mapping[str, Any]) -> bool:
    return bool("error" in one or one.get("problems") or any(each["problems"] for each in one["deliveries"].values()))


def _show(one: Mapping[str, Any]) -> None:
    say(f"{one.get('id', 'event')}  (event {one['index'] + 1})", "bold")
    for error in (*([one["error"]] if "error" in one else []), *one.get("problems", ())):
        _problem("gateway", error)
    for name, delivery in one["deliveries"].items():
        for error in delivery["problems"]:
            _problem(name, error)
        if "reason" in delivery:
            hint(f"  {name:<12} not for this destination: {delivery['reason']}")
        requests = delivery.get("requests") or ([delivery["request"]] if "request" in delivery else [])
        for request in requests:
            say(f"  {name:<12} {request['method']} {request['url']}")
            headers = ", ".join(f"{header}: {value}" for header, value in request["headers"].items())
            hint(f"  {'':<12} {headers}")
            say(f"  {'':<12} {_ENCODER.encode(request['body']).decode()}")


def _problem(where: str, error: Mapping[str, Any]) -> None:
    label = Text(f"  {where:<12} ") + Text(error["code"], style="red")
    people().print(label + Text(f": {error['message']}"), soft_wrap=True)
