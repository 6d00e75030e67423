"""What the configuration says about an event: where it goes, how it is named there, and whom it bills."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from adapters import Link
from canonical_schema import Event
from gateway.configuration import Configuration, Destination, Meter
from gateway.configuration.bindings import BindingRow
from gateway.configuration.keys import DEFAULT_TENANT
from gateway.configuration.routes import Way
from gateway.ledger import Code, Plan
from gateway.links.book import Book
from gateway.periods import Periods
from gateway.routing import Choice, Fixed, Table

__all__ = ["DEFAULT_TENANT", "Catalogue"]


class Catalogue:
    """Routes, bindings and links of one generation of the configuration."""

    def __init__(self, configuration: Configuration, periods: Periods | None = None, book: Book | None = None) -> None:
        """`periods`: what is closed; absent: nothing. `book`: links that were put; absent: none."""
        self._configuration = configuration
        self._periods = periods or Periods()
        self._book = book
        self._plans: dict[str, tuple[dict[str, Plan], dict[str, Table]]] = {}
        """By tenant, then by meter: the one plan of all its events, where there is one, and how plans are found."""

    @property
    def destinations(self) -> Mapping[str, Destination]:
        """Every configured destination, by name."""
        return self._configuration.destinations

    def held(self, destination: str, tenant: str, when: datetime) -> str | None:
        """Return the closed period for which a destination holds late usage, where this instant falls in one."""
        if self.destinations[destination].late == "send":
            return None
        period = self._periods.closed(tenant, when)
        return None if period is None else period.name

    def meter(self, name: str) -> Meter | None:
        """Return a meter, if it is in the catalogue."""
        return self._configuration.meters.get(name)

    def plans(self, tenant: str, events: Sequence[Event], received: datetime) -> list[Plan]:
        """Return where each event goes. A meter that is not in the catalogue goes nowhere.

        `received` is the time of an event that has none of its own.
        """
        known, tables = self._plans.setdefault(tenant, ({}, {}))
        return [known.get(event.meter) or self._routed(tenant, event, received, known, tables) for event in events]

    def _routed(
        self, tenant: str, event: Event, received: datetime, known: dict[str, Plan], tables: dict[str, Table]
    ) -> Plan:
        """Return where an event goes whose meter does not decide that alone, or was not seen before."""
        meter = event.meter
        if meter not in self._configuration.meters:  # names that senders invent must not fill the memory
            return Plan()
        if meter not in tables:
            tables[meter] = Table(tenant, self._entries(tenant, meter))
            if (plan := tables[meter].only) is not None:
                known[meter] = plan
        return tables[meter].plan(event.customer, event.timestamp or received)

    def _entries(self, tenant: str, meter: str) -> list[Fixed | Choice]:
        """Return what each destination does with a tenant's events of a meter."""
        made: list[Fixed | Choice] = []
        bindings = self._configuration.meters[meter].bindings
        for name, destination in self.destinations.items():
            if destination.mode == "off" or not destination.serves(tenant):
                continue
            past = destination.adapter.door.time.past
            window = None if past is None else past // timedelta(microseconds=1)
            if destination.mode == "shadow":  # it gets everything that it has a name for, whatever the routes say
                if name in bindings:
                    made.append(Fixed(name, None, shadow=True, window=window))
            elif name not in bindings:
                made.append(Fixed(name, Code.NO_BINDING))
            else:
                ways = tuple(way for way in self._configuration.ways[name] if way.meters is None or meter in way.meters)
                otherwise = Code.NONE if ways and all(way.shadow for way in ways) else Code.NO_ROUTE
                made.append(Choice(name, ways, window, otherwise))
        return made

    def reasons(self, tenant: str, event: Event, received: datetime) -> Mapping[str, str]:
        """Return which of a live destination's routes holds for an event, or that none does, by destination."""
        if event.meter not in self._configuration.meters:
            return {}
        when, made = event.timestamp or received, dict[str, str]()
        for entry in self._entries(tenant, event.meter):
            if isinstance(entry, Fixed) or any(way.place is None for way in entry.ways):
                continue
            held = [way for way in entry.ways if way.holds_at(when) and way.takes(tenant, event.customer)]
            held.sort(key=lambda way: way.shadow)
            made[entry.destination] = str(held[0]) if held else _none_of(self._configuration.ways[entry.destination])
        return made

    def rows(self, destination: str, meter: str) -> Sequence[BindingRow]:
        """Return how a destination names a meter; empty where it does not."""
        known = self._configuration.meters.get(meter)
        return () if known is None else known.bindings.get(destination, ())

    async def learn(self, works: Iterable[tuple[str, Iterable[str]]]) -> None:
        """Have the links at hand that customers have: tenant and customers. They are, until something is awaited.

        So are the periods that the tenants have closed.
        """
        if self._book is not None:
            for tenant, customers in works:
                await self._periods.learn(tenant)
                await self._book.learn(tenant, customers)

    def use(self, destination: str, works: Iterable[tuple[str, Iterable[str]]]) -> None:
        """Keep fresh what was looked up of customers whose events are about to be sent."""
        if self._book is not None and self.destinations[destination].lookup is not None:
            for tenant, customers in works:
                self._book.lookups.use(destination, tenant, customers)

    def miss(self, destination: str, tenant: str, customer: str) -> None:
        """Have a customer without a link looked up, where the destination says so."""
        if self._book is not None:
            self._book.lookups.miss(destination, tenant, customer)

    def mistaken(self, destination: str, tenant: str, customer: str) -> None:
        """Forget what was looked up of a customer whom the vendor does not know any more."""
        if self._book is not None:
            self._book.lookups.mistaken(destination, tenant, customer)

    async def named_since(self, destination: str, tenant: str, event: Event, known: dict[tuple[str, ...], int]) -> int:
        """Return since when a destination names an event's customer and meter as it does; 0: always.

        `known`: what was asked before, and is good enough.
        """
        if self._book is None:
            return 0
        asked = destination, tenant, event.customer, event.meter
        if asked not in known:
            known[asked] = await self._book.naming.since(*asked)
        return known[asked]

    def renamed(self, destination: str, meter: str, since: int) -> bool:
        """Return whether a destination names a meter otherwise than it did at an instant, as far as is known."""
        return self._book is not None and self._book.naming.meter_since(destination, meter) > since

    def unlinked(self, destination: str, tenant: str, customer: str) -> str | None:
        """Return why looking a customer up gave no link, if it was looked up."""
        return None if self._book is None else self._book.lookups.why(destination, tenant, customer)

    def links(self, destination: str, tenant: str, customer: str) -> Sequence[Link]:
        """Return all rows that say how a destination names a customer.

        Links that were put come before the configuration's, which are the default tenant's.
        """
        if self._book is not None:
            return self._book.rows(tenant, customer, destination)
        if tenant == DEFAULT_TENANT:
            return self._configuration.customers.get(customer, {}).get(destination, ())
        return ()

    def link(self, destination: str, tenant: str, event: Event, when: datetime) -> Link | None:
        """Return how a destination names an event's customer, by subscription and by the event's time.

        A row for the event's own subscription comes before one for any. `None`: there is no row.
        """
        rows = self.links(destination, tenant, event.customer)
        if len(rows) == 1 and rows[0].unconditional:
            return rows[0]
        held = [
            row
            for row in rows
            if (row.since is None or row.since <= when)
            and (row.until is None or when < row.until)
            and row.subscription in {None, event.subscription}
        ]
        return max(held, key=lambda row: row.subscription is not None, default=None)


def _none_of(ways: Sequence[Way]) -> str:
    """Say that none of a destination's routes holds."""
    return f"none of its routes holds: {'; '.join(map(str, ways))}" if ways else "its routes are all off"
