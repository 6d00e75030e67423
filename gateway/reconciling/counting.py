"""Holds what the ledger sent against a provider's counters: sums alone, so that little is said of single events."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from adapters import Read, Unread, UnreadKind, Window
from gateway.reconciling._model import (
    EXACT,
    FORMER,
    REMETERED,
    RENAMED,
    UNLINKED,
    Cell,
    Ours,
    Place,
    Side,
    Standing,
    Why,
    total,
)
from gateway.reconciling.joining import Joiner
from gateway.times import to_micros

__all__ = ["SHARED", "Counters"]

SHARED = Unread(
    kind=UnreadKind.UNSUPPORTED, why="several customers of ours are one there: its counters cannot be told apart"
)

OPEN = 16
"""Deliveries in doubt of which every combination is tried; of more, only what they can come to at all is known."""
_CERTAIN = {
    Standing.REJECTED: Why.REJECTED,
    Standing.UNMAPPED: Why.UNMAPPED,
    Standing.CAPABILITY: Why.CAPABILITY,
    Standing.LATE: Why.LATE,
}
_NONE = Decimal(0)

_Doubt = tuple[Decimal, str]
"""A delivery that may have arrived: its quantity, and its event."""


@dataclass(slots=True)
class _Tally:
    """What of a figure may or may not be counted."""

    open: list[_Doubt] = field(default_factory=list[_Doubt])
    more: bool = False
    """Whether there are others."""
    least: Decimal = Decimal(0)
    most: Decimal = Decimal(0)
    """Between what all of them together can come to, the others included."""
    absolute: bool = False
    untold: Unread | None = None
    """Why some of it may be counted elsewhere."""


class Counters:
    """One destination's counters, by customer."""

    def __init__(self, side: Side, joiner: Joiner, window: Window, settled: int, begun: int) -> None:
        """`settled`: what was sent before this is counted, if it is there at all. `begun`: when they were asked."""
        self._side = side
        self._joiner = joiner
        self._window = window
        self._settled = settled
        self._begun = begun
        self._told: dict[str, Read | Unread] = {}
        self._tallies: dict[Place, _Tally] = {}
        self._former: dict[tuple[str, str], dict[str, Decimal]] = {}
        """By meter and part, and by customer: what may be counted under a name there that nobody knows any more."""

    def told(self, customer: str, what: Read | Unread) -> None:
        """Note what was read of one customer. What several links of one count over one period is added up."""
        if (before := self._told.get(customer)) is not None:
            what = _together(before, what)
        self._told[customer] = what

    def take(self, ours: Iterable[Ours]) -> None:
        """Count the ledger's events, each customer's over the window that was read."""
        for one in ours:
            if one.foreign and not one.renamed:
                continue
            told = self._told.get(one.customer)
            if told is None and one.received >= self._begun:
                continue  # it came when nobody knew whom to ask for
            window = told.window if isinstance(told, Read) else self._window
            if not _within(one.at, window):
                self._side.outside += not one.foreign and _within(one.at, self._window)
                continue
            why = _CERTAIN.get(one.standing)
            if one.renamed and why is None:
                former = self._former.setdefault((one.meter, one.part), {})
                former[one.customer] = EXACT.add(former.get(one.customer, _NONE), one.quantity)
            if one.foreign:
                continue
            place = Place(one.customer, one.meter, one.part)
            cell = self._joiner.cell(place)
            cell.record(one)
            tally = self._tallies.setdefault(place, _Tally())
            tally.absolute = tally.absolute or one.absolute
            if one.remetered or one.renamed:
                tally.untold = REMETERED if one.remetered else RENAMED
            if why is not None:
                cell.put(why, EXACT.minus(one.quantity), one.id)
            elif one.standing is not Standing.DELIVERED or one.sent > self._settled:
                tally.least = EXACT.add(tally.least, min(one.quantity, _NONE))
                tally.most = EXACT.add(tally.most, max(one.quantity, _NONE))
                if len(tally.open) < OPEN:
                    tally.open.append((one.quantity, one.id))
                else:
                    tally.more = True

    def end(self, reads: Mapping[tuple[str, str], tuple[str, str]], customer: str | None) -> None:
        """Lay the counters beside the sums. `reads`: by meter and part, the label and measure that were read.

        `customer`: the one that was asked about, of whom what could not be read is told where there is no sum, too.
        """
        for whose, told in self._told.items():
            if isinstance(told, Read) and told.counted is not None:
                for (meter, part), read in reads.items():
                    counted = told.counted.get(read)
                    place = Place(whose, meter, part)
                    if counted is not None and (counted or place in self._side.cells):
                        self._joiner.cell(place).provider = counted
        if customer is not None:
            told = self._told.get(customer)
            for (meter, part), (label, _) in reads.items():
                if isinstance(told, Unread) or (told is not None and label in told.unread):
                    self._joiner.cell(Place(customer, meter, part))
        for place, cell in self._side.cells.items():
            told = self._told.get(place.customer)
            if isinstance(told, Read) and told.window != self._window:
                cell.window = told.window
            label, _ = reads.get((place.meter, place.part), ("", ""))
            unread = told if isinstance(told, Unread) else None if told is None else told.unread.get(label)
            if told is None and EXACT.add(cell.recorded, _explained(cell)) != 0:  # else nothing of it ever left
                unread = UNLINKED
            if unread is not None:
                cell.provider, cell.unread = None, unread
                cell.reasons.clear()
            else:
                self._explain(place)

    def _explain(self, place: Place) -> None:
        cell, tally = self._side.cells[place], self._tallies.get(place, _Tally())
        provider = cell.provider or Decimal(0)
        if tally.absolute:
            cell.reasons.clear()
            if provider != cell.recorded:  # a running value replaces what came before it: sums say nothing
                cell.put(Why.CAPABILITY, EXACT.subtract(provider, cell.recorded), "")
            return
        rest = EXACT.subtract(EXACT.subtract(provider, cell.recorded), _explained(cell))
        if rest == 0:
            return
        missing = _combination(tally.open, EXACT.minus(rest))
        untold = tally.untold or (FORMER if missing is None and self._may_be_others(place, tally, rest) else None)
        if missing is None and untold is not None:
            cell.provider, cell.unread = None, untold
            cell.reasons.clear()
            return
        if missing is None:
            open_ = tally.more and tally.least <= EXACT.minus(rest) <= tally.most
            left = Why.TRIMMED if self._side.trimmed else Why.UNEXPLAINED
            cell.put(Why.IN_FLIGHT if open_ else left, rest, "")
            return
        for quantity, event_id in missing:
            cell.put(Why.IN_FLIGHT, EXACT.minus(quantity), event_id)

    def _may_be_others(self, place: Place, tally: _Tally, rest: Decimal) -> bool:
        """Return whether what others may have there under this name comes to what is too much."""
        former = self._former.get((place.meter, place.part), {})
        others = [quantity for customer, quantity in former.items() if customer != place.customer]
        if len(tally.open) + len(others) > OPEN:
            return total(min(one, _NONE) for one in others) <= rest <= total(max(one, _NONE) for one in others)
        either = [*tally.open, *((EXACT.minus(one), "") for one in others)]
        return _combination(either, EXACT.minus(rest)) is not None


def _within(at: int, window: Window) -> bool:
    return to_micros(window.start) <= at < to_micros(window.end)


def _explained(cell: Cell) -> Decimal:
    return total(one.quantity for one in cell.reasons.values())


def _together(one: Read | Unread, other: Read | Unread) -> Read | Unread:
    """Return what two links of one customer count; nothing where they count over different periods."""
    if isinstance(one, Unread) or isinstance(other, Unread):
        return one if isinstance(one, Unread) else other
    if one.window != other.window:
        why = "the customer has several links in this window: their counters cannot be laid on one figure"
        return Unread(kind=UnreadKind.UNSUPPORTED, why=why)
    some, more = one.counted or {}, other.counted or {}
    return replace(
        one,
        exact=one.exact and other.exact,
        counted={name: total([some[name], more[name]]) for name in some if name in more},
        unread={**one.unread, **other.unread},
    )


def _combination(given: Sequence[_Doubt], wanted: Decimal) -> Sequence[_Doubt] | None:
    """Return deliveries in doubt that come to a sum exactly, the fewest that do; `None`: none do.

    By halves: what one half can come to needs the rest from the other, so that 16 have 512 sums and not 65,536.
    """
    half = len(given) // 2
    some, others = _sums(given[:half]), _sums(given[half:])
    found = ((chosen, others.get(EXACT.subtract(wanted, made))) for made, chosen in some.items())
    return min(([*chosen, *rest] for chosen, rest in found if rest is not None), key=len, default=None)


def _sums(given: Sequence[_Doubt]) -> dict[Decimal, list[_Doubt]]:
    """Return all that some of these come to, with the fewest that do."""
    reached: dict[Decimal, list[_Doubt]] = {Decimal(0): []}
    for one in given:
        for known, chosen in list(reached.items()):
            made = EXACT.add(known, one[0])
            if made not in reached or len(reached[made]) > len(chosen) + 1:
                reached[made] = [*chosen, one]
    return reached
