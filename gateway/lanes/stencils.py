"""Rows of alike events, filled in at the places that an adapter puts its values in.

`Adapter.encode` stays the only one that knows a provider's words. One that declares `by_place` is asked once for
each shape of event, with stand-ins for the values; its answer with the stand-ins cut out is a stencil. It is
asked a second time with other stand-ins, and both must agree; the first events of each stencil are encoded in
both ways. Whatever is not plain (several quantities, absolute values, refusals, odd ids) is left to `render`.

Stencils are filled a batch at a time, from its columns: the texts of a row stand between pieces that all rows share.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from adapters import AnyAdapter, Binding, Link, Measure, Usage, encode_row
from adapters._values import Scalar
from canonical_schema import Event
from gateway.catalogue import DEFAULT_TENANT, Catalogue
from gateway.lanes.columns import Columns, Shape, columns_of, escaped, picked
from gateway.lanes.instants import text_of, time_of, writer_of
from gateway.lanes.rendering import Refused, Turned, encoded, link_of, render
from gateway.ledger import Part

__all__ = ["Stencils"]

CHECKED = 3
"""How many events of a stencil are encoded in both ways."""
MOST = 4096
"""Shapes and links that are remembered; then it begins anew."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_Naming = tuple[Link, object, bytes]
"""A link, what all links of its kind have in common, and the name that sets it apart."""


_Cut = tuple[tuple[bytes, ...], tuple[int, ...]]
"""The pieces around the values of a shape, and which of them come where."""


class _Stencil:
    """What fills them in."""

    def __init__(self, pieces: tuple[bytes, ...], order: tuple[int, ...]) -> None:
        self._pieces = pieces
        self._order = order
        self.unchecked = CHECKED

    def filled(self, columns: Sequence[Sequence[bytes]], count: int) -> bytes:
        """Return the rows of as many events as the columns have places, a line each."""
        first, *between, last = self._pieces
        each = 2 * len(self._order)
        sides = [b""] * (each * count + 1)
        for place, (piece, number) in enumerate(zip((last + b"\n" + first, *between), self._order, strict=True)):
            sides[2 * place : -1 : each] = [piece] * count
            sides[2 * place + 1 :: each] = columns[number]
        sides[0], sides[-1] = first, last
        return b"".join(sides)


class Stencils:
    """The stencils of one destination, in one generation of the configuration."""

    def __init__(self, catalogue: Catalogue, destination: str) -> None:
        self._catalogue = catalogue
        self._destination = destination
        self._adapter = catalogue.destinations[destination].adapter
        self._holds = catalogue.destinations[destination].late != "send"
        door = self._adapter.door
        self._write_times = writer_of(door.time)
        kind = type(self._adapter)
        self._usable = (
            kind.by_place
            and self._write_times is not None
            and kind.wire_time is AnyAdapter.wire_time
            and kind.wire_quantity is AnyAdapter.wire_quantity
        )
        self._not_in_key = "ugw_", *door.key.forbidden
        self._key = None if door.key.pattern is None else re.compile(door.key.pattern).fullmatch
        self._bindings: dict[str, Binding | None] = {}
        self._by_row: set[str] = set()
        """Meters of which a quantity that is said has to be looked at: each row counts as 1."""
        self._links: dict[int, _Naming] = {}
        self._plain: dict[int, tuple[Sequence[Link], _Naming]] = {}
        """By identity: the rows of a customer that has one for all its events."""
        self._defaults: dict[str, Link] = {}
        self._stencils: dict[object, _Stencil | None] = {}

    def rows(
        self, tenant: str, events: Sequence[Event], receipts: Sequence[datetime], now: datetime
    ) -> bytes | Sequence[bytes | None]:
        """Return the one row of each plain event, as `encoded(render(...))` would; `None`: that one has to be asked.

        Where all are plain and alike it is one text, a line each. `receipts` tells when each event was received.
        """
        made: list[bytes | None] = [None] * len(events)
        if not self._usable or tenant != DEFAULT_TENANT:
            return made
        columns = columns_of(events)
        for shape in columns.shapes:
            binding = self._binding(shape.look.meter)
            if binding is None or (shape.look.counted and shape.look.meter in self._by_row):
                continue
            received = [receipts[place] for place in shape.places] if len(shape) < len(events) else receipts
            fitting = self._fitting(shape, received, now)
            for places, naming, names in self._named(tenant, columns, shape, fitting, received):
                rows = self._filled(tenant, columns, shape, binding, places, naming, names, received, now)
                if rows and len(places) == len(events):
                    return rows
                for place, row in zip(places, rows.split(b"\n") if rows else (), strict=False):
                    made[shape.places[place]] = row
        return made

    # From here on places are those in a shape.

    def _filled(
        self,
        tenant: str,
        columns: Columns,
        shape: Shape,
        binding: Binding,
        places: Sequence[int],
        naming: _Naming,
        names: Sequence[bytes],
        receipts: Sequence[datetime],
        now: datetime,
    ) -> bytes:
        """Return the rows of events that share a stencil, a line each; none where it fails for one of the first."""
        key = (shape.look, naming[1])
        try:
            stencil = self._stencils[key]
        except KeyError:
            stencil = self._cut(key, binding, naming[0], columns.events[shape.places[places[0]]])
        if stencil is None or not places:
            return b""
        ids = picked(shape.ids, places)
        rows = stencil.filled(
            [
                ids,
                ids,
                picked(shape.customers, places),
                self._times(shape, places, receipts),
                picked(shape.numbers, places),
                names,
                *(picked(column, places) for column in shape.values),
            ],
            len(places),
        )
        if stencil.unchecked:
            for place, row in zip(places[: stencil.unchecked], rows.split(b"\n"), strict=False):
                if not self._bears_out(tenant, columns.events[shape.places[place]], row, receipts[place], now):
                    self._stencils[key] = None
                    return b""
                stencil.unchecked -= 1
        return rows

    def _bears_out(self, tenant: str, event: Event, row: bytes, received: datetime, now: datetime) -> bool:
        try:
            made = render(self._catalogue, self._destination, tenant, event, received, now)
        except Exception:  # noqa: BLE001  it stumbles over the event: whoever asks for that one alone, tells
            return False
        return not isinstance(made, Turned) and encoded(made) == [Part("", event.id, row)]

    def _times(self, shape: Shape, places: Sequence[int], receipts: Sequence[datetime]) -> Sequence[bytes]:
        """Return the times of events as the provider takes them."""
        assert self._write_times is not None
        if shape.times:
            return picked(shape.written(self._write_times), places)
        moments = [*set(receipts)]
        written = dict(zip(moments, self._write_times([*map(text_of, moments)]), strict=True))
        return [written[receipts[place]] for place in places]

    def _fitting(self, shape: Shape, receipts: Sequence[datetime], now: datetime) -> Sequence[int]:
        """Return the places of events whose id, quantity and time the provider takes as they are."""
        key, rule = self._adapter.door.key, self._adapter.quantity
        places: Sequence[int] = range(len(shape))
        if (
            shape.longest_id > key.max_length
            or any(text.encode() in shape.all_ids for text in self._not_in_key)
            or (self._key is not None and not all(map(self._key, shape.keys)))
        ):
            places = [place for place in places if self._fits_key(shape.keys[place])]
        if (
            shape.decimals > rule.places
            or (rule.digits is not None and shape.digits > rule.digits)
            or (rule.minimum is not None and shape.bounds[0] < rule.minimum)
            or (rule.maximum is not None and shape.bounds[1] > rule.maximum)
        ):
            places = [place for place in places if self._fits_quantity(shape.numbers[place].decode())]
        span = shape.span or (min(receipts), max(receipts))
        if self._holds or not all(self._in_time(when, now) for when in span):
            when = [*map(time_of, shape.times)] if shape.times else receipts
            places = [place for place in places if self._may_leave(when[place], now)]
        return places

    def _fits_key(self, one: str) -> bool:
        return (
            len(one) <= self._adapter.door.key.max_length
            and not any(text in one for text in self._not_in_key)
            and (self._key is None or self._key(one) is not None)
        )

    def _fits_quantity(self, text: str) -> bool:
        rule, quantity = self._adapter.quantity, Decimal(text)
        return (
            ("." not in text or len(text) - text.index(".") - 1 <= rule.places)
            and (rule.digits is None or len(text) <= rule.digits)
            and (rule.minimum is None or quantity >= rule.minimum)
            and (rule.maximum is None or quantity <= rule.maximum)
        )

    def _may_leave(self, when: datetime, now: datetime) -> bool:
        if not self._in_time(when, now):
            return False
        return not self._holds or self._catalogue.held(self._destination, DEFAULT_TENANT, when) is None

    def _in_time(self, when: datetime, now: datetime) -> bool:
        past, future = self._adapter.door.time.past, self._adapter.door.time.future
        return (past is None or now - when <= past) and (future is None or when - now <= future)

    def _binding(self, meter: str) -> Binding | None:
        """Return how the destination names a meter, where it does so in one plain way."""
        if meter not in self._bindings:
            rows, known = self._catalogue.rows(self._destination, meter), self._catalogue.meter(meter)
            plain = (
                known is not None
                and len(rows) == 1
                and not (rows[0].properties or rows[0].takes())
                and rows[0].scale == 1
                and known.aggregation in self._adapter.door.aggregations
            )
            if not plain and known is None:
                return None  # names that senders invent must not fill the memory
            self._bindings[meter] = rows[0].bind({}) if plain else None
            if known is not None and known.aggregation == "count" and self._adapter.door.counts == "rows":
                self._by_row.add(meter)
        return self._bindings[meter]

    def _named(
        self, tenant: str, columns: Columns, shape: Shape, places: Sequence[int], receipts: Sequence[datetime]
    ) -> Iterable[tuple[Sequence[int], _Naming, Sequence[bytes]]]:
        """Put events together whose customers are named in the same way, with the names; without one they are left."""
        customers = picked(shape.customers, places)
        known: dict[bytes, _Naming | None] = {}
        someplace = shape.someplace if len(places) == len(shape) else dict(zip(customers, places, strict=True))
        for text, place in someplace.items():
            customer = shape.names[text]
            rows = self._catalogue.links(self._destination, tenant, customer)
            plain = self._plain.get(id(rows))
            if plain is not None and plain[0] is rows:  # as it mostly is
                known[text] = plain[1]
            elif len(rows) == 1 and rows[0].unconditional:
                known[text] = naming = self._naming(rows[0])
                if naming is not None:
                    if len(self._plain) >= MOST:
                        self._plain.clear()
                    self._plain[id(rows)] = rows, naming
            elif not rows and customer in self._defaults:
                known[text] = self._naming(self._defaults[customer])
            elif rows:
                known[text] = None
            else:
                known[text] = self._naming_of(tenant, columns.events[shape.places[place]], receipts[place])
        kinds = {None if naming is None else naming[1] for naming in known.values()}
        if len(kinds) == 1 and None not in kinds:
            names = {text: naming[2] for text, naming in known.items() if naming is not None}
            return [(places, next(filter(None, known.values())), [*map(names.__getitem__, customers)])]
        alike: dict[object, tuple[list[int], _Naming, list[bytes]]] = {}
        for text, place in zip(customers, places, strict=True):
            naming = known[text]
            if naming is None:  # it depends on the event, or there is none
                naming = self._naming_of(tenant, columns.events[shape.places[place]], receipts[place])
            if naming is not None:
                some, _, named = alike.setdefault(naming[1], ([], naming, []))
                some.append(place)
                named.append(naming[2])
        return alike.values()

    def _naming_of(self, tenant: str, event: Event, received: datetime) -> _Naming | None:
        when = event.timestamp or received
        link = self._catalogue.link(self._destination, tenant, event, when)
        if link is None and (link := self._defaults.get(event.customer)) is None:
            try:
                link = link_of(self._catalogue, self._adapter, self._destination, tenant, event, when)
            except Refused:
                return None
            if len(self._defaults) >= MOST:
                self._defaults.clear()
            self._defaults[event.customer] = link
        return self._naming(link)

    def _naming(self, link: Link) -> _Naming | None:
        known = self._links.get(id(link))
        if known is not None and known[0] is link:
            return known
        named = next((name for name in link.names if getattr(link, name) is not None), None)
        if named is None:
            return None
        others = tuple((name, value) for name, value in link if name != named)
        if len(self._links) >= MOST:
            self._links.clear()
        made = self._links[id(link)] = (link, (type(link), named, repr(others)), escaped(getattr(link, named)))
        return made

    def _cut(self, shape: object, binding: Binding, link: Link, event: Event) -> _Stencil | None:
        """Ask the adapter twice, and remember the stencil where both answers agree."""
        if len(self._stencils) >= MOST:
            self._stencils.clear()
        try:
            one, other = (self._asked(binding, link, event, salt) for salt in (1, 2))
        except Exception:  # noqa: BLE001  it stumbles over stand-ins: then it is asked for each event
            one = other = None
        fits = one is not None and one == other and len(one[1]) > 1
        self._stencils[shape] = made = _Stencil(*one) if fits and one is not None else None
        return made

    def _asked(
        self, binding: Binding, link: Link, event: Event, salt: int
    ) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
        assert self._write_times is not None
        when = datetime(2100 + salt, 10 + salt, 20 + salt, 11, 12, 13, 141_592, tzinfo=UTC)
        resolution = self._adapter.door.time.resolution
        when -= (when - _EPOCH) % resolution
        properties: dict[str, Scalar] = {}
        for place, (name, value) in enumerate(event.properties.items()):
            number = 7_000_000_003_000 + 1000 * salt + place
            match value:
                case bool():
                    properties[name] = value
                case int():
                    properties[name] = number
                case Decimal():
                    properties[name] = Decimal(f"{number}.25")
                case str():
                    properties[name] = f"zq{number}qz"
        named = next(name for name in link.names if getattr(link, name) is not None)
        key, event_id, customer, theirs = (f"zq{salt}{word}{salt}qz" for word in ("key", "id", "who", "link"))
        quantity = Decimal(4_000_000_019 + salt)
        usage = Usage(
            key=key,
            event_id=event_id,
            customer=customer,
            meter=event.meter,
            timestamp=when,
            measures=(Measure(name="", quantity=quantity, binding=binding),),
            link=link.model_copy(update={named: theirs}),
            source=event.source,
            properties=properties,
        )
        (time,) = self._write_times([text_of(when)])
        values = [str(value) for value in properties.values() if not isinstance(value, bool)]
        texts = [key, event_id, customer, time.decode(), str(quantity), theirs, *values]
        stand_ins = [text.encode() for text in texts]
        longest = sorted(map(re.escape, stand_ins), key=len, reverse=True)
        pieces = re.split(b"(" + b"|".join(longest) + b")", encode_row(self._adapter.encode(usage)))
        return tuple(pieces[::2]), tuple(stand_ins.index(piece) for piece in pieces[1::2])
