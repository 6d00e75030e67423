"""What a comparison found, as JSON: every figure in its meter's unit, what differs first."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from adapters import Billed, Unread, UnreadKind, Window
from canonical_schema import format_time, plain
from gateway.configuration import Meter
from gateway.reconciling._model import EXACT, OPEN, Cell, Difference, Place, Side, Why, in_unit, total
from gateway.reconciling.comparing import Comparison
from gateway.reconciling.pairing import Both

__all__ = ["FIGURES", "charges", "ledger_figures", "report", "why_unread", "window_of"]

FIGURES = 20_000
"""Figures of one comparison that are shown; what differs comes first, and matching ones beyond are counted."""


def report(made: Comparison, meters: Mapping[str, Meter]) -> dict[str, Any]:
    """Return everything that was found. `meters` say what may be off by how much."""
    comparisons = [
        _comparison("ledger", name, [_of_cell(place, cell) for place, cell in side.cells.items()], made, meters)
        for name, side in made.sides.items()
    ]
    if (pair := made.pair) is not None:
        both = [_of_both(place, one) for place, one in pair.cells.items()]
        comparisons.append(_comparison(pair.left, pair.right, both, made, meters))
    classes: dict[str, dict[str, int]] = {}
    for one in comparisons:
        for name, counted in one["classes"].items():
            kept = classes.setdefault(name, {"figures": 0, "events": 0})
            kept["figures"] += counted["figures"]
            kept["events"] += counted["events"]
    unread = sum(one["unread"] for one in comparisons)
    nothing = sum(_in_trouble(side) for side in made.sides.values())
    return {
        "from": format_time(made.scope.window.start),
        "to": format_time(made.scope.window.end),
        **({} if made.scope.customer is None else {"customer": made.scope.customer}),
        **({} if made.scope.meter is None else {"meter": made.scope.meter}),
        "at": format_time(made.at),
        "accepted": sorted(made.scope.accept),
        "events": made.events,
        "trimmed_batches": made.trimmed,
        "unexplained": sum(one["unexplained"] for one in comparisons),
        "complete": made.trimmed == 0 and (Why.CAPABILITY in made.scope.accept or (unread == 0 and nothing == 0)),
        "classes": classes,
        "destinations": [_destination(name, side) for name, side in made.sides.items()],
        "comparisons": comparisons,
    }


def _in_trouble(side: Side) -> bool:
    return (
        side.unread is not None
        or side.outside > 0
        or any(why.kind is UnreadKind.TROUBLE for why in side.missing.values())
    )


def _destination(name: str, side: Side) -> dict[str, Any]:
    missing: dict[str, Unread] = {}
    for label, why in side.missing.items():
        missing.setdefault(label.rpartition("#")[0] or label, why)
    return {
        "destination": name,
        "kind": side.kind,
        "exact": side.exact,
        "requests": side.requests,
        "rows": side.rows,
        **({} if side.unread is None else {"unread": why_unread(side.unread)}),
        **({"outside": side.outside} if side.outside else {}),
        "missing": [{"meter": meter, **why_unread(why)} for meter, why in missing.items()],
    }


class _Figure:
    """One figure on its way to the report."""

    def __init__(
        self,
        place: Place,
        left: Decimal | None,
        right: Decimal | None,
        events: int,
        unread: Unread | None,
        reasons: Mapping[Why, Difference],
        window: Window | None = None,
    ) -> None:
        self.place = place
        self.left = left
        self.right = right
        self.events = events
        self.unread = unread
        self.reasons = reasons
        self.window = window

    def judged(self, accept: frozenset[Why], tolerance: Decimal | None) -> tuple[Why, bool]:
        """Return the class of the figure, and whether somebody has to look at it."""
        if self.unread is not None:
            return Why.CAPABILITY, False
        open_ = {why: one for why, one in self.reasons.items() if why in OPEN - accept}
        off = total(EXACT.abs(one.quantity) for one in open_.values())
        if open_ and (tolerance is None or off > tolerance):
            return next(why for why in Why if why in open_), True
        rest = {why: one for why, one in self.reasons.items() if why not in open_}
        if rest:
            return max(rest, key=lambda why: abs(rest[why].quantity)), False
        return (Why.ROUNDING if open_ else Why.MATCH), False


def _of_cell(place: Place, cell: Cell) -> _Figure:
    reasons = {
        why: Difference(one.events, in_unit(one.quantity, cell.scale), one.ids) for why, one in cell.reasons.items()
    }
    right = None if cell.provider is None else in_unit(cell.provider, cell.scale)
    return _Figure(place, in_unit(cell.recorded, cell.scale), right, cell.events, cell.unread, reasons, cell.window)


def _of_both(place: Place, both: Both) -> _Figure:
    return _Figure(place, both.left, both.right, both.events, both.unread, both.reasons)


def _comparison(
    left: str, right: str, figures: list[_Figure], made: Comparison, meters: Mapping[str, Meter]
) -> dict[str, Any]:
    accept = made.scope.accept
    judged: list[tuple[_Figure, Why, bool]] = []
    classes: dict[str, dict[str, int]] = {}
    for figure in figures:
        meter = meters.get(figure.place.meter)
        why, is_open = figure.judged(accept, None if meter is None else meter.tolerance)
        judged.append((figure, why, is_open))
        counted = figure.reasons if figure.unread is None and figure.reasons else {why: Difference(figure.events)}
        for each, found in counted.items():
            kept = classes.setdefault(each, {"figures": 0, "events": 0})
            kept["figures"] += 1
            kept["events"] += found.events
    judged.sort(key=lambda one: (not one[2], one[1] is Why.MATCH, one[0].place))
    return {
        "left": left,
        "right": right,
        "unexplained": sum(is_open for _, _, is_open in judged),
        "unread": sum(figure.unread is not None for figure, _, _ in judged),
        "classes": classes,
        "figures_count": len(judged),
        "figures": [_shown(*one) for one in judged[:FIGURES]],
    }


def _shown(figure: _Figure, why: Why, is_open: bool) -> dict[str, Any]:
    left, right = figure.left, figure.right
    return {
        "customer": figure.place.customer,
        "meter": figure.place.meter,
        **({"part": figure.place.part} if figure.place.part else {}),
        "class": why,
        "explained": not is_open,
        **({} if left is None else {"left": plain(left)}),
        **({} if right is None else {"right": plain(right)}),
        **({} if left is None or right is None else {"difference": plain(EXACT.subtract(right, left))}),
        "events": figure.events,
        **({} if figure.window is None else {"window": window_of(figure.window)}),
        **({} if figure.unread is None else {"unread": why_unread(figure.unread)}),
        "reasons": list(_reasons(figure.reasons)),
    }


def _reasons(reasons: Mapping[Why, Difference]) -> Iterator[dict[str, Any]]:
    for why, one in reasons.items():
        ids = [each for each in one.ids if each]
        yield {"class": why, "events": one.events, "quantity": plain(one.quantity), "ids": ids}


def ledger_figures(cell: Cell) -> dict[str, str]:
    """Return what the ledger has for a destination, in the meter's unit."""
    given = {"recorded": cell.recorded, "delivered": cell.delivered, "pending": cell.pending, "unknown": cell.unknown}
    return {name: plain(in_unit(quantity, cell.scale)) for name, quantity in given.items()}


def charges(billed: Billed | Unread) -> dict[str, Any]:
    """Return what a customer will be charged: money, which is never usage."""
    if isinstance(billed, Unread):
        return {"unread": why_unread(billed)}
    return {
        "window": window_of(billed.window),
        "amount": plain(billed.amount),
        "currency": billed.currency,
        "exact": billed.exact,
        "lifetime": billed.lifetime,
        "lines": [
            {"name": one.name, "amount": plain(one.amount), "currency": one.currency, "quantity": plain(one.quantity)}
            for one in billed.charges
        ],
    }


def why_unread(unread: Unread) -> dict[str, str]:
    """Return why something could not be read."""
    return {"kind": UnreadKind(unread.kind).value, "why": unread.why}


def window_of(window: Window) -> dict[str, str]:
    """Return a window's ends."""
    return {"from": format_time(window.start), "to": format_time(window.end)}
