"""Holds one provider's figures against another's: what each differs by from the ledger, and who was never meant."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from adapters import Unread, UnreadKind
from gateway.reconciling._model import EXACT, IDS, Cell, Difference, Place, Side, Why, in_unit, total
from gateway.reconciling.labels import Labels

__all__ = ["Both", "Pair", "paired"]


@dataclass(slots=True)
class Both:
    """One figure at two providers, in the meter's unit."""

    left: Decimal | None = None
    right: Decimal | None = None
    unread: Unread | None = None
    events: int = 0
    reasons: dict[Why, Difference] = field(default_factory=dict[Why, Difference])

    def put(self, why: Why, found: Difference, quantity: Decimal) -> None:
        """Add what one reason comes to; `quantity` is right less left."""
        kept = self.reasons.setdefault(why, Difference())
        kept.events += found.events
        kept.quantity = EXACT.add(kept.quantity, quantity)
        kept.ids += [one for one in found.ids if one not in kept.ids][: IDS - len(kept.ids)]


@dataclass(slots=True, kw_only=True)
class Pair:
    """Two providers, figure by figure."""

    left: str
    right: str
    cells: dict[Place, Both] = field(default_factory=dict[Place, Both])


def paired(sides: Mapping[str, Side], labels: Mapping[str, Labels], left: str, right: str) -> Pair:
    """Return how two providers differ."""
    made = Pair(left=left, right=right)
    for place in dict.fromkeys([*sides[left].cells, *sides[right].cells]):
        both = made.cells[place] = Both()
        cells: dict[str, Cell] = {}
        for name in (left, right):
            cell = cells[name] = sides[name].cells.get(place) or _empty(sides[name], labels[name], place)
            both.unread = both.unread or cell.unread
            both.events = max(both.events, cell.events)
        both.left, both.right = _provider(cells[left]), _provider(cells[right])
        if cells[left].unread is None and cells[right].unread is None and cells[left].window != cells[right].window:
            why = "one of the two counts by another window than was asked for"
            both.unread = Unread(kind=UnreadKind.WINDOW, why=why)
        if both.unread is None:
            _explain(both, cells[left], cells[right], place, labels, (left, right))
    return made


def _explain(
    both: Both, one: Cell, other: Cell, place: Place, labels: Mapping[str, Labels], names: tuple[str, str]
) -> None:
    for cell, sign in ((one, -1), (other, 1)):
        for why, found in cell.reasons.items():
            flipped = _FLIPPED.get(why, why) if sign < 0 else why
            both.put(flipped, found, EXACT.multiply(sign, in_unit(found.quantity, cell.scale)))
    routed = EXACT.subtract(in_unit(other.recorded, other.scale), in_unit(one.recorded, one.scale))
    if routed:
        for cell, sign, why, elsewhere in ((one, -1, Why.ONLY_HERE, names[1]), (other, 1, Why.ONLY_THERE, names[0])):
            if cell.alone.events:
                both.put(
                    why if place.meter in labels[elsewhere].meters else Why.UNMAPPED,
                    cell.alone,
                    EXACT.multiply(sign, in_unit(cell.alone.quantity, cell.scale)),
                )
    assert both.left is not None
    assert both.right is not None
    known = total(found.quantity for found in both.reasons.values())
    if rest := EXACT.subtract(EXACT.subtract(both.right, both.left), known):
        both.put(Why.UNEXPLAINED, Difference(), rest)
    if both.left == both.right:  # what is missing at both, or at neither, is no difference between them
        same = _same(both.reasons.get(Why.ONLY_HERE), both.reasons.get(Why.ONLY_THERE))
        both.reasons = {
            why: found for why, found in both.reasons.items() if found.quantity and not (same and why in _FLIPPED)
        }


_FLIPPED = {Why.ONLY_HERE: Why.ONLY_THERE, Why.ONLY_THERE: Why.ONLY_HERE}
"""What only the ledger has and the left one does not, the right one has."""


def _same(here: Difference | None, there: Difference | None) -> bool:
    """Return whether it is the same events that both lack, or that the ledger alone lacks."""
    if here is None or there is None or here.events > IDS or here.events != there.events:
        return False
    return here.quantity == EXACT.minus(there.quantity) and set(here.ids) == set(there.ids)


def _empty(side: Side, labels: Labels, place: Place) -> Cell:
    """Return the figure of what neither the ledger nor the provider has anything of."""
    cell = Cell(labels.scales.get((place.meter, place.part), Decimal(1)), window=side.window)
    cell.unread = side.unread or labels.missing(side.missing, place.meter, place.part)
    read = labels.reads.get((place.meter, place.part))
    if cell.unread is None and side.asked is not None and read is not None:
        told, (label, _) = side.asked.get(place.customer, _NOT_ASKED), read
        cell.unread = told if isinstance(told, Unread) else told.unread.get(label)
    if cell.unread is not None:
        cell.provider = None
    return cell


_NOT_ASKED = Unread(
    kind=UnreadKind.UNSUPPORTED,
    why="it counts customer by customer, and was not asked for one of whom nothing was to go there",
)


def _provider(cell: Cell) -> Decimal | None:
    return None if cell.provider is None else in_unit(cell.provider, cell.scale)
