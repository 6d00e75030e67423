"""What an operator says: where to listen, whom to trust, where events go and how they are named there.

Every model is frozen. A destination's settings, a meter's bindings and a customer's links have the types
that the destination's adapter declares; what is wrong with any of it is found at once, not the first alone.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Literal, Self, TypeVar, cast

from pydantic import (
    Field,
    InstanceOf,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from adapters import AnyAdapter, Link, Settings, provider, providers
from adapters._facts import Aggregation
from gateway.configuration.bindings import BindingRow
from gateway.configuration.findings import Findings, Section, checked, failure, nearest
from gateway.configuration.groups import Member, faults
from gateway.configuration.keys import DEFAULT_TENANT, TenantName
from gateway.configuration.routes import Route, Way, placed, ways_of
from gateway.configuration.sections import Auth, Delivery, Intake, LedgerSettings, Listen, Retention, Span

__all__ = ["Configuration", "Destination", "Meter", "Mode"]

Mode = Literal["live", "shadow", "off"]
T = TypeVar("T")

MOST_FAULTS = 20
"""Overlaps and gaps that are told at once: one that is mended often mends others."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
"""Of a meter or a customer, as events have it."""


class Destination(Section):
    """One configured instance of a provider."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", exclude=True)
    """The key under which it is configured."""
    provider: str = Field(description="The vendor's adapter.")
    mode: Mode = Field(
        default="live",
        description="`shadow`: sent and reported, never part of the caller's outcome. `off`: nothing is sent.",
    )
    rate: Literal["vendor", "none"] = Field(
        default="vendor",
        description="`vendor`: keep the rate limits that the vendor states. `none`: as fast as it answers.",
    )
    lookup: Span | None = Field(
        default=None,
        description="Look customers without a link up at the vendor by the customer's own id, and remember the answer"
        " for this long. Absent: not looked up.",
    )
    required: bool = Field(
        default=True,
        description="Whether `ack=required` waits for it. Absent: true for a live destination, else false.",
    )
    tenants: tuple[TenantName, ...] | None = Field(
        default=None, min_length=1, description="Whose events come here. Absent: everybody's."
    )
    group: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Destinations of one group bill one after the other: routes give each event exactly one of them.",
    )
    late: Literal["send", "hold"] = Field(
        default="send",
        description="Usage of a period that was closed before it came: `send` it, or `hold` it until an operator says.",
    )
    settings: Settings

    @model_validator(mode="before")
    @classmethod
    def _required(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        members = cast("dict[str, object]", given)
        if members.get("required") is not None:
            return members
        return members | {"required": members.get("mode") in {None, "live"}, "mode": members.get("mode") or "live"}

    @field_validator("provider")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in providers():
            raise failure(((), nearest("provider", name, providers())))
        return name

    @field_validator("settings", mode="plain")
    @classmethod
    def _typed(cls, given: object, info: ValidationInfo) -> object:
        name = info.data.get("provider")
        return given if name is None else checked(provider(name).Settings, given)

    @model_validator(mode="after")
    def _can_look_up(self) -> Self:
        if self.lookup is not None and self.adapter.door.customers is None:
            title = self.adapter.spec.title
            says = f"{title} has no look-up of customers, or needs none here: leave the key out"
            raise failure((("lookup",), says))
        return self

    @model_validator(mode="after")
    def _only_live(self) -> Self:
        if self.required and self.mode != "live":
            raise failure((("required",), f"a destination with mode {self.mode} cannot be required: leave the key out"))
        return self

    @classmethod
    def read(cls, name: str, given: object) -> Self:
        """Return a destination as it was configured. Raises ValidationError with everything that is wrong."""
        if isinstance(given, cls):
            return given
        members = members_of(given)
        if "name" in members:
            raise failure((("name",), "unknown key; the name is the key above"))
        return cls.model_validate(members | {"name": name})

    @cached_property
    def adapter(self) -> AnyAdapter:
        """The provider's adapter with these settings."""
        return provider(self.provider)(self.settings)

    def serves(self, tenant: str) -> bool:
        """Return whether a tenant's events come here."""
        return self.tenants is None or tenant in self.tenants

    def rows(self, meter: str, given: object, *, named: bool) -> tuple[BindingRow, ...]:
        """Return how a meter is named here. `named`: the binding was written, if perhaps with nothing in it."""
        model = self.adapter.door.binding
        if not named and model.default is None:
            raise failure(((), f"has no default name for a meter: write it here, as {model.names[0]}"))
        return _each(given, lambda row: BindingRow.read(model, row, meter))

    def links(self, customer: str, given: object) -> tuple[Link, ...]:
        """Return how a customer is named here. Raises ValidationError where two rows hold at the same time."""
        model = self.adapter.door.link
        rows = _each(given, lambda row: checked(model, model.completed(members_of(row), customer)))
        for index, row in enumerate(rows):
            for before, other in enumerate(rows[:index]):
                if _overlap(row, other):
                    raise failure(((index,), f"holds at the same time as row {before}, for the same subscription"))
        return rows


class Meter(Section):
    """One thing that is measured, and how each destination names it."""

    aggregation: Aggregation = Field(default="sum", description="How the events of a period make one figure.")
    unit: str | None = Field(default=None, min_length=1, description="What is counted; informative.")
    tolerance: Decimal | None = Field(
        default=None, ge=0, description="How far a provider's figure may be off when both are compared; in this unit."
    )
    bindings: Mapping[str, tuple[InstanceOf[BindingRow], ...]] = Field(
        default_factory=dict[str, tuple[BindingRow, ...]],
        description="By destination. Absent: every destination, by the meter's own name; present: only those named.",
    )

    @classmethod
    def read(cls, name: str, given: object, destinations: Mapping[str, Destination | None]) -> Self:
        """Return a meter as it was configured. `destinations` holds `None` for those that have faults of their own.

        Raises ValidationError with everything that is wrong.
        """
        if isinstance(given, cls):
            return given
        findings = Findings()
        bindings: dict[str, tuple[BindingRow, ...]] = {}
        members = members_of(given)
        listed = members.pop("bindings", None)
        chosen: Mapping[str, object] = dict.fromkeys(destinations)
        if listed is not None:
            with findings.at("bindings"):
                chosen = members_of(listed)
        for destination, rows in chosen.items():
            with findings.at("bindings", destination):
                if found := known_destination(destination, destinations):
                    bindings[destination] = found.rows(name, rows, named=listed is not None)
        with findings.at():
            meter = cls.model_validate(members | {"bindings": bindings})
            if not findings:
                return meter
        raise findings.error()


class Configuration(Section):
    """The whole file."""

    listen: Listen = Listen()
    ledger: LedgerSettings = LedgerSettings()
    auth: Auth = Auth()
    destinations: Mapping[str, Destination] = Field(default_factory=dict[str, Destination])
    meters: Mapping[Name, Meter] = Field(default_factory=dict[str, Meter])
    customers: Mapping[Name, Mapping[str, tuple[InstanceOf[Link], ...]]] = Field(
        default_factory=dict[str, Mapping[str, tuple[Link, ...]]]
    )
    """By customer and destination. Rows of one subscription never overlap in time."""
    routes: tuple[Route, ...] = ()
    """A destination that none of them names takes everything."""
    intake: Intake = Intake()
    delivery: Delivery = Delivery()
    retention: Retention = Retention()

    @model_validator(mode="wrap")
    @classmethod
    def _related(cls, given: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Read what depends on the destinations, going on past those that have faults of their own."""
        if not isinstance(given, dict):
            return handler(given)
        findings = Findings()
        members = members_of(cast("object", given))
        destinations: dict[str, Destination | None] = {}
        meters: dict[str, Meter] = {}
        customers: dict[str, Mapping[str, tuple[Link, ...]]] = {}
        with findings.at("destinations"):
            for name, raw in members_of(members.get("destinations")).items():
                destinations[name] = None
                with findings.at("destinations", name):
                    destinations[name] = Destination.read(name, raw)
        with findings.at("meters"):
            for name, raw in members_of(members.get("meters")).items():
                with findings.at("meters", name):
                    meters[name] = Meter.read(name, raw, destinations)
        with findings.at("customers"):
            for name, raw in members_of(members.get("customers")).items():
                with findings.at("customers", name):
                    customers[name] = _links(name, raw, destinations)
        with findings.at():
            found = {name: destination for name, destination in destinations.items() if destination is not None}
            configuration = handler(members | {"destinations": found, "meters": meters, "customers": customers})
            if not findings:  # what has faults of its own would be missed by the routes, too
                configuration.check_routes()
                return configuration
        raise findings.error()

    @cached_property
    def ways(self) -> Mapping[str, tuple[Way, ...]]:
        """Under which conditions each destination takes an event; a route that is `off` is as if not there."""
        shares = placed(self.routes, {name: one.group for name, one in self.destinations.items()})
        return {name: ways_of(name, self.routes, shares) for name in self.destinations}

    @cached_property
    def tenants(self) -> tuple[str, ...]:
        """Every tenant that events can be of."""
        named = {key.tenant for key in self.auth.keys}
        for one in self.destinations.values():
            named.update(one.tenants or ())
        return (DEFAULT_TENANT, *sorted(named - {DEFAULT_TENANT}))

    def check_routes(self) -> None:
        """Refuse routes that name what is not there, and groups in which an event has not exactly one destination."""
        findings = Findings()
        for name, one in self.destinations.items():
            served = set(self.tenants) & set(one.tenants) if one.tenants else set(self.tenants)
            if one.lookup is not None and len(served) > 1:
                with findings.at("destinations", name, "lookup"):
                    says = "cannot tell customers of several tenants apart at the vendor: give each a destination"
                    raise failure(((), f"{says} with `tenants`"))
        for place, route in enumerate(self.routes):
            with findings.at("routes", place):
                _check_route(route, self.destinations, self.meters)
        if findings:
            raise findings.error()
        groups: dict[str, list[Member]] = {}
        for name, one in self.destinations.items():
            if one.group is not None:
                groups.setdefault(one.group, []).append(
                    Member(
                        name=name,
                        live=one.mode == "live",
                        tenants=None if one.tenants is None else frozenset(one.tenants),
                        bound=frozenset(meter for meter, it in self.meters.items() if name in it.bindings),
                        ways=self.ways[name],
                    )
                )
        found = [fault for name, some in groups.items() for fault in faults(name, some, self.meters, self.tenants)]
        if found:
            raise failure(*found[:MOST_FAULTS])

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not self.auth.keys and not self.listen.loopback:
            says = (
                f"{self.listen.host} can be reached from outside, and no key is configured: make one with"
                " `usage-gateway keys new` and put it under auth.keys, or listen on 127.0.0.1"
            )
            raise failure((("listen", "host"), says))
        return self


def _check_route(route: Route, destinations: Mapping[str, Destination], meters: Mapping[str, Meter]) -> None:
    """Raise ValidationError where a route speaks of what is not there."""
    findings = Findings()
    with findings.at("destination"):
        if route.destination not in destinations:
            raise failure(((), nearest("destination", route.destination, destinations)))
    for index, meter in enumerate(route.meters or ()):
        with findings.at("meters", index):
            if meter not in meters:
                raise failure(((), nearest("meter", meter, meters)))
            if route.destination in destinations and route.destination not in meters[meter].bindings:
                raise failure(((), f"has no binding for {route.destination}: add one, or leave the meter out"))
    if findings:
        raise findings.error()


def members_of(given: object) -> dict[str, object]:
    """Return a copy of a mapping that may be left out. Raises ValidationError for anything else."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise failure(((), "should be a mapping"))
    return {str(key): value for key, value in cast("Mapping[object, object]", given).items()}


def known_destination(name: str, destinations: Mapping[str, Destination | None]) -> Destination | None:
    """Return a destination; `None`: it has faults of its own. Raises ValidationError where there is none."""
    if name not in destinations:
        raise failure(((), nearest("destination", name, destinations)))
    return destinations[name]


def _each(given: object, read: Callable[[object], T]) -> tuple[T, ...]:
    """Return what is made of one mapping, or of each in a list."""
    if not isinstance(given, list | tuple):
        return (read(given),)
    findings, made = Findings(), list[T]()
    rows = cast("Sequence[object]", given)
    for index, row in enumerate(rows):
        with findings.at(index):
            made.append(read(row))
    if not rows:
        raise failure(((), "should not be empty"))
    if findings:
        raise findings.error()
    return tuple(made)


def _links(customer: str, given: object, destinations: Mapping[str, Destination | None]) -> dict[str, tuple[Link, ...]]:
    """Return a customer's links by destination; the customer's own id where a provider takes it and none is given."""
    findings = Findings()
    links: dict[str, tuple[Link, ...]] = {}
    for name, rows in members_of(given).items():
        with findings.at(name):
            if destination := known_destination(name, destinations):
                links[name] = destination.links(customer, rows)
    if findings:
        raise findings.error()
    return links


def _overlap(one: Link, other: Link) -> bool:
    return (
        one.subscription == other.subscription
        and (one.since is None or other.until is None or one.since < other.until)
        and (other.since is None or one.until is None or other.since < one.until)
    )
