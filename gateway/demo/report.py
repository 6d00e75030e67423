"""The demo's outcome as people read it."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from itertools import groupby

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from canonical_schema import BatchResult, DeliveryStatus, EventStatus, plain
from gateway.demo.story import Concern, Figure

__all__ = ["report"]

_COLOURS = {
    "delivered": "green",
    "accepted": "green",
    "duplicate": "green",
    "pending": "yellow",
    "blocked": "yellow",
    "retrying": "yellow",
    "unrouted": "yellow",
    "unknown": "magenta",
    "filtered": "dim",
}
"""Anything else is red."""


def report(console: Console, result: BatchResult, concerns: Sequence[Concern], figures: Sequence[Figure]) -> None:
    """Print what became of the events, what needs attention, and whether the bills add up."""
    _section(console, "What became of the events", _events(result))
    order = list(dict.fromkeys(figure.destination for figure in figures))
    _section(console, "What each vendor said", _deliveries(result, order))
    _section(console, "What needs attention, and whose", _attention(concerns))
    _section(console, "What the simulated vendors would bill", _bills(figures))


def _section(console: Console, title: str, body: RenderableType) -> None:
    console.print(Group("", Text(title, style="bold"), body), highlight=False)


def _colour(status: str) -> str:
    return _COLOURS.get(status, "red")


def _events(result: BatchResult) -> RenderableType:
    summary = result["summary"]
    counts = [(status, summary[status.value]) for status in EventStatus]
    told = [Text(f"{count} {status}", style=_colour(status)) for status, count in counts if count]
    again = sum(one["replayed"] for one in result["results"])
    repeats = Text(f"{again} of them a repeat: answered from the ledger, sent nowhere", style="dim")
    return Padding(Group(Text(" · ").join(told), repeats), (0, 0, 0, 2))


def _deliveries(result: BatchResult, order: Sequence[str]) -> Table:
    counts = {name: Counter[DeliveryStatus]() for name in order}
    for one in result["results"]:
        for name, delivery in one["deliveries"].items() if not one["replayed"] else ():
            counts[name][delivery["status"]] += 1
    used = [status for status in DeliveryStatus if any(status in counted for counted in counts.values())]
    table = _table("")
    for status in used:
        table.add_column(status, justify="right", header_style=_colour(status))
    table.add_column("events", justify="right", header_style="bold")
    for name, counted in counts.items():
        table.add_row(name, *(_count(status, counted[status]) for status in used), str(counted.total()))
    return table


def _count(status: str, count: int) -> Text:
    return Text(str(count), style=_colour(status)) if count else Text("·", style="dim")


def _attention(concerns: Sequence[Concern]) -> RenderableType:
    parts: list[RenderableType] = []
    for (status, code, step), group in groupby(concerns, key=lambda one: (one.status, one.code, one.what_to_do)):
        parts.append(Text(f"\n  {status}", style=_colour(status)) + Text(f" · {code}", style="bold"))
        parts.append(Padding(Text(step, style="italic"), (0, 0, 0, 4)))
        lines = Table.grid(padding=(0, 2), pad_edge=True)
        for width in (2, 9, 20):
            lines.add_column(min_width=width, no_wrap=True)
        lines.add_column(overflow="fold")
        for one in group:
            first, *more = one.events
            lines.add_row("", one.where, first if not more else f"{first} and {len(more)} more", Text(one.why))
        parts.append(lines)
    return Group(*parts)


def _bills(figures: Sequence[Figure]) -> RenderableType:
    table = _table("meter there")
    for heading in ("delivered", "in doubt", "would bill"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for destination, group in groupby(figures, key=lambda one: one.destination):
        table.add_row(Text(destination, style="bold"))
        for one in group:
            amounts = (one.delivered, one.doubtful, one.billed)
            table.add_row(f" {one.meter}", *(_amount(each) for each in amounts), _verdict(one))
    dropped = "  ! taken for a customer whom the vendor does not know: `accepted` there means queued, not billed."
    return Group(table, Text(dropped, style="yellow")) if any(one.dropped for one in figures) else table


def _verdict(one: Figure) -> Text:
    if not one.adds_up:
        return Text("✗ does not add up", style="bold red")
    if one.dropped:
        return Text(f"! {_amount(one.dropped)} unbilled", style="yellow")
    if one.doubtful:
        there = "it had arrived" if one.billed == one.delivered + one.doubtful else "it had not arrived"
        return Text(f"✓ {there}", style="magenta")
    return Text("✓ exact", style="green")


def _amount(amount: Decimal) -> str:
    return f"{Decimal(plain(amount.normalize())):,f}" if amount else "·"


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, header_style="bold dim")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table
