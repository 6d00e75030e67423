"""A comparison from end to end: the ledger, each provider, what came to the ledger meanwhile; then part by part."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from adapters import Link, Read, Take, Unread, UnreadKind, UsageRow, Window
from canonical_schema import ErrorCode
from gateway.errors import RequestRefused
from gateway.reconciling._model import Cell, Scope, Side, Theirs, Why
from gateway.reconciling.counting import SHARED, Counters
from gateway.reconciling.joining import Joiner
from gateway.reconciling.labels import Labels, beside, labels_of
from gateway.reconciling.ledger_side import EDGE, LedgerSide
from gateway.reconciling.pairing import Pair, paired
from gateway.reconciling.readback import Reader, name_of
from gateway.reconciling.spill import PARTS, Spill
from gateway.service import Gateway
from gateway.times import to_micros

__all__ = ["Comparison", "compare", "scope_of"]

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class Comparison:
    """What was found, by destination."""

    scope: Scope
    at: datetime
    sides: dict[str, Side] = field(default_factory=dict[str, Side])
    events: int = 0
    trimmed: int = 0
    pair: Pair | None = None


def scope_of(
    gateway: Gateway,
    tenant: str,
    window: Window,
    destinations: tuple[str, ...] = (),
    customer: str | None = None,
    meter: str | None = None,
    against: str | None = None,
    accept: frozenset[Why] = frozenset(),
) -> Scope:
    """Return what to compare; without destinations, all that have a binding for what is asked about.

    Raises RequestRefused for what is not configured or is of other tenants, and for a window without an inside.
    """
    catalogue, meters = gateway.catalogue, gateway.configuration.meters
    if window.start >= window.end:
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, "from: must be before to")
    if window.start < _EARLIEST or window.end > _LATEST:  # it is looked at a little beyond both ends, in other zones
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, "from, to: must be in the years 1970 to 9998")
    if meter is not None and meter not in meters:
        raise RequestRefused(400, ErrorCode.UNKNOWN_METER, f"meter: {meter[:64]!r} is not in the catalogue")
    if against is not None and (len(destinations) != 1 or against in destinations):
        detail = "against: holds one destination against another: name the one, and the other"
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, detail)
    destinations = (*destinations, *([] if against is None else [against]))
    for name in destinations:
        if name not in catalogue.destinations:
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, f"destination: {name[:64]!r} is not configured")
        if not catalogue.destinations[name].serves(tenant):  # what stands there is other tenants' alone
            detail = f"destination: {name[:64]!r} takes no events of tenant {tenant}"
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, detail)
    asked = [meters[meter]] if meter is not None else list(meters.values())
    bound = {name for one in asked for name in one.bindings}
    for name in destinations:
        if name not in bound:  # nothing can be asked there, and nothing is no answer
            detail = f"destination: {name} has no binding for " + ("any meter" if meter is None else f"meter {meter}")
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, detail)
    serves = {name for name, one in catalogue.destinations.items() if one.serves(tenant)}
    chosen = destinations or tuple(name for name in catalogue.destinations if name in bound & serves)
    return Scope(
        tenant=tenant,
        window=window,
        destinations=chosen,
        customer=customer,
        meter=meter,
        against=against,
        accept=accept,
    )


async def compare(gateway: Gateway, scope: Scope) -> Comparison:
    """Compare the ledger with each destination. Holds figures and a part of the events, the rest lies on disk.

    What is counted of a million events takes many seconds: it is done beside the event loop, where requests go on.
    """
    every = {name: meter.bindings for name, meter in gateway.configuration.meters.items()}
    meters = {name: bindings for name, bindings in every.items() if scope.meter in {None, name}}
    labels = {name: labels_of(meters, name) for name in scope.destinations}
    readers = {name: Reader(gateway, name) for name in scope.destinations}  # of what is configured now
    ours = LedgerSide(gateway, scope, labels, {name: beside(labels[name], name, every) for name in scope.destinations})
    made = Comparison(scope=scope, at=gateway.clock.now())
    parts = {name: _Destination(scope, name, labels[name], ours, readers[name]) for name in scope.destinations}
    try:
        await ours.read()
        for one in parts.values():
            await one.read(gateway.clock.now())
        await ours.read()  # what was sent meanwhile may have been seen there
        made.events, made.trimmed = ours.events, ours.trimmed
        for name, one in parts.items():
            made.sides[name] = await one.compare()
        if scope.against is not None:
            made.pair = await asyncio.to_thread(paired, made.sides, labels, scope.destinations[0], scope.against)
    finally:
        ours.close()
        for one in parts.values():
            one.close()
        for reader in readers.values():
            await reader.close()
    return made


class _Destination:
    """One destination's part of a comparison."""

    def __init__(self, scope: Scope, name: str, labels: Labels, ours: LedgerSide, reader: Reader) -> None:
        self._scope = scope
        self._name = name
        self._labels = labels
        self._ours = ours
        self._door = reader.adapter.door
        self._reader = reader
        self._side = Side()
        self._spill = Spill(Theirs)
        self._named: set[str] = set()
        """The provider's names of whoever is listed."""
        self._counted: list[tuple[str, Read | Unread]] = []
        """Whose counters were read, and what they say."""
        self._begun = 0

    def close(self) -> None:
        """Let go of what lies on disk."""
        self._spill.close()

    async def read(self, now: datetime) -> None:
        """Read the provider."""
        side, read_back = self._side, self._door.read_back
        self._begun = to_micros(now)
        if read_back is None:
            side.unread = Unread(kind=UnreadKind.UNSUPPORTED, why="usage cannot be read back from this provider")
            return
        side.kind, side.exact = read_back.kind, read_back.exact
        if read_back.by_customer:
            await self._count()
        else:
            await self._read(self._put)
        side.requests = self._reader.requests

    async def compare(self) -> Side:
        """Hold what was read against what the ledger has."""
        side, read_back = self._side, self._door.read_back
        side.trimmed = self._ours.trimmed > 0
        settled = self._begun - (read_back.settles // _MICRO if read_back else 0)
        copies = read_back is not None and read_back.copies
        by = self._door.dedupe.by if copies and self._door.dedupe is not None else None
        known = self._ours.known[self._name]
        narrow = self._scope.customer is not None
        joiner = Joiner(side, self._labels, known, self._scope.window, by, settled, narrow=narrow)
        if read_back is not None and read_back.by_customer:
            await self._by_customer(joiner, settled)
        else:
            await self._listed(joiner)
        for meter in self._labels.unreadable:
            why = "its name at the provider comes from each event: nobody can ask for it"
            self._leave_out(meter, Unread(kind=UnreadKind.UNSUPPORTED, why=why))
        return side

    def _put(self, row: UsageRow) -> None:
        at = to_micros(row.instant)
        self._named.add(row.customer)
        self._spill.put(
            row.key, Theirs(row.key, row.meter, row.measure, row.customer, at, row.quantity, row.evidence, row.version)
        )

    async def _listed(self, joiner: Joiner) -> None:
        side = self._side
        side.rows = self._spill.count
        await self._ours.recognise(self._name, self._named)
        for number in range(PARTS):
            theirs = () if side.unread is not None else self._spill.part(number)
            await asyncio.to_thread(joiner.join, self._ours.spills[self._name].part(number), theirs)
        for place, untold in joiner.untold.items():
            _unread(side.cells[place], untold)
        if side.unread is not None:
            for cell in side.cells.values():
                _unread(cell, side.unread)
        for place, cell in side.cells.items():
            if (why := self._labels.missing(side.missing, place.meter, place.part)) is not None:
                _unread(cell, why)

    async def _read(self, take: Take) -> None:
        """Read every customer's usage, or one's by each of the links that there are for it."""
        side, wide = self._side, self._scope.window.widened(EDGE)
        links: list[Link | None] = [None]
        if self._scope.customer is not None:
            side.links = await self._links()
            links = [*side.links]
        for link in links:
            told = await self._reader.usage(wide, self._labels.bindings, link, take)
            if isinstance(told, Unread):
                side.unread = told
                return
            side.exact = side.exact and told.exact
            side.missing = {**side.missing, **told.unread}

    async def _links(self) -> list[Link]:
        """Return the one customer's links: those of stored events, and all that there are today."""
        customer = self._scope.customer or ""
        links = {**self._ours.links[self._name], **self._ours.near[self._name]}
        await self._ours.book.learn(self._scope.tenant, {customer})
        rows = self._ours.book.rows(self._scope.tenant, customer, self._name)
        model = self._door.link
        if not rows and not links and model.default is not None:
            rows = (model.model_validate(model.completed({}, customer)),)
        named: dict[tuple[object, ...], Link] = {}
        for link in [*links, *rows]:
            named.setdefault(tuple(getattr(link, name) for name in link.names), link)
        for link in named.values():
            self._ours.known[self._name].setdefault(name_of(link), customer)
        return list(named.values())

    async def _count(self) -> None:
        """Read the counters of each customer that the ledger has something of."""
        side, links = self._side, self._ours.links[self._name]
        if (whose := self._scope.customer) is not None:
            side.links = [*links] or await self._links()
            links = dict.fromkeys(side.links, whose)
        asked: dict[tuple[str, str], None] = {}
        for link, customer in links.items():
            if (customer, name_of(link)) in asked or name_of(link) in self._ours.shared[self._name]:
                continue
            asked[customer, name_of(link)] = None
            told = await self._reader.usage(self._scope.window, self._labels.bindings, link, _nothing)
            self._counted.append((customer, told))
        side.asked = dict(self._counted)
        for _, told in self._counted:
            if isinstance(told, Unread) and told.kind is UnreadKind.TROUBLE:
                side.unread = told
            elif isinstance(told, Read):
                side.exact = side.exact and told.exact
                side.window = None if told.window == self._scope.window else told.window

    async def _by_customer(self, joiner: Joiner, settled: int) -> None:
        counters = Counters(self._side, joiner, self._scope.window, settled, self._begun)
        for sharing in self._ours.shared[self._name].values():
            for customer in sharing:
                counters.told(customer, SHARED)
        for customer, told in self._counted:
            counters.told(customer, told)
        for number in range(PARTS):
            await asyncio.to_thread(counters.take, self._ours.spills[self._name].part(number))
        await asyncio.to_thread(counters.end, self._labels.reads, self._scope.customer)
        if self._ours.beside[self._name]:
            for meter in self._labels.meters:
                self._leave_out(meter, BESIDE)

    def _leave_out(self, meter: str, why: Unread) -> None:
        self._side.missing = {**self._side.missing, meter: why}
        for place, cell in self._side.cells.items():
            if place.meter == meter:
                _unread(cell, why)


BESIDE = Unread(
    kind=UnreadKind.UNSUPPORTED, why="another meter has the same name there, and one counter: it cannot be told apart"
)


def _nothing(_: UsageRow) -> None:
    """Take no row: counters hand none over."""


def _unread(cell: Cell, why: Unread) -> None:
    cell.provider, cell.unread = None, why
    cell.reasons.clear()


_MICRO = timedelta(microseconds=1)
