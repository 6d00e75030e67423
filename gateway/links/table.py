"""Links as a table: CSV, a line for each row of a link, the rows of a customer together."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from adapters import Link, providers
from gateway.errors import GatewayError

__all__ = ["COLUMNS", "Entry", "TableFault", "lines", "read"]


def _columns() -> tuple[str, ...]:
    own = [field.alias or name for name, field in Link.model_fields.items()]
    theirs = {
        field.alias or name
        for adapter in providers().values()
        for door in adapter.spec.doors.values()
        for name, field in door.link.model_fields.items()
    }
    return ("customer", "destination", *own, *sorted(theirs - set(own)), "source")


COLUMNS = _columns()
"""Of every provider there is; `source` tells where an exported link comes from, and is not read."""


class TableFault(GatewayError):
    """Raised for a file that is no table of links: says which line, and never what stands in it."""


class Entry(NamedTuple):
    """One customer of a table."""

    line: int
    """Where the customer begins."""
    customer: str
    links: dict[str, list[dict[str, str]]]


def read(text: Iterable[str]) -> Iterator[Entry]:
    """Give the customers of a table, in order, one at a time; an empty cell is no value.

    Raises TableFault.
    """
    reader = csv.reader(text, strict=True)
    try:
        head = next(reader, list[str]())
        for needed in ("customer", "destination"):
            if needed not in head:
                raise TableFault(f"line 1: there is no column {needed}")
        for name in head:
            if name not in COLUMNS:
                raise TableFault(f"line 1: unknown column {name[:64]!r}; known are {', '.join(COLUMNS)}")
            if head.count(name) > 1:
                raise TableFault(f"line 1: the column {name} is there twice")
        yield from _entries(reader, head)
    except csv.Error as error:
        raise TableFault(f"line {reader.line_num}: is no CSV: {error}") from None


def _entries(reader: Iterator[list[str]], head: list[str]) -> Iterator[Entry]:
    entry: Entry | None = None
    seen: set[bytes] = set()
    for number, cells in enumerate(reader, 2):
        if not cells:
            continue
        if len(cells) != len(head):
            raise TableFault(f"line {number}: has {len(cells)} cells, and there are {len(head)} columns")
        row = {name: cell for name, cell in zip(head, cells, strict=True) if cell and name != "source"}
        customer, destination = row.pop("customer", ""), row.pop("destination", "")
        if not customer or not destination:
            raise TableFault(f"line {number}: needs a customer and a destination")
        if entry is None or entry.customer != customer:
            if entry is not None:
                yield entry
            mark = blake2b(customer.encode(), digest_size=8).digest()
            if mark in seen:
                raise TableFault(f"line {number}: the customer stood further up already: put its rows together")
            seen.add(mark)
            entry = Entry(number, customer, {})
        entry.links.setdefault(destination, []).append(row)
    if entry is not None:
        yield entry


def lines(customer: str, links: Mapping[str, list[dict[str, Any]]], sources: Mapping[str, str]) -> Iterator[list[str]]:
    """Give a customer's rows as cells of `COLUMNS`."""
    for destination, rows in links.items():
        for row in rows:
            known = {"customer": customer, "destination": destination, "source": sources.get(destination, ""), **row}
            yield [str(known.get(name, "")) for name in COLUMNS]
