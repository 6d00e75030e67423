"""Routes: which events a destination takes, by meter, customer and the event's own time."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from adapters._models import Instant
from gateway.configuration.findings import Section, failure

__all__ = ["PLACES", "Route", "Way", "bucket", "placed", "ways_of"]

PLACES = 1_000_000
"""Where customers stand: one percent is 10,000 of these places."""

_STEP = Decimal(100) / PLACES


@lru_cache(1 << 16)
def bucket(tenant: str, customer: str) -> int:
    """Return where a customer stands among `PLACES`, the same for ever and everywhere.

    The first eight bytes of SHA-256 over tenant, a zero byte and customer in UTF-8, as a fraction of 2**64.
    """
    return int.from_bytes(sha256(f"{tenant}\0{customer}".encode()).digest()[:8], "big") * PLACES >> 64


@dataclass(frozen=True, slots=True)
class Share:
    """A part of all customers: a size, or from where to where."""

    size: int
    """In places."""
    start: int | None
    """`None`: after the route before it that says the same but for the share."""


def _share(given: object) -> object:
    if isinstance(given, Share):
        return given
    if isinstance(given, str) and (match := re.fullmatch(r"([0-9.]{1,8})-([0-9.]{1,8})", given)):
        low, high = _places(match[1]), _places(match[2])
        if low >= high:
            raise ValueError("should go from a smaller to a larger number: 10-100")
        return Share(high - low, low)
    if isinstance(given, bool) or not isinstance(given, str | int | float | Decimal):
        raise ValueError("should be a number of percent, or from where to where: 10, 10-100")
    if not (size := _places(str(given))):
        raise ValueError("should be more than 0")
    return Share(size, None)


def _places(text: str) -> int:
    try:
        percent = Decimal(text)
    except InvalidOperation:
        raise ValueError("should be a number of percent, or from where to where: 10, 10-100") from None
    if not 0 <= percent <= 100:
        raise ValueError("should be between 0 and 100")
    if percent % _STEP:
        raise ValueError("has more than four decimal places")
    return int(percent / _STEP)


_SHARE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
        {"type": "string", "pattern": r"^[0-9.]{1,8}(-[0-9.]{1,8})?$"},
    ]
}


class Route(Section):
    """What one destination takes. Whatever is left out is no condition."""

    destination: str = Field(description="Who takes it.")
    meters: tuple[str, ...] | None = Field(default=None, min_length=1, description="Only events of these meters.")
    customers: tuple[str, ...] | None = Field(default=None, min_length=1, description="Only these customers.")
    without: tuple[str, ...] | None = Field(
        default=None, alias="except", min_length=1, description="All customers but these."
    )
    percent: Annotated[Share, BeforeValidator(_share), WithJsonSchema(_SHARE_SCHEMA)] | None = Field(
        default=None,
        description="A share of all customers, by a hash that never changes: 10, or from where to where: 10-100."
        " A number alone goes on after the routes before it that say the same but for destination and percent.",
    )
    since: Instant | None = Field(default=None, alias="from", description="Only events of this instant or later.")
    until: Instant | None = Field(default=None, description="Only events before this instant.")
    mode: Literal["live", "shadow", "off"] = Field(
        default="live",
        description="`shadow`: these events are sent and reported, never part of the outcome. `off`: as if not there.",
    )

    @field_validator("meters", "customers", "without", mode="after")
    @classmethod
    def _once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for index, name in enumerate(names or ()):
            if names is not None and names.index(name) != index:
                raise failure(((index,), "is there twice"))
        return names

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise failure((("until",), "should be after `from`"))
        if self.customers is not None and (self.percent is not None or self.without is not None):
            also = "percent" if self.percent is not None else "except"
            raise failure(((also,), "says nothing beside customers: leave one of the two out"))
        return self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """One condition under which a destination takes an event. Each is itself alone."""

    destination: str
    place: int | None = None
    """Which of the routes it is; `None`: the destination has no route, and takes everything."""
    shadow: bool = False
    meters: frozenset[str] | None = None
    customers: Mapping[str, int] | None = None
    """With where each stands in the list."""
    without: Mapping[str, int]
    low: int = 0
    high: int = PLACES
    since: datetime | None = None
    until: datetime | None = None

    @property
    def name(self) -> str:
        """How the configuration's reader finds it."""
        return f"destinations.{self.destination}, which has no route" if self.place is None else f"routes[{self.place}]"

    def holds_at(self, when: datetime) -> bool:
        """Return whether the instant is one of its."""
        return (self.since is None or self.since <= when) and (self.until is None or when < self.until)

    def takes(self, tenant: str, customer: str) -> bool:
        """Return whether the customer is one of its."""
        if self.customers is not None:
            return customer in self.customers
        return customer not in self.without and (self.all_places or self.low <= bucket(tenant, customer) < self.high)

    @property
    def all_places(self) -> bool:
        """Whether the share is all of them."""
        return self.low == 0 and self.high == PLACES

    @property
    def all_customers(self) -> bool:
        """Whether every customer is one of its."""
        return self.customers is None and not self.without and self.all_places

    def __str__(self) -> str:
        """Say the condition as an operator reads it, without a customer's name."""
        if self.place is None:
            return "the destination has no route, and takes everything"
        said = [] if self.meters is None else [f"meters {', '.join(sorted(self.meters))}"]
        if self.customers is not None:
            said.append(f"{len(self.customers)} customers by name")
        if not self.all_places:
            said.append(f"customers of {percent_of(self.low)} to {percent_of(self.high)} percent")
        if self.without:
            said.append(f"all but {len(self.without)} customers")
        if self.since is not None:
            said.append(f"from {instant_of(self.since)}")
        if self.until is not None:
            said.append(f"until {instant_of(self.until)}")
        return f"{self.name}: {', '.join(said) or 'everything'}" + (", as shadow" if self.shadow else "")


def ways_of(destination: str, routes: Sequence[Route], shares: Mapping[int, tuple[int, int]]) -> tuple[Way, ...]:
    """Return under which conditions a destination takes events; `shares` is what `placed` gave."""
    of_it = [(place, route) for place, route in enumerate(routes) if route.destination == destination]
    if not of_it:
        return (Way(destination=destination, without={}),)
    return tuple(
        Way(
            destination=destination,
            place=place,
            shadow=route.mode == "shadow",
            meters=None if route.meters is None else frozenset(route.meters),
            customers=None if route.customers is None else _numbered(route.customers),
            without=_numbered(route.without or ()),
            low=shares[place][0],
            high=shares[place][1],
            since=route.since,
            until=route.until,
        )
        for place, route in of_it
        if route.mode != "off"
    )


def placed(routes: Iterable[Route], groups: Mapping[str, str | None]) -> dict[int, tuple[int, int]]:
    """Return the first place and the end of each route's share.

    `groups` tells the group of each destination. Raises ValidationError where shares come to more than all.
    """
    ends: dict[object, int] = {}
    found: dict[int, tuple[int, int]] = {}
    for place, route in enumerate(routes):
        if route.percent is None:
            found[place] = (0, PLACES)
            continue
        group = groups.get(route.destination)
        among = ("destination", route.destination) if group is None else ("group", group)
        alike = (among, _set(route.meters), _set(route.without), route.since, route.until)
        start = ends.get(alike, 0) if route.percent.start is None else route.percent.start
        end = ends[alike] = start + route.percent.size
        if end > PLACES:
            begin = f"it begins at {percent_of(start)}, after the routes before it that say the same"
            raise failure(
                (("routes", place, "percent"), f"comes to {percent_of(end)} percent of the customers: {begin}")
            )
        found[place] = (start, end)
    return found


def percent_of(place: int) -> str:
    """Return a place in percent."""
    return f"{(place * _STEP).normalize():f}"


def instant_of(when: datetime) -> str:
    """Return an instant as it is written."""
    return when.isoformat().replace("+00:00", "Z")


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def _set(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
