"""Groups: destinations that bill one after the other, so that every event has exactly one that bills it.

The check is exact. Routes part customers, meters and time into finitely many pieces within which nothing changes:
each customer that is named, each stretch of the hash's places, each span between two instants. Every piece is
looked at, whoever may ever come.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from gateway.configuration.findings import Place
from gateway.configuration.routes import PLACES, Way, instant_of, percent_of

__all__ = ["Member", "faults"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A destination of a group."""

    name: str
    live: bool
    tenants: frozenset[str] | None
    """Whose events it takes; `None`: everybody's."""
    bound: frozenset[str]
    """The meters that it has a binding for."""
    ways: tuple[Way, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Customers that the same conditions hold for."""

    who: str
    ways: tuple[Way, ...]


def faults(
    group: str, members: Sequence[Member], meters: Iterable[str], tenants: Iterable[str]
) -> Iterator[tuple[Place, str]]:
    """Yield where an event would be billed by two of a group, or by none: a place and a sentence, each once."""
    told: set[tuple[object, ...]] = set()
    meters = list(meters)
    for tenant in tenants:
        serving = [member for member in members if member.tenants is None or tenant in member.tenants]
        for meter in meters:
            if not any(meter in member.bound for member in serving):
                continue
            held = tuple(
                way
                for member in serving
                if member.live and meter in member.bound
                for way in member.ways
                if not way.shadow and (way.meters is None or meter in way.meters)
            )
            unbound = [member.name for member in serving if member.live and meter not in member.bound]
            for piece in _pieces(held, tenant):
                for fault in _spans(piece.ways):
                    key = (fault.since, fault.until, fault.ways)
                    if key in told:
                        continue
                    told.add(key)
                    yield _said(group, tenant, meter, piece.who, fault, unbound)


@dataclass(frozen=True, slots=True)
class _Span:
    """A span of time in which not exactly one destination is live: none, or the first ways of two."""

    since: datetime | None
    until: datetime | None
    ways: tuple[Way, ...]


def _pieces(held: tuple[Way, ...], tenant: str) -> Iterator[_Piece]:
    """Yield the customers for whom different ways hold: each kind once."""
    seen: set[tuple[int, ...]] = set()

    def fresh(who: str, chosen: list[Way]) -> Iterator[_Piece]:
        key = tuple(map(id, chosen))
        if key not in seen:
            seen.add(key)
            yield _Piece(who, tuple(chosen))

    bounds = sorted({0, PLACES, *(way.low for way in held), *(way.high for way in held)})
    for low, high in pairwise(bounds):
        chosen = [way for way in held if way.customers is None and way.low <= low and high <= way.high]
        everyone = low == 0 and high == PLACES
        who = "every customer" if everyone else f"customers of {percent_of(low)} to {percent_of(high)} percent"
        yield from fresh(who, chosen)
    for customer, who in _named(held).items():
        yield from fresh(who, [way for way in held if way.takes(tenant, customer)])


def _named(held: Iterable[Way]) -> dict[str, str]:
    """Return the customers that routes name, with where."""
    found: dict[str, str] = {}
    for way in held:
        for key, names in (("customers", way.customers or {}), ("except", way.without)):
            for customer, index in names.items():
                found.setdefault(customer, f"the customer routes[{way.place}].{key}[{index}]")
    return found


def _spans(ways: tuple[Way, ...]) -> Iterator[_Span]:
    """Yield the spans of time in which not exactly one destination takes what all of these ways would."""
    instants = sorted({when for way in ways for when in (way.since, way.until) if when is not None})
    edges: list[datetime | None] = [None, *instants]
    last: _Span | None = None
    for since, until in zip(edges, [*instants, None], strict=True):
        holding = [way for way in ways if _covers(way, since, until)]
        first = {way.destination: way for way in reversed(holding)}
        if len(first) == 1:
            if last is not None:
                yield last
            last = None
            continue
        found = () if not first else tuple(sorted(first.values(), key=lambda way: (way.place or -1, way.name)))[:2]
        if last is not None and last.ways == found:
            last = _Span(last.since, until, found)
        else:
            if last is not None:
                yield last
            last = _Span(since, until, found)
    if last is not None:
        yield last


def _covers(way: Way, since: datetime | None, until: datetime | None) -> bool:
    begins = way.since is None or (since is not None and way.since <= since)
    ends = way.until is None or (until is not None and until <= way.until)
    return begins and ends


def _said(group: str, tenant: str, meter: str, who: str, fault: _Span, unbound: Sequence[str]) -> tuple[Place, str]:
    since = "ever" if fault.since is None else instant_of(fault.since)
    until = "" if fault.until is None else f" until {instant_of(fault.until)}"
    time = "at all times" if fault.since is None and fault.until is None else f"from {since}{until}"
    if fault.since is None and fault.until is not None:
        time = f"before {instant_of(fault.until)}"
    of = f"{who} of tenant {tenant} and meter {meter}" if tenant != "default" else f"{who} and meter {meter}"
    if not fault.ways:
        hint = f" ({', '.join(unbound)} {'has' if len(unbound) == 1 else 'have'} no binding for it)" if unbound else ""
        says = f"leave a gap in group {group}: for {of}, no destination is live {time}{hint}; add a route, or widen one"
        return ("routes",), says
    one, other = fault.ways
    says = (
        f"overlaps {one.name} in group {group}: for {of}, both {one.destination} and {other.destination} are live"
        f" {time}; end one where the other begins, or take its customers out by `except`"
    )
    return (("routes",) if other.place is None else ("routes", other.place)), says
