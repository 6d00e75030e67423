"""`usage-gateway links`: how destinations name customers, as a table in and out, and who has no name where."""

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import httpx
from cyclopts import App, Parameter
from rich.text import Text

from gateway.cli._asking import LOCAL, Key, Reason, Url, ask, bearer, refused
from gateway.cli._out import CommandFailed, Exit, Json, hint, machine, people, say
from gateway.links.table import COLUMNS, Entry, lines, read

__all__ = ["links"]

links = App(name="links", help="How destinations name customers.")

TOGETHER = 500
"""Customers in one request."""
ROOM = 500_000
"""Characters in one request, about."""


@links.command(name="import")
def import_(
    file: Path, /, *, reason: Reason = "imported", url: Url = LOCAL, key: Key = None, as_json: Json = False
) -> int:
    """Put the links of a CSV file, `-` for standard input; destinations that it does not name stay as they are.

    The columns are customer, destination, subscription, from, until, and the provider's own, such as
    subscription_id. Doing it again changes nothing.
    """
    customers = changed = 0
    with _opened(file) as text:
        for some in _batches(read(text)):
            body = {"customers": [{"id": one.customer, "links": one.links} for one in some], "reason": reason}
            try:
                told = ask(url, key, "POST", "/v1/customers", body).json()
            except CommandFailed as failed:
                before = f" ({customers} customers before it were put)" if customers else ""
                raise CommandFailed(_by_line(str(failed), some) + before) from None
            customers, changed = customers + told["customers"], changed + told["changed"]
    if as_json:
        machine({"object": "links_import", "customers": customers, "changed": changed})
    else:
        say(f"{customers} customers read, {changed} have other links now")
    return Exit.OK


@links.command
def export(
    *,
    destination: Annotated[str | None, Parameter(help="Only customers with a link there.")] = None,
    source: Annotated[str | None, Parameter(help="Only customers with a link from there: api, configuration.")] = None,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Write all links to standard output as CSV, which can be imported again, or with --json a customer a line."""
    query = {"limit": "1000"}
    query |= {name: value for name, value in (("destination", destination), ("source", source)) if value is not None}
    table = csv.writer(sys.stdout, lineterminator="\n")
    if not as_json:
        table.writerow(COLUMNS)
    while True:
        page = ask(url, key, "GET", f"/v1/customers?{httpx.QueryParams(query)}").json()
        for one in page["data"]:
            if as_json:
                machine(one)
            else:
                table.writerows(lines(one["id"], one["links"], one["sources"]))
        if "next_cursor" not in page:
            return Exit.OK
        query["cursor"] = page["next_cursor"]


@links.command
def coverage(
    *,
    destination: Annotated[str | None, Parameter(help="Only this one, even if it is switched off.")] = None,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Tell which customers with usage in the ledger lack a link where. Ends with 3 where one does."""
    query = "" if destination is None else f"?{httpx.QueryParams({'destination': destination})}"
    lacking = 0
    console = people()
    with console.status("reading the ledger") as status:
        for line in _streamed(url, key, f"/v1/links/coverage{query}"):
            match line["object"]:
                case "progress":
                    status.update(f"reading the ledger: {line['events']} events")
                case "lack":
                    lacking += 1
                    if as_json:
                        machine(line)
                    else:
                        says = (
                            f"{line['customer']} has no link to {line['destination']}: {line['events']} events"
                            f" from {line['first']} to {line['last']}"
                        )
                        console.print(Text(says), soft_wrap=True)
                case _:
                    if as_json:
                        machine(line)
                    told = ", ".join(f"{count} lack one to {name}" for name, count in line["destinations"].items())
                    hint(f"{line['customers']} customers with {line['events']} events; {told or 'none needs a link'}")
    return Exit.DIFFERENT if lacking else Exit.OK


def _opened(file: Path) -> TextIO:
    return sys.stdin if str(file) == "-" else file.open(encoding="utf-8-sig", newline="")


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    some: list[Entry] = []
    room = ROOM
    for entry in entries:
        some.append(entry)
        room -= len(json.dumps(entry))
        if len(some) == TOGETHER or room < 0:
            yield some
            some, room = [], ROOM
    if some:
        yield some


def _by_line(says: str, some: list[Entry]) -> str:
    """Say where in the file it is, not where in the request."""
    return re.sub(r"customers\[(\d+)\]\.?", lambda found: f"line {some[int(found[1])].line}: ", says)


def _streamed(url: str, key: str | None, path: str) -> Iterator[dict[str, Any]]:
    headers = bearer(key)
    try:
        with httpx.stream("GET", url.rstrip("/") + path, headers=headers, timeout=60, trust_env=False) as answer:
            if answer.is_error:
                answer.read()
                raise refused(url, answer)
            ended = False
            for line in answer.iter_lines():
                told = json.loads(line)
                ended = told["object"] == "coverage"
                yield told
            if not ended:
                raise CommandFailed(f"{url}: the answer ended too early: try again")
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise CommandFailed(
            f"{url}: no gateway answers there ({type(error).__name__}): start it, or name it with --url"
        ) from None
