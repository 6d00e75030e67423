"""The ledger's side of a comparison: every stored event of a window, as each destination was given it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal

import msgspec

from adapters import Amend, Deltas, Link, TakeBack
from canonical_schema import ErrorCode, Event, Kind, Quantities
from gateway.chain import LedgerReader, Stand, quantities_of
from gateway.configuration import Configuration, Destination
from gateway.intake import slices
from gateway.lanes.correcting import Situation, difference, saying, situation
from gateway.lanes.rendering import Turned, usages
from gateway.ledger import BILLS, NO_WAY, Code, Snapshot, Track, split_ref
from gateway.links.naming import Relinked
from gateway.merge import View
from gateway.reconciling._model import EXACT, Ours, Scope, Standing
from gateway.reconciling.labels import Labels, part_of
from gateway.reconciling.readback import name_of
from gateway.reconciling.spill import Spill
from gateway.reconciling.standing import standing_of
from gateway.service import Gateway
from gateway.stored import stored
from gateway.times import from_micros, to_micros

__all__ = ["EDGE", "LedgerSide"]

EDGE = timedelta(hours=1)
"""Looked at beyond both ends of the window, to tell what lies on its other side from what is lost."""

OVERLAP = timedelta(seconds=10)
"""Batches of several partitions are in order by when they were received; one may be recorded a little later."""

LINKS = 1000
"""Customers whose links are looked through at once."""


class LedgerSide:
    """Reads the ledger, for all the destinations of a comparison."""

    def __init__(
        self, gateway: Gateway, scope: Scope, labels: Mapping[str, Labels], beside: Mapping[str, Collection[str]]
    ) -> None:
        """`beside`: by destination, meters that are not compared and share a name there with one that is."""
        self._gateway = gateway
        # One and the same to the end, whatever is configured meanwhile.
        self._catalogue, self.book = gateway.catalogue, gateway.book
        self.beside = beside
        self._scope = scope
        self._labels = labels
        self._wide = scope.window.widened(EDGE)
        self.spills = {name: Spill(Ours) for name in labels}
        self.links: dict[str, dict[Link, str]] = {name: {} for name in labels}
        """Each customer's links that events of the window fall under, with whose they are."""
        self.near: dict[str, dict[Link, str]] = {name: {} for name in labels}
        """The same of events a little beyond the window."""
        self.known: dict[str, dict[str, str]] = {name: {} for name in labels}
        """Our name of a customer by the provider's."""
        self.shared: dict[str, dict[str, set[str]]] = {name: {} for name in labels}
        """By the provider's name, customers of ours that are one there, or are another tenant's as well."""
        self._foreign: dict[str, set[str]] = {name: set() for name in labels}
        self._called: dict[tuple[str, str, str], frozenset[str]] = {}
        self._twins = {name: _twins(gateway.configuration, name) for name in labels}
        """By destination, others that put usage into the same account."""
        self._relinked: Relinked | None = None
        self._after = 0
        self._lately: set[int] = set()
        """Batches that were read beyond that number, and are not read again."""
        self.events = 0
        self.trimmed = 0
        """Batches of which only ids and statuses are left, so that nothing of them can be added up."""

    async def read(self) -> None:
        """Read every event of the window, and a little beyond; the next time, those that came since."""
        scope = self._scope
        relinked = await self._learn_names()
        since = to_micros(self._gateway.clock.now() - OVERLAP)
        async for view in stored(self._gateway.ledger, None, self._after):
            snapshot = view.snapshot
            if snapshot.batch in self._lately:
                continue
            if snapshot.received < since:
                self._after = snapshot.batch
            else:
                self._lately.add(snapshot.batch)
            await self._pass_over(view)
            if snapshot.tenant == scope.tenant:
                await self._take(view, relinked)
        self.trimmed = await self._gateway.ledger.trimmed(scope.tenant, to_micros(scope.window.start))
        for name, theirs in self._foreign.items():
            for one in theirs & self.known[name].keys():
                self.shared[name].setdefault(one, set()).add(self.known[name][one])

    async def _take(self, view: View, relinked: Relinked) -> None:
        """Put away what a batch has of the window, by destination."""
        scope, snapshot = self._scope, view.snapshot
        chosen = [index for index in range(len(snapshot.events)) if self._wanted(view, index)]
        if not chosen:
            return
        await self.book.learn(scope.tenant, {snapshot.events[index].customer for index in chosen})
        tracks = {track.destination: track for track in snapshot.tracks if track.destination in self._labels}
        errors = {name: dict(_errors(track)) for name, track in tracks.items()}
        sent = {name: _sent(track) for name, track in tracks.items()}
        reader = LedgerReader(self._gateway.ledger)
        async for part in slices(len(chosen)):
            for index in chosen[part.start : part.stop]:
                event, received = snapshot.events[index], snapshot.received_at(index)
                self.events += 1
                alone = scope.against is not None and await self._alone(reader, snapshot, index)
                for name, track in tracks.items():
                    standing = standing_of(Code(track.codes[index]), errors[name].get(index))
                    if standing is not None and event.meter in self._labels[name].meters:
                        for ours in await self._ours(reader, name, event, received, standing):
                            ours.sent = max(received, sent[name].get(index, 0))
                            ours.renamed = ours.renamed or index in view.erased  # the pseudonym is known here alone
                            ours.remetered = relinked.had_metered(name, event.meter, ours.sent)
                            ours.alone = alone
                            self.spills[name].put(ours.key or ours.id, ours)

    async def recognise(self, name: str, theirs: Collection[str]) -> None:
        """Look through all links for whose names these are at a destination: no event here has brought them."""
        unknown, links = set(theirs) - self.known[name].keys(), self._catalogue.destinations[name].adapter.door.link
        after: str | None = None
        while unknown and (page := await self.book.page(self._scope.tenant, after, LINKS)):
            after = page[-1][0]
            for customer, by_destination, _ in page:
                for row in by_destination.get(name, ()):
                    one = next((str(row[field]) for field in links.names if field in row), "")
                    if one in unknown:
                        self.known[name].setdefault(one, customer)
            unknown -= self.known[name].keys()

    async def _learn_names(self) -> Relinked:
        scope, book = self._scope, self.book
        self._relinked = await book.naming.relinked(scope.tenant, to_micros(self._wide.start))
        if scope.customer is not None:
            await book.learn(scope.tenant, {scope.customer})
            for name in self._labels:
                self._names(name, scope.tenant, scope.customer)
        return self._relinked

    async def _pass_over(self, view: View) -> None:
        """Note the keys of what is not compared, and may be listed with what is."""
        snapshot, scope = view.snapshot, self._scope
        for name, twins in self._twins.items():
            for track in (track for track in snapshot.tracks if track.destination in twins):
                await self._note_twin(name, track, view)
        ours = snapshot.tenant == scope.tenant
        if ours and scope.customer is None and not any(self.beside.values()):
            return
        for track in snapshot.tracks:
            name = track.destination
            if name not in self._labels:
                continue
            whole = ours and scope.customer is None  # what is compared is not passed over
            meters = {*self.beside[name], *(() if whole else self._labels[name].meters)}
            chosen = [
                index
                for index, event in enumerate(snapshot.events)
                if event.meter in meters
                and track.codes[index] != Code.NONE
                and (event.timestamp or from_micros(snapshot.received_at(index))) in self._wide
            ]
            if not chosen:
                continue
            await self.book.learn(snapshot.tenant, {snapshot.events[index].customer for index in chosen})
            async for part in slices(len(chosen)):
                for index in chosen[part.start : part.stop]:
                    event, received = snapshot.events[index], snapshot.received_at(index)
                    if self._concerns(name, snapshot.tenant, event):
                        self._note(name, snapshot.tenant, event, received)
                    elif index in view.erased and Code(track.codes[index]) in BILLS:  # by what name, nobody knows
                        self._note(name, snapshot.tenant, event, received)
                        for one in self._plain(name, event, received, Standing.DELIVERED):
                            self.spills[name].put("", msgspec.structs.replace(one, foreign=True, renamed=True))

    async def _note_twin(self, name: str, track: Track, view: View) -> None:
        """Note the keys of what another destination put into the same account."""
        snapshot = view.snapshot
        chosen = [
            index
            for index, event in enumerate(snapshot.events)
            if Code(track.codes[index]) in BILLS
            and (event.timestamp or from_micros(snapshot.received_at(index))) in self._wide
        ]
        await self.book.learn(snapshot.tenant, {snapshot.events[index].customer for index in chosen})
        async for part in slices(len(chosen)):
            for index in chosen[part.start : part.stop]:
                self._note(
                    name, snapshot.tenant, snapshot.events[index], snapshot.received_at(index), track.destination
                )

    def _concerns(self, name: str, tenant: str, event: Event) -> bool:
        """Return whether what is passed over may be listed under a name that is read."""
        scope = self._scope
        if scope.customer is None:
            return True
        if (tenant, event.customer) == (scope.tenant, scope.customer):
            return event.meter in self.beside[name]
        return bool(self._names(name, tenant, event.customer) & self._names(name, scope.tenant, scope.customer))

    def _names(self, name: str, tenant: str, customer: str) -> frozenset[str]:
        """Return all that a destination calls a customer."""
        key = name, tenant, customer
        if key not in self._called:
            catalogue = self._catalogue
            rows = catalogue.links(name, tenant, customer)
            model = catalogue.destinations[name].adapter.door.link
            own = {customer} if not rows and model.default is not None else set[str]()
            self._called[key] = frozenset({name_of(row) for row in rows} | own)
        return self._called[key]

    def _note(self, name: str, tenant: str, event: Event, received: int, by: str | None = None) -> None:
        """Note the keys of an event. `by`: the destination that put it into the account, where it is another."""
        said = event.corrects
        if said is not None:
            if not said.after:
                return
            event = saying(event, event.id, said.after)
        made = usages(self._catalogue, by or name, tenant, event, from_micros(received), nameless=True)
        for _, key, usage in () if isinstance(made, Turned) else made:
            if usage is not None:
                nobody = Ours(key, "", "", "", 0, Decimal(0), Standing.PENDING, received, "", "", foreign=True)
                self.spills[name].put(key, nobody)
                whose = tenant, event.customer
                if whose != (self._scope.tenant, self._scope.customer or event.customer) and (
                    theirs := name_of(usage.link)
                ):
                    self._foreign[name].add(theirs)

    def _wanted(self, view: View, index: int) -> bool:
        event, scope = view.snapshot.events[index], self._scope
        if scope.customer is not None and event.customer != scope.customer:
            return False
        if scope.meter is not None and event.meter != scope.meter:
            return False
        return (event.timestamp or from_micros(view.snapshot.received_at(index))) in self._wide

    async def _alone(self, reader: LedgerReader, snapshot: Snapshot, index: int) -> bool:
        """Return whether one of a pair of destinations alone was meant to have an event; a correction is of its event.

        Where an event never left, a correction of it goes otherwise than where it did, or not at all.
        """
        event = snapshot.events[index]
        if event.corrects is not None:
            found = await reader.event(snapshot.tenant, event.corrects.of, erased=True)
            if found is not None:
                (_, index), snapshot = split_ref(found[0]), found[1]
        codes = {track.destination: Code(track.codes[index]) for track in snapshot.tracks}
        bound = [name for name, labels in self._labels.items() if event.meter in labels.meters]
        return sum(codes.get(name, Code.NONE) not in NO_WAY for name in bound) == 1

    async def _ours(
        self, reader: LedgerReader, name: str, event: Event, received: int, standing: Standing
    ) -> list[Ours]:
        """Return what an event, or a correction, should come to at a destination."""
        said = event.corrects
        if said is None:
            return list(self._rows(name, event, received, standing))
        chain = await reader.chain(self._scope.tenant, said.of, said.number, erased=True)
        if chain is None:
            return list(self._plain(name, event, received, standing))
        stands = await reader.stands(chain, name)
        adds = difference(_recorded(stands), said.after)
        plainly = list(self._plain(name, saying(event, event.id, adds), received, standing))
        found = situation(stands, event, self._gateway.clock.now())
        arrives = standing in {Standing.DELIVERED, Standing.UNKNOWN}
        if not isinstance(found, Situation) or not (arrives or (standing is Standing.PENDING and not found.unsent)):
            return plainly
        carrier = found.carrier
        if carrier is None:
            return list(self._rows(name, saying(event, event.id, said.after), received, standing))
        match self._catalogue.destinations[name].adapter.door.corrections:
            case Deltas():
                row = saying(event, event.id, difference(found.have, said.after))
                return list(self._rows(name, row, received, standing))
            case Amend():
                row = saying(event, carrier.event.id, said.after or dict.fromkeys(found.have, Decimal(0)))
                made = self._rows(name, row, received, standing)
                return [msgspec.structs.replace(one, id=event.id, replaces=True) for one in made]
            case TakeBack():
                gone = self._rows(name, saying(event, carrier.event.id, found.have), received, standing)
                none = Decimal(0)
                return [msgspec.structs.replace(one, id=event.id, quantity=none, replaces=True) for one in gone]
            case None:
                return plainly

    def _plain(self, name: str, event: Event, received: int, standing: Standing) -> Iterator[Ours]:
        """Give an event's measures as they are, without the rows that they would be."""
        labels, at = self._labels[name], to_micros(event.timestamp or from_micros(received))
        absolute = event.kind is Kind.ABSOLUTE
        given = {"": event.quantity} if event.quantities is None else event.quantities
        for measure, quantity in given.items():
            if (scale := labels.scales.get((event.meter, measure))) is not None:
                amount = EXACT.multiply(Decimal(1) if quantity is None else quantity, scale)
                yield Ours(
                    "", event.customer, event.meter, measure, at, amount, standing, received, "", event.id, absolute
                )

    def _rows(self, name: str, event: Event, received: int, standing: Standing) -> Iterator[Ours]:
        catalogue, when = self._catalogue, from_micros(received)
        nameless = standing is not Standing.UNMAPPED
        made = usages(catalogue, name, self._scope.tenant, event, when, nameless=nameless)
        absolute = event.kind is Kind.ABSOLUTE
        if isinstance(made, Turned):
            yield from self._plain(name, event, received, standing)
            return
        seen: dict[str, int] = {}
        for _, key, usage in made:
            if usage is None:
                continue
            theirs = name_of(usage.link)
            if theirs:
                inside = usage.timestamp in self._scope.window
                (self.links if inside else self.near)[name].setdefault(usage.link, event.customer)
                if (owner := self.known[name].setdefault(theirs, event.customer)) != event.customer:
                    self.shared[name].setdefault(theirs, {owner}).add(event.customer)
            assert self._relinked is not None
            renamed = not theirs or self._relinked.may_have(name, event.customer, received)
            for measure in usage.measures:
                yield Ours(
                    key,
                    event.customer,
                    event.meter,
                    part_of(measure.name, seen),
                    to_micros(usage.timestamp),
                    measure.quantity,
                    standing,
                    received,
                    theirs,
                    event.id,
                    absolute,
                    renamed=renamed,
                )

    def close(self) -> None:
        """Let go of what lies on disk."""
        for spill in self.spills.values():
            spill.close()


def _twins(configuration: Configuration, name: str) -> frozenset[str]:
    """Return the other destinations of the same provider that go by the same settings, and so by the same account."""

    def place(one: Destination) -> tuple[object, ...]:
        said = {key: value for key, value in one.settings if key != "profile" and not isinstance(value, bool)}
        return one.provider, said

    mine = place(configuration.destinations[name])
    return frozenset(other for other, one in configuration.destinations.items() if other != name and place(one) == mine)


def _recorded(stands: Sequence[Stand]) -> Quantities:
    """Return what the figures of a destination have of a chain by now, whatever became of it there."""
    for stand in reversed(stands):
        if standing_of(stand.code, None) is not None:
            said = stand.event.corrects
            return quantities_of(stand.event) if said is None else said.after
    return {}


def _sent(track: Track) -> Mapping[int, int]:
    """Return when each event of a batch was last sent."""
    made: dict[int, int] = {}
    for attempt in track.attempts:
        for index in attempt.members:
            made[index] = max(attempt.at, made.get(index, 0))
    return made


def _errors(track: Track) -> Iterator[tuple[int, ErrorCode]]:
    for group, members in track.work:
        if group.error is not None:
            for index in members:
                yield index, group.error["code"]
