"""Holds what the ledger sent against what a provider lists, event by event, and says why they differ."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import msgspec

from adapters import Unread, Window
from gateway.reconciling._model import (
    EXACT,
    REMETERED,
    RENAMED,
    RESCALED,
    Cell,
    Ours,
    Place,
    Side,
    Standing,
    Theirs,
    Why,
)
from gateway.reconciling.labels import Labels
from gateway.times import to_micros

__all__ = ["Joiner", "is_rounded"]

_DOUBLE = Decimal(2) ** -52
_NOT_THERE: Mapping[Standing, Why] = {
    Standing.PENDING: Why.IN_FLIGHT,
    Standing.UNKNOWN: Why.IN_FLIGHT,
    Standing.REJECTED: Why.REJECTED,
    Standing.UNMAPPED: Why.UNMAPPED,
    Standing.CAPABILITY: Why.CAPABILITY,
    Standing.LATE: Why.LATE,
}


class Joiner:
    """One destination's comparison, a part of all keys at a time."""

    def __init__(
        self,
        side: Side,
        labels: Labels,
        known: Mapping[str, str],
        window: Window,
        by: tuple[str, ...] | None,
        settled: int,
        *,
        narrow: bool,
    ) -> None:
        """`known`: our names of customers by the provider's.

        `by`: the roles that tell copies of a row, where the listing may hold copies. `settled`: what was sent
        before this shows, if it is there at all. `narrow`: only what is under today's names of one customer was read.
        """
        self._side = side
        self._labels = labels
        self._known = known
        self._start, self._end = to_micros(window.start), to_micros(window.end)
        self._by = by
        self._settled = settled
        self._narrow = narrow
        self.untold: dict[Place, Unread] = {}
        """Figures of which a part was sent under names that were not read, or scaled otherwise, and which."""

    def join(self, ours: Iterable[Ours], theirs: Iterable[Theirs]) -> None:
        """Compare all that one part holds; every record of a key is in the same part."""
        ours = list(ours)
        foreign = {one.key for one in ours if one.foreign and one.key}
        listed: dict[tuple[str, str, str], list[Theirs]] = {}
        for row in self._counted(theirs):
            meter, part, _ = self._labels.places[row.label, row.measure]
            listed.setdefault((row.key, meter, part), []).append(row)
        used = set[tuple[object, ...]]()
        for one, amended in _folded(one for one in ours if not one.foreign):
            rows = listed.pop((one.key, one.meter, one.part), []) if one.key else []
            used.update(self._shown_as(row) for row in rows)
            self._compare(one, amended, rows)
        for rows in listed.values():
            for row in rows:
                if self._within(row.at) and row.key not in foreign and self._shown_as(row) not in used:
                    self._stray(row, Why.TRIMMED if self._side.trimmed else Why.ONLY_THERE)
            used.update(self._shown_as(row) for row in rows if len(self._labels.reads) > 1)

    def cell(self, place: Place) -> Cell:
        """Return a figure, a new one where nothing was counted yet."""
        found = self._side.cells.get(place)
        if found is None:
            scale = self._labels.scales.get((place.meter, place.part), Decimal(1))
            found = self._side.cells[place] = Cell(scale)
        return found

    def _counted(self, theirs: Iterable[Theirs]) -> list[Theirs]:
        """Return the rows that count: of a row's copies the newest, of a row that was listed twice one."""
        found: dict[tuple[object, ...], Theirs] = {}
        for row in theirs:
            identity: tuple[object, ...] = (row.label, row.measure, row.evidence)
            if self._by is not None:
                named = {"key": row.key, "meter": row.label, "timestamp": row.at}
                identity = (row.label, row.measure, *(named[role] for role in self._by))
            before = found.get(identity)
            if before is None or before.version <= row.version:
                found[identity] = row
        return list(found.values())

    def _within(self, at: int) -> bool:
        return self._start <= at < self._end

    def _compare(self, ours: Ours, amended: Ours | None, rows: Sequence[Theirs]) -> None:
        here = self._within(ours.at)
        there = [row for row in rows if self._within(row.at)]
        if not here and not there:
            return
        cell = self.cell(Place(ours.customer, ours.meter, ours.part))
        right = [row for row in there if ours.renamed or row.customer == ours.theirs]
        for row in there:
            if row not in right:  # it went to somebody else's bill
                self._stray(row, Why.ONLY_THERE)
        self._add(cell, right)
        if not here:
            for row in right:
                cell.put(Why.BOUNDARY, row.quantity, ours.id)
            return
        cell.record(ours)
        if amended is not None and self._amend(cell, ours, amended, right):
            ours = amended
        if not right:
            if not ours.quantity:
                return  # taken back, and gone there
            elsewhere = [row for row in rows if not self._within(row.at)]
            untold = REMETERED if ours.remetered else RENAMED if self._narrow and ours.renamed else None
            if untold is not None and not elsewhere and ours.standing is Standing.DELIVERED:
                self.untold[Place(ours.customer, ours.meter, ours.part)] = untold
            moved = Why.LATE if ours.received >= self._end else Why.BOUNDARY
            cell.put(moved if elsewhere else self._missing(ours), EXACT.minus(ours.quantity), ours.id)
            return
        first, *more = sorted(right, key=lambda row: (row.quantity != ours.quantity, row.at != ours.at))
        if ours.standing is Standing.REJECTED:
            cell.put(Why.UNEXPLAINED, first.quantity - ours.quantity, ours.id)
        elif (delta := EXACT.subtract(first.quantity, ours.quantity)) != 0:
            rounded = is_rounded(ours.quantity, first.quantity, exact=self._side.exact)
            lately = ours.replaces and ours.sent > self._settled
            if ours.remetered and not rounded:
                self.untold[Place(ours.customer, ours.meter, ours.part)] = RESCALED
            cell.put(Why.ROUNDING if rounded else Why.IN_FLIGHT if lately else Why.UNEXPLAINED, delta, ours.id)
        for row in more:
            cell.put(Why.DUPLICATE, row.quantity, ours.id)

    def _amend(self, cell: Cell, ours: Ours, amended: Ours, rows: Sequence[Theirs]) -> bool:
        """Count a correction of a row that is on its way; return whether it has arrived, as far as can be seen."""
        step = EXACT.subtract(amended.quantity, ours.quantity)
        cell.record(msgspec.structs.replace(amended, quantity=step))
        said = {row.quantity for row in rows}
        if ours.quantity not in said and (amended.quantity in said or not (amended.quantity or said)):
            return True
        cell.put(Why.IN_FLIGHT, EXACT.minus(step), amended.id)
        return False

    def _missing(self, ours: Ours) -> Why:
        """Return why what the ledger has is not listed."""
        if ours.standing is not Standing.DELIVERED:
            return _NOT_THERE[ours.standing]
        if not ours.key and self._side.trimmed:
            return Why.TRIMMED  # a correction, perhaps, of what is not kept: nobody can tell by which key it went
        if ours.sent <= self._settled:
            return Why.ONLY_HERE  # however late it came, it should show by now
        return Why.LATE if ours.received >= self._end else Why.IN_FLIGHT

    def _shown_as(self, row: Theirs) -> tuple[object, ...]:
        """Return what is the same where several of our meters share one of theirs: they are shown one row each."""
        return (row.evidence, row.at, row.measure, self._labels.named[row.label])

    def _stray(self, row: Theirs, why: Why) -> None:
        meter, part, _ = self._labels.places[row.label, row.measure]
        cell = self.cell(Place(self._known.get(row.customer, row.customer), meter, part))
        self._add(cell, [row])
        cell.put(why, row.quantity, row.key)

    @staticmethod
    def _add(cell: Cell, rows: Sequence[Theirs]) -> None:
        for row in rows:
            cell.provider = EXACT.add(cell.provider or Decimal(0), row.quantity)


def _folded(ours: Iterable[Ours]) -> list[tuple[Ours, Ours | None]]:
    """Return what each row should say by now, as a correction of a row takes its place; and the one on its way."""
    made: list[tuple[Ours, Ours | None]] = []
    places: dict[tuple[str, str, str], int] = {}
    for one in ours:
        identity = (one.key, one.meter, one.part)
        if one.key and one.replaces and identity in places:
            place = places[identity]
            row, _ = made[place]
            if one.standing is Standing.DELIVERED:
                sent = max(one.sent, row.sent)
                made[place] = msgspec.structs.replace(row, quantity=one.quantity, replaces=True, sent=sent), None
            else:
                made[place] = row, one
        else:
            places[identity] = len(made)
            made.append((one, None))
    return made


def is_rounded(ours: Decimal, theirs: Decimal, *, exact: bool) -> bool:
    """Return whether their figure is ours with fewer digits: by decimal places, or as a double keeps it."""
    delta = EXACT.abs(EXACT.subtract(theirs, ours))
    if not exact and delta <= abs(ours) * _DOUBLE:
        return True
    mine, yours = ours.normalize(EXACT).as_tuple().exponent, theirs.as_tuple().exponent
    assert isinstance(mine, int)
    assert isinstance(yours, int)
    return mine < yours and delta < Decimal(1).scaleb(yours)
