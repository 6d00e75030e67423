"""How destinations name customers: what was put by people, before what the configuration seeds.

Links are documents of the ledger, one a customer. What is asked for often stays in memory, so that a lane finds
it without waiting; how many customers there are does not matter.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog
from pydantic import ValidationError

from adapters import Link
from gateway.configuration import Configuration
from gateway.configuration.findings import failure, nearest
from gateway.configuration.keys import DEFAULT_TENANT
from gateway.ledger import AuditRow, Document, Ledger
from gateway.links.lookups import Lookups
from gateway.links.naming import RELINKED, Naming
from gateway.links.naming import moved as moved_names
from gateway.times import Clock, to_micros

__all__ = ["KIND", "Book", "Change", "Rows", "written"]

log = structlog.get_logger()

KIND = "links"
"""Of the documents: tenant, and as name the customer."""

Rows = Mapping[str, tuple[Link, ...]]
"""A customer's links by destination."""

REMEMBERED = 20_000
"""Customers whose links are at hand."""
FRESH = timedelta(seconds=60)
"""After which the ledger is asked again: another process may have changed it."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a person wants of a customer's links."""

    customer: str
    links: Mapping[str, object]
    """By destination, as it was given: one row or several."""


class _Held(msgspec.Struct, frozen=True):
    rows: Rows
    at: datetime


class Book:
    """The links of one configuration's destinations, over one ledger."""

    def __init__(
        self, configuration: Configuration, ledger: Ledger, clock: Clock, lookups: Lookups | None = None
    ) -> None:
        """`lookups`: what was found at the vendors; absent: nothing."""
        self._configuration = configuration
        self._ledger = ledger
        self._clock = clock
        self.lookups = lookups or Lookups(configuration, clock)
        self.naming = Naming(configuration, ledger)
        self._held: OrderedDict[tuple[str, str], _Held] = OrderedDict()
        self._none: dict[str, datetime] = {}
        """Tenants without any link of their own, and when that was seen."""

    def rows(self, tenant: str, customer: str, destination: str) -> tuple[Link, ...]:
        """Return how a destination names a customer, as far as is at hand: `learn` first."""
        held = self._held.get((tenant, customer))
        if held is not None and destination in held.rows:
            return held.rows[destination]
        seeds = self.seeds(tenant, customer)
        return seeds[destination] if destination in seeds else self.lookups.rows(destination, tenant, customer)

    def seeds(self, tenant: str, customer: str) -> Rows:
        """Return what the configuration says, which is the default tenant's."""
        return self._configuration.customers.get(customer, {}) if tenant == DEFAULT_TENANT else {}

    async def learn(self, tenant: str, customers: Iterable[str]) -> None:
        """Have the links of these customers at hand, until something else is awaited."""
        now = self._clock.now()
        if self._is_none(tenant, now):
            return
        wanted, oldest, missing = dict.fromkeys(customers), now - FRESH, list[str]()
        for customer in wanted:
            held = self._held.get((tenant, customer))
            if held is None or held.at <= oldest:
                missing.append(customer)
            else:
                self._held.move_to_end((tenant, customer))
        if not missing:
            return
        if not await self._ledger.documents(KIND, tenant, None, 1):
            self._none[tenant] = now
            return
        found = await self._ledger.named(KIND, tenant, missing)
        for customer in missing:
            self._hold(tenant, customer, self._read(customer, found.get(customer)))
        self._forget(max(REMEMBERED, len(wanted)))

    def _is_none(self, tenant: str, now: datetime) -> bool:
        seen = self._none.get(tenant)
        return seen is not None and now - seen < FRESH

    def _hold(self, tenant: str, customer: str, rows: Rows) -> None:
        self._held[tenant, customer] = _Held(rows, self._clock.now())
        self._held.move_to_end((tenant, customer))

    def drop(self, tenant: str, customer: str) -> None:
        """Have nothing of a customer at hand: what the ledger holds has changed."""
        self._held.pop((tenant, customer), None)
        self._none.pop(tenant, None)

    def _forget(self, most: int) -> None:
        while len(self._held) > most:
            self._held.popitem(last=False)

    def _read(self, customer: str, body: bytes | None) -> Rows:
        """Return the links of a document; without those of destinations that are gone, or are other ones by now."""
        made: dict[str, tuple[Link, ...]] = {}
        given: dict[str, Any] = {} if body is None else msgspec.json.decode(body)
        for name, rows in given.items():
            destination = self._configuration.destinations.get(name)
            if destination is None:
                continue
            try:
                made[name] = destination.links(customer, rows)
            except ValidationError:
                log.warning("links.do_not_fit", destination=name, hint="put them again as the destination wants them")
        return made

    async def stored(self, tenant: str, customer: str) -> dict[str, list[dict[str, Any]]]:
        """Return what was put for a customer, as it was written down."""
        body = await self._ledger.document(KIND, tenant, customer)
        return {} if body is None else msgspec.json.decode(body)

    def checked(self, tenant: str, change: Change) -> dict[str, list[dict[str, Any]]]:
        """Return a change as it is written down.

        Raises ValidationError with everything that is wrong, by destination and row; never with a value.
        """
        findings: list[tuple[tuple[str | int, ...], str]] = []
        made: dict[str, list[dict[str, Any]]] = {}
        destinations = self._configuration.destinations
        for name, rows in change.links.items():
            destination = destinations.get(name)
            if destination is None:
                findings.append(((name,), nearest("destination", name, destinations)))
            elif not destination.serves(tenant):
                findings.append(((name,), f"takes no events of tenant {tenant}"))
            else:
                try:
                    made[name] = written(destination.links(change.customer, rows))
                except ValidationError as error:
                    findings += [((name, *found["loc"]), found["msg"]) for found in error.errors(include_url=False)]
        if findings:
            raise failure(*findings)
        return made

    async def put(
        self, tenant: str, changes: Sequence[Change], actor: str, reason: str, *, whole: bool
    ) -> set[tuple[str, str]]:
        """Write links down, with the audit, and return which customers have other ones where by then.

        `whole`: what a change does not name is gone; else it stays as it is. Raises ValidationError, and changes
        nothing, for rows that do not fit or overlap: by the place of the change, destination and row.
        """
        wanted: dict[str, dict[str, list[dict[str, Any]]]] = {}
        findings: list[tuple[tuple[str | int, ...], str]] = []
        for place, change in enumerate(changes):
            try:
                wanted[change.customer] = wanted.get(change.customer, {}) | self.checked(tenant, change)
            except ValidationError as error:
                findings += [((place, *found["loc"]), found["msg"]) for found in error.errors(include_url=False)]
        if findings:
            raise failure(*findings)
        before = await self._ledger.named(KIND, tenant, list(wanted))
        noted = await self._ledger.named(RELINKED, tenant, list(wanted))
        relinked = {customer: msgspec.json.decode(body, type=dict[str, int]) for customer, body in noted.items()}
        now = self._clock.now()
        documents: list[Document] = []
        audit: list[AuditRow] = []
        moved: set[tuple[str, str]] = set()
        for customer, links in wanted.items():
            old: dict[str, Any] = msgspec.json.decode(before[customer]) if customer in before else {}
            new = links if whole else old | links
            changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
            moved |= {(customer, name) for name in changed}
            if old == new:
                continue
            since = {name: self._renamed(tenant, customer, name, old, new, now) for name in changed}
            renamed = {name: at for name, at in since.items() if at is not None}
            if renamed:
                body = msgspec.json.encode(relinked.get(customer, {}) | renamed)
                documents.append(Document(kind=RELINKED, tenant=tenant, name=customer, body=body))
            body = msgspec.json.encode(new, order="deterministic") if new else None
            documents.append(Document(kind=KIND, tenant=tenant, name=customer, body=body))
            audit.append(
                AuditRow(
                    at=to_micros(now),
                    tenant=tenant,
                    actor=actor,
                    action="link" if new else "unlink",
                    target=customer,
                    reason=reason,
                    before=None if customer not in before else before[customer].decode(),
                    after=None if body is None else body.decode(),
                )
            )
        if documents:
            await self._ledger.keep(documents, audit)
            self._none.pop(tenant, None)
            for one in (one for one in documents if one.kind == KIND):
                self._hold(tenant, one.name, self._read(one.name, one.body))
            self._forget(REMEMBERED)
        return moved

    def _renamed(
        self, tenant: str, customer: str, name: str, old: Mapping[str, Any], new: Mapping[str, Any], now: datetime
    ) -> int | None:
        """Return since when nobody sends under other names, where a change has a destination name usage otherwise.

        `None`: nothing that may have been sent has another name by it.
        """
        seeds = self.seeds(tenant, customer).get(name, ())
        before, after = (
            self._read(customer, msgspec.json.encode({name: put[name]})).get(name, ()) if name in put else seeds
            for put in (old, new)
        )
        if not moved_names(before, after, now):
            return None
        destination = self._configuration.destinations[name]
        named = before or destination.lookup is not None or destination.adapter.door.link.default is not None
        # Other processes have what was before at hand for a while; where that was nothing they send nothing.
        return to_micros(now + FRESH if named and self._ledger.shared else now)

    async def page(
        self, tenant: str, after: str | None, limit: int
    ) -> list[tuple[str, dict[str, list[dict[str, Any]]], dict[str, str]]]:
        """Return customers by id, those after one or from the first: their links, and where each comes from."""
        documents = {one.name: one.body for one in await self._ledger.documents(KIND, tenant, after, limit)}
        seeded = self._configuration.customers.keys() if tenant == DEFAULT_TENANT else frozenset[str]()
        names = sorted({*documents, *(name for name in seeded if after is None or name > after)})[:limit]
        return [(name, *self.shown(tenant, name, documents.get(name))) for name in names]

    def shown(
        self, tenant: str, customer: str, body: bytes | None
    ) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
        """Return a customer's links by destination, and where each comes from: put by the API, or a seed."""
        links = {name: written(rows) for name, rows in self.seeds(tenant, customer).items()}
        sources = dict.fromkeys(links, "configuration")
        put: dict[str, list[dict[str, Any]]] = {} if body is None else msgspec.json.decode(body)
        return dict(sorted((links | put).items())), dict(sorted((sources | dict.fromkeys(put, "api")).items()))


def written(rows: Iterable[Link]) -> list[dict[str, Any]]:
    """Return link rows as they are written in the configuration."""
    return [row.model_dump(mode="json", by_alias=True, exclude_none=True) for row in rows]
