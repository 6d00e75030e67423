"""What the configuration says about an event: where it goes, how it is named there, and whom it bills."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from adapters import Link
from canonical_schema import Event
from gateway.bindings import BindingRow
from gateway.configuration import Configuration, Destination, Meter
from gateway.ledger import Code, Plan

__all__ = ["DEFAULT_TENANT", "Catalogue"]

DEFAULT_TENANT = "default"


class Catalogue:
    """Routes, bindings and links of one generation of the configuration."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._plans: dict[str, dict[str, Plan]] = {}
        """By tenant and meter."""

    @property
    def destinations(self) -> Mapping[str, Destination]:
        """Every configured destination, by name."""
        return self._configuration.destinations

    def meter(self, name: str) -> Meter | None:
        """Return a meter, if it is in the catalogue."""
        return self._configuration.meters.get(name)

    def plans(self, tenant: str, events: Sequence[Event], received: datetime) -> list[Plan]:
        """Return where each event goes. A meter that is not in the catalogue goes nowhere.

        `received` is the time of an event that has none of its own.
        """
        known = self._plans.setdefault(tenant, {})
        return [known.get(event.meter) or self._remembered(tenant, event.meter, known) for event in events]

    def _remembered(self, tenant: str, meter: str, known: dict[str, Plan]) -> Plan:
        plan = self._plan(tenant, meter)
        if meter in self._configuration.meters:  # names that senders invent must not fill the memory
            known[meter] = plan
        return plan

    def _plan(self, tenant: str, meter: str) -> Plan:
        known = self._configuration.meters.get(meter)
        if known is None:
            return Plan()
        live: list[str] = []
        shadow: list[str] = []
        filtered: list[tuple[str, Code]] = []
        for name, destination in self.destinations.items():
            if destination.mode == "off" or (destination.tenants and tenant not in destination.tenants):
                continue
            bound = name in known.bindings
            if destination.mode == "shadow":
                if bound:
                    shadow.append(name)
            elif bound:
                live.append(name)
            else:
                filtered.append((name, Code.NO_BINDING))
        return Plan(live=tuple(live), shadow=tuple(shadow), filtered=tuple(filtered))

    def rows(self, destination: str, meter: str) -> Sequence[BindingRow]:
        """Return how a destination names a meter; empty where it does not."""
        known = self._configuration.meters.get(meter)
        return () if known is None else known.bindings.get(destination, ())

    def link(self, destination: str, tenant: str, event: Event, when: datetime) -> Link | None:
        """Return how a destination names an event's customer, by subscription and by the event's time.

        A row for the event's own subscription comes before one for any. The configuration's rows are
        the default tenant's. `None`: there is no row.
        """
        if tenant != DEFAULT_TENANT:
            return None
        rows = self._configuration.customers.get(event.customer, {}).get(destination, ())
        held = [
            row
            for row in rows
            if (row.since is None or row.since <= when)
            and (row.until is None or when < row.until)
            and row.subscription in {None, event.subscription}
        ]
        return max(held, key=lambda row: row.subscription is not None, default=None)
