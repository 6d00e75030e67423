"""What senders were promised and what vendors have, kept beside the gateway and held against its ledger."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from copy import copy
from decimal import Decimal
from itertools import chain, combinations
from typing import Any, NamedTuple

from adapters import Row
from adapters._facts import KeyRule
from canonical_schema import Event, Quantities
from gateway.chain import correction_id, quantities_of
from gateway.lanes.rendering import _key
from gateway.ledger import Code, Erasure, Snapshot, SqliteLedger, WorkState
from gateway.ledger.check import add_up
from gateway.ledger.redis import RedisLedger
from gateway.simulator import SimulatedProvider
from gateway.simulator.faults import FAULTS
from gateway.simulator.reading import label
from gateway.simulator.world import StoredRow

__all__ = ["HALVES", "Books", "Stand", "keys_of", "stands_of"]

HALVES = ("in", "out")
"""The names of an event's quantities that go by rows of their own."""

Place = tuple[str, str]
"""An event's id and a destination."""


class Stand(NamedTuple):
    """How one event stands at one destination, by the ledger."""

    event: Event
    code: Code
    state: WorkState | None
    """Where it is not done."""
    doubt: int
    parts: Mapping[str, Code]
    """Of several rows, once one of them was answered."""

    @property
    def value(self) -> Quantities:
        """What the provider has of the event once it took this."""
        said = self.event.corrects
        return quantities_of(self.event) if said is None else said.after

    @property
    def may_be_there(self) -> bool:
        """Whether nobody knows if the provider has it, or it has some of it."""
        doubtful = self.code is Code.UNKNOWN or self.state is WorkState.SENDING or self.doubt > 0
        return doubtful or any(code.status.success or code is Code.UNKNOWN for code in self.parts.values())


def stands_of(snapshots: Sequence[Snapshot]) -> dict[str, dict[str, Stand]]:
    """Return every event's deliveries, by id and destination."""
    found: dict[str, dict[str, Stand]] = {}
    for snapshot in snapshots:
        for event in snapshot.events:
            assert event.id not in found, f"{event.id} is stored twice"
            found[event.id] = {}
        for track in snapshot.tracks:
            groups = {index: group for group, members in track.work for index in members}
            for index, (event, byte) in enumerate(zip(snapshot.events, track.codes, strict=True)):
                if byte != Code.NONE:
                    group = groups.get(index)
                    state, doubt = (None, 0) if group is None else (group.state, group.doubt)
                    parts = {part.name: part.code for part in track.parts.get(index, ())}
                    found[event.id][track.destination] = Stand(event, Code(byte), state, doubt, parts)
    return found


class Books:
    """What was acknowledged and what was seen. `hold` raises AssertionError for whatever does not fit it."""

    def __init__(self, vendors: Mapping[str, SimulatedProvider], whose: Callable[[str, str], str]) -> None:
        """`whose` tells which customer a vendor means by a name of its own."""
        self._vendors = vendors
        self._whose = whose
        self.sent: dict[str, Event] = {}
        """What was acknowledged, as it was sent."""
        self._corrected: dict[str, Event] = {}
        """The ledger's corrections, as they were first seen."""
        self._promised: set[str] = set()
        """Ids of corrections that were acknowledged."""
        self._owed: dict[str, frozenset[str]] = {}
        """Where each event has a delivery."""
        self._done: set[Place] = set()
        """What the ledger said to be with a vendor."""
        self._rows: dict[Place, Row] = {}
        """Rows as the vendors first stored them."""
        self._named: dict[str, Event] = {}
        """What was acknowledged of customers who are erased, as it was sent."""
        self._given_up: set[Place] = set()
        """What was in doubt when its customer was erased."""
        self._repeated: set[str] = set()
        """What came once more after a restore that had lost it."""
        self._renewed: set[str] = set()
        """What a restore put back to before it was sent: it may be rendered anew."""
        self._read = dict.fromkeys(vendors, 0)

    def acknowledge(self, events: Sequence[Event], results: Sequence[Mapping[str, Any]]) -> None:
        """Take note of what the gateway answered about new events."""
        for event, result in zip(events, results, strict=True):
            assert (result["id"], result["stored"], result["replayed"]) == (event.id, True, False), result
            self.sent[event.id] = event
            self._owed[event.id] = frozenset(result["deliveries"])

    def acknowledge_correction(self, answer: Mapping[str, Any]) -> None:
        """Take note of what the gateway answered about a correction."""
        self._promised.add(answer["id"])
        if "refund" in answer:
            self._promised.add(answer["refund"]["id"])

    @property
    def corrections(self) -> AbstractSet[str]:
        """Ids of all that were seen."""
        return self._corrected.keys()

    def original(self, event_id: str) -> Event:
        """Return an event as its sender knows it."""
        return self._named.get(event_id) or self.sent[event_id]

    def erase(self, erasure: Erasure, stands: Mapping[str, Mapping[str, Stand]]) -> None:
        """Take note that a customer was erased. `stands`: how everything stood before."""
        for known in (self.sent, self._corrected):
            for event_id, event in known.items():
                if event.customer == erasure.customer:
                    if known is self.sent:
                        self._named[event_id] = event
                    known[event_id] = erasure.of(event)
                    at = stands[event_id].items()
                    self._given_up |= {(event_id, name) for name, stand in at if self._may_be_there(stand, name)}

    def copied(self) -> "Books":
        """Return the books as they stand, for when the ledger is put back to this."""
        made = copy(self)
        for name in ("sent", "_corrected", "_promised", "_owed", "_done", "_given_up", "_repeated"):
            setattr(made, name, copy(getattr(self, name)))
        return made

    def put_back(self, before: "Books", stands: Mapping[str, Mapping[str, Stand]]) -> list[Event]:
        """Take note that the ledger was put back to what it was before; return what it lost."""
        lost = [event for event_id, event in self.sent.items() if event_id not in before.sent]
        for name in ("sent", "_corrected", "_promised", "_owed", "_done", "_given_up", "_repeated"):
            setattr(self, name, copy(getattr(before, name)))
        self._repeated |= {event.id for event in lost}
        self._renewed |= self._repeated
        self._renewed |= {
            event_id for event_id, at in stands.items() if not all(one.code.status.final for one in at.values())
        }
        return lost

    def _may_be_there(self, stand: Stand, name: str) -> bool:
        again = stand.event.id in self._repeated and not stand.code.status.final
        return stand.may_be_there or again or (stand.event.id, name) in self._given_up

    async def hold(self, ledger: SqliteLedger | RedisLedger) -> dict[str, dict[str, Stand]]:
        """Hold the ledger and the vendors against all that is known; return how everything stands."""
        summed = add_up(ledger.path) if isinstance(ledger, SqliteLedger) else await ledger.add_up()
        assert not summed["problems"], summed["problems"]
        snapshots = await ledger.snapshots(await ledger.batches_after(0, 1000))
        stands = stands_of(list(snapshots.values()))
        self._nothing_vanished(stands, list(snapshots.values()))
        counted: Counter[str] = Counter(chain.from_iterable(stands.values()))
        added = {name: one["deliveries"] for name, one in summed["destinations"].items() if one["deliveries"]}
        assert counted == added, f"{dict(counted)} deliveries are there, and {added} are counted"
        assert len(stands) == summed["events"], f"{len(stands)} events are there, and {summed['events']} are counted"
        keys = {key: event_id for event_id in stands for key in keys_of(event_id)}
        for name, vendor in self._vendors.items():
            self._nothing_twice(name, vendor, stands, keys)
            self._unchanged(name, vendor, keys)
            self._to_whom(name, vendor, keys)
        self._bills_fit(stands, keys)
        return stands

    def _nothing_vanished(self, stands: Mapping[str, Mapping[str, Stand]], snapshots: Sequence[Snapshot]) -> None:
        stored = {event.id: event for snapshot in snapshots for event in snapshot.events}
        corrections = {event_id: event for event_id, event in stored.items() if event.corrects is not None}
        kept = {event_id: event for event_id, event in stored.items() if event_id not in corrections}
        assert kept.keys() == self.sent.keys(), f"acknowledged: {sorted(self.sent)}, stored: {sorted(kept)}"
        assert kept == self.sent, "an event is stored that is not as it was sent"
        seen = {event_id: corrections.get(event_id) for event_id in self._corrected}
        assert seen == self._corrected, "a correction is not as it was"
        assert self._promised <= corrections.keys(), "a correction was acknowledged, and is lost"
        self._corrected = corrections
        for event_id, at in stands.items():
            owed = self._owed.get(event_id, frozenset())
            assert owed <= at.keys(), f"{event_id} has no delivery any more to {set(owed) - at.keys()}"
            self._owed[event_id] = frozenset(at)
            for name, stand in at.items():
                place = event_id, name
                if stand.code.status.success:
                    self._done.add(place)
                assert place not in self._done or stand.code.status.success, f"{place} was done, and is {stand.code!r}"

    def _nothing_twice(
        self, name: str, vendor: SimulatedProvider, stands: Mapping[str, Mapping[str, Stand]], keys: Mapping[str, str]
    ) -> None:
        held = Counter((str(row.key), _half(row)) for row in vendor.stored)
        assert not {row: count for row, count in held.items() if count > 1}, f"{name} bills twice"
        strange = [key for key, _ in held if name not in stands.get(keys.get(key, ""), {})]
        assert not strange, f"{name} has {strange}, of which the ledger knows nothing"

    def _unchanged(self, name: str, vendor: SimulatedProvider, keys: Mapping[str, str]) -> None:
        """What a vendor once stored is sent again as it was, unless it was corrected."""
        calls, self._read[name] = vendor.calls[self._read[name] :], len(vendor.calls)
        held = {row.key for row in vendor.stored}
        last = {ids[-1] for ids in self._chains().values()}
        doors = {door.path: door for door in vendor.spec.doors.values() if door.roles.key is not None}
        for call in calls:
            for row in call.rows if call.path in doors else ():
                key = label(doors[call.path], row)
                if (
                    key in held
                    and keys[key] in last - self._renewed
                    and (call.fault is None or FAULTS[call.fault].stores)
                ):
                    first = self._rows.setdefault((name, key), row)
                    assert first == row, f"{name} has {key}, and got it with other content"

    def _to_whom(self, name: str, vendor: SimulatedProvider, keys: Mapping[str, str]) -> None:
        """Nobody is billed for what another used."""
        for row in vendor.stored:
            customer = self.original(keys[row.key].partition("~")[0]).customer
            assert self._whose(name, row.customer) == customer, (
                f"{name} bills {row.customer} for {row.key} of {customer}"
            )

    def _bills_fit(self, stands: Mapping[str, Mapping[str, Stand]], keys: Mapping[str, str]) -> None:
        """Every vendor bills of every event what the ledger says; where that is in doubt, what it may be."""
        chains = self._chains()
        for name, vendor in self._vendors.items():
            billed: dict[str, Decimal] = {}
            for row in vendor.stored:
                if not row.withdrawn:
                    event_id = keys[row.key]
                    more = sum((charge.quantity for charge in row.charges), Decimal(0))
                    billed[event_id] = billed.get(event_id, Decimal(0)) + more
            for event_id, ids in chains.items():
                ways = [stands[one][name] for one in ids if name in stands[one]]
                bill = sum((billed.get(one, Decimal(0)) for one in ids), Decimal(0))
                doubtful = [self._may_be_there(way, name) for way in ways]
                assert bill in _possible(ways, doubtful), (
                    f"{name} bills {bill} of {event_id}, and the ledger says {ways}"
                )

    def _chains(self) -> dict[str, list[str]]:
        """Return every event's id with those of its corrections, in order."""
        chains = {event_id: [event_id] for event_id in self.sent}
        said = [event.corrects for event in self._corrected.values() if event.corrects is not None]
        for correction in sorted(said, key=lambda one: one.number):
            chains[correction.of].append(correction_id(correction.of, correction.number))
        return chains


def keys_of(event_id: str) -> list[str]:
    """Return what vendors may know an event by: its id, or what is made of it for one of several rows."""
    return [event_id, *(_key("default", event_id, half, KeyRule()) for half in HALVES)]


def _half(row: StoredRow) -> str:
    """Return which of an event's rows it is, where the vendor knows all of them by one key."""
    return next((half for half in HALVES if row.meter.endswith(half)), "")


def _possible(stands: Sequence[Stand], doubtful: Sequence[bool]) -> set[Decimal]:
    """Return what a vendor may bill of an event and its corrections, some of which may be there or not."""
    may: set[frozenset[tuple[str, Decimal]]] = {frozenset()}
    for stand, in_doubt in zip(stands, doubtful, strict=True):
        if stand.code.status.success:
            may = {frozenset(stand.value.items())}
        elif in_doubt:  # each of its rows, or none
            may = {one for has in may for one in _with_some(dict(has), stand.value)}
    return {sum((quantity for _, quantity in has), Decimal(0)) for has in may}


def _with_some(has: Quantities, said: Quantities) -> Iterator[frozenset[tuple[str, Decimal]]]:
    """Give what a vendor has with every choice of what else was said."""
    names = sorted({*has, *said})
    for there in chain.from_iterable(combinations(names, count) for count in range(len(names) + 1)):
        made = {name: (said if name in there else has).get(name, Decimal(0)) for name in names}
        yield frozenset(made.items())
