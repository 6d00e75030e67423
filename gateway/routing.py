"""Where the events of one meter go, worked out beforehand: by instant, and by customer where that matters."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gateway.configuration.routes import Way
from gateway.ledger import Code, Plan

__all__ = ["Choice", "Fixed", "Table", "apart", "planned"]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A destination that does the same with every event of the meter."""

    destination: str
    code: Code | None
    """Why it is filtered; `None`: it is sent."""
    shadow: bool = False
    window: int | None = None
    """How old usage may be when it arrives, in microseconds, where there is such a window."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A destination that takes what its ways say."""

    destination: str
    ways: tuple[Way, ...]
    window: int | None = None
    otherwise: Code = Code.NO_ROUTE
    """What it is where none holds; `NONE`: it is not spoken of, as of a shadow."""


class Table:
    """Plans by instant; within a span of time in which nothing changes, by customer where that matters."""

    def __init__(self, tenant: str, entries: Sequence[Fixed | Choice]) -> None:
        self._tenant = tenant
        self._bounds = sorted(
            {
                when
                for entry in entries
                if isinstance(entry, Choice)
                for way in entry.ways
                for when in (way.since, way.until)
                if when is not None
            }
        )
        self._plans: dict[tuple[Fixed, ...], Plan] = {}
        self._chosen: dict[tuple[object, ...], Plan] = {}
        """By span and which of its ways take the customer: few, however many customers there are."""
        self._spans: list[Plan | list[Fixed | Choice]] = []
        # The first span is before every bound, the others begin with one.
        for begins in (None, *self._bounds):
            at = [_at(entry, begins) for entry in entries]
            self._spans.append(self._plan([entry for entry in at if isinstance(entry, Fixed)], len(at)) or at)

    @property
    def only(self) -> Plan | None:
        """The one plan of every event, where there is one."""
        span = self._spans[0]
        return span if len(self._spans) == 1 and isinstance(span, Plan) else None

    def plan(self, customer: str, when: datetime) -> Plan:
        """Return where an event goes."""
        span = self._spans[bisect_right(self._bounds, when)]
        if isinstance(span, Plan):
            return span
        tenant = self._tenant
        key = (
            id(span),
            *(
                tuple([way.takes(tenant, customer) for way in entry.ways])
                for entry in span
                if isinstance(entry, Choice)
            ),
        )
        made = self._chosen.get(key)
        if made is None:
            made = self._plan([_for(entry, tenant, customer) for entry in span], len(span))
            assert made is not None
            self._chosen[key] = made
        return made

    def _plan(self, entries: list[Fixed], count: int) -> Plan | None:
        """Return the plan of what is decided, the same for the same; `None` where something is not decided yet."""
        if len(entries) < count:
            return None
        key = tuple(entries)
        if key not in self._plans:
            self._plans[key] = planned(entries)
        return self._plans[key]


def planned(entries: Sequence[Fixed]) -> Plan:
    """Return what is decided of each destination as a plan."""
    return Plan(
        live=tuple(entry.destination for entry in entries if entry.code is None and not entry.shadow),
        shadow=tuple(entry.destination for entry in entries if entry.code is None and entry.shadow),
        filtered=tuple((entry.destination, entry.code) for entry in entries if entry.code),
        windows=tuple(
            (entry.destination, entry.window) for entry in entries if entry.code is None and entry.window is not None
        ),
    )


def apart(plans: Sequence[Plan]) -> list[list[int]]:
    """Return the places of plans such that no destination is live in one and shadow in another of a part.

    A batch counts at a destination or is shadow there, as a whole. Nearly always there is one part.
    """
    parts: list[tuple[set[str], set[str]]] = []
    part_of: dict[Plan, int] = {}
    for plan in dict.fromkeys(plans):
        live = {*plan.live, *(name for name, _ in plan.filtered)}
        fitting = (
            at
            for at, (lives, shadows) in enumerate(parts)
            if lives.isdisjoint(plan.shadow) and shadows.isdisjoint(live)
        )
        number = next(fitting, len(parts))
        if number == len(parts):
            parts.append((set(), set()))
        parts[number][0].update(live)
        parts[number][1].update(plan.shadow)
        part_of[plan] = number
    made: list[list[int]] = [[] for _ in parts]
    for place, plan in enumerate(plans):
        made[part_of[plan]].append(place)
    return made


def _at(entry: Fixed | Choice, begins: datetime | None) -> Fixed | Choice:
    """Return an entry as it is in the span that begins with a bound; `None`: before them all."""
    if isinstance(entry, Fixed):
        return entry
    held = tuple(way for way in entry.ways if (way.since is None if begins is None else way.holds_at(begins)))
    if all(way.all_customers for way in held):
        return _taken(entry, held)
    return replace(entry, ways=held)


def _for(entry: Fixed | Choice, tenant: str, customer: str) -> Fixed:
    if isinstance(entry, Fixed):
        return entry
    return _taken(entry, [way for way in entry.ways if way.takes(tenant, customer)])


def _taken(entry: Choice, held: Sequence[Way]) -> Fixed:
    """Return what the ways that hold come to: live before shadow, and filtered where there is none."""
    if not held:
        return Fixed(entry.destination, entry.otherwise)
    return Fixed(entry.destination, None, all(way.shadow for way in held), entry.window)
